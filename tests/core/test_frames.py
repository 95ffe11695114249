"""The frame buffer: who owns a slot, whatever the order of calls."""

from __future__ import annotations

import gc
import mmap
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamvla.core.errors import ConfigError
from streamvla.core.frames import Frame, FrameBuffer, buffer_of

SHAPE = (5, 7, 3)
VIEWS = (
    lambda image: image,
    lambda image: image[1:, ::-1],
    lambda image: image.reshape(-1)[:4],
    lambda image: image.view(np.int8),
    lambda image: memoryview(image),
)
"""What somebody may keep of a frame instead of the array that he got."""

STEPS = st.lists(
    st.sampled_from(("claim", "write", "publish", "take", "release", "clear")), max_size=60
)


@given(STEPS, st.integers(3, 6), st.randoms(use_true_random=False))
def test_no_order_of_calls_writes_over_a_frame_that_somebody_has(steps, slots, random):
    """Claimed slots never overlap a frame that is held or the newest, whichever view of it is
    kept; every held frame keeps its one value; only with all slots held is a frame dropped."""
    buffer, value, claimed = FrameBuffer(SHAPE, slots=slots), 0, None
    held: list[tuple[object, int]] = []
    newest = None
    for step in steps:
        if step == "claim":
            dropped = buffer.dropped
            claimed = buffer.claim()
            distinct = {number for _, number in held} | ({newest} if newest else set())
            assert (claimed is None) == (len(distinct) == slots) == (buffer.dropped > dropped)
        elif step == "write" and claimed is not None:
            claimed[:] = value % 255 + 1
        elif step == "publish" and claimed is not None:
            claimed[:] = value % 255 + 1
            buffer.publish(value)
            newest, value, claimed = value % 255 + 1, value + 1, None
        elif step == "take" and (frame := buffer.newest()) is not None:
            assert (frame.image == newest).all()
            held.append((random.choice(VIEWS)(frame.image), frame.image[0, 0, 0]))
            del frame
        elif step == "release" and held:
            held.pop(random.randrange(len(held)))
        elif step == "clear":
            buffer.clear()
            newest = None
        for view, number in held:
            assert (np.asarray(view) == number).all()


def test_frames_are_whole_while_a_thread_writes_at_full_speed():
    """Of 300 frames taken from a running camera, some kept for a while, each is of one value, and
    newer than the one before or the same."""
    buffer, stop = FrameBuffer((200, 300, 3)), threading.Event()

    def paint() -> None:
        count = 0
        while not stop.is_set():
            buffer.put(np.broadcast_to(np.uint8(count % 255 + 1), buffer.shape), count)
            count += 1

    camera = threading.Thread(target=paint)
    camera.start()
    kept: list[Frame] = []
    latest_ns = -1
    while len(kept) < 300:
        if (frame := buffer.newest()) is None:
            continue
        assert frame.captured_ns >= latest_ns
        latest_ns = frame.captured_ns
        kept.append(frame)
        for image, captured_ns in kept[-3:]:
            assert (image == captured_ns % 255 + 1).all()
        if len(kept) > 4:
            kept[-5] = kept[-1]
    stop.set()
    camera.join()
    assert buffer.published > 1


def test_the_newest_frame_costs_no_copy_and_cannot_be_written():
    """Two who ask get the same array, in the buffer's memory, read-only."""
    buffer = FrameBuffer(SHAPE)
    assert buffer.newest() is None
    buffer.put(np.full(SHAPE, 7, np.uint8), 5)
    first, second = buffer.newest(), buffer.newest()
    assert first is not None
    assert first is second
    assert first.captured_ns == 5
    assert buffer_of(first.image) == (buffer, 0)
    with pytest.raises(ValueError, match="read-only"):
        first.image[:] = 0


def test_with_all_slots_held_frames_are_dropped_and_counted():
    """Whoever held them sees no change; one array let go, the camera goes on."""
    buffer = FrameBuffer(SHAPE, slots=3)
    held = [buffer.put(np.full(SHAPE, value, np.uint8), value) for value in (1, 2, 3)]
    assert buffer.put(np.full(SHAPE, 4, np.uint8), 4) is None
    assert (buffer.published, buffer.dropped) == (3, 1)
    assert [int(frame.image.max()) for frame in held] == [1, 2, 3]
    assert buffer.newest() is held[2]
    held.pop(0)
    assert buffer.put(np.full(SHAPE, 5, np.uint8), 5) is buffer.newest()


def test_where_an_array_lies_is_known_only_if_all_of_it_lies_there():
    """A view is found with its offset, from the end backwards too; other arrays are not."""
    buffer = FrameBuffer(SHAPE)
    image = buffer.put(np.zeros(SHAPE, np.uint8), 0).image
    assert buffer_of(image[1:]) == (buffer, 7 * 3)
    assert buffer_of(image[::-1]) == (buffer, 4 * 7 * 3)
    assert buffer_of(np.zeros(SHAPE, np.uint8)) is None
    assert buffer.offset_of(np.zeros(3)) is None


def test_who_gets_the_open_file_can_read_the_memory_and_no_more():
    """Another mapping shows the frame; it cannot be writable, and the size cannot change."""
    buffer = FrameBuffer(SHAPE)
    buffer.put(np.full(SHAPE, 9, np.uint8), 0)
    shared = mmap.mmap(buffer.fd, buffer.size, prot=mmap.PROT_READ)
    assert shared[: np.prod(SHAPE)] == b"\x09" * np.prod(SHAPE)
    with pytest.raises(PermissionError):
        mmap.mmap(buffer.fd, buffer.size)
    with pytest.raises(PermissionError):
        os.ftruncate(buffer.fd, 1)


def test_nothing_is_left_of_a_buffer_that_nobody_has():
    """Neither open files nor mapped memory: not while a frame is kept, and not after it."""
    fds, maps = open_fds(), mapped()
    buffer = FrameBuffer(SHAPE)
    frame = buffer.put(np.full(SHAPE, 3, np.uint8), 0)
    assert mapped() > maps
    del buffer
    gc.collect()
    assert (frame.image == 3).all()
    del frame
    gc.collect()
    assert (open_fds(), mapped()) == (fds, maps)


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def mapped() -> int:
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    return maps.count("streamvla-frames")


@pytest.mark.parametrize(
    ("shape", "dtype", "slots"), [(SHAPE, "uint8", 2), ((0, 3), "uint8", 6), (SHAPE, "object", 6)]
)
def test_what_can_be_no_buffer_is_refused(shape, dtype, slots):
    """Too few slots, empty frames and objects, with what was expected."""
    with pytest.raises(ConfigError, match="expected at least 3 slots"):
        FrameBuffer(shape, dtype, slots=slots)


def test_nothing_is_published_that_was_not_claimed():
    """The error says what to call first."""
    with pytest.raises(ConfigError, match="call claim"):
        FrameBuffer(SHAPE).publish(0)
