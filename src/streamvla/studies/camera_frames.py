"""Robots with cameras for `bench realtime`, and how their frames travelled before.

shared      frames stay in memory that both processes map (`runtime.processes.frames`)
pickled     the way of before: the control thread pickles the capture and sends it through a socket
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import Capture, Frames
from streamvla.testing import StillRobot
from streamvla.testing.camera_robot import CameraRobot
from streamvla.testing.load import LoadedPolicy

Way = Literal["shared", "pickled"]
WAYS: dict[Way, str] = {"shared": "in shared memory", "pickled": "pickled, as before"}

SIZES = {"64p": (64, 64), "480p": (480, 640), "720p": (720, 1280), "1080p": (1080, 1920)}
"""(height, width), pixels."""

_RATE_HZ = 30.0


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of "HEIGHTxWIDTH".

    >>> parse_size("1080x1920")
    (1080, 1920)

    Raises:
        ConfigError: it is something else.
    """
    found = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", text)
    if found is None:
        raise ConfigError(f"size of a frame {text!r}: expected HEIGHTxWIDTH, such as 1080x1920")
    return int(found[1]), int(found[2])


@dataclass(frozen=True)
class Cameras:
    """The cameras of the robot that is measured.

    Attributes:
        count: 0 for a robot without.
        size: (height, width), pixels.
    """

    count: int
    size: tuple[int, int] = (64, 64)
    way: Way = "shared"

    def robot(self, space: ActionSpace, period_ns: int) -> StillRobot:
        if not self.count:
            return StillRobot(space, period_ns, keep=False)
        kind = PicklingRobot if self.way == "pickled" else CameraRobot
        return kind(
            space,
            period_ns,
            count=self.count,
            size=self.size,
            rate_hz=_RATE_HZ,
            look=False,
            whole=True,
        )

    def policy(self, space: ActionSpace, period_ns: int, horizon: int) -> LoadedPolicy:
        return LoadedPolicy(space, horizon, period_ns, self.robot(space, period_ns).spec)


@dataclass(frozen=True)
class _Pickled:
    """An array that travels with the request, whatever memory it is in."""

    array: np.ndarray


class PicklingRobot(CameraRobot):
    """Its captures travel as all did before there were frame buffers."""

    def capture(self) -> Capture:
        return cast(Any, {name: _Pickled(array) for name, array in super().capture().items()})

    def observe(self, capture: Capture) -> Frames:
        pickled = cast(Mapping[str, _Pickled], capture)
        return super().observe({name: each.array for name, each in pickled.items()})
