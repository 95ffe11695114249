"""The only module that reads the time. Integer nanoseconds on one monotonic clock."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000


def ms_to_ns(milliseconds: float) -> int:
    """Milliseconds to integer nanoseconds, rounded to the nearest."""
    return round(milliseconds * NS_PER_MS)


class Clock(Protocol):
    """A monotonic clock: where time comes from for everything else.

    All waiting for an instant is `sleep_until_ns`, to an absolute deadline `t0 + i · period`: what
    one sleep oversleeps does not add to the next. How a clock meets it:

    | clock | it returns | by |
    | --- | --- | --- |
    | `SystemClock`, 64-bit Linux | at the deadline or later | `clock_nanosleep(TIMER_ABSTIME)` |
    | `SystemClock` elsewhere | at the deadline or later | relative sleeps, read anew after each |
    | `VirtualClock` | at the deadline exactly | jumping there |
    """

    def now_ns(self) -> int:
        """The present instant, integer nanoseconds; never goes back."""
        ...

    def sleep_until_ns(self, deadline_ns: int) -> None:
        """Return once `now_ns()` is the deadline or more, never before; at once if it is already.

        Interrupted by a signal, it handles that at once (which may raise) and sleeps on.
        """
        ...


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


_TIMER_ABSTIME = 1


def _find_clock_nanosleep() -> Callable[..., int] | None:
    """`clock_nanosleep` of the C library on 64-bit Linux (Python 3.11 has none), else None."""
    if not sys.platform.startswith("linux") or ctypes.sizeof(ctypes.c_long) != 8:
        return None
    function = ctypes.CDLL(None).clock_nanosleep
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.POINTER(_Timespec), ctypes.c_void_p)
    function.restype = ctypes.c_int
    return function


_clock_nanosleep: Any = _find_clock_nanosleep()


class SystemClock:
    """The machine's monotonic clock (`CLOCK_MONOTONIC`), the same for all its processes.
    Implements `Clock`."""

    __slots__ = ()

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def sleep_until_ns(self, deadline_ns: int) -> None:
        """Sleep until an absolute deadline; returns at once when it has passed.

        On 64-bit Linux the kernel gets the deadline itself, so nothing is lost between reading the
        clock and going to sleep. A signal is handled at once; the sleep then goes on.

        Raises:
            OSError: the kernel refused the deadline.
        """
        if _clock_nanosleep is None:
            while (remaining := deadline_ns - time.monotonic_ns()) > 0:
                time.sleep(remaining / NS_PER_S)
            return
        deadline = _Timespec(*divmod(max(deadline_ns, 0), NS_PER_S))
        while code := _clock_nanosleep(time.CLOCK_MONOTONIC, _TIMER_ABSTIME, deadline, None):
            if code != errno.EINTR:
                raise OSError(code, f"clock_nanosleep until {deadline_ns}: {os.strerror(code)}")

    def sleep_for_ns(self, duration_ns: int) -> None:
        """Sleep for a while from now: for waiting on another process.

        Never for pacing, where what it oversleeps adds up from period to period.
        """
        time.sleep(max(duration_ns, 0) / NS_PER_S)


class VirtualClock:
    """A clock that stands still until it is moved: time for deterministic runs. Implements
    `Clock`."""

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

    def sleep_until_ns(self, deadline_ns: int) -> None:
        """Jump to the deadline; stay if it has passed."""
        self._now_ns = max(self._now_ns, deadline_ns)


def wall_date() -> str:
    """Today's date, ISO format, for the headers of files. Never used in arithmetic."""
    return time.strftime("%Y-%m-%d", time.gmtime())
