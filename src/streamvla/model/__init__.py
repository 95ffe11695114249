"""The action-flow model in pure PyTorch: no clock; only `checkpoint` touches files."""
