"""Memory that processes share: open files without a name, which leave nothing behind."""

from __future__ import annotations

import fcntl
import os
import tempfile
from contextlib import suppress

_SEAL_FUTURE_WRITE = 0x10
"""`F_SEAL_FUTURE_WRITE` of Linux 5.1; Python 3.11 does not name it."""


def unnamed_file(name: str, size: int) -> int:
    """An open file of `size` bytes, in memory where the system offers that; nobody can change its
    size: reading memory that was cut off kills the reader.

    Args:
        name: for whoever looks at `/proc/PID/maps`; several may have the same.
    """
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            return os.dup(file.fileno())
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    _seal(fd, getattr(fcntl, "F_SEAL_SHRINK", 0) | getattr(fcntl, "F_SEAL_GROW", 0))
    return fd


def forbid_writers(fd: int) -> None:
    """Let nobody make the memory writable from now on; who has it writable keeps it so.

    Where the system does not know this (Linux before 5.1), all stays as it is.
    """
    _seal(fd, _SEAL_FUTURE_WRITE)


def _seal(fd: int, seals: int) -> None:
    if hasattr(fcntl, "F_ADD_SEALS"):
        with suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
