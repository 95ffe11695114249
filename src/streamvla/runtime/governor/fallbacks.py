"""What moves the robot while the policy cannot: fallback controllers behind one interface.

A controller states a wish; the governor brings it within the robot's limits, so no controller can
move the robot faster, harder or further than a policy could.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from streamvla.core.errors import ConfigError


class Situation(NamedTuple):
    """What a fallback controller is told, on every control tick it is in charge.

    Attributes:
        state: (d,) the action state after everything sent.
        anchor: (d,) the action state after the last action of the policy.
        goal: (d,) the action state at which the newest context says the motion should end; None
            when the policy states no goal.
        ticks: control ticks since the last action of the policy, ≥ 1.
    """

    state: np.ndarray
    anchor: np.ndarray
    goal: np.ndarray | None
    ticks: int


@runtime_checkable
class FallbackController(Protocol):
    """Drives a robot that has no action. Yours may be any object with this method."""

    def velocity(self, situation: Situation) -> np.ndarray:
        """(d,) how the action state should change by the next tick, action units per period."""
        ...


@dataclass(frozen=True)
class HoldPosition:
    """Stand where the stop ended."""

    def velocity(self, situation: Situation) -> np.ndarray:
        return np.zeros_like(situation.state)


@dataclass(frozen=True)
class Compliance:
    """A weak spring to the pose of the policy's last action.

    A stop ends beyond that pose by the stopping distance; the spring takes the robot back, and no
    further. `v = clip(stiffness · (anchor − state), ±fastest)`.

    Attributes:
        stiffness: in (0, 1], the share of the distance covered in one period.
        fastest: action units per period.
    """

    stiffness: float = 0.1
    fastest: float = 0.1

    def __post_init__(self) -> None:
        _check_spring("compliance", "stiffness", self.stiffness, self.fastest)

    def velocity(self, situation: Situation) -> np.ndarray:
        offset = situation.anchor - situation.state
        return np.clip(self.stiffness * offset, -self.fastest, self.fastest)


@dataclass(frozen=True)
class TowardGoal:
    """A proportional controller to the goal that the newest context states; holds without one.

    `v = clip(gain · (goal − state), ±fastest)`.

    Attributes:
        gain: in (0, 1], the share of the distance covered in one period.
        fastest: action units per period.
    """

    gain: float = 0.2
    fastest: float = 0.5

    def __post_init__(self) -> None:
        _check_spring("toward goal", "gain", self.gain, self.fastest)

    def velocity(self, situation: Situation) -> np.ndarray:
        if situation.goal is None:
            return np.zeros_like(situation.state)
        return np.clip(self.gain * (situation.goal - situation.state), -self.fastest, self.fastest)


def _check_spring(who: str, name: str, share: float, fastest: float) -> None:
    if not 0 < share <= 1:
        raise ConfigError(
            f"{who}: {name} {share} must lie in (0, 1], or the motion would overshoot"
        )
    if not fastest > 0:
        raise ConfigError(f"{who}: fastest {fastest} must be above 0 action units per period")
