"""Robots and policies that the tests of the process driver have made in other processes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.clock import ms_to_ns
from streamvla.core.errors import RobotError
from streamvla.core.interfaces import Capture, Frames
from streamvla.runtime.processes.privileges import RealtimeSettings
from streamvla.testing import AnticipatingPolicy, ScriptedPolicy, StillRobot, unit_space
from streamvla.testing.camera_robot import CameraRobot, check_whole

SPACE = ActionSpace(("dx", "grip"), ("delta", "absolute"), (-1.0, -1.0), (1.0, 1.0))
PERIOD_NS = ms_to_ns(20)
HORIZON = 10
NORMAL = RealtimeSettings(fifo_priority=None)
"""Tests leave the real-time scheduler alone: a fault in one must not take a core."""


class DiaryRobot(StillRobot):
    """A still robot that writes every command it gets to a file: instant, then values."""

    def __init__(self, path: Path) -> None:
        super().__init__(SPACE, PERIOD_NS, keep=False)
        self._diary = path.open("a", encoding="utf-8", buffering=1)

    def command(self, values: np.ndarray, now_ns: int) -> None:
        self._diary.write(f"{now_ns} {' '.join(map(str, values.tolist()))}\n")


def read_diary(path: Path) -> list[tuple[float, ...]]:
    """The values of every command the robot got."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [tuple(float(number) for number in line.split()[1:]) for line in lines]


def still_robot() -> StillRobot:
    return StillRobot(SPACE, PERIOD_NS, keep=False)


def standing_robot() -> StillRobot:
    return StillRobot(SPACE, PERIOD_NS, standing=np.array([0.0, 0.7]))


class MovingRobot(StillRobot):
    """Moves by 1 from one capture to the next, and shows it."""

    def __init__(self) -> None:
        super().__init__(SPACE, PERIOD_NS, keep=False)
        self._spec = replace(self._spec, state_names=("count",))
        self._captures = 0

    def capture(self) -> Capture:
        self._captures += 1
        return {"count": np.array([self._captures])}

    def observe(self, capture: Capture) -> Frames:
        image = np.full((1, 1, 3), capture["count"], np.uint8)
        return Frames({"camera": image}, capture["count"].astype(np.float32))


def moving_robot() -> StillRobot:
    return MovingRobot()


def moving_policy() -> ScriptedPolicy:
    return ScriptedPolicy(SPACE, HORIZON, PERIOD_NS, _wander, robot=moving_robot().spec)


def robot_that_brings_torch() -> StillRobot:
    """As if its module had imported torch, without the seconds that takes."""
    sys.modules["torch"] = ModuleType("torch")
    return still_robot()


def wide_robot() -> StillRobot:
    return StillRobot(unit_space(5), PERIOD_NS)


class BrokenRobot(StillRobot):
    """Takes ten commands and then no more."""

    def command(self, values: np.ndarray, now_ns: int) -> None:
        super().command(values, now_ns)
        if len(self.commands) == 10:
            raise RobotError("joint 3 does not answer")


def broken_robot() -> StillRobot:
    return BrokenRobot(SPACE, PERIOD_NS)


class LargeCaptureRobot(StillRobot):
    """Captures are larger than any socket's buffer."""

    def capture(self) -> Capture:
        return {"large": np.zeros(4 << 20, np.uint8)}


SEEN = (240, 320)
"""Size of the frames of the robots with cameras: larger than what travels with a request."""


class CountingRobot(CameraRobot):
    """On closing it writes how many frames its cameras published and dropped, if any ran."""

    def __init__(self, path: Path | None, rate_hz: float | None, whole: bool) -> None:
        super().__init__(SPACE, PERIOD_NS, size=SEEN, rate_hz=rate_hz, whole=whole)
        self._path = path

    def close(self) -> None:
        if self.cameras and self._path is not None:
            counts = [
                (each.frames.published, each.frames.dropped) for each in self.cameras.values()
            ]
            self._path.write_text("\n".join(f"{made} {lost}" for made, lost in counts))
        super().close()


def camera_robot(
    path: Path | None = None, rate_hz: float | None = None, whole: bool = True
) -> CountingRobot:
    return CountingRobot(path, rate_hz, whole)


def _look_again(observation, start, index) -> np.ndarray:
    """The context is the observation; it must still show what it showed when it was made."""
    check_whole(observation.images)
    return np.zeros(2)


def looking_policy(whole: bool = True) -> ScriptedPolicy:
    robot = camera_robot(whole=whole).spec
    return ScriptedPolicy(SPACE, HORIZON, PERIOD_NS, _look_again, robot=robot)


def large_capture_robot() -> StillRobot:
    return LargeCaptureRobot(SPACE, PERIOD_NS, keep=False)


def _wander(observation, start, index) -> np.ndarray:
    phase = observation.action_state[0] + 0.1 * index
    return np.array([0.5 * np.cos(phase), 1.0 if index % 2 else -1.0])


def wandering_policy() -> ScriptedPolicy:
    return ScriptedPolicy(SPACE, HORIZON, PERIOD_NS, _wander)


def _repeat_the_prefix(observation, start, index) -> np.ndarray:
    """The first action is the last of the prefix; without one, it is 0."""
    if index > 0:
        return np.array([0.01 * index, 0.1 * index])
    return np.zeros(2) if start.prefix is None or not len(start.prefix) else start.prefix[-1]


def policy_that_repeats_the_prefix() -> ScriptedPolicy:
    return ScriptedPolicy(SPACE, HORIZON, PERIOD_NS, _repeat_the_prefix)


def _as_far_as_it_moves(observation, motion) -> list[float]:
    return [abs(motion[0])]


def anticipating_policy() -> AnticipatingPolicy:
    return AnticipatingPolicy(SPACE, HORIZON, PERIOD_NS, _wander, _as_far_as_it_moves)


def policy_that_raises() -> ScriptedPolicy:
    def script(observation, start, index):
        raise RuntimeError("device lost")

    return ScriptedPolicy(SPACE, HORIZON, PERIOD_NS, script)


class EagerPolicy(ScriptedPolicy):
    """Raises when asked to generate, before the first action is asked for."""

    def generate(self, context, start):
        raise RuntimeError("no memory left")


def policy_that_raises_at_once() -> ScriptedPolicy:
    return EagerPolicy(SPACE, HORIZON, PERIOD_NS)


def policy_of_the_wrong_shape() -> ScriptedPolicy:
    return ScriptedPolicy(SPACE, HORIZON, PERIOD_NS, lambda *_: np.zeros(7))
