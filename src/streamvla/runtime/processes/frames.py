"""Captures on their way to the model process: their frames stay where they are.

    executor process   capture ── {"front": SharedArray(buffer 0, at byte 6221824, …), …} ──►  model
                          └── keeps the arrays, and with them the slots, until the result

An array in a `FrameBuffer` travels as its place in there. A large one that is not is copied once,
into a buffer made for its name; a small one travels with the request. The model process maps each
buffer when it first hears of it, read-only: the open file comes over a socket of its own. The
system refuses to make that memory writable there, so nothing that goes wrong in the model process
reaches what the robot's side sees.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from streamvla.core.errors import HandoffError
from streamvla.core.frames import FrameBuffer, buffer_of
from streamvla.core.interfaces import Capture, Frames, Robot

MOST_INLINE_BYTES = 1 << 16
"""Of an array that travels with the request."""

_MOST_COPIED = 16
"""Array names that get a buffer to be copied into."""
_COPY_SLOTS = 4

_OPEN = struct.Struct("<QQ")
"""A buffer's number and size."""


@dataclass(frozen=True, slots=True)
class SharedArray:
    """An array in memory that both processes have; the fields are those of `numpy.ndarray`."""

    buffer: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class SharedCapture:
    """A capture whose large arrays stayed behind.

    Attributes:
        arrays: a `SharedArray`, or what travels as it is.
        gone: buffers that no capture will name any more.
    """

    arrays: dict[str, Any]
    gone: tuple[int, ...]


class FrameSender:
    """The executor process's side.

    Args:
        fd: of a datagram socket, whose other end the `FrameReceiver` has.
    """

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._sent: dict[int, weakref.ref[FrameBuffer]] = {}
        self._copies: dict[str, FrameBuffer] = {}

    def share(self, capture: Any) -> tuple[Any, list[np.ndarray]]:
        """What to send of a capture, and what to keep until nobody needs it any more."""
        if not isinstance(capture, Mapping):
            return capture, []
        kept: list[np.ndarray] = []
        arrays: dict[str, Any] = {}
        for name, array in cast(Mapping[str, Any], capture).items():
            shared = self._shared(name, array) if _is_plain(array) else None
            arrays[name] = array if shared is None else shared[0]
            if shared is not None:
                kept.append(shared[1])
        return SharedCapture(arrays, self._gone()), kept

    def close(self) -> None:
        self._socket.close()

    def _shared(self, name: str, array: np.ndarray) -> tuple[SharedArray, np.ndarray] | None:
        found = buffer_of(array)
        if found is None and array.nbytes > MOST_INLINE_BYTES:
            copied = self._copied(name, array)
            if copied is not None:
                array, found = copied, buffer_of(copied)
        if found is None or not self._is_open(found[0]):
            return None
        buffer, offset = found
        place = SharedArray(buffer.number, offset, array.shape, array.strides, array.dtype.str)
        return place, array

    def _copied(self, name: str, array: np.ndarray) -> np.ndarray | None:
        """The array, copied into the buffer of its name; None: there is no room."""
        buffer = self._copies.get(name)
        if buffer is None or (buffer.shape, buffer.dtype) != (array.shape, array.dtype):
            if buffer is None and len(self._copies) == _MOST_COPIED:
                return None
            buffer = FrameBuffer(array.shape, array.dtype.str, slots=_COPY_SLOTS)
            self._copies[name] = buffer
        frame = buffer.put(array, 0)
        buffer.clear()  # the copy belongs to this capture alone
        return None if frame is None else frame.image

    def _is_open(self, buffer: FrameBuffer) -> bool:
        """Whether the other side has the memory of a buffer, or is being sent it."""
        if buffer.number in self._sent:
            return True
        try:
            socket.send_fds(self._socket, [_OPEN.pack(buffer.number, buffer.size)], [buffer.fd])
        except OSError:  # it is suspended and takes no more, or is gone
            return False
        self._sent[buffer.number] = weakref.ref(buffer)
        return True

    def _gone(self) -> tuple[int, ...]:
        gone = tuple(number for number, buffer in self._sent.items() if buffer() is None)
        for number in gone:
            del self._sent[number]
        return gone


class FrameReceiver:
    """The model process's side; see `FrameSender`."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._memories: dict[int, mmap.mmap] = {}

    def open(self, capture: Any) -> Any:
        """The capture that was sent, its shared arrays read-only and only good until its result."""
        if not isinstance(capture, SharedCapture):
            return capture
        for number in capture.gone:
            self._memories.pop(number, None)
        return {
            name: self._array(array) if isinstance(array, SharedArray) else array
            for name, array in capture.arrays.items()
        }

    def close(self) -> None:
        """Of the arrays that are still about, the memory stays."""
        self._socket.close()
        self._memories.clear()

    def _array(self, place: SharedArray) -> np.ndarray:
        while place.buffer not in self._memories:
            self._map_next()
        memory = self._memories[place.buffer]
        return np.ndarray(place.shape, place.dtype, memory, place.offset, place.strides)

    def _map_next(self) -> None:
        """Map the next buffer; it was sent before the capture that names it."""
        try:
            head, (fd, *_), _, _ = socket.recv_fds(self._socket, _OPEN.size, 1)
        except (OSError, ValueError) as error:
            raise HandoffError("a capture names a frame buffer that was not sent") from error
        try:
            number, size = _OPEN.unpack(head)
            self._memories[number] = mmap.mmap(fd, size, prot=mmap.PROT_READ)
        finally:
            os.close(fd)


class DetachingRobot:
    """A robot whose frames are no part of its captures' memory. All else is the robot's own.

    A slot is written over once the context is ready, but a policy may keep what it saw: one whose
    context is the observation itself looks at it when it generates. Frames that the robot makes
    anew, by cutting or scaling, are not copied.
    """

    def __init__(self, robot: Robot) -> None:
        self._robot = robot

    def __getattr__(self, name: str) -> object:
        return getattr(self._robot, name)

    def observe(self, capture: Capture) -> Frames:
        frames = self._robot.observe(capture)
        sources = [array for array in capture.values() if _is_plain(array)]
        images = {name: _detached(image, sources) for name, image in frames.images.items()}
        return replace(frames, images=images, state=_detached(frames.state, sources))


def _detached(array: np.ndarray, sources: list[np.ndarray]) -> np.ndarray:
    if not any(np.may_share_memory(array, each) for each in sources):
        return array
    return array.copy()


def _is_plain(array: Any) -> bool:
    """Whether it is an array of numbers that its fields describe in full."""
    return type(array) is np.ndarray and array.dtype.kind in "biufc" and array.size > 0
