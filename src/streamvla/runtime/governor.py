"""What goes to the robot when no action is due, and what is kept from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import ConfigError


@dataclass(frozen=True)
class Hold:
    """Stay where the last command put the robot: zero deltas, the last absolute commands."""


@dataclass(frozen=True)
class Decelerate:
    """Fade the last delta out instead of cutting it: each fallback tick sends `factor` of it.

    Attributes:
        factor: in (0, 1); below `floor` of the limit the robot holds.
        floor: the fraction of the action limit under which a fading delta becomes zero.
    """

    factor: float = 0.5
    floor: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.factor < 1:
            raise ConfigError(f"decelerate: factor {self.factor} must lie strictly between 0 and 1")
        if not 0 < self.floor < 1:
            raise ConfigError(f"decelerate: floor {self.floor} must lie strictly between 0 and 1")


Fallback = Hold | Decelerate


class Governor:
    """The last word on every command.

    `check` says why a generated action may not be used; `fallback` gives the command for a tick
    that has none. A generated action that is not finite never reaches the robot.
    """

    def __init__(self, space: ActionSpace, fallback: Fallback) -> None:
        self._space = space
        self._rule = fallback
        self._is_delta = space.is_delta()
        self._floor = np.asarray(space.high) * getattr(fallback, "floor", 0.0)
        self._last = np.zeros(space.dim)

    def check(self, values: np.ndarray) -> str | None:
        """Why `values` is unusable as an action, or None: shape (d,), numbers, all finite."""
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
            return f"not a numeric array: {type(values).__name__}"
        if values.shape != (self._space.dim,):
            return f"shape {values.shape}, expected ({self._space.dim},)"
        if not np.isfinite(values).all():
            return "not finite"
        return None

    def passed(self, values: np.ndarray) -> np.ndarray:
        """Limit an action to the action space and remember it: (d,) → (d,)."""
        self._last = self._space.clip(values)
        return self._last

    def fallback(self, state: np.ndarray, *, may_move: bool) -> tuple[str, np.ndarray]:
        """The rung ("hold" or "decelerate") and command (d,) for a tick without an action.

        Args:
            state: (d,) action state after everything sent.
            may_move: false once a generation was told where its flow starts: moving on would
                leave the flow behind the robot.
        """
        hold = self._space.hold(state)
        if may_move and isinstance(self._rule, Decelerate):
            faded = np.where(self._is_delta, self._last * self._rule.factor, hold)
            if (np.abs(faded[self._is_delta]) > self._floor[self._is_delta]).any():
                self._last = faded
                return "decelerate", faded
        self._last = hold
        return "hold", hold
