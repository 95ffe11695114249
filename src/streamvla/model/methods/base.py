"""What every method of making actions shares: how many, and from which action state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar, get_args

import numpy as np

from streamvla.core.errors import ConfigError

StateOrigin = Literal["observation", "episode"]
Age = TypeVar("Age", int, np.ndarray)


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
        max_age: up to how many actions old an observation may be for the policy to be told so;
            older ones count as this. 0: it is not told (docs/decisions/0017). What is not aligned
            is not told either.
    """

    horizon: int = 10
    state_origin: StateOrigin = "observation"
    aligned: bool = True
    max_age: int = 0

    tunable: ClassVar[tuple[str, ...]] = ()
    """Settings that may be changed without training again."""

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise ConfigError(f"horizon is {self.horizon}; expected at least 1 action")
        if self.max_age < 0:
            raise ConfigError(f"max_age is {self.max_age}; expected 0 or more actions")
        require_option("state_origin", self.state_origin, StateOrigin)

    def told_age(self, age: Age) -> Age:
        """What the policy is told of the age of its observation, in actions; same type.

        >>> GenerationConfig(max_age=6).told_age(np.array([2, 8])).tolist()
        [2, 6]
        """
        most = self.max_age if self.aligned else 0
        return min(age, most) if isinstance(age, int) else np.minimum(age, most)


def require_option(name: str, value: str, options: Any) -> None:
    """Raise `ConfigError` unless `value` is one of the `Literal` type `options`."""
    if value not in get_args(options):
        raise ConfigError(f"{name} is {value!r}; use one of {get_args(options)}")
