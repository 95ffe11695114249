"""Actuation: commands that are late, last too long, are off, or on a clock that runs otherwise."""

from __future__ import annotations

from collections import deque

import numpy as np

from streamvla.core.clock import ms_to_ns
from streamvla.core.interfaces import Robot
from streamvla.core.stress import coin, stream_of
from streamvla.robots.schedule import require_command
from streamvla.robots.stress.wrapper import StressedRobot


def mismatched_rate(robot: Robot, percent: float, name: str) -> Robot:
    """A command takes `1 ± percent / 100` of its time.

    On a robot that is too slow commands queue up, so that it falls behind more and more; one that
    is too fast stands between two commands (`robots.schedule`).
    """
    return _MismatchedRate(robot, percent / 100, name)


def drifting_clock(robot: Robot, percent: float, name: str) -> Robot:
    """The robot reads `start + (1 ± percent / 100) · (now − start)`: all of its world goes by
    that."""
    return _DriftingClock(robot, percent / 100, name)


def delayed_commands(robot: Robot, delay_ms: float, name: str) -> Robot:
    """A command reaches the robot so much later than it is sent."""
    return _DelayedCommands(robot, ms_to_ns(delay_ms), name)


def noisy_commands(robot: Robot, percent: float, name: str) -> Robot:
    """The robot does `c + (a − c)(1 + ε)` instead of `a`, within its limits, `ε` of this standard
    deviation for every number alone; `c` is zero for deltas and the command before for absolute
    dimensions, whose first command is exact.

    Noise that grows with the motion is that of muscles (Harris and Wolpert 1998,
    doi:10.1038/29528); here it also stands for a policy whose actions are worse.
    """
    return _NoisyCommands(robot, percent / 100, name)


class _MismatchedRate(StressedRobot):
    def __init__(self, robot: Robot, share: float, name: str) -> None:
        super().__init__(robot, name)
        self._share = share

    def reset(self, seed: int, now_ns: int, command_duration_ns: int) -> None:
        rate = 1 + self._share * coin(stream_of(self._name, seed))
        super().reset(seed, now_ns, round(command_duration_ns * rate))


class _DriftingClock(StressedRobot):
    def __init__(self, robot: Robot, share: float, name: str) -> None:
        super().__init__(robot, name)
        self._share = share
        self._rate = 1.0

    @property
    def stimulus_ns(self) -> int | None:
        """On the controller's clock."""
        robot_ns = self._robot.stimulus_ns
        if robot_ns is None:
            return None
        return self._start_ns + round((robot_ns - self._start_ns) / self._rate)

    def reset(self, seed: int, now_ns: int, command_duration_ns: int) -> None:
        self._rate = 1 + self._share * coin(stream_of(self._name, seed))
        super().reset(seed, now_ns, command_duration_ns)

    def command(self, values: np.ndarray, now_ns: int) -> None:
        super().command(values, self._robot_clock_ns(now_ns))

    def advance_to(self, now_ns: int) -> None:
        super().advance_to(self._robot_clock_ns(now_ns))

    def _robot_clock_ns(self, now_ns: int) -> int:
        """What the robot's clock reads at `now_ns` of the controller's."""
        return self._start_ns + round((now_ns - self._start_ns) * self._rate)


class _DelayedCommands(StressedRobot):
    def __init__(self, robot: Robot, delay_ns: int, name: str) -> None:
        super().__init__(robot, name)
        self._delay_ns = delay_ns
        self._on_the_way: deque[tuple[int, np.ndarray]] = deque()

    def reset(self, seed: int, now_ns: int, command_duration_ns: int) -> None:
        super().reset(seed, now_ns, command_duration_ns)
        self._on_the_way.clear()

    def command(self, values: np.ndarray, now_ns: int) -> None:
        """Send a command (d,) on its way.

        Raises:
            RobotError: now, not on arrival: not (d,), not finite, or before `reset`.
        """
        self.advance_to(now_ns)
        command = require_command(self._spec.action_space, values)
        self._on_the_way.append((now_ns + self._delay_ns, command.copy()))

    def advance_to(self, now_ns: int) -> None:
        while self._on_the_way and self._on_the_way[0][0] <= now_ns:
            arrives_ns, values = self._on_the_way.popleft()
            self._robot.command(values, arrives_ns)
        super().advance_to(now_ns)


class _NoisyCommands(StressedRobot):
    def __init__(self, robot: Robot, share: float, name: str) -> None:
        super().__init__(robot, name)
        self._share = share
        self._stream = stream_of(name, 0)
        self._before: np.ndarray | None = None

    def reset(self, seed: int, now_ns: int, command_duration_ns: int) -> None:
        super().reset(seed, now_ns, command_duration_ns)
        self._stream = stream_of(self._name, seed)
        self._before = None

    def command(self, values: np.ndarray, now_ns: int) -> None:
        space = self._spec.action_space
        command = require_command(space, values)
        still = space.hold(command if self._before is None else self._before)
        factors = 1 + self._share * self._stream.standard_normal(space.dim)
        super().command(space.clip(still + (command - still) * factors), now_ns)
        self._before = command.copy()
