"""What a control loop asks of the operating system, and what it was given.

Nothing here is needed to run; each wish is reported as obtained or refused, never assumed.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

from streamvla.core.errors import ConfigError
from streamvla.core.parent import call_c

_PR_SET_TIMERSLACK = 29
_MCL_CURRENT_AND_FUTURE = 3


@dataclass(frozen=True)
class RealtimeSettings:
    """What the executor process should ask for.

    Attributes:
        fifo_priority: SCHED_FIFO with this priority, 1 to 99, for the control loop's thread;
            None stays with the normal scheduler. 50 is what ros2_control asks for. Measure what
            it does to your machine: `streamvla bench realtime`, with and without.
        cpus: run on these cores only; empty for any.
        lock_memory: keep all memory from being paged out (mlockall). Off by default: under a
            small limit (`ulimit -l`) later allocations would fail.
        timer_slack_ns: how late the kernel may wake a normal process to save power; its own
            default is 50 000.
    """

    fifo_priority: int | None = 50
    cpus: tuple[int, ...] = ()
    lock_memory: bool = False
    timer_slack_ns: int = 1

    def __post_init__(self) -> None:
        if self.fifo_priority is not None and not 1 <= self.fifo_priority <= 99:
            raise ConfigError(
                f"SCHED_FIFO priority {self.fifo_priority}: expected 1 to 99, or None for the "
                "normal scheduler"
            )
        if any(cpu < 0 for cpu in self.cpus):
            raise ConfigError(f"cores {self.cpus}: expected numbers ≥ 0, as in /proc/cpuinfo")
        if self.timer_slack_ns < 1:
            raise ConfigError(f"timer slack {self.timer_slack_ns} ns: expected at least 1")


@dataclass(frozen=True)
class Grant:
    """One wish and its answer.

    Attributes:
        refusal: why it was refused; None: it was obtained.
    """

    wish: str
    refusal: str | None

    @property
    def obtained(self) -> bool:
        return self.refusal is None

    def __str__(self) -> str:
        return f"{self.wish}: " + ("obtained" if self.obtained else f"refused ({self.refusal})")


def ask(settings: RealtimeSettings) -> tuple[Grant, ...]:
    """Ask the operating system for everything in `settings`, for this process; what came of it."""
    slack_ns, priority, cpus = settings.timer_slack_ns, settings.fifo_priority, settings.cpus
    grants = [_ask(f"timer slack {slack_ns} ns", lambda: _set_timer_slack(slack_ns))]
    if priority is not None:
        grants.append(_ask(f"SCHED_FIFO {priority}", lambda: _use_fifo(priority)))
    if cpus:
        grants.append(_ask(f"cores {cpus}", lambda: os.sched_setaffinity(0, cpus)))
    if settings.lock_memory:
        grants.append(_ask("memory lock", _lock_memory))
    return tuple(grants)


def _ask(wish: str, request: Callable[[], None]) -> Grant:
    if not sys.platform.startswith("linux"):
        return Grant(wish, f"not available on {sys.platform}")
    try:
        request()
    except OSError as error:
        return Grant(wish, error.strerror or str(error))
    return Grant(wish, None)


class FifoGuard:
    """Gives SCHED_FIFO back once this process has used it for `MOST_S` without going to sleep.

    A control loop sleeps in every period. One that does not (a robot slower than its period, a
    fault in the runtime) would keep everything else off its core, the model included. The kernel
    counts and reports it (RLIMIT_RTTIME), and kills the process if it goes on all the same.

    Only the main thread can make one.
    """

    MOST_S = 0.2
    KILLED_AFTER_S = 2.0

    def __init__(self) -> None:
        self.given_back: bool = False
        limits = round(self.MOST_S * 1e6), round(self.KILLED_AFTER_S * 1e6)
        signal.signal(signal.SIGXCPU, self._give_back)
        resource.setrlimit(resource.RLIMIT_RTTIME, limits)

    def _give_back(self, *_: object) -> None:
        os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
        self.given_back = True

    def verdict(self) -> tuple[Grant, ...]:
        """That SCHED_FIFO was given back and why; empty while it was not."""
        refusal = f"given back: the loop ran for {self.MOST_S:g} s without a pause"
        return (Grant("keep SCHED_FIFO", refusal),) if self.given_back else ()


def _use_fifo(priority: int) -> None:
    """For the calling thread; what it starts gets the normal scheduler again."""
    policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
    os.sched_setscheduler(0, policy, os.sched_param(priority))


def _set_timer_slack(slack_ns: int) -> None:
    call_c("prctl", _PR_SET_TIMERSLACK, ctypes.c_ulong(slack_ns), 0, 0, 0)


def _lock_memory() -> None:
    call_c("mlockall", _MCL_CURRENT_AND_FUTURE)
