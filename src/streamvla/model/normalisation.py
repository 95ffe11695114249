"""Dataset statistics: robot units ↔ unit scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from streamvla.core.errors import ConfigError


@dataclass(frozen=True)
class Normalisation:
    """Scale and offset for proprioception; *scale only* for actions.

    One scale per dimension serves actions and action states alike, so that

        normalise(cumsum(actions)) = cumsum(normalise(actions))

    An offset would break this equality and with it the flow (StreamingVLA, arXiv 2603.28565:
    61.8 % success instead of 97.1 %).

    Attributes:
        state_mean, state_std: (s,) of measured proprioception.
        action_scale: (d,) root mean square of the demonstrated actions.
    """

    state_mean: tuple[float, ...]
    state_std: tuple[float, ...]
    action_scale: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.state_mean) != len(self.state_std):
            raise ConfigError(
                f"normalisation: {len(self.state_mean)} state means but {len(self.state_std)} "
                "deviations; expected one of each per dimension"
            )
        for name in ("state_std", "action_scale"):
            if not all(value > 0 for value in getattr(self, name)):
                raise ConfigError(f"normalisation: {name} is {getattr(self, name)}; expected > 0")

    @classmethod
    def fit(cls, state: np.ndarray, action: np.ndarray) -> Normalisation:
        """Statistics of (frames, s) proprioception and (frames, d) actions.

        A dimension that (almost) never moves gets scale 1, so that noise is not blown up.
        """
        std = state.std(axis=0, dtype=np.float64)
        rms = np.sqrt(np.square(action, dtype=np.float64).mean(axis=0))
        return cls(
            state_mean=tuple(state.mean(axis=0, dtype=np.float64).tolist()),
            state_std=tuple(np.where(std > 1e-4, std, 1.0).tolist()),
            action_scale=tuple(np.where(rms > 1e-3, rms, 1.0).tolist()),
        )

    def normalise_state(self, state: np.ndarray) -> np.ndarray:
        """(..., s) robot units → zero mean, unit deviation; float32."""
        normalised = (state - np.array(self.state_mean)) / np.array(self.state_std)
        return normalised.astype(np.float32)

    def normalise_action(self, action: np.ndarray) -> np.ndarray:
        """(..., d) actions or action states, robot units → unit scale; float32."""
        return (action / np.array(self.action_scale)).astype(np.float32)

    def restore_action(self, action: np.ndarray) -> np.ndarray:
        """(..., d) unit scale → robot units; float64. Undoes `normalise_action`."""
        return action.astype(np.float64) * np.array(self.action_scale)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Normalisation:
        """Inverse of `to_json`."""
        names = ("state_mean", "state_std", "action_scale")
        return cls(**{name: tuple(float(value) for value in fields[name]) for name in names})
