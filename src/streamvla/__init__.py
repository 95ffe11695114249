"""streamvla: robots driven by vision-language-action models that never wait for the model."""

__version__ = "0.1.0"
