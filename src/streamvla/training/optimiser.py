"""AdamW, its learning-rate schedule, and the moving average of weights that is shipped."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from streamvla.core.errors import ConfigError


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with linear warm-up and cosine decay.

    Attributes:
        lr: highest learning rate.
        final_lr_fraction: what is left of it at the last step.
        warmup_steps: of linear increase.
        weight_decay: on matrices and kernels only, not on gains, biases and embeddings' positions.
        clip: largest gradient norm.
        ema_decay: of the moving average of weights, reached gradually.
    """

    lr: float = 1e-3
    final_lr_fraction: float = 0.02
    warmup_steps: int = 500
    weight_decay: float = 0.02
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        checks = (
            ("lr", 0 < self.lr < math.inf, "a finite number > 0"),
            ("final_lr_fraction", 0 <= self.final_lr_fraction <= 1, "within [0, 1]"),
            ("warmup_steps", self.warmup_steps >= 0, "at least 0"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "a finite number ≥ 0"),
            ("betas", all(0 <= beta < 1 for beta in self.betas), "both within [0, 1)"),
            ("clip", 0 < self.clip < math.inf, "a finite number > 0"),
            ("ema_decay", 0 <= self.ema_decay < 1, "within [0, 1)"),
        )
        for name, holds, expected in checks:
            if not holds:
                raise ConfigError(f"optimiser {name} is {getattr(self, name)}; expected {expected}")


def make_optimiser(model: nn.Module, config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW over what is to be trained; it decays tensors of two or more dimensions."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def learning_rate(step: int, total: int, config: OptimiserConfig) -> float:
    """Of step 0..total−1: linear to `lr` over the warm-up, then a half cosine.

    >>> config = OptimiserConfig(lr=1.0, warmup_steps=2, final_lr_fraction=0.0)
    >>> [round(learning_rate(step, 6, config), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    warmup = min(config.warmup_steps, total // 2)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr * (config.final_lr_fraction + (1 - config.final_lr_fraction) * cosine)


@torch.no_grad()
def update_average(
    average: Iterable[Tensor], weights: Iterable[Tensor], step: int, decay: float
) -> None:
    """average ← decay·average + (1 − decay)·weights, in place; young averages forget faster.

    Frozen weights are left alone, to the last bit: the mean of −0 and −0 would be 0.
    """
    gradual = min(decay, (1 + step) / (10 + step))
    for mean, weight in zip(average, weights, strict=True):
        if weight.requires_grad:
            mean.lerp_(weight, 1 - gradual)
