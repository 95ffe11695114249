"""The ladder: from letting an action pass, rung by rung, down to a safe stop that stays.

    rung          when                                          what goes out
    policy        an action within the limits                   the action
    (clamp)       an action beyond them                         the nearest smooth approach to it
    (reject)      one so far beyond that it cannot be meant     nothing of it: a tick without one
    extrapolate   the first ticks without an action             the velocity the robot has
    decelerate    then                                          the jerk-limited stop
    hold          at rest                                       no motion
    fallback      at rest, still nothing                        the fallback controller's wish
    stop          still nothing, or told to                     the stop, latched until `rearm`

It goes down this list one rung a tick at the most, skipping those that are switched off or have
nothing to do (a robot at rest is not decelerated). It does not extrapolate while a generation is
under way, whose flow starts where the robot was; the stop itself cannot wait, and moves the robot
on by its stopping distance. A controller that moves the robot ends such a generation.

It comes back up only to "policy", only on an acceptable action, and never from "stop". Whatever the
rung, `MotionLimiter` has the last word, so position, velocity, acceleration and jerk stay within
the robot's limits on every tick.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import ConfigError
from streamvla.core.limits import MotionLimits
from streamvla.runtime.governor.fallbacks import FallbackController, HoldPosition, Situation
from streamvla.runtime.governor.governor import Intervention, Ruling
from streamvla.runtime.governor.limits import MotionLimiter

NO_ACTION = "no action"


@dataclass(frozen=True)
class Ladder:
    """The rule of a `LadderGovernor`. Thresholds count control ticks without an action.

    Attributes:
        limits: of the robot (`RobotSpec.motion_limits`).
        reject_factor: an action that asks for more than this many times the velocity limit is
            rejected, not clamped: it cannot be meant.
        extrapolate_ticks: how long the robot goes on at the velocity it has; 0 decelerates at once.
        controller: what moves the robot on the rung "fallback".
        fallback_after: when that rung begins, if the robot has come to rest.
        stop_after: when the safe stop is latched; None for never.
    """

    limits: MotionLimits
    reject_factor: float = 4.0
    extrapolate_ticks: int = 1
    controller: FallbackController = field(default_factory=HoldPosition)
    fallback_after: int = 20
    stop_after: int | None = 1200

    def __post_init__(self) -> None:
        if not self.reject_factor >= 1:
            raise ConfigError(
                f"ladder: reject factor {self.reject_factor} must be at least 1, or legal actions "
                "would be rejected"
            )
        latest = float("inf") if self.stop_after is None else self.stop_after
        if not 0 <= self.extrapolate_ticks < self.fallback_after < latest:
            raise ConfigError(
                f"ladder: expected 0 ≤ extrapolate_ticks {self.extrapolate_ticks} < fallback_after "
                f"{self.fallback_after} < stop_after {self.stop_after}: the rungs have an order"
            )
        if not _is_controller(self.controller):
            raise ConfigError(
                f"ladder: controller {self.controller!r} has no method velocity(situation); see "
                "runtime.governor.fallbacks.FallbackController"
            )


def _is_controller(value: object) -> bool:
    return isinstance(value, FallbackController)


class LadderGovernor:
    """See the module's docstring. Implements `Governor`.

    Raises:
        ConfigError: limits that do not fit the space.
    """

    def __init__(self, space: ActionSpace, ladder: Ladder) -> None:
        self._space = space
        self._ladder = ladder
        self._limiter = MotionLimiter(space, ladder.limits)
        self._rejected_above = ladder.reject_factor * np.asarray(ladder.limits.velocity)
        self._still = np.zeros(space.dim)
        self._anchor = space.initial_state()
        self._goal: np.ndarray | None = None
        self._began = False  # the policy has moved the robot at least once
        self._without = 0  # control ticks since its last action
        self._rung = "hold"
        self._stopped: str | None = None  # why the safe stop is latched

    @property
    def latched(self) -> bool:
        return self._stopped is not None

    @property
    def at_rest(self) -> bool:
        return self._limiter.at_rest

    def begin(self, state: np.ndarray) -> None:
        self._limiter.begin(state)
        self._anchor = state

    def aim(self, goal: np.ndarray | None) -> None:
        self._goal = goal

    def stop(self, cause: str) -> None:
        if self._stopped is None:
            self._stopped = cause

    def rearm(self) -> None:
        self._stopped, self._rung = None, "hold"
        self._without = self._ladder.extrapolate_ticks  # what still moves goes on slowing down

    def rule(
        self, action: np.ndarray | None, state: np.ndarray, *, may_move: bool = True
    ) -> Ruling:
        if action is None or self.latched:
            return self._fill(state, NO_ACTION, (), may_move)
        wanted = self._limiter.wanted_velocity(action)
        if (np.abs(wanted) > self._rejected_above).any():
            cause = self._discontinuity(wanted)
            return self._fill(state, cause, (Intervention("reject", cause),), may_move)
        return self._follow(action, wanted, state)

    # --- with an action ------------------------------------------------------------------------

    def _follow(self, action: np.ndarray, wanted: np.ndarray, state: np.ndarray) -> Ruling:
        values, exceeded = self._limiter.move(wanted)
        self._began, self._without, self._rung = True, 0, "policy"
        self._anchor = self._space.advance(state, values)
        if not exceeded:
            return Ruling("policy", values)
        return Ruling("policy", values, (Intervention("clamp", exceeded),))

    def _discontinuity(self, wanted: np.ndarray) -> str:
        worst = int(np.argmax(np.abs(wanted) / self._rejected_above))
        return (
            f"discontinuity: {self._space.names[worst]} asks for {wanted[worst]:.4g} a period, "
            f"more than {self._rejected_above[worst]:.4g}"
        )

    # --- without one ---------------------------------------------------------------------------

    def _fill(
        self, state: np.ndarray, cause: str, before: tuple[Intervention, ...], may_move: bool
    ) -> Ruling:
        """The command of a tick that has no action, on the rung that is due."""
        if self._began:
            self._without += 1
        self._rung = self._next_rung(may_move)
        values = self._limiter.approach(self._wish(state))
        if not self._began and not self.latched:
            return Ruling(self._rung, values, before)  # still waiting for the first action
        return Ruling(
            self._rung, values, (*before, Intervention(self._rung, self._stopped or cause))
        )

    def _next_rung(self, may_move: bool) -> str:
        ladder = self._ladder
        if ladder.stop_after is not None and self._without > ladder.stop_after:
            self.stop(f"no action for {ladder.stop_after} control periods")
        if self.latched:
            return "stop"
        if self._rung == "fallback":
            return "fallback"
        if not self.at_rest:
            extrapolates = may_move and self._without <= ladder.extrapolate_ticks
            return "extrapolate" if extrapolates else "decelerate"
        return "fallback" if self._without > ladder.fallback_after else "hold"

    def _wish(self, state: np.ndarray) -> np.ndarray:
        """(d,) the velocity this rung asks for."""
        if self._rung == "extrapolate":
            return self._limiter.velocity
        if self._rung != "fallback":
            return self._still
        situation = Situation(state, self._anchor, self._goal, self._without)
        return self._checked(self._ladder.controller.velocity(situation))

    def _checked(self, wish: np.ndarray) -> np.ndarray:
        """A controller's wish, or no motion where it is unusable: the last rungs must not fail."""
        usable = np.shape(wish) == self._still.shape and bool(np.isfinite(wish).all())
        if not usable:
            self.stop(f"the fallback controller gave {wish!r}, expected {self._space.dim} numbers")
            self._rung = "stop"
            return self._still
        return np.asarray(wish, dtype=float)
