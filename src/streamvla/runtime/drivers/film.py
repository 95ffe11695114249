"""Captures of every control instant, for a video made afterwards."""

from __future__ import annotations

import queue
import threading
from bisect import bisect_right
from types import TracebackType
from typing import Any

import numpy as np

from streamvla.core.actions import is_array
from streamvla.core.frames import buffer_of
from streamvla.core.interfaces import Robot

Captures = list[tuple[int, Any]]
"""World captures, with their instants."""


class Film:
    """Captures the world whenever it is called; use as a context manager.

    Frames in a camera's buffer are copied by a thread of the film's own, so that they do not keep
    the camera's slots; a frame that is captured again is copied once. Large frames fill the memory
    soon (three cameras of 1080p at 30 Hz: 0.6 GB a second).

    Args:
        captures: gets them; whole when the film is closed.
    """

    def __init__(self, robot: Robot, captures: Captures) -> None:
        self._robot = robot
        self._captures = captures
        self._to_copy: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._copier: threading.Thread | None = None

    def __call__(self, now_ns: int) -> None:
        capture = self._robot.capture()
        self._captures.append((now_ns, capture))
        if any(_in_a_buffer(array) for array in capture.values()):
            self._to_copy.put(len(self._captures) - 1)
            if self._copier is None:
                self._copier = threading.Thread(target=self._copy, name="film", daemon=True)
                self._copier.start()

    def __enter__(self) -> Film:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._copier is not None:
            self._to_copy.put(None)
            self._copier.join()

    def _copy(self) -> None:
        latest: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # the frame, and its copy
        while (index := self._to_copy.get()) is not None:
            now_ns, capture = self._captures[index]
            for name in [name for name, array in capture.items() if _in_a_buffer(array)]:
                frame = capture[name]
                if name not in latest or latest[name][0] is not frame:
                    latest[name] = frame, frame.copy()
                capture = {**capture, name: latest[name][1]}
            self._captures[index] = now_ns, capture


def evenly(captures: Captures, period_ns: int) -> Captures:
    """One frame a period: at each instant of an even grid, the capture that was then the latest.

    Captures are made at control instants, which event pacing and skipped ticks space unevenly; a
    video that played them at a constant rate would not run on the clock.
    """
    instants = [now_ns for now_ns, _ in captures]
    grid = range(instants[0], instants[-1] + 1, period_ns)
    return [(now, captures[bisect_right(instants, now) - 1][1]) for now in grid]


def _in_a_buffer(array: Any) -> bool:
    return is_array(array) and buffer_of(array) is not None
