"""A camera read through OpenCV. What needs a real device is not tested: its own clock."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from streamvla.core.clock import SystemClock
from streamvla.core.errors import RobotError
from streamvla.core.frames import buffer_of
from streamvla.robots.cameras import OpenCVCamera

HEIGHT, WIDTH, FRAMES = 48, 64, 15
COLOUR = (200, 120, 30)
"""RGB of the film's upper half; below it is black."""


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Half a second at 30 Hz."""
    path = tmp_path / "film.avi"
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[: HEIGHT // 2] = COLOUR[::-1]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (WIDTH, HEIGHT))
    for _ in range(FRAMES):
        writer.write(picture)
    writer.release()
    return path


def frames_of(camera: OpenCVCamera, count: int) -> list[int]:
    """Wait until `count` different frames have come; the instants of them."""
    instants: list[int] = []
    for _ in range(2000):
        captured_ns = camera.newest().captured_ns
        if not instants or captured_ns != instants[-1]:
            instants.append(captured_ns)
        if len(instants) == count:
            return instants
        threading.Event().wait(0.005)
    pytest.fail(f"{len(instants)} frames came")


@pytest.mark.parametrize("size", [None, (24, 32), (96, 96)])
def test_frames_come_in_rgb_and_of_the_size_asked_for(film, size):
    """The upper half has the film's colour, red first; the frame lies in a buffer, read-only."""
    camera = OpenCVCamera(film, size)
    camera.open()
    image = camera.newest().image
    assert image.shape == (*(size or (HEIGHT, WIDTH)), 3)
    assert np.abs(image[2, 2].astype(int) - COLOUR).max() < 12
    assert image[-2].max() < 12
    assert buffer_of(image) is not None
    assert not image.flags.writeable
    camera.close()


def test_a_film_is_a_camera_that_goes_on_at_its_own_rate(film):
    """More frames come than the film has, each captured after the one before and before now, about
    a thirtieth of a second apart."""
    camera, clock = OpenCVCamera(film, (24, 32)), SystemClock()
    begin_ns = clock.now_ns()
    camera.open()
    instants = [begin_ns, *frames_of(camera, FRAMES + 5), clock.now_ns()]
    camera.close()
    assert instants == sorted(instants)
    assert instants[-1] - begin_ns > 0.4e9
    assert camera.dropped == 0


@pytest.mark.parametrize("source", ["/dev/video97", 97, "no-such-film.avi"])
def test_a_camera_that_cannot_be_opened_is_one_line(source, capfd):
    """The error names it and says what to look at; OpenCV itself prints nothing."""
    with pytest.raises(
        RobotError, match=f"camera {source} cannot be opened: .*group video"
    ) as error:
        OpenCVCamera(source).open()
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_a_lost_camera_is_an_error_until_it_is_opened_again(film):
    """When its source is gone for longer than its patience, `newest` raises; a camera that is back
    can be opened again, and one that runs is left alone."""
    camera = OpenCVCamera(film, (24, 32), patience_s=0.3)
    camera.open()
    camera.open()
    elsewhere = film.rename(film.with_suffix(".gone"))
    with pytest.raises(RobotError, match=r"is lost: no frame for 0\.3 s"):
        frames_of(camera, 1000)
    elsewhere.rename(film)
    camera.open()
    assert len(frames_of(camera, 2)) == 2
    camera.close()
    camera.close()
    with pytest.raises(RobotError, match=r"not open: call open\(\)"):
        camera.newest()


def test_a_camera_that_comes_back_in_time_was_never_lost(film):
    """Its source is away for a moment: frames go on, and nobody is told."""
    camera = OpenCVCamera(film, (24, 32), patience_s=20)
    camera.open()
    elsewhere = film.rename(film.with_suffix(".gone"))
    threading.Timer(1.2, lambda: elsewhere.rename(film)).start()
    instants = frames_of(camera, FRAMES + 2)
    assert max(b - a for a, b in pairwise(instants)) > 0.2e9
    camera.close()


def test_frames_that_are_kept_cost_the_camera_frames_and_no_wait(film):
    """With every slot held the newest frame stays the same and others are counted as dropped."""
    camera = OpenCVCamera(film, (24, 32), slots=3)
    camera.open()
    held = []
    while len(held) < 3:
        frame = camera.newest()
        if all(frame is not each for each in held):
            held.append(frame)
    while camera.dropped < 3:
        threading.Event().wait(0.01)
    assert camera.newest() is held[-1]
    camera.close()


def test_without_opencv_the_error_says_what_to_install(film, monkeypatch):
    """As for every other extra."""
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(Exception, match=r"pip install 'streamvla\[camera\]'"):
        OpenCVCamera(film).open()
