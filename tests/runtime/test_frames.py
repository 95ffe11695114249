"""Frames of cameras between the executor process and the model process."""

from __future__ import annotations

import os
import pickle
import socket
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from streamvla.core.clock import ms_to_ns
from streamvla.core.errors import HandoffError
from streamvla.core.frames import FrameBuffer
from streamvla.core.interfaces import Frames
from streamvla.runtime import (
    ActionFlow,
    EpisodeLimits,
    EpisodePlan,
    EpisodeSettings,
    ProcessDriver,
    RealtimeDriver,
)
from streamvla.runtime.faults.plan import parse_faults
from streamvla.runtime.processes.frames import (
    MOST_INLINE_BYTES,
    DetachingRobot,
    FrameReceiver,
    FrameSender,
)
from streamvla.runtime.timing.latency import profile_ms
from streamvla.testing import StillRobot, unit_space
from streamvla.testing.camera_robot import check_whole
from streamvla.trace import MemoryTrace, ObserveReady, read_trace

from . import process_parts as parts

SHAPE = (240, 320, 3)
PROFILE = profile_ms("brisk", 8, 4, 20)


def settings_for(seconds: float) -> EpisodeSettings:
    limits = EpisodeLimits(ms_to_ns(1000 * seconds))
    return EpisodeSettings(parts.SPACE, parts.HORIZON, ActionFlow(3), PROFILE, limits=limits)


def plan_for(path: Path, seconds: float = 1.0) -> EpisodePlan:
    return EpisodePlan(settings_for(seconds), path, reset_ns=ms_to_ns(50))


class Ends:
    """Both ends of the way that captures take, in one process."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
        self.sender = FrameSender(ours.detach())
        self.receiver = FrameReceiver(theirs.detach())

    def send(self, capture):
        """The capture as it arrives, what is kept of it, and how many bytes the request had."""
        shared, kept = self.sender.share(capture)
        request = pickle.dumps(shared)
        return self.receiver.open(pickle.loads(request)), kept, len(request)

    def close(self) -> None:
        self.sender.close()
        self.receiver.close()


@pytest.fixture
def ends():
    ends = Ends()
    yield ends
    ends.close()


# --- the way ------------------------------------------------------------------------------------


def test_frames_travel_as_their_place(ends):
    """A frame and a cut of it, mirrored, arrive equal, read-only, in a request of a few bytes."""
    frames = FrameBuffer(SHAPE)
    image = frames.put(np.random.default_rng(0).integers(255, size=SHAPE, dtype=np.uint8), 0).image
    capture = {"whole": image, "cut": image[10:20, ::-2], "joints": np.arange(7.0)}
    arrived, kept, request_bytes = ends.send(capture)
    assert list(arrived) == list(capture)
    for name, array in capture.items():
        np.testing.assert_array_equal(arrived[name], array)
    assert not arrived["whole"].flags.writeable
    assert request_bytes < 1000
    assert len(kept) == 2


def test_a_slot_stays_as_long_as_its_capture_is_kept_and_then_comes_back(ends):
    """With the capture kept the frame is not written over, however many come; without it, it is."""
    frames = FrameBuffer(SHAPE, slots=3)
    capture = {"camera": frames.put(np.full(SHAPE, 1, np.uint8), 0).image}
    arrived, kept, _ = ends.send(capture)
    del capture
    for value in range(2, 20):
        frames.put(np.full(SHAPE, value, np.uint8), 0)
    assert (arrived["camera"] == 1).all()
    kept.clear()
    for value in range(20, 24):
        frames.put(np.full(SHAPE, value, np.uint8), 0)
    assert (arrived["camera"] >= 20).all()
    assert frames.dropped == 0


def test_large_arrays_elsewhere_are_copied_once(ends):
    """What is changed after the capture does not change what arrives; the request stays small."""
    large = np.full(MOST_INLINE_BYTES + 1, 5, np.uint8)
    arrived, _kept, request_bytes = ends.send({"large": large})
    large[:] = 6
    assert (arrived["large"] == 5).all()
    assert request_bytes < 1000


def test_what_cannot_be_shared_travels_with_the_request(ends):
    """Small arrays, more copies than there is room for, records, and captures that are no mapping
    arrive as they are."""
    large = np.ones(MOST_INLINE_BYTES, np.float64)
    held = [ends.send({"large": large})[1] for _ in range(10)]
    arrived, kept, request_bytes = ends.send({"large": large, "small": np.arange(3)})
    assert request_bytes > large.nbytes
    assert len(kept) == 0 < len(held[0])
    np.testing.assert_array_equal(arrived["large"], large)
    records = np.zeros(100_000, [("x", "f4")])
    assert ends.send({"records": records})[0]["records"].dtype == records.dtype
    assert ends.send("no mapping")[0] == "no mapping"


def test_buffers_that_are_gone_are_unmapped(ends):
    """The receiver forgets a buffer with the first capture after it died; a new one is mapped."""
    for value in range(1, 4):
        frames = FrameBuffer(SHAPE)
        arrived, kept, _ = ends.send(
            {"camera": frames.put(np.full(SHAPE, value, np.uint8), 0).image}
        )
        assert (arrived["camera"] == value).all()
        assert len(ends.receiver._memories) <= 2
        del frames, arrived, kept


def test_a_buffer_that_was_not_sent_is_an_error_and_no_wait(ends):
    """A capture that names one is refused at once."""
    frames = FrameBuffer(SHAPE)
    shared, _ = ends.sender.share({"camera": frames.put(np.zeros(SHAPE, np.uint8), 0).image})
    ends.receiver.open(shared)
    unknown = replace(shared, gone=(frames.number,))
    with pytest.raises(HandoffError, match="not sent"):
        ends.receiver.open(unknown)


def test_frames_that_a_robot_shows_as_they_are_become_the_policys_own():
    """An image in the capture's memory is copied; one that the robot made is not."""

    class Showing(StillRobot):
        def observe(self, capture):
            made["image"] = capture["a"][:5] + 1
            return Frames({"a": capture["a"][::2], "made": made["image"]}, np.zeros(0))

    made: dict[str, np.ndarray] = {}
    array = np.zeros(SHAPE, np.uint8)
    robot = DetachingRobot(Showing(unit_space(1), 1))
    images = robot.observe({"a": array}).images
    assert not np.shares_memory(images["a"], array)
    assert images["made"] is made["image"]


# --- with processes -------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [True, False])
def test_frames_arrive_whole_while_cameras_run_at_full_speed(tmp_path, whole):
    """Three cameras as fast as they can: no frame is torn, neither when the context is made nor
    when a policy that kept the observation looks at it again; new frames keep coming."""
    counts = tmp_path / "counts.txt"
    with ProcessDriver(
        partial(parts.camera_robot, counts, None, whole),
        partial(parts.looking_policy, whole),
        settings=parts.NORMAL,
    ) as driver:
        driver.measure(repeats=2)
        for _ in range(2):
            assert driver.run(plan_for(tmp_path / "trace.jsonl")).reason == "time-limit"
    events = read_trace(tmp_path / "trace.jsonl").events
    assert sum(isinstance(event, ObserveReady) for event in events) >= 2
    for line in counts.read_text().splitlines():
        published, dropped = map(int, line.split())
        assert published > 50
        assert dropped == 0


def test_nothing_is_left_behind_from_episode_to_episode_and_after(tmp_path):
    """From the second episode on no process has more open files or mapped frames, and the owner
    none at all; a shared memory with a name is never made."""
    before, named = open_files(os.getpid()), set(os.listdir("/dev/shm"))
    robot = partial(parts.camera_robot, None, 30.0)
    with ProcessDriver(robot, parts.looking_policy, settings=parts.NORMAL) as driver:
        found = []
        for _ in range(3):
            driver.run(plan_for(tmp_path / "trace.jsonl", 0.4))
            pids = driver.executor_pid, driver.model_pid
            found.append([(open_files(pid), frame_maps(pid)) for pid in pids])
        assert found[0] == found[1] == found[2]
        assert [maps for _, maps in found[0]] == [3, 3]
        assert frame_maps(os.getpid()) == 0
    assert open_files(os.getpid()) <= before
    assert set(os.listdir("/dev/shm")) <= named


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def frame_maps(pid: int) -> int:
    return Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").count("streamvla-frames")


def test_a_model_that_is_suspended_costs_no_frame(tmp_path):
    """While it is stopped, its capture keeps one slot; the cameras go on in the others."""
    counts = tmp_path / "counts.txt"
    plan = replace(
        plan_for(tmp_path / "trace.jsonl", 1.2), faults=parse_faults(["sigstop:500ms@300ms"])
    )
    robot = partial(parts.camera_robot, counts, 30.0)
    with ProcessDriver(robot, parts.looking_policy, settings=parts.NORMAL) as driver:
        assert driver.run(plan).reason == "time-limit"
    assert [line.split()[1] for line in counts.read_text().splitlines()] == ["0"] * 3


def test_a_film_keeps_frames_but_no_slots(tmp_path):
    """Every control instant has its frames, whole, and no camera lost one for that."""
    counts = tmp_path / "counts.txt"
    robot = partial(parts.camera_robot, counts, 30.0)
    with ProcessDriver(robot, parts.looking_policy, settings=parts.NORMAL) as driver:
        result = driver.run(replace(plan_for(tmp_path / "trace.jsonl", 0.6), film=True))
        captures = driver.captures
    assert len(captures) == len(result.ticks) + 1
    for _, capture in captures:
        check_whole(capture)
    values = [int(capture["camera0"][0, 0, 0]) for _, capture in captures]
    assert values == sorted(values)
    assert len(set(values)) > 5
    assert [line.split()[1] for line in counts.read_text().splitlines()] == ["0"] * 3


def test_threads_need_nothing_but_the_arrays():
    """With the thread driver frames are whole as well, kept by whoever has them."""
    robot, trace = parts.camera_robot(), MemoryTrace()
    robot.reset(0, 0, parts.PERIOD_NS)
    with RealtimeDriver() as driver:
        episode = settings_for(0.6).episode(parts.looking_policy(), robot, trace)
        assert driver.run(episode).reason == "time-limit"
        assert len(driver.ticks.capture_ns) > 2
    robot.close()
