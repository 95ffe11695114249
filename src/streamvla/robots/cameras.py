"""Real cameras: read in a thread of their own, newest frame first.

    camera = OpenCVCamera("/dev/video0", size=(224, 224))
    camera.open()                       # in the robot's `reset`
    camera.newest().image               # in its `capture`: (224, 224, 3) uint8 RGB, no copy

The thread reads as fast as frames come, scales, turns BGR into RGB, and publishes into a
`FrameBuffer`: the control thread never waits for a camera, and the frame reaches the model process
without being copied again.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from streamvla.core.clock import NS_PER_MS, NS_PER_S, SystemClock
from streamvla.core.errors import ConfigError, RobotError
from streamvla.core.frames import Frame, FrameBuffer

_RETRY_S = 0.2
_JOIN_S = 2.0
_OLDEST_NS = NS_PER_S
"""A driver that says a frame is older than this goes by another clock than ours."""


class OpenCVCamera:
    """A camera that `cv2.VideoCapture` reads: a V4L2 device, a file, or an address.

    A file is played at its own rate, over and over, as a camera for tests.

    Args:
        source: number or path of a device, path of a file, or an address ("rtsp://…").
        size: (height, width) to scale frames to, pixels; None as they come.
        properties: of `cv2.VideoCapture`, set when it is opened: `{cv2.CAP_PROP_FPS: 60}`.
        slots: of the frame buffer.
        patience_s: how long the first frame may take, and how long a lost camera is tried again.
    """

    def __init__(
        self,
        source: int | str | Path,
        size: tuple[int, int] | None = None,
        *,
        properties: dict[int, float] | None = None,
        slots: int = 6,
        patience_s: float = 5.0,
    ) -> None:
        self._source: int | str = source if isinstance(source, int) else str(source)
        self._size = size
        self._properties = properties or {}
        self._slots = slots
        self._patience_s = patience_s
        self._clock = SystemClock()
        self._reader: _Reader | None = None

    def open(self) -> None:
        """Begin to read and wait for the first frame; does nothing for a camera that runs.

        Raises:
            ConfigError: OpenCV is not installed.
            RobotError: it cannot be opened, or gives no frame.
        """
        if self._complaint() is None:
            return
        self.close()
        self._reader = _Reader(
            _opencv(), self._source, self._size, self._properties, self._slots, self._patience_s
        )
        try:
            self._reader.wait_for_first_frame()
        except RobotError:
            self.close()
            raise

    def newest(self) -> Frame:
        """The newest frame, (height, width, 3) uint8 RGB, with the instant it was captured: by the
        driver's clock if that is ours (V4L2), else when it had been read. Costs nothing.

        Raises:
            RobotError: the camera is lost, or was not opened.
        """
        complaint, frame = self._complaint(), self._frame()
        if complaint is not None or frame is None:
            raise RobotError(complaint)
        return frame

    def _complaint(self) -> str | None:
        """Why there is no newest frame; None: there is."""
        reader, frame = self._reader, self._frame()
        if reader is None or frame is None:
            return f"camera {self._source} is not open: call open() in the robot's reset"
        if self._clock.now_ns() - frame.captured_ns > self._patience_s * NS_PER_S:
            return reader.lost  # its driver may not even have noticed
        return reader.error

    def _frame(self) -> Frame | None:
        frames = None if self._reader is None else self._reader.frames
        return None if frames is None else frames.newest()

    @property
    def dropped(self) -> int:
        """Frames that came while all slots were held."""
        frames = None if self._reader is None else self._reader.frames
        return 0 if frames is None else frames.dropped

    def close(self) -> None:
        """End the thread and let go of the device; safe to call twice."""
        if self._reader is not None:
            self._reader.close()
        self._reader = None


class _Reader:
    """One thread that reads, from opening the camera to closing or losing it.

    Args: as of `OpenCVCamera`.

    Attributes:
        frames: None before the first one.
        error: why it reads no more.
        lost: the error of a camera that gives no frames any more.
    """

    def __init__(
        self,
        cv2: ModuleType,
        source: int | str,
        size: tuple[int, int] | None,
        properties: dict[int, float],
        slots: int,
        patience_s: float,
    ) -> None:
        self._source = source
        self._size = size
        self._properties = properties
        self._slots = slots
        self._patience_s = patience_s
        self._clock = SystemClock()
        self._stop = threading.Event()
        self._news = threading.Event()  # the first frame, or an error
        self.frames: FrameBuffer | None = None
        self.error: str | None = None
        self.lost: str = f"camera {source} is lost: no frame for {patience_s:g} s"
        name = f"camera {source}"
        self._thread = threading.Thread(target=self._run, args=(cv2,), name=name, daemon=True)
        self._thread.start()

    def wait_for_first_frame(self) -> None:
        """
        Raises:
            RobotError: none came.
        """
        if not self._news.wait(self._patience_s):
            raise RobotError(f"camera {self._source} gave no frame within {self._patience_s:g} s")
        if self.error is not None:
            raise RobotError(self.error)

    def close(self) -> None:
        """Tell the thread to end; one that waits for its driver ends when that comes back."""
        self._stop.set()
        self._thread.join(_JOIN_S)

    def _run(self, cv2: ModuleType) -> None:
        try:
            self._read_all(cv2)
        except (cv2.error, ConfigError, ValueError) as error:
            self.error = f"camera {self._source}: {error}"
        self._news.set()

    def _read_all(self, cv2: ModuleType) -> None:
        """Read until told to stop; open the camera again when it is lost, for a while."""
        device = self._opened(cv2)
        if device is None:
            self.error = (
                f"camera {self._source} cannot be opened: expected a device, a file or an address "
                "that OpenCV reads; is it there, may you read it (group video), and does no other "
                "program use it?"
            )
            return
        while device is not None and not self._stop.is_set():
            self._read(cv2, device)
            device.release()
            device = None if self._stop.is_set() else self._found_again(cv2)
        if not self._stop.is_set():
            self.error = self.lost
        elif device is not None:
            device.release()

    def _opened(self, cv2: ModuleType) -> Any | None:
        levels = cv2.utils.logging
        before = levels.setLogLevel(levels.LOG_LEVEL_SILENT)  # the error says all there is to say
        try:
            device = cv2.VideoCapture(self._source)
        finally:
            levels.setLogLevel(before)
        if not device.isOpened():
            return None
        for name, value in self._properties.items():
            device.set(name, value)
        return device

    def _found_again(self, cv2: ModuleType) -> Any | None:
        """The camera, opened anew; None: it does not come back in time."""
        until_ns = self._clock.now_ns() + round(self._patience_s * NS_PER_S)
        while not self._stop.is_set():
            device = self._opened(cv2)
            if device is not None and device.grab():
                return device
            if self._clock.now_ns() >= until_ns:
                return None
            self._stop.wait(_RETRY_S)
        return None

    def _read(self, cv2: ModuleType, device: Any) -> None:
        """Publish every frame until none comes."""
        driver_tells = device.getBackendName() == "V4L2"
        period_ns = self._file_period_ns(cv2, device)
        due_ns = self._clock.now_ns()
        while not self._stop.is_set():
            told, frame = device.read()
            if not told:
                return
            captured_ns = self._clock.now_ns()
            if driver_tells:
                captured_ns = _on_our_clock(device.get(cv2.CAP_PROP_POS_MSEC), captured_ns)
            self._publish(cv2, frame, captured_ns)
            due_ns += period_ns
            if period_ns:
                self._stop.wait((due_ns - self._clock.now_ns()) / NS_PER_S)

    def _file_period_ns(self, cv2: ModuleType, device: Any) -> int:
        """Between two frames of a file; 0 for a camera, which keeps its own time."""
        if isinstance(self._source, int) or not Path(self._source).is_file():
            return 0
        rate_hz = device.get(cv2.CAP_PROP_FPS)
        return round(NS_PER_S / rate_hz) if rate_hz > 0 else 0

    def _publish(self, cv2: ModuleType, frame: np.ndarray, captured_ns: int) -> None:
        """Scale and turn into RGB in the buffer itself; OpenCV leaves the interpreter to others."""
        if self.frames is None:
            size = self._size or frame.shape[:2]
            self.frames = FrameBuffer((*size, 3), slots=self._slots)
        height, width, _ = self.frames.shape
        slot = self.frames.claim()
        if slot is None:
            return
        if frame.shape[:2] != (height, width):
            frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
        code = cv2.COLOR_GRAY2RGB if frame.ndim == 2 else cv2.COLOR_BGR2RGB
        cv2.cvtColor(frame, code, dst=slot)
        self.frames.publish(captured_ns)
        self._news.set()


def _on_our_clock(told_ms: float, read_ns: int) -> int:
    """When a frame was captured, as a driver tells it, if it goes by the monotonic clock.

    >>> _on_our_clock(9_990.0, 10_000_000_000), _on_our_clock(40.0, 10_000_000_000)
    (9990000000, 10000000000)
    """
    told_ns = round(told_ms * NS_PER_MS)
    return told_ns if read_ns - _OLDEST_NS < told_ns <= read_ns else read_ns


def _opencv() -> ModuleType:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: our errors say it in one line
    try:
        import cv2
    except ImportError as error:
        raise ConfigError(
            f"cannot import OpenCV: {error}. Install it with pip install 'streamvla[camera]'."
        ) from error
    return cv2
