"""A robot under stress: what it is asked passes through one wrapper a factor.

    control ─► camera-delay ─► camera-noise ─► actuation-delay ─► friction ─► the robot

A policy that sees the truth is put under stress outside its `robots.truth.TruthView`, so what comes
late, or not at all, is then the truth itself. What changes pictures or proprioception alone has
nothing to change there, and leaves the view as it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import ArraySpec, Capture, Robot, RobotSpec
from streamvla.core.stress import Stress


def stressed_robot(robot: Robot, stress: Stress) -> Robot:
    """The robot under those factors of a stress that change robots; closing it closes the robot.

    Raises:
        ConfigError: a factor for which the robot lacks something, such as a physics model.
    """
    for factor, size in stress.of("robot"):
        robot = factor.wrap(robot, size, factor.name)
    return robot


class StressedRobot:
    """A robot that does everything as the one inside. Implements `Robot`; factors inherit it and
    override what they change.

    Args:
        robot: the one inside.
        name: of the factor.
    """

    def __init__(self, robot: Robot, name: str) -> None:
        self._robot: Any = robot
        self._name = name
        self._spec = robot.spec
        self._seed = self._start_ns = self._now_ns = 0

    @property
    def spec(self) -> RobotSpec:
        return self._spec

    @property
    def instruction(self) -> str:
        return self._robot.instruction

    @property
    def success(self) -> bool:
        return self._robot.success

    def reset(self, seed: int, now_ns: int, command_duration_ns: int) -> None:
        self._robot.reset(seed, now_ns, command_duration_ns)
        self._seed, self._start_ns, self._now_ns = seed, now_ns, now_ns

    def command(self, values: np.ndarray, now_ns: int) -> None:
        self._robot.command(values, now_ns)
        self._now_ns = now_ns

    def advance_to(self, now_ns: int) -> None:
        self._robot.advance_to(now_ns)
        self._now_ns = now_ns

    def capture(self) -> Capture:
        return self._robot.capture()

    def observe(self, capture: Capture) -> Any:
        return self._robot.observe(capture)

    def close(self) -> None:
        self._robot.close()

    def __getattr__(self, name: str) -> Any:
        if name == "_robot":  # not made yet
            raise AttributeError(name)
        return getattr(self._robot, name)


def require_captures(robot: Robot, name: str) -> None:
    """Raise `ConfigError` unless the robot freezes what it sees."""
    if not robot.spec.capture:
        raise ConfigError(
            f"stress {name!r} changes what was captured, and robot {robot.spec.name!r} captures "
            "nothing (RobotSpec.capture), as real cameras do: leave it out there"
        )


def extra_array(name: str, shape: tuple[int, ...], dtype: str) -> ArraySpec:
    """The array of a capture in which a factor keeps what its pictures depend on."""
    return ArraySpec(f"stress_{name}", shape, dtype)
