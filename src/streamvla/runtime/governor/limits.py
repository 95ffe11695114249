"""Keep the commanded motion inside a robot's limits, exactly, on every control tick.

Everything happens on the tick grid (`core.limits.MotionLimits`), where the motion of one dimension
is exact: with `a'` the acceleration chosen for the next tick,

    v' = v + a'        p' = p + v'        |a'| ≤ A,  |a' − a| ≤ J,  v' and p' within their bounds

It is not enough that the next tick is legal. At v close to V with a > 0 the jerk limit may leave
no legal tick after it. So every choice must leave a way to *brake*: a legal sequence that brings
the dimension to rest inside its bounds. Braking from such a motion leads to another one that has
it, hence by induction a legal command exists on every tick, for ever, whatever is asked for.

Ramping an acceleration `a > 0` down to 0 by J a tick adds S(a) to the velocity:

    S(a) = (a − J) + (a − 2J) + … = m·a − J·m(m+1)/2,   m = ⌈a/J⌉ − 1

and the largest a' with v + a' + S(a') ≤ V is `_ramp(V − v, J)`, in closed form. The same function
gives the jerk-limited approach to any velocity without overshoot, and with it the stop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import ConfigError
from streamvla.core.limits import MotionLimits

__all__ = [
    "AxisLimits",
    "AxisMotion",
    "MotionLimiter",
    "MotionLimits",
    "approach_velocity",
    "exceeded_limit",
    "next_velocity",
]

_AT_REST = 1e-12
"""A velocity or acceleration below this fraction of its limit is rounding, not motion."""

_SHARES = (1.0, 0.75, 0.5, 0.25)
"""How much of the way from braking to what was asked for is tried, most first."""


@dataclass(frozen=True, slots=True)
class AxisLimits:
    """The limits of one dimension, in action units per control period.

    Attributes:
        low, high: of the position; infinite for none.
        slowest, fastest: of the velocity; slowest ≤ 0 ≤ fastest.
        acceleration, jerk: > 0.
        seeks: whether actions name positions (an absolute dimension), where overshoot is a
            mistake, or steps (a delta dimension), where it is only a larger step.
    """

    low: float
    high: float
    slowest: float
    fastest: float
    acceleration: float
    jerk: float
    seeks: bool


@dataclass(frozen=True, slots=True)
class AxisMotion:
    """The commanded motion of one dimension up to now."""

    position: float = 0.0
    velocity: float = 0.0
    acceleration: float = 0.0

    def after(self, velocity: float) -> AxisMotion:
        """The motion one tick later, if `velocity` is commanded."""
        return AxisMotion(self.position + velocity, velocity, velocity - self.velocity)


def next_velocity(limits: AxisLimits, motion: AxisMotion, wanted: float) -> float:
    """The velocity to command next: `wanted` if it is legal, else the approach to it.

    Args:
        motion: one that can brake within `limits`: at rest, or made by this function or by
            `approach_velocity`.
        wanted: any finite velocity, action units per period.
    """
    slowest_change, fastest_change = _legal_accelerations(limits, motion)
    legal = slowest_change <= wanted - motion.velocity <= fastest_change
    if legal and _can_brake(limits, motion.after(wanted), limits.low, limits.high):
        return wanted
    return approach_velocity(limits, motion, wanted)


def approach_velocity(limits: AxisLimits, motion: AxisMotion, wanted: float) -> float:
    """The next velocity on the jerk-limited way to `wanted` that does not overshoot it.

    Unlike `next_velocity` it arrives with no acceleration left: with `wanted` 0 it is the stop.
    Arguments as for `next_velocity`.
    """
    lowest, highest = _legal_accelerations(limits, motion)
    brake = _clamp(_ramp(-motion.velocity, limits.jerk), lowest, highest)
    approach = _clamp(_ramp(wanted - motion.velocity, limits.jerk), lowest, highest)
    low, high = _stay_short_of(limits, motion.position + wanted, wanted)
    for share in _SHARES:
        velocity = motion.velocity + brake + share * (approach - brake)
        if _can_brake(limits, motion.after(velocity), low, high):
            return velocity
    return motion.velocity + brake


def exceeded_limit(limits: AxisLimits, motion: AxisMotion, wanted: float) -> str:
    """The first limit that a velocity which `next_velocity` refused exceeds.

    "braking room" where `wanted` is within all of them now and could not be kept within later.
    """
    after = motion.after(wanted)
    if not limits.low <= after.position <= limits.high:
        return "position"
    if not limits.slowest <= wanted <= limits.fastest:
        return "velocity"
    if abs(after.acceleration) > limits.acceleration:
        return "acceleration"
    if abs(after.acceleration - motion.acceleration) > limits.jerk:
        return "jerk"
    return "braking room"


def _legal_accelerations(limits: AxisLimits, motion: AxisMotion) -> tuple[float, float]:
    """The next accelerations that keep A and J, and V now and while they are ramped down."""
    jerk, velocity = limits.jerk, motion.velocity
    lowest = max(
        -limits.acceleration, motion.acceleration - jerk, _ramp(limits.slowest - velocity, jerk)
    )
    highest = min(
        limits.acceleration, motion.acceleration + jerk, _ramp(limits.fastest - velocity, jerk)
    )
    return lowest, highest


def _stay_short_of(limits: AxisLimits, target: float, wanted: float) -> tuple[float, float]:
    """Position bounds for an approach: where actions name positions, do not pass the target."""
    if not limits.seeks:
        return limits.low, limits.high
    if wanted >= 0:
        return limits.low, _clamp(target, limits.low, limits.high)
    return _clamp(target, limits.low, limits.high), limits.high


def _ramp(gain: float, jerk: float) -> float:
    """The largest acceleration (by size) that gains at most `gain` velocity and ramps down again.

    It solves a + S(a) = gain: with J = 1, a gain of 6 is 3 + 2 + 1, hence `_ramp(6, 1) == 3`.
    """
    size = abs(gain)
    steps = math.floor((math.sqrt(1 + 8 * size / jerk) - 1) / 2)
    largest = (size + jerk * steps * (steps + 1) / 2) / (steps + 1)
    return math.copysign(largest, gain)


def _can_brake(limits: AxisLimits, motion: AxisMotion, low: float, high: float) -> bool:
    """Whether braking from `motion` stays within [low, high]; exact, and quick far from both."""
    if low == -math.inf and high == math.inf:
        return True
    reach = _braking_reach(limits, motion)
    if low <= motion.position - reach and motion.position + reach <= high:
        return True
    tolerance = _AT_REST * limits.fastest
    while low - tolerance <= motion.position <= high + tolerance:
        if _is_still(limits, motion):
            return True
        lowest, highest = _legal_accelerations(limits, motion)
        change = _clamp(_ramp(-motion.velocity, limits.jerk), lowest, highest)
        motion = motion.after(motion.velocity + change)
    return False


def _braking_reach(limits: AxisLimits, motion: AxisMotion) -> float:
    """A bound on how far braking travels: peak velocity × the ticks of a trapezoidal stop."""
    size = abs(motion.acceleration)
    ramp_ticks = math.ceil(size / limits.jerk)
    peak = abs(motion.velocity) + size * ramp_ticks
    stop_ticks = peak / limits.acceleration + 2 * math.sqrt(peak / limits.jerk) + 4
    return peak * (ramp_ticks + stop_ticks + limits.acceleration / limits.jerk)


def _is_still(limits: AxisLimits, motion: AxisMotion) -> bool:
    return (
        abs(motion.velocity) <= _AT_REST * max(limits.fastest, -limits.slowest)
        and abs(motion.acceleration) <= limits.jerk
    )


def _clamp(value: float, low: float, high: float) -> float:
    return low if value < low else high if value > high else value


class MotionLimiter:
    """The commanded motion of a robot, and what may be commanded next.

    Args:
        space: of the actions.
        limits: of the robot.

    Raises:
        ConfigError: limits that do not fit the space.
    """

    def __init__(self, space: ActionSpace, limits: MotionLimits) -> None:
        limits.require(space)
        self._delta = [kind == "delta" for kind in space.kinds]
        self._names = space.names
        self._limits = _axis_limits(space, limits)
        self._motion = [AxisMotion() for _ in self._limits]

    def begin(self, state: np.ndarray) -> None:
        """The robot stands at the action state (d,).

        Raises:
            ConfigError: outside the position limits, from where no motion is legal.
        """
        for name, limits, position in zip(self._names, self._limits, state.tolist(), strict=True):
            if not limits.low <= position <= limits.high:
                raise ConfigError(
                    f"{name} stands at {position:g}, outside its position limits [{limits.low:g}, "
                    f"{limits.high:g}]: move it inside first, or correct the limits"
                )
        self._motion = [AxisMotion(position) for position in state.tolist()]

    @property
    def velocity(self) -> np.ndarray:
        """(d,) the last commanded change of the action state, action units per period."""
        return np.array([motion.velocity for motion in self._motion])

    @property
    def at_rest(self) -> bool:
        """Whether the last command moved nothing, and the next may move nothing."""
        pairs = zip(self._limits, self._motion, strict=True)
        return all(_is_still(limits, motion) for limits, motion in pairs)

    def wanted_velocity(self, action: np.ndarray) -> np.ndarray:
        """(d,) the velocity that `action` (d,) asks for."""
        return np.array(
            [
                value if delta else value - motion.position
                for value, delta, motion in zip(
                    action.tolist(), self._delta, self._motion, strict=True
                )
            ]
        )

    def move(self, wanted: np.ndarray) -> tuple[np.ndarray, str]:
        """Command the velocity `wanted` (d,) as nearly as the limits allow.

        Returns:
            The action (d,), and the limits that `wanted` exceeds ("jerk of dx"; "" for none).
        """
        before = self._motion
        action = self._command(next_velocity, wanted)
        axes = zip(self._names, self._limits, before, self._motion, wanted.tolist(), strict=True)
        exceeded = [
            f"{exceeded_limit(limits, old, value)} of {name}"
            for name, limits, old, new, value in axes
            if new.velocity != value
        ]
        return action, ", ".join(exceeded)

    def approach(self, wanted: np.ndarray) -> np.ndarray:
        """Command the next step of a smooth change to velocity `wanted` (d,): the action (d,)."""
        return self._command(approach_velocity, wanted)

    def _command(
        self, rule: Callable[[AxisLimits, AxisMotion, float], float], wanted: np.ndarray
    ) -> np.ndarray:
        axes = zip(self._limits, self._motion, wanted.tolist(), strict=True)
        self._motion = [motion.after(rule(limits, motion, value)) for limits, motion, value in axes]
        return np.array(
            [
                motion.velocity if delta else motion.position
                for motion, delta in zip(self._motion, self._delta, strict=True)
            ]
        )


def _axis_limits(space: ActionSpace, limits: MotionLimits) -> list[AxisLimits]:
    rows = zip(
        space.kinds,
        space.low,
        space.high,
        limits.position_low,
        limits.position_high,
        limits.velocity,
        limits.acceleration,
        limits.jerk,
        strict=True,
    )
    return [
        AxisLimits(
            low=position_low,
            high=position_high,
            slowest=max(-velocity, low) if kind == "delta" else -velocity,
            fastest=min(velocity, high) if kind == "delta" else velocity,
            acceleration=acceleration,
            jerk=jerk,
            seeks=kind == "absolute",
        )
        for kind, low, high, position_low, position_high, velocity, acceleration, jerk in rows
    ]
