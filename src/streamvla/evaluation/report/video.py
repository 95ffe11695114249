"""Episode videos: H.264 that every browser plays, with a strip that says what the robot does."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import IO, cast

import numpy as np

from streamvla.core.clock import NS_PER_S
from streamvla.core.errors import ConfigError, FileError
from streamvla.core.files import reason, replacing
from streamvla.trace.events import Sent, TraceEvent
from streamvla.trace.spans import Pacing, halts

_STRIP_HEIGHT = 30
_FREE, _WAITING = (0, 122, 90), (190, 62, 0)  # green and vermilion, apart for every eye
_REMEDY = "install the report extra: pip install 'streamvla[report]'"


@dataclass(frozen=True, slots=True)
class FrameStatus:
    """What the strip under one frame says.

    Attributes:
        time_ns: since the episode's start.
        waiting: the robot has no action of the policy to carry out.
    """

    time_ns: int
    waiting: bool


def frame_statuses(
    events: Sequence[TraceEvent], instants_ns: Sequence[int], period_ns: int, pacing: Pacing
) -> list[FrameStatus]:
    """The status at each instant of an episode.

    Args:
        events: of the episode; its first event is time 0.
        instants_ns: when the frames were taken, on the trace's clock.
    """
    begin_ns = events[0].t_ns if events else 0
    commands = [event for event in events if isinstance(event, Sent) and event.source == "policy"]
    if not commands:
        return [FrameStatus(instant - begin_ns, True) for instant in instants_ns]
    idle = halts(events, period_ns, pacing)
    starts = [halt.start_ns for halt in idle]
    first_ns, last_ns = commands[0].t_ns, commands[-1].t_ns + period_ns

    def waiting(instant: int) -> bool:
        latest = bisect_right(starts, instant) - 1
        in_halt = latest >= 0 and instant < idle[latest].end_ns
        return in_halt or not first_ns <= instant < last_ns

    return [FrameStatus(instant - begin_ns, waiting(instant)) for instant in instants_ns]


def annotate(frame: np.ndarray, status: FrameStatus, *, scale: int = 1) -> np.ndarray:
    """`frame` enlarged `scale` times, with the status strip beneath.

    Args:
        frame: (height, width, 3) uint8 RGB.

    Returns:
        (height·scale + 30, width·scale, 3) uint8.

    Raises:
        ConfigError: Pillow is missing.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise ConfigError(f"writing on videos needs Pillow; {_REMEDY}") from error
    picture = frame.repeat(scale, axis=0).repeat(scale, axis=1)
    width = picture.shape[1]
    strip = Image.new("RGB", (width, _STRIP_HEIGHT), _WAITING if status.waiting else _FREE)
    draw = ImageDraw.Draw(strip)
    font = ImageFont.load_default(size=16)
    middle = _STRIP_HEIGHT // 2
    words = "waiting for the model" if status.waiting else "executing"
    draw.text((10, middle), words, fill="white", font=font, anchor="lm")
    clock = f"{status.time_ns / NS_PER_S:.2f} s"
    draw.text((width - 10, middle), clock, fill="white", font=font, anchor="rm")
    return np.concatenate([picture, np.asarray(strip)])


def write_video(path: Path, frames: Sequence[np.ndarray], fps: float) -> None:
    """Write an mp4 (H.264, yuv420p, header first), playable inline in any browser.

    Args:
        frames: (height, width, 3) uint8 RGB each, all of one size; odd sizes lose one pixel row
            or column, which the pixel format demands.
        fps: frames per second of wall-clock time.

    Raises:
        ConfigError: imageio-ffmpeg is missing, there is no frame, frames differ in size or type, or
            the encoder fails.
        FileError: the file cannot be written.
    """
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ImportError as error:
        raise ConfigError(f"writing videos needs imageio-ffmpeg; {_REMEDY}") from error
    _require_frames(path, frames)
    height, width = (size // 2 * 2 for size in frames[0].shape[:2])
    source = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {fps} -i pipe:0"
    target = (
        "-an -c:v libx264 -preset veryfast -crf 23 -pix_fmt yuv420p -movflags +faststart -f mp4"
    )
    command = [get_ffmpeg_exe(), "-y", "-loglevel", "error", *source.split(), *target.split()]
    with replacing(path) as partial:
        with subprocess.Popen([*command, str(partial)], stdin=PIPE, stderr=PIPE) as encoder:
            pipe = cast(IO[bytes], encoder.stdin)
            with suppress(BrokenPipeError):  # the encoder died; it says why below
                for frame in frames:
                    pipe.write(frame[:height, :width].tobytes())
            _, complaint = encoder.communicate()
        if encoder.returncode != 0:
            raise _encoder_error(path, encoder.returncode, complaint.decode(errors="replace"))


def _encoder_error(path: Path, code: int, complaint: str) -> FileError | ConfigError:
    """One line: what ffmpeg said, or how it ended."""
    if -code == signal.SIGXFSZ or os.strerror(errno.ENOSPC) in complaint:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return FileError(f"cannot write {path}: {reason(full)}")
    said = "; ".join(complaint.split("\n")).strip("; ") or f"it ended with code {code}"
    return ConfigError(
        f"cannot write video {path}: ffmpeg failed: {said}; leave videos out (--videos 0)"
    )


def _require_frames(path: Path, frames: Sequence[np.ndarray]) -> None:
    if not frames:
        raise ConfigError(f"video {path}: no frames; record at least one")
    for index, frame in enumerate(frames):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ConfigError(
                f"video {path}: frame {index} is {frame.dtype} of shape {frame.shape}; expected "
                "uint8 of shape (height, width, 3)"
            )
        if frame.shape != frames[0].shape:
            raise ConfigError(
                f"video {path}: frame {index} has shape {frame.shape}, the first {frames[0].shape}"
            )
