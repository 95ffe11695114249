"""The governor has the last word on every command: what goes out, and what is kept back.

`Governor` is the interface; the rule of a run is one of three frozen dataclasses:

- `Hold`, `Decelerate` (`Fallback`): clip to the action space, and fill a tick that has no action;
- `runtime.governor.ladder.Ladder`: declared motion limits, and rungs down to a safe stop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.actions import is_array
from streamvla.core.errors import ConfigError


class Fallback(Protocol):
    """What fills a tick without an action: the last delta, faded, and in the end a hold."""

    @property
    def factor(self) -> float:
        """The share of the last delta that the next such tick sends; 0: hold at once."""
        ...

    @property
    def floor(self) -> float:
        """The fraction of the action limit under which a fading delta becomes zero."""
        ...


@dataclass(frozen=True)
class Hold:
    """Stay where the last command put the robot: zero deltas, the last absolute commands.
    Implements `Fallback`."""

    @property
    def factor(self) -> float:
        return 0.0

    @property
    def floor(self) -> float:
        return 0.0


@dataclass(frozen=True)
class Decelerate:
    """Fade the last delta out instead of cutting it: each fallback tick sends `factor` of it.
    Implements `Fallback`.

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


class Intervention(NamedTuple):
    """What the governor did on a tick other than let the action pass (`trace.Intervened`)."""

    rung: str
    cause: str


class Ruling(NamedTuple):
    """The command of one control instant.

    Attributes:
        source: "policy", or the rung on which the governor made the command itself.
        values: (d,) what goes to the robot.
        interventions: what was done to the action, or in its place.
    """

    source: str
    values: np.ndarray
    interventions: tuple[Intervention, ...] = ()


class Governor(Protocol):
    """Makes exactly one command per control instant. Pure: it sees actions, never the time."""

    @property
    def latched(self) -> bool:
        """Whether the robot is in (or on its way to) a safe stop that only `rearm` ends."""
        ...

    @property
    def at_rest(self) -> bool:
        """Whether the last command left the robot standing."""
        ...

    def begin(self, state: np.ndarray) -> None:
        """The robot stands at the action state (d,).

        Raises:
            ConfigError: that is outside its limits.
        """
        ...

    def rule(
        self, action: np.ndarray | None, state: np.ndarray, *, may_move: bool = True
    ) -> Ruling:
        """The command for this instant.

        Args:
            action: (d,) finite, the policy's; None when it has none.
            state: (d,) the action state after everything sent.
            may_move: false once a generation was told where its flow starts: moving on for its
                own sake would leave the flow behind the robot.
        """
        ...

    def aim(self, goal: np.ndarray | None) -> None:
        """Take note of where the newest context says the motion should end: (d,) or None."""
        ...

    def stop(self, cause: str) -> None:
        """Latch the safe stop: the rulings from now on bring the robot to rest and keep it."""
        ...

    def rearm(self) -> None:
        """End a latched safe stop."""
        ...


def unusable(space: ActionSpace, values: object) -> str | None:
    """Why `values` cannot be an action at all, or None: shape (d,), numbers, all finite."""
    if not is_array(values) or values.dtype.kind not in "fiu":
        return f"not a numeric array: {type(values).__name__}"
    if values.shape != (space.dim,):
        return f"shape {values.shape}, expected ({space.dim},)"
    if not np.isfinite(values).all():
        return "not finite"
    return None


class SimpleGovernor:
    """Clips actions to the action space; holds or fades out when there is none."""

    def __init__(self, space: ActionSpace, fallback: Fallback) -> None:
        self._space = space
        self._rule = fallback
        self._is_delta = space.is_delta()
        self._floor = np.asarray(space.high) * fallback.floor
        self._last = np.zeros(space.dim)
        self._latched = False

    @property
    def latched(self) -> bool:
        return self._latched

    @property
    def at_rest(self) -> bool:
        """A stop takes one command here: the hold."""
        return True

    def begin(self, state: np.ndarray) -> None:
        """Any action state will do."""

    def rule(
        self, action: np.ndarray | None, state: np.ndarray, *, may_move: bool = True
    ) -> Ruling:
        if action is not None and not self._latched:
            self._last = self._space.clip(action)
            return Ruling("policy", self._last)
        hold = self._space.hold(state)
        if may_move and self._rule.factor and not self._latched:
            faded = np.where(self._is_delta, self._last * self._rule.factor, hold)
            if (np.abs(faded[self._is_delta]) > self._floor[self._is_delta]).any():
                self._last = faded
                return Ruling("decelerate", faded)
        self._last = hold
        return Ruling("hold", hold)

    def aim(self, goal: np.ndarray | None) -> None:
        """Nothing here moves towards a goal."""

    def stop(self, cause: str) -> None:
        self._latched = True

    def rearm(self) -> None:
        self._latched = False
