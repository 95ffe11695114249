"""What every method of making actions shares: how many, and from which action state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from streamvla.core.errors import ConfigError

StateOrigin = Literal["observation", "episode"]


@dataclass(frozen=True)
class GenerationConfig:
    """One generation: H actions that depart from the action state x0.

    Attributes:
        horizon: H, actions per observation.
        state_origin: where delta dimensions of the action state are zero. "observation": at the
            capture of the observation, so x0 = Σ pending, bounded for endless episodes.
            "episode": at the start of the episode, as published.
        aligned: x0 is the action state from which the first action departs. False is an ablation:
            x0 is zero whatever was commanded, in training and in use alike (StreamingVLA,
            arXiv 2603.28565, without its alignment of action states).
    """

    horizon: int = 10
    state_origin: StateOrigin = "observation"
    aligned: bool = True

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise ConfigError(f"horizon is {self.horizon}; expected at least 1 action")
        require_option("state_origin", self.state_origin, StateOrigin)


def require_option(name: str, value: str, options: Any) -> None:
    """Raise `ConfigError` unless `value` is one of the `Literal` type `options`."""
    if value not in get_args(options):
        raise ConfigError(f"{name} is {value!r}; use one of {get_args(options)}")
