"""The newest frame of a camera, in memory that another process can see.

    camera's thread    claim ─ write ─ publish     claim ─ write ─ publish     …
    control thread                        newest  newest             newest

    slot      0         1         2         3
              held by   the       being     free         `newest` gives slot 1; once slot 2 is
              a capture newest    written                published, slot 1 is free as soon as
                                                         nobody has its array

The newest frame wins; older ones that nobody took are written over. A slot belongs to whoever has
its array, or any array made from it: Python counts the references, and there is no other counting,
no lock and no call to give it back. `newest` reads one attribute, so it costs the control thread
nothing that could be measured, and copies nothing. When all slots are held, the camera's frames are
dropped and counted; it never waits.
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
import threading
import weakref
from typing import Any, NamedTuple

import numpy as np

from streamvla.core.errors import ConfigError
from streamvla.core.memory import forbid_writers, unnamed_file

_PAGE_BYTES = mmap.PAGESIZE
_LEAST_SLOTS = 3
"""One is the newest, one is written, one is held."""


class Frame(NamedTuple):
    """A frame that was published.

    Attributes:
        image: read-only, in the buffer's memory; its slot stays as it is while anybody has it.
        captured_ns: the instant it shows.
    """

    image: np.ndarray
    captured_ns: int


class FrameBuffer:
    """The frames of one camera: written by one thread, taken by any.

    The memory lives as long as the buffer or any array of it.

    Args:
        shape: of a frame.
        dtype: of a frame.
        slots: how many frames there is room for.

    Attributes:
        published: frames so far.
        dropped: frames for which no slot was free.

    Raises:
        ConfigError: too few slots, an empty frame, or one that holds objects.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str = "uint8", *, slots: int = 6) -> None:
        self.shape: tuple[int, ...] = tuple(shape)
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        frame_bytes = math.prod(self.shape) * self.dtype.itemsize
        if slots < _LEAST_SLOTS or frame_bytes <= 0 or self.dtype.hasobject:
            raise ConfigError(
                f"frame buffer: {slots} slots of shape {self.shape}, {self.dtype}: expected at "
                f"least {_LEAST_SLOTS} slots (the newest, one being written, one held), and frames "
                "of plain numbers that are not empty"
            )
        self.published: int = 0
        self.dropped: int = 0
        self._slot_bytes = -(-frame_bytes // _PAGE_BYTES) * _PAGE_BYTES
        self._size = slots * self._slot_bytes
        self._fd = unnamed_file("streamvla-frames", self._size)
        weakref.finalize(self, os.close, self._fd)
        self._memory = mmap.mmap(self._fd, self._size)
        forbid_writers(self._fd)
        self._address = _address(np.frombuffer(self._memory, np.uint8))
        # An array that was handed out is the base of every view of it, since the memory itself is
        # no array: it lives as long as anything that shows the slot.
        self._shown: list[weakref.ref[np.ndarray] | None] = [None] * slots
        self._claimed: int | None = None
        self._newest: Frame | None = None
        self.number: int = _register(self)

    # --- the camera's thread --------------------------------------------------------------------

    def claim(self) -> np.ndarray | None:
        """The slot to write the next frame into, as a writable array; None, and a frame dropped:
        all are held. Claimed again before it is published, it is the same slot."""
        if self._claimed is None:
            self._claimed = next(
                (
                    slot
                    for slot, shown in enumerate(self._shown)
                    if shown is None or shown() is None
                ),
                None,
            )
        if self._claimed is None:
            self.dropped += 1
            return None
        return self._array(self._claimed)

    def publish(self, captured_ns: int) -> Frame:
        """Make what was written into the claimed slot the newest frame; write to it no more.

        Raises:
            ConfigError: no slot is claimed.
        """
        if self._claimed is None:
            raise ConfigError("frame buffer: nothing to publish: call claim() and write to it")
        image = self._array(self._claimed)
        image.flags.writeable = False
        self._shown[self._claimed] = weakref.ref(image)
        self._claimed = None
        frame = self._newest = Frame(image, captured_ns)
        self.published += 1
        return frame

    def put(self, image: np.ndarray, captured_ns: int) -> Frame | None:
        """Copy a frame in and publish it; None: it was dropped. Large copies leave the interpreter
        to other threads."""
        slot = self.claim()
        if slot is None:
            return None
        np.copyto(slot, image)
        return self.publish(captured_ns)

    # --- any thread -----------------------------------------------------------------------------

    def newest(self) -> Frame | None:
        """The newest frame; None: there was none yet."""
        return self._newest

    def clear(self) -> None:
        """Forget the newest frame, as if none had come yet."""
        self._newest = None

    # --- for whoever shares the memory with another process ---------------------------------------

    @property
    def fd(self) -> int:
        """The open file of the memory; the buffer's own."""
        return self._fd

    @property
    def size(self) -> int:
        """Of the memory, bytes."""
        return self._size

    def offset_of(self, array: np.ndarray) -> int | None:
        """Where in the memory an array begins, bytes; None: it does not lie in here as a whole."""
        low, high = np.lib.array_utils.byte_bounds(array)
        if not self._address <= low <= high <= self._address + self._size:
            return None
        return _address(array) - self._address

    def _array(self, slot: int) -> np.ndarray:
        offset = slot * self._slot_bytes
        return np.ndarray(self.shape, self.dtype, buffer=self._memory, offset=offset)


def buffer_of(array: np.ndarray) -> tuple[FrameBuffer, int] | None:
    """The buffer of this process that an array lies in, and `FrameBuffer.offset_of`."""
    for reference in _buffers:
        buffer = reference()
        if buffer is not None and (offset := buffer.offset_of(array)) is not None:
            return buffer, offset
    return None


_numbers = itertools.count()
_registering = threading.Lock()
_buffers: tuple[weakref.ref[FrameBuffer], ...] = ()


def _register(buffer: FrameBuffer) -> int:
    """Enter a buffer among those of this process; its number there."""
    global _buffers
    with _registering:
        alive = (each for each in _buffers if each() is not None)
        _buffers = (*alive, weakref.ref(buffer))
        return next(_numbers)


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
