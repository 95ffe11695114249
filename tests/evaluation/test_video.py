"""Videos that browsers play, and the strip beneath them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from streamvla.core.clock import NS_PER_MS
from streamvla.core.errors import ConfigError
from streamvla.evaluation.report.video import FrameStatus, annotate, frame_statuses, write_video
from streamvla.runtime.executors.synchronous import Synchronous
from streamvla.runtime.timing.latency import named_profile
from tests.evaluation.simulation import simulate_arm

PROFILE = named_profile("paper-20hz")


def test_a_written_video_reads_back(tmp_path: Path) -> None:
    """H.264 in yuv420p, of the size, rate and length asked for; odd sizes are cut to even."""
    frames = [np.full((61, 80, 3), 8 * i, np.uint8) for i in range(20)]
    path = tmp_path / "deep" / "episode.mp4"
    write_video(path, frames, fps=20)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path)]
    command += ["-f", "rawvideo", "-pix_fmt", "gray", "pipe:1"]
    done = subprocess.run(command, capture_output=True, check=True)
    shown = np.frombuffer(done.stdout, np.uint8).reshape(20, 60, 80).mean(axis=(1, 2))
    description = done.stderr.decode()
    assert all(word in description for word in ("h264", "yuv420p", "80x60", "20 fps"))
    assert shown == pytest.approx([8 * i for i in range(20)], abs=4)


@pytest.mark.parametrize(
    ("frames", "complaint"),
    [
        ([], "no frames"),
        ([np.zeros((4, 4, 3))], "float64"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)], "frame 1 has shape"),
    ],
)
def test_unusable_frames_are_refused(
    tmp_path: Path, frames: list[np.ndarray], complaint: str
) -> None:
    """Nothing is written from frames that are missing or unlike."""
    with pytest.raises(ConfigError, match=complaint):
        write_video(tmp_path / "episode.mp4", frames, fps=20)
    assert not list(tmp_path.iterdir())


def test_without_the_extra_the_error_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing package is an error with its remedy, not an ImportError."""
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ConfigError, match=r"pip install 'streamvla\[report\]'"):
        write_video(tmp_path / "episode.mp4", [np.zeros((4, 4, 3), np.uint8)], fps=20)


def test_a_failing_encoder_says_why(tmp_path: Path) -> None:
    """What ffmpeg complains about reaches the user."""
    frames = [np.zeros((256, 256, 3), np.uint8)] * 50
    with pytest.raises(ConfigError, match=r"ffmpeg failed: .*-1.*--videos 0") as said:
        write_video(tmp_path / "episode.mp4", frames, fps=-1)
    assert "\n" not in str(said.value)
    assert not list(tmp_path.iterdir())


def test_the_strip_tells_waiting_from_executing() -> None:
    """The picture is untouched; the strip beneath is green or vermilion."""
    frame = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    free = annotate(frame, FrameStatus(1_230 * NS_PER_MS, waiting=False), scale=4)
    wait = annotate(frame, FrameStatus(1_230 * NS_PER_MS, waiting=True), scale=4)
    assert free.shape == wait.shape == (4 * 96 + 30, 4 * 96, 3)
    assert (free[: 4 * 96 : 4, ::4] == frame).all()
    assert free[-1, 0, 1] > free[-1, 0, 0]
    assert wait[-1, 0, 0] > wait[-1, 0, 1]


def test_status_follows_the_trace() -> None:
    """A synchronous robot waits for its first chunk, moves ten periods, waits again."""
    events = simulate_arm(PROFILE, Synchronous(), "grid", observations=3)
    instants = [ms * NS_PER_MS for ms in (0, 400, 460, 940, 960, 1300, 9000)]
    statuses = frame_statuses(events, instants, PROFILE.execute_ns, "grid")
    assert [status.waiting for status in statuses] == [True, True, False, False, True, True, True]
    assert statuses[1].time_ns == 400 * NS_PER_MS
    assert frame_statuses([], [5], 50, "grid") == [FrameStatus(5, True)]
