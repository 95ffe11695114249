"""A process of its own that stops the robot when the executor process no longer commands it.

    executor process ── beats in shared memory ──►  watchdog ── the robot's declared stop
          └──────────── a pipe it alone holds ────►  (broken when it dies)

It opened the stop beforehand (`RobotSpec.stop`), so nothing has to be found, imported or connected
when it is needed. It stops a robot in motion at once when the executor process dies, and when no
command came for some control periods. What it cannot see is a robot that ignores its stop, or a
machine that is gone as a whole: only a watchdog in the robot's own driver can.
"""

from __future__ import annotations

import importlib
import logging
import mmap
import os
import select
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import cast

import numpy as np

from streamvla.core.clock import NS_PER_S, SystemClock
from streamvla.core.errors import ConfigError, StageFailedError
from streamvla.core.interfaces import Robot, RobotSpec
from streamvla.core.memory import unnamed_file
from streamvla.runtime.drivers.signals import ENDING
from streamvla.runtime.processes.launch import receive_fd

_BYTES = 64
_BEATS, _ARMED, _TRIPPED = range(3)

Stop = Callable[[], None]


@dataclass(frozen=True)
class Watch:
    """What a watchdog is told.

    Attributes:
        stop: "package.module:function"; called with the robot's specification it gives the stop.
        periods: control periods without a command after which it stops the robot.
    """

    robot: RobotSpec
    stop: str
    periods: int

    def __post_init__(self) -> None:
        if self.periods < 1:
            raise ConfigError(f"watchdog: {self.periods} periods: expected at least 1")


class Pulse:
    """Three words in shared memory: how many commands were sent, whether the robot is in motion,
    whether the watchdog has stopped it."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, _BYTES)
        os.close(fd)
        self._words = memoryview(self._memory).cast("Q")

    @staticmethod
    def create() -> int:
        """An open file for it."""
        return unnamed_file("streamvla-pulse", _BYTES)

    @property
    def beats(self) -> int:
        return self._words[_BEATS]

    @property
    def armed(self) -> int:
        """0: the robot stands; 1: silence counts; 2: only the death of the executor process."""
        return self._words[_ARMED]

    @property
    def tripped(self) -> bool:
        return bool(self._words[_TRIPPED])

    def beat(self, armed: int = 1) -> None:
        self._words[_BEATS] += 1
        self._words[_ARMED] = armed

    def disarm(self) -> None:
        self._words[_ARMED] = 0

    def rearm(self) -> None:
        """For a new episode."""
        self._words[_TRIPPED] = self._words[_ARMED] = 0

    def trip(self) -> None:
        self._words[_TRIPPED] = 1


# --- the executor process's side ----------------------------------------------------------------


class WatchedRobot:
    """A robot whose every command is a beat. Everything else is the robot's own.

    Args:
        silence: whether commands come on every control tick, so that silence counts.
    """

    def __init__(self, robot: Robot, pulse: Pulse, *, silence: bool) -> None:
        self._robot = robot
        self._pulse = pulse
        self._armed = 1 if silence else 2
        self._latest: np.ndarray | None = None
        self._told = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._robot, name)

    def command(self, values: np.ndarray, now_ns: int) -> None:
        """Once the watchdog has stopped the robot, nothing but a hold where it was.

        Raises:
            StageFailedError: once, then: the watchdog has stopped the robot.
        """
        if self._pulse.tripped:
            if not self._told:
                self._told = True
                raise StageFailedError(
                    "the watchdog stopped the robot: no command came for several control periods; "
                    "what held the executor process up is in the machine's log, not in its trace"
                )
            values = self._robot.spec.action_space.hold(
                values if self._latest is None else self._latest
            )
        self._robot.command(values, now_ns)
        self._latest = values
        self._pulse.beat(self._armed)


def watched(robot: Robot, pulse: Pulse | None, *, silence: bool) -> Robot:
    """The robot, with a pulse if there is one."""
    return robot if pulse is None else cast(Robot, WatchedRobot(robot, pulse, silence=silence))


# --- the watchdog's own process -------------------------------------------------------------------


def open_stop(watch: Watch) -> Stop:
    """The robot's declared stop, ready to be called.

    Raises:
        ConfigError: it cannot be imported, or gives nothing that can be called.
    """
    module, _, name = watch.stop.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"robot {watch.robot.name}: its stop {watch.stop!r} cannot be found: {error}; expected "
            "package.module:function"
        ) from error
    stop = function(watch.robot)
    if not callable(stop):
        raise ConfigError(
            f"robot {watch.robot.name}: {watch.stop} gave {stop!r}; expected a function without "
            "arguments that stops the robot"
        )
    return cast(Stop, stop)


def watchdog_main(owner: Connection, watch: Watch) -> None:
    """Run in the watchdog's process until the executor process is gone."""
    for number in (signal.SIGINT, *ENDING):  # a whole group may get them: the executor stops first
        signal.signal(number, signal.SIG_IGN)
    stop = open_stop(watch)
    owner.send(watch)
    pulse, alive_fd = Pulse(receive_fd(owner)), receive_fd(owner)
    clock, period_ns = SystemClock(), watch.robot.control_period_ns
    pause_s = period_ns / 4 / NS_PER_S
    latest, since_ns = pulse.beats, clock.now_ns()
    owed = False  # a stop that failed is tried again
    while True:
        died = bool(select.select([alive_fd], [], [], pause_s)[0])
        now_ns, armed, beats = clock.now_ns(), pulse.armed, pulse.beats  # beats last: see `beat`
        if beats != latest:
            latest, since_ns = beats, now_ns
        silent = now_ns - since_ns >= watch.periods * period_ns - pause_s * NS_PER_S
        if (armed and died) or (armed == 1 and silent and not pulse.tripped):
            pulse.trip()
            owed = True
        if owed:
            owed = not _stopped(stop)
        if died:
            return


def _stopped(stop: Stop) -> bool:
    """Whether it worked."""
    try:
        stop()
    except Exception:
        logging.getLogger("streamvla").exception("watchdog: the robot's stop failed")
        return False
    return True
