"""Training of streaming policies from demonstrations."""

from streamvla.training.batches import SamplingConfig
from streamvla.training.config import ModelSize, TrainConfig
from streamvla.training.trainer import TrainResult, train

__all__ = ["ModelSize", "SamplingConfig", "TrainConfig", "TrainResult", "train"]
