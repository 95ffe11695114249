"""How far, how fast, how hard, how abruptly a robot may be commanded to move."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.clock import NS_PER_S
from streamvla.core.errors import ConfigError


@dataclass(frozen=True)
class MotionLimits:
    """Bounds on the commanded motion of one robot, one entry per action dimension.

    Position is the *action state* (`ActionSpace.advance`); the others are its backward
    differences from one control tick to the next, so all are in action units per control period:

        tick            0     1     2     3
        position p      0     0     1     3        what was commanded so far
        velocity        –     0     1     2        v[k] = p[k] − p[k−1]; a delta action *is* it
        acceleration    –     –     1     1        a[k] = v[k] − v[k−1]
        jerk            –     –     –     0        j[k] = a[k] − a[k−1]

    Attributes:
        position_low: of the action state; infinite for none.
        position_high: likewise.
        velocity: > 0, action units per period.
        acceleration: > 0, action units per period².
        jerk: > 0, action units per period³.
    """

    position_low: tuple[float, ...]
    position_high: tuple[float, ...]
    velocity: tuple[float, ...]
    acceleration: tuple[float, ...]
    jerk: tuple[float, ...]

    def __post_init__(self) -> None:
        sizes = [len(getattr(self, field.name)) for field in fields(self)]
        if len(set(sizes)) != 1 or not sizes[0]:
            raise ConfigError(f"motion limits: expected one equal length ≥ 1, got {sizes}")
        for name in ("velocity", "acceleration", "jerk"):
            bad = [value for value in getattr(self, name) if not 0 < value < math.inf]
            if bad:
                raise ConfigError(f"motion limits: {name} {bad[0]} must be finite and above 0")
        for low, high in zip(self.position_low, self.position_high, strict=True):
            if not low < high:
                raise ConfigError(f"motion limits: position [{low}, {high}] is no range")

    @property
    def dim(self) -> int:
        """Number of dimensions `d`."""
        return len(self.velocity)

    @classmethod
    def of_space(cls, space: ActionSpace) -> MotionLimits:
        """The limits a robot has that declares none: those its action space implies.

        No sequence of actions within [low, high] exceeds them, so they change nothing but what
        lies outside: the velocity is the largest legal step, the acceleration the difference of
        two opposite steps, the jerk the difference of two such differences.
        """
        delta = space.is_delta()
        low, high = np.asarray(space.low), np.asarray(space.high)
        lowest, highest = np.minimum(low, 0.0), np.maximum(high, 0.0)  # states start at 0
        step = np.where(delta, np.maximum(-lowest, highest), highest - lowest)
        return cls(
            position_low=_floats(np.where(delta, -math.inf, lowest)),
            position_high=_floats(np.where(delta, math.inf, highest)),
            velocity=_floats(step),
            acceleration=_floats(2 * step),
            jerk=_floats(4 * step),
        )

    @classmethod
    def from_si(
        cls,
        space: ActionSpace,
        period_ns: int,
        unit: Sequence[float],
        velocity: Sequence[float],
        acceleration: Sequence[float],
        jerk: Sequence[float],
    ) -> MotionLimits:
        """Limits stated in physical units, converted to action units per control period.

        At 20 Hz, with a unit action of 0.04 m: 0.8 m/s is 1 a period, 8 m/s² is 0.5 a period².

        Args:
            unit: per dimension, what an action of 1 displaces, in u (m, rad, or 1 for a command
                without a unit).
            velocity: per dimension, u/s.
            acceleration: per dimension, u/s².
            jerk: per dimension, u/s³.

        Raises:
            ConfigError: other than one entry per dimension, or an entry that is not positive.
        """
        rows = [np.asarray(row, dtype=float) for row in (unit, velocity, acceleration, jerk)]
        if any(row.shape != (space.dim,) for row in rows) or period_ns <= 0:
            raise ConfigError(
                f"motion limits: unit, velocity, acceleration and jerk need {space.dim} entries "
                f"each ({', '.join(space.names)}) and the period must be > 0 ns, got "
                f"{[len(row) for row in rows]} and {period_ns} ns"
            )
        if not (rows[0] > 0).all():
            raise ConfigError(f"motion limits: unit {list(unit)} must be above 0 everywhere")
        period_s = period_ns / NS_PER_S
        of_space = cls.of_space(space)
        return cls(
            of_space.position_low,
            of_space.position_high,
            *(_floats(row * period_s**i / rows[0]) for i, row in enumerate(rows[1:], start=1)),
        )

    def require(self, space: ActionSpace) -> None:
        """Raise `ConfigError` unless these limits fit `space` and let its robot stand still."""
        if self.dim != space.dim:
            raise ConfigError(
                f"motion limits of {self.dim} dimensions for an action space of {space.dim}: "
                f"give one entry for each of {', '.join(space.names)}"
            )
        ranges = zip(self.position_low, self.position_high, strict=True)
        for name, kind, low, high, (lowest, highest) in zip(
            space.names, space.kinds, space.low, space.high, ranges, strict=True
        ):
            if kind == "delta" and not low <= 0 <= high:
                raise ConfigError(
                    f"motion limits: {name} takes deltas in [{low}, {high}]; the range must "
                    "contain 0, or the robot could never be told to stop"
                )
            if kind == "delta" and not lowest <= 0 <= highest:
                raise ConfigError(
                    f"motion limits: {name} takes deltas, so its position [{lowest}, {highest}] "
                    "must contain 0, where it starts; state it relative to the starting pose"
                )


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(values.tolist())
