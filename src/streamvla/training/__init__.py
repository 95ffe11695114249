"""Training of streaming policies from demonstrations."""

from streamvla.training.trainer import TrainConfig, TrainResult, train

__all__ = ["TrainConfig", "TrainResult", "train"]
