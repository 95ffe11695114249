"""Dataset statistics: robot units ↔ unit scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
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
        action_offset: (d,) subtracted from actions; None, always, but in the ablation `unshared`.
        action_state_scale: (d,) of action states; None: the actions' own. Likewise.
    """

    state_mean: tuple[float, ...]
    state_std: tuple[float, ...]
    action_scale: tuple[float, ...]
    action_offset: tuple[float, ...] | None = None
    action_state_scale: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.state_mean) != len(self.state_std):
            raise ConfigError(
                f"normalisation: {len(self.state_mean)} state means but {len(self.state_std)} "
                "deviations; expected one of each per dimension"
            )
        for name in ("state_std", "action_scale", "action_state_scale"):
            if not all(value > 0 for value in getattr(self, name) or ()):
                raise ConfigError(f"normalisation: {name} is {getattr(self, name)}; expected > 0")

    @classmethod
    def fit(cls, state: np.ndarray, action: np.ndarray) -> Normalisation:
        """Statistics of (frames, s) proprioception and (frames, d) actions."""
        rms = np.sqrt(np.square(action, dtype=np.float64).mean(axis=0))
        return cls(
            state_mean=tuple(state.mean(axis=0, dtype=np.float64).tolist()),
            state_std=_or_one(state.std(axis=0, dtype=np.float64), 1e-4),
            action_scale=_or_one(rms, 1e-3),
        )

    def unshared(
        self, action: np.ndarray, action_state: np.ndarray, is_delta: np.ndarray
    ) -> Normalisation:
        """The ablation: what column statistics of a dataset would be, and the equality broken.

        In delta dimensions actions get mean and deviation, action states a deviation of their own;
        absolute dimensions stay as they are. Shapes: (frames, d) twice, (d,) bool.
        """
        scale = np.array(self.action_scale)
        mean = action.mean(axis=0, dtype=np.float64)
        deviations = (each.std(axis=0, dtype=np.float64) for each in (action, action_state))
        action_scale, state_scale = (np.where(is_delta, each, scale) for each in deviations)
        return replace(
            self,
            action_scale=_or_one(action_scale, 1e-3),
            action_offset=tuple(np.where(is_delta, mean, 0.0).tolist()),
            action_state_scale=_or_one(state_scale, 1e-3),
        )

    def normalise_state(self, state: np.ndarray) -> np.ndarray:
        """(..., s) robot units → zero mean, unit deviation; float32."""
        normalised = (state - np.array(self.state_mean)) / np.array(self.state_std)
        return normalised.astype(np.float32)

    def normalise_action(self, action: np.ndarray) -> np.ndarray:
        """(..., d) actions, robot units → unit scale; float32."""
        return ((action - self._offset()) / np.array(self.action_scale)).astype(np.float32)

    def normalise_action_state(self, action_state: np.ndarray) -> np.ndarray:
        """(..., d) action states, robot units → unit scale, as actions are; float32."""
        return (action_state / np.array(self.action_state_scale or self.action_scale)).astype(
            np.float32
        )

    def restore_action(self, action: np.ndarray) -> np.ndarray:
        """(..., d) unit scale → robot units; float64. Undoes `normalise_action`."""
        return action.astype(np.float64) * np.array(self.action_scale) + self._offset()

    def _offset(self) -> np.ndarray | float:
        return 0.0 if self.action_offset is None else np.array(self.action_offset)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Normalisation:
        """Inverse of `to_json`; what is absent or None has its default."""
        needed = ("state_mean", "state_std", "action_scale")
        optional = ("action_offset", "action_state_scale")
        names = [*needed, *(name for name in optional if fields.get(name) is not None)]
        return cls(**{name: tuple(float(value) for value in fields[name]) for name in names})


def _or_one(scale: np.ndarray, least: float) -> tuple[float, ...]:
    """Scales, 1 where a dimension (almost) never moves, so that noise is not blown up."""
    return tuple(np.where(scale > least, scale, 1.0).tolist())
