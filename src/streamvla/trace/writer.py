"""Writes a trace file in a thread of its own, whatever the disk does.

    control loop ── put(bytes) ──► backlog ──► thread ── write ──► file       put never waits

What the disk does not take stays in the backlog and is tried again; a line that was written in part
is cut off before, so the file always ends with a whole line. What the backlog has no room for is
counted, and stands in the file as `RecordingLost` once writing works again. A file that was removed
is written anew from the one still open.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_MOST_WAITING = 32 << 20
"""Bytes kept for a disk that takes none."""
_RETRY_S = 0.25
_CLOSE_S = 5.0
"""How long closing waits for a disk that hangs."""

_SLOW = "the disk does not keep up"

_log = logging.getLogger("streamvla")


@dataclass(frozen=True)
class Chunk:
    """Whole lines, with how many events they are and the first one's instant."""

    data: bytes
    events: int
    t_ns: int


class BackgroundWriter:
    """See the module's docstring.

    Args:
        fd: open for reading and writing, at its end; owned by the writer from here on.
        lost: (instant, events, cause) → the line that says so.

    Attributes:
        write: (fd, bytes) → how many were taken, as `os.write`.
    """

    def __init__(self, path: Path, fd: int, lost: Callable[[int, int, str], bytes]) -> None:
        self.write: Callable[[int, memoryview], int] = lambda fd, data: os.write(fd, data)
        self._path = path
        self._fd = fd
        self._lost_line = lost
        self._whole = os.fstat(fd).st_size  # bytes that end with a whole line
        self._waiting: deque[Chunk] = deque()
        self._waiting_bytes = 0
        self._lost_events, self._lost_since_ns = 0, 0
        self._told_lost = 0
        self._cause = ""
        self._warned = False
        self._work = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="streamvla-trace", daemon=True)
        self._thread.start()

    def put(self, chunk: Chunk) -> None:
        """Hand a chunk over; never waits."""
        if self._waiting_bytes + len(chunk.data) > _MOST_WAITING:
            if not self._lost_events:
                self._lost_since_ns = chunk.t_ns
            self._lost_events += chunk.events
            return
        self._waiting_bytes += len(chunk.data)
        self._waiting.append(chunk)
        self._work.set()

    def close(self) -> int:
        """Write what waits, as far as the disk takes it; how many events are lost for good."""
        self._closing = True
        self._work.set()
        self._thread.join(_CLOSE_S)
        lost = self._lost_events + sum(chunk.events for chunk in list(self._waiting))
        if lost:
            cause = self._cause or _SLOW
            _log.warning("trace %s: %d events are lost: %s", self._path, lost, cause)
        return lost + self._told_lost

    # --- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        while not (self._closing and not self._waiting):
            self._work.wait(_RETRY_S if self._waiting else None)
            self._work.clear()
            took = self._write_waiting()
            if self._closing and not took:
                break
        os.close(self._fd)

    def _write_waiting(self) -> bool:
        """Whether the disk took everything that was there."""
        try:
            self._restore_if_removed()
            while self._waiting:
                chunk = self._waiting[0]
                self._write(chunk.data)
                self._waiting.popleft()
                self._waiting_bytes -= len(chunk.data)
            if self._lost_events:
                cause = self._cause or _SLOW
                self._write(self._lost_line(self._lost_since_ns, self._lost_events, cause))
                self._told_lost += self._lost_events
                self._lost_events = 0
            self._restore_if_removed()
        except OSError as error:
            self._cause = error.strerror or str(error)
            if not self._warned:
                self._warned = True
                _log.warning("trace %s cannot be written: %s", self._path, self._cause)
            return False
        return True

    def _write(self, data: bytes) -> None:
        """All of it, or nothing of it."""
        left = memoryview(data)
        try:
            while left:
                left = left[self.write(self._fd, left) :]
        except OSError:
            os.ftruncate(self._fd, self._whole)
            os.lseek(self._fd, self._whole, os.SEEK_SET)
            raise
        self._whole += len(data)

    def _restore_if_removed(self) -> None:
        if os.fstat(self._fd).st_nlink:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        anew = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            position = 0
            while part := os.pread(self._fd, 1 << 20, position):
                position += os.write(anew, part)
        except OSError:
            os.close(anew)
            self._path.unlink(missing_ok=True)
            raise
        os.close(self._fd)
        self._fd = anew
        _log.warning("trace %s was removed while it was written; it is there again", self._path)
