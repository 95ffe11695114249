"""Pictures and state of two instants: frames that come late, not at all, or stand still.

    captures kept   ●───●───●───●───●        on the camera's own grid, while the world is advanced
    camera-delay    picture ┘       └ state

Of a capture, `state_arrays` of the robot say what is proprioception; the rest is the picture. A
robot that does not say so has its captures of both instants put into one, and is asked for frames
of each. Where there are no views (`robots.truth.TruthView`) all that is seen is the picture.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np

from streamvla.core.clock import NS_PER_S, ms_to_ns
from streamvla.core.interfaces import Capture, Frames, Robot
from streamvla.core.stress import stream_of
from streamvla.robots.stress.wrapper import StressedRobot, require_captures

KEPT_PER_PERIOD = 4
"""A delay is rounded up to this part of the control period: a sub-step."""
FREEZE_GAP_S = (1.0, 3.0)
"""Between two freezes."""


def camera_freeze(robot: Robot, length_ms: float, name: str) -> Robot:
    """Pictures stand still for a while, again and again."""
    return _Lagging(robot, name, _Freeze(ms_to_ns(length_ms)))


def camera_drop(robot: Robot, percent: float, name: str) -> Robot:
    """In a control period whose frame was lost, the picture is that of the latest period's start
    whose frame was not."""
    return _Lagging(robot, name, _Drop(percent / 100))


def camera_delay(robot: Robot, delay_ms: float, name: str) -> Robot:
    """Pictures are so old; in the beginning they show the start."""
    return _Lagging(robot, name, _Delay(ms_to_ns(delay_ms)))


def camera_state_skew(robot: Robot, delay_ms: float, name: str) -> Robot:
    """The state is so old, pictures are not."""
    if not robot.spec.views:
        return robot
    return _Lagging(robot, name, _Delay(ms_to_ns(delay_ms)), of_state=True)


class _Lag(Protocol):
    """Which capture is seen."""

    next_ns: int
    """When the next capture must be kept."""

    def start(
        self, stream: np.random.Generator, now_ns: int, period_ns: int, capture: Capture
    ) -> None:
        """An episode begins with this capture."""
        ...

    def keep(self, capture: Capture) -> None:
        """It is `next_ns`: this is the capture."""
        ...

    def seen(self, now_ns: int, capture: Capture) -> Capture:
        """The capture that is seen instead of the present one."""
        ...


class _Lagging(StressedRobot):
    """Picture or state are of another capture than the other.

    Args:
        of_state: the state lags, not the picture.

    Raises:
        ConfigError: the robot captures nothing.
    """

    def __init__(self, robot: Robot, name: str, lag: _Lag, *, of_state: bool = False) -> None:
        super().__init__(robot, name)
        require_captures(robot, name)
        self._lag = lag
        self._of_state = of_state
        self._whole = not robot.spec.views
        self._apart: tuple[str, ...] = getattr(robot, "state_arrays", ())
        self._second: Mapping[str, str] = {}  # array → its name, of the instant of the state
        if not self._whole and not self._apart:
            arrays = robot.spec.capture
            self._second = {array.name: f"{name}.{array.name}" for array in arrays}
            twice = tuple(replace(array, name=self._second[array.name]) for array in arrays)
            self._spec = replace(self._spec, capture=(*arrays, *twice))

    def reset(self, seed: int, now_ns: int, command_duration_ns: int) -> None:
        super().reset(seed, now_ns, command_duration_ns)
        stream = stream_of(self._name, seed)
        self._lag.start(stream, now_ns, command_duration_ns, self._robot.capture())

    def command(self, values: np.ndarray, now_ns: int) -> None:
        self.advance_to(now_ns)
        super().command(values, now_ns)

    def advance_to(self, now_ns: int) -> None:
        while self._now_ns < self._lag.next_ns <= now_ns:
            super().advance_to(self._lag.next_ns)
            self._lag.keep(self._robot.capture())
        super().advance_to(now_ns)

    def capture(self) -> Capture:
        present = self._robot.capture()
        lagging = self._lag.seen(self._now_ns, present)
        picture, state = (present, lagging) if self._of_state else (lagging, present)
        if self._second:
            return {**picture, **{to: state[name] for name, to in self._second.items()}}
        if self._whole:
            return picture
        return {**picture, **{name: state[name] for name in self._apart}}

    def observe(self, capture: Capture) -> Frames:
        if not self._second:
            return self._robot.observe(capture)
        images = self._robot.observe({name: capture[name] for name in self._second}).images
        then = {name: capture[second] for name, second in self._second.items()}
        return replace(self._robot.observe(then), images=images)


class _Delay:
    """Always the newest that is old enough. Implements `_Lag`, as those below."""

    def __init__(self, delay_ns: int) -> None:
        self._delay_ns = delay_ns
        self._kept: deque[tuple[int, Capture]] = deque()
        self._grid = (0, KEPT_PER_PERIOD)
        self.next_ns = 0

    def start(
        self, stream: np.random.Generator, now_ns: int, period_ns: int, capture: Capture
    ) -> None:
        self._kept = deque([(now_ns, capture)])
        self._grid, self._steps = (now_ns, period_ns), 0
        self._step()

    def keep(self, capture: Capture) -> None:
        self._kept.append((self.next_ns, capture))
        self._forget(self.next_ns)
        self._step()

    def seen(self, now_ns: int, capture: Capture) -> Capture:
        self._forget(now_ns)
        return self._kept[0][1]

    def _forget(self, now_ns: int) -> None:
        """What is older than the newest that is old enough."""
        while len(self._kept) > 1 and self._kept[1][0] <= now_ns - self._delay_ns:
            self._kept.popleft()

    def _step(self) -> None:
        start_ns, period_ns = self._grid
        self._steps += 1
        self.next_ns = start_ns + self._steps * period_ns // KEPT_PER_PERIOD


class _Drop:
    """In some control periods, the last one that was not lost."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._lost = False
        self.next_ns = 0

    def start(
        self, stream: np.random.Generator, now_ns: int, period_ns: int, capture: Capture
    ) -> None:
        self._stream, self._period_ns, self._kept = stream, period_ns, capture
        self._lost, self.next_ns = False, now_ns + period_ns

    def keep(self, capture: Capture) -> None:
        self._lost = self._stream.random() < self._share
        if not self._lost:
            self._kept = capture
        self.next_ns += self._period_ns

    def seen(self, now_ns: int, capture: Capture) -> Capture:
        return self._kept if self._lost else capture


class _Freeze:
    """For a while, the same one."""

    def __init__(self, length_ns: int) -> None:
        self._length_ns = length_ns
        self.next_ns = 0

    def start(
        self, stream: np.random.Generator, now_ns: int, period_ns: int, capture: Capture
    ) -> None:
        self._stream, self._kept = stream, capture
        self._until_ns = now_ns
        self._plan()

    def keep(self, capture: Capture) -> None:
        self._kept = capture
        self._until_ns = self.next_ns + self._length_ns
        self._plan()

    def seen(self, now_ns: int, capture: Capture) -> Capture:
        return self._kept if now_ns < self._until_ns else capture

    def _plan(self) -> None:
        """The next one."""
        gap_ns = round(self._stream.uniform(*FREEZE_GAP_S) * NS_PER_S)
        self.next_ns = self._until_ns + gap_ns
