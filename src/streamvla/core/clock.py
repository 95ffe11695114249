"""The only module that reads the time. Integer nanoseconds on one monotonic clock."""

from __future__ import annotations

import time
from typing import Protocol

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000


def ms_to_ns(milliseconds: float) -> int:
    """Milliseconds to integer nanoseconds, rounded to the nearest."""
    return round(milliseconds * NS_PER_MS)


class Clock(Protocol):
    """A monotonic clock: where time comes from for everything else."""

    def now_ns(self) -> int:
        """The present instant, integer nanoseconds; never goes back."""
        ...


class SystemClock:
    """The machine's monotonic clock (`CLOCK_MONOTONIC`)."""

    __slots__ = ()

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def sleep_until_ns(self, deadline_ns: int) -> None:
        """Sleep until an absolute deadline; returns at once when it has passed."""
        while (remaining := deadline_ns - time.monotonic_ns()) > 0:
            time.sleep(remaining / NS_PER_S)


class VirtualClock:
    """A clock that stands still until it is moved: time for deterministic runs."""

    __slots__ = ("_now_ns",)

    def __init__(self, start_ns: int = 0) -> None:
        self._now_ns = start_ns

    def now_ns(self) -> int:
        return self._now_ns

    def advance_to(self, instant_ns: int) -> None:
        """Move to `instant_ns`.

        Raises:
            ValueError: the instant lies in the past.
        """
        if instant_ns < self._now_ns:
            raise ValueError(f"virtual time cannot go back from {self._now_ns} to {instant_ns} ns")
        self._now_ns = instant_ns


def wall_date() -> str:
    """Today's date, ISO format, for the headers of files. Never used in arithmetic."""
    return time.strftime("%Y-%m-%d", time.gmtime())
