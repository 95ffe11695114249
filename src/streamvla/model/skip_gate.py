"""How much the actions would differ if an observation were not encoded: a small regression.

    age, motion since the capture, pending actions, state (f,) ─ standardise ──┐
    summary of the kept context (w,) ─ principal components (c,) ──────────────┴─► MLP ─► log error

The error is the mean absolute difference, over the next H actions and all dimensions and in units
of the action scale, between the actions from the kept context, told its age, and those from a fresh
one (`training.anticipation.skipping`). All inputs are known before anything is encoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from streamvla.core.errors import ConfigError
from streamvla.model.backbone import PrefixCache


@dataclass(frozen=True)
class SkipGateConfig:
    """Sizes; the first two come from the policy.

    Attributes:
        features: f, of what was measured and commanded (`policy.skip_gate.features_of`).
        summary: w, of the context (`summary_of`).
        components: c, principal components of the summaries that enter.
        width: of the two hidden layers.
        dropout: of the components and hidden units, in training.
    """

    features: int
    summary: int
    components: int = 24
    width: int = 64
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("features", "summary", "components", "width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"skip gate {name} is {getattr(self, name)}; expected at least 1")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"skip gate dropout is {self.dropout}; expected 0 to 1")


@dataclass(frozen=True)
class SkipCalibration:
    """What the thresholds of a gate guarantee (docs/decisions/0020).

    Attributes:
        bound: B: an action error beyond it is *harmful*.
        tail: B is the level that all but this share of the errors of contexts one control period
            old stay below.
        thresholds: η by miss rate α: with expected log errors up to η skipped, of the harmful
            observations of a new episode no larger share than α is skipped, in expectation.
        longest_age: control periods up to which ages were drawn.
        longest_lead: pending actions up to which they were.
        episodes: calibration episodes with a harmful observation.
        measured: figures of the calibration episodes (`training.anticipation.skipping`).
    """

    bound: float
    tail: float
    thresholds: Mapping[float, float]
    longest_age: int
    longest_lead: int
    episodes: int
    measured: Mapping[str, Any]

    def threshold(self, miss_rate: float) -> float:
        """η at a miss rate.

        Raises:
            ConfigError: the gate was not calibrated at it.
        """
        if miss_rate not in self.thresholds:
            known = ", ".join(f"{rate:g}" for rate in self.thresholds)
            raise ConfigError(
                f"skip gate at a miss rate of {miss_rate:g}: it was calibrated at {known}; choose "
                "one of these, or train it again with other --miss-rates"
            )
        return self.thresholds[miss_rate]

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> SkipCalibration:
        """Inverse of `dataclasses.asdict`, also after JSON made texts of the rates."""
        thresholds = {float(rate): float(eta) for rate, eta in fields["thresholds"].items()}
        return cls(**{**fields, "thresholds": thresholds})


class SkipGate(nn.Module):
    """(features, summary of the kept context) → expected log action error of using it again."""

    feature_mean: Tensor
    feature_std: Tensor
    summary_mean: Tensor
    principal: Tensor

    def __init__(self, config: SkipGateConfig) -> None:
        super().__init__()
        self.config = c = config
        self.register_buffer("feature_mean", torch.zeros(c.features))
        self.register_buffer("feature_std", torch.ones(c.features))
        self.register_buffer("summary_mean", torch.zeros(c.summary))
        self.register_buffer("principal", torch.zeros(c.summary, c.components))
        self.thin: Final = nn.Dropout(c.dropout)
        self.layers: Final = nn.Sequential(
            nn.Linear(c.features + c.components, c.width),
            nn.GELU(),
            nn.Dropout(c.dropout),
            nn.Linear(c.width, c.width),
            nn.GELU(),
            nn.Dropout(c.dropout),
            nn.Linear(c.width, 1),
        )

    def fit_scales(self, features: Tensor, summary: Tensor) -> None:
        """Means, deviations and principal components of samples (n, f) and (n, w).

        Raises:
            ConfigError: fewer samples than components.
        """
        c = self.config
        if min(summary.shape) < c.components:
            raise ConfigError(
                f"skip gate: {len(summary)} samples of width {summary.shape[1]} for "
                f"{c.components} components; use more demonstrations"
            )
        self.feature_mean.copy_(features.mean(0))
        self.feature_std.copy_(features.std(0).clamp(min=1e-3))
        self.summary_mean.copy_(summary.mean(0))
        centred = summary - self.summary_mean
        _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
        deviations = (sizes[: c.components] / len(summary) ** 0.5).clamp(min=1e-6)
        self.principal.copy_(axes[: c.components].T / deviations)

    def forward(self, features: Tensor, summary: Tensor) -> Tensor:
        """(b, f), (b, w) → (b,)."""
        measured = ((features - self.feature_mean) / self.feature_std).clamp(-5, 5)
        seen = self.thin((summary - self.summary_mean) @ self.principal)
        return self.layers(torch.cat([measured, seen], dim=-1)).squeeze(-1)


def summary_of(prefix: PrefixCache) -> Tensor:
    """(b, 3·n·k) of a context: the last layer's values, of vision the mean and the last token (with
    a places token, where things are), and the mean of the last two (state and command)."""
    values = prefix.values[-1].float()  # (b, n, l, k)
    vision = prefix.vision or prefix.tokens
    parts = (
        values[:, :, :vision].mean(2),
        values[:, :, vision - 1],
        values[:, :, -2:].mean(2),
    )
    return torch.cat([part.flatten(1) for part in parts], dim=1)
