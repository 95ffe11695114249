"""A ring of fixed-size records in shared memory: one process pushes, another pops, no one waits.

    pushed = 9          slot   0   1   2   3   4   5   6   7      (capacity 8)
    popped = 6                 8   –   –   –   –   –   6   7      index 8 is in slot 8 mod 8 = 0

Both counters only grow. The producer alone writes `pushed`, the consumer alone writes `popped`,
each on a cache line of its own.

Why no record is ever torn. The producer writes the records first and `pushed` last; the consumer
reads `pushed` first and the records after, and stores `popped` only once it has copied them; the
producer reuses a slot only after it has read `popped`. Each counter is one aligned 8-byte word,
which the memory view reads and writes in one instruction. On x86 the processor keeps stores in
order and loads in order, and CPython's interpreter cannot move one C call before another, so the
order in the program is the order in memory. Neither holds by any promise of the language, and not
on processors with a weaker order (ARM). So each slot also carries its sequence number and a
checksum over its words: the consumer checks its own copy, takes a record whose words have not all
arrived as not there yet, and raises rather than hand over one that stays wrong.

The memory is an open file without a name: there is nothing to clean up after a crash, and it lives
until the last process that has it is gone. A producer killed between two instructions leaves at
most records that were never published; its successor overwrites them.
"""

from __future__ import annotations

import math
import mmap
import operator
import os
import struct
from array import array
from collections.abc import Sequence

import numpy as np

from streamvla.core.errors import ConfigError, RingError
from streamvla.core.memory import unnamed_file

_LINE_BYTES = 64  # of a cache line
_WORD_BYTES = 8
_WORD_MASK = (1 << 64) - 1
_MAGIC = 0x52494E47_00000001
_IDENTITY, _PUSHED, _POPPED = (line * _LINE_BYTES // _WORD_BYTES for line in range(3))
_HEADER_BYTES = 3 * _LINE_BYTES
_REREADS = 200
"""How often a record whose words do not fit together is read again before it counts as damaged."""


def capacity_for(rate_hz: float, budget_s: float) -> int:
    """Slots so that a producer at `rate_hz` fills no ring while its consumer is away `budget_s`.

    The next power of two, at least 16.

    >>> capacity_for(100, 0.5)
    64

    Raises:
        ConfigError: a rate or a budget that is not positive and finite.
    """
    if not (0 < rate_hz < math.inf and 0 < budget_s < math.inf):
        raise ConfigError(
            f"ring: rate {rate_hz} Hz and budget {budget_s} s: expected positive, finite numbers"
        )
    return 1 << max(4, math.ceil(math.log2(rate_hz * budget_s)))


class SharedRing:
    """See the module's docstring. Make one with `create`, open it elsewhere with `attach`.

    Args:
        fd: the open file that holds the memory; owned by the ring from here on.
        record: the NumPy type of a record; whole 8-byte words.
    """

    def __init__(self, fd: int, record: np.dtype) -> None:
        self.fd = fd
        self._record = record
        self._memory = mmap.mmap(fd, os.fstat(fd).st_size)
        self._counters = memoryview(self._memory)[:_HEADER_BYTES].cast("Q")
        magic, capacity, words = self._counters[_IDENTITY : _IDENTITY + 3]
        self.capacity: int = capacity
        if magic != _MAGIC or words != _words(record):
            raise RingError(
                f"shared memory holds {words}-word records (mark {magic:#x}), expected "
                f"{_words(record)} words (mark {_MAGIC:#x}): attach with the type it was made for"
            )
        slots = np.frombuffer(self._memory, np.uint64, offset=_HEADER_BYTES)
        self._slots = slots.reshape(self.capacity, words)
        self._weights = _odd_weights(words - 1)
        # For one record at a time plain integers are several times as quick as small arrays.
        self._cells = memoryview(self._memory)[_HEADER_BYTES:].cast("Q")
        self._width = words
        self._factors: list[int] = self._weights.tolist()
        self._unpack = struct.Struct(f"={words - 2}Q").unpack
        self._pushed: int = self._counters[_PUSHED]
        self._popped: int = self._counters[_POPPED]

    @classmethod
    def create(cls, record: np.dtype, capacity: int) -> SharedRing:
        """A new, empty ring of `capacity` records.

        Raises:
            ConfigError: no capacity, or records that are not whole 8-byte words.
        """
        if capacity < 1:
            raise ConfigError(f"ring: capacity {capacity}: expected at least 1")
        words = _words(record)
        fd = unnamed_file("streamvla-ring", _HEADER_BYTES + capacity * words * _WORD_BYTES)
        os.pwrite(fd, np.array([_MAGIC, capacity, words], np.uint64).tobytes(), 0)
        return cls(fd, record)

    @classmethod
    def attach(cls, fd: int, record: np.dtype) -> SharedRing:
        """The ring behind an open file that this process got from its creator.

        Raises:
            RingError: the memory is no ring, or one of other records.
        """
        return cls(fd, record)

    def __len__(self) -> int:
        """Records pushed and not popped yet, as far as both counters show by now."""
        return self._counters[_PUSHED] - self._counters[_POPPED]

    # --- the producer's side -------------------------------------------------------------------

    def push(self, records: np.ndarray) -> int:
        """Append as many of `records` (n,) as there is room for, from the first; how many.

        A full ring takes none and changes nothing. Only ever called by one process.
        """
        free = self.capacity - (self._pushed - self._counters[_POPPED])
        count = max(0, min(len(records), free))  # a damaged counter leaves no room
        if count:
            if count == 1:
                self._write_one(self._pushed, records[:1])
            else:
                self._write(self._pushed, self._stamped(records[:count]))
            self._pushed += count
            self._counters[_PUSHED] = self._pushed  # last: only now can the consumer see them
        return count

    def _write_one(self, index: int, record: np.ndarray) -> None:
        """`_write(index, _stamped(record))` for a (1,) array."""
        packed = record if record.dtype == self._record else record.astype(self._record)
        words = (index + 1, *self._unpack(packed.tobytes()))
        start = index % self.capacity * self._width
        self._cells[start : start + self._width] = array("Q", (*words, self._sum(words)))

    def _sum(self, words: Sequence[int]) -> int:
        """The checksum of one slot's words."""
        return sum(map(operator.mul, words, self._factors)) & _WORD_MASK

    def _stamped(self, records: np.ndarray) -> np.ndarray:
        """(n, words): sequence number (from 1), the record's words, checksum."""
        count = len(records)
        slots = np.empty((count, self._slots.shape[1]), np.uint64)
        slots[:, 0] = np.arange(self._pushed + 1, self._pushed + count + 1, dtype=np.uint64)
        packed = np.ascontiguousarray(records, dtype=self._record)
        slots[:, 1:-1] = packed.view(np.uint64).reshape(count, -1)
        slots[:, -1] = slots[:, :-1] @ self._weights
        return slots

    def _write(self, index: int, slots: np.ndarray) -> None:
        start = index % self.capacity
        first = min(len(slots), self.capacity - start)
        self._slots[start : start + first] = slots[:first]
        self._slots[: len(slots) - first] = slots[first:]

    # --- damage on purpose, by the producer -----------------------------------------------------

    def push_damaged(self, record: np.ndarray) -> None:
        """Push a (1,) record of which one bit is wrong."""
        self._write_one(self._pushed, record)
        self._cells[self._pushed % self.capacity * self._width + 1] ^= 1
        self._pushed += 1
        self._counters[_PUSHED] = self._pushed

    def damage_counter(self) -> None:
        """Say that more records wait than there is room for, from now on."""
        self._pushed += 1 << 40
        self._counters[_PUSHED] = self._pushed

    # --- the consumer's side -------------------------------------------------------------------

    def pop(self, most: int) -> np.ndarray:
        """The next records, oldest first, `most` at the most: (n,), n = 0 when there is none.

        Only ever called by one process.

        Raises:
            RingError: a record, or the producer's counter, was damaged.
        """
        waiting = self._counters[_PUSHED] - self._popped
        if not 0 <= waiting <= self.capacity:
            raise RingError(
                f"ring: its producer says {waiting} records wait, of {self.capacity} at most: its "
                "counter is damaged. One producer and one consumer may use a ring"
            )
        count = min(most, waiting)
        if not count:
            return np.empty(0, self._record)
        if count == 1:
            records = self._read_one(self._popped)
        else:
            slots = self._read_whole(self._popped, count)
            records = np.ascontiguousarray(slots[:, 1:-1]).view(self._record)[:, 0]
        self._popped += count
        self._counters[_POPPED] = self._popped  # last: only now may the producer reuse the slots
        return records

    def _read_one(self, index: int) -> np.ndarray:
        """(1,) the record of one slot; as `_read_whole`."""
        for _ in range(_REREADS):
            *words, told = self._read_words(index)
            if words[0] == index + 1 and told == self._sum(words):
                return np.frombuffer(array("Q", words[1:]), self._record)
        raise _damaged(index, 1)

    def _read_words(self, index: int) -> list[int]:
        start = index % self.capacity * self._width
        return self._cells[start : start + self._width].tolist()

    def _read_whole(self, index: int, count: int) -> np.ndarray:
        """(count, words) copied out, every slot with the sequence number and sum it must have."""
        expected = np.arange(index + 1, index + count + 1, dtype=np.uint64)
        for _ in range(_REREADS):
            slots = self._read(index, count)
            sums = slots[:, :-1] @ self._weights
            if (slots[:, 0] == expected).all() and (slots[:, -1] == sums).all():
                return slots
        raise _damaged(index, count)

    def _read(self, index: int, count: int) -> np.ndarray:
        start = index % self.capacity
        first = min(count, self.capacity - start)
        return np.concatenate((self._slots[start : start + first], self._slots[: count - first]))

    def close(self) -> None:
        """Let go of the memory; the ring lives on in other processes."""
        del self._slots
        self._cells.release()
        self._counters.release()
        self._memory.close()
        os.close(self.fd)


def _damaged(index: int, count: int) -> RingError:
    return RingError(
        f"ring: of records {index} to {index + count - 1} at least one is damaged: its "
        "sequence number or checksum is wrong. One producer and one consumer may use a ring"
    )


def _words(record: np.dtype) -> int:
    """8-byte words of a slot: sequence number, record, checksum."""
    if record.itemsize % _WORD_BYTES or not record.itemsize or record.hasobject:
        raise ConfigError(
            f"ring: a record of {record.itemsize} bytes: expected whole 8-byte words, no objects; "
            "use fields of 8 bytes (i8, u8, f8)"
        )
    return record.itemsize // _WORD_BYTES + 2


def _odd_weights(count: int) -> np.ndarray:
    """(count,) odd factors: a change of any one word changes the sum, and so does a swap."""
    return np.random.default_rng(1).integers(1 << 62, size=count, dtype=np.uint64) * 2 + 1
