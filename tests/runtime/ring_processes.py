"""What the ring's tests run in another process."""

from __future__ import annotations

from multiprocessing.connection import Connection

import numpy as np

from streamvla.runtime.processes.launch import orphaned, receive_fd
from streamvla.runtime.processes.ring import SharedRing

RECORD = np.dtype([("number", "i8"), ("copy", "f8")])


def numbered(first: int, count: int) -> np.ndarray:
    """Records `first`, `first + 1`, …, each saying its number twice."""
    records = np.empty(count, RECORD)
    records["number"] = np.arange(first, first + count)
    records["copy"] = records["number"]
    return records


def push_numbered(connection: Connection, total: int, batch: int) -> None:
    """Push records 0 … total − 1, `batch` at a time, as fast as there is room."""
    ring = SharedRing.attach(receive_fd(connection), RECORD)
    done = 0
    while done < total and not orphaned():
        done += ring.push(numbered(done, min(batch, total - done)))


def push_and_wait(connection: Connection, total: int) -> None:
    """Push `total` records, say so, and stay."""
    ring = SharedRing.attach(receive_fd(connection), RECORD)
    ring.push(numbered(0, total))
    connection.send("pushed")
    connection.recv()
