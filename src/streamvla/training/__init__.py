"""Training of streaming policies from demonstrations."""

from streamvla.training.batches import SamplingConfig
from streamvla.training.trainer import ModelSize, TrainConfig, TrainResult, train

__all__ = ["ModelSize", "SamplingConfig", "TrainConfig", "TrainResult", "train"]
