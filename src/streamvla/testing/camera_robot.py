"""A robot with cameras that never stand still, for tests and for measuring what frames cost."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.clock import NS_PER_S, SystemClock
from streamvla.core.errors import RobotError
from streamvla.core.frames import FrameBuffer
from streamvla.core.interfaces import Capture, Frames
from streamvla.testing.fakes import StillRobot


class PaintedCamera:
    """A thread that paints frames, each in one value all over: 1, 2, … 255, 1, …

    Args:
        size: (height, width), pixels.
        rate_hz: None for as fast as it can.
    """

    def __init__(self, size: tuple[int, int], rate_hz: float | None) -> None:
        self.frames = FrameBuffer((*size, 3))
        self._rate_hz = rate_hz
        self._clock = SystemClock()
        self._stop = threading.Event()
        self._painted = threading.Event()
        self._thread = threading.Thread(target=self._paint, name="camera", daemon=True)
        self._thread.start()
        self._painted.wait()

    def _paint(self) -> None:
        start_ns, count = self._clock.now_ns(), 0
        while not self._stop.is_set():
            value = np.uint8(1 + count % 255)
            self.frames.put(np.broadcast_to(value, self.frames.shape), self._clock.now_ns())
            count += 1
            self._painted.set()
            if self._rate_hz is not None:
                self._clock.sleep_until_ns(start_ns + round(count * NS_PER_S / self._rate_hz))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


class CameraRobot(StillRobot):
    """A still robot whose `count` cameras run from `reset` on, and stop in `close`.

    A frame that is not of one value all over is torn, and an error.

    Args:
        count: of cameras.
        size: (height, width) of a frame, pixels.
        rate_hz: of the cameras; None for as fast as they can.
        look: look for torn frames.
        whole: show the frames themselves to the policy; else one pixel of each.
    """

    def __init__(
        self,
        space: ActionSpace,
        period_ns: int,
        *,
        count: int = 3,
        size: tuple[int, int] = (64, 64),
        rate_hz: float | None = 30.0,
        look: bool = True,
        whole: bool = False,
    ) -> None:
        super().__init__(space, period_ns, keep=False)
        shown = size if whole else (1, 1)
        self.names: tuple[str, ...] = tuple(f"camera{number}" for number in range(count))
        self._spec = replace(self._spec, name="cameras", views=self.names, image_size=shown)
        self._size, self._rate_hz, self._look, self._whole = size, rate_hz, look, whole
        self.cameras: dict[str, PaintedCamera] = {}

    def reset(self, seed: int, now_ns: int, command_duration_ns: int) -> None:
        super().reset(seed, now_ns, command_duration_ns)
        for name in self.names:
            if name not in self.cameras:
                self.cameras[name] = PaintedCamera(self._size, self._rate_hz)

    def capture(self) -> Capture:
        newest = {name: camera.frames.newest() for name, camera in self.cameras.items()}
        return {name: frame.image for name, frame in newest.items() if frame is not None}

    def observe(self, capture: Capture) -> Frames:
        if self._look:
            check_whole(capture)
        if self._whole:
            return Frames(dict(capture), np.zeros(0, np.float32))
        images = {name: image[:1, :1].copy() for name, image in capture.items()}
        return Frames(images, np.zeros(0, np.float32))

    def close(self) -> None:
        for camera in self.cameras.values():
            camera.close()
        self.cameras.clear()


def check_whole(images: Mapping[str, np.ndarray]) -> None:
    """
    Raises:
        RobotError: an image is not of one value all over.
    """
    for name, image in images.items():
        if image.min() != image.max() or not image.max():
            raise RobotError(f"{name}: a torn frame, with values {np.unique(image)[:4]}")
