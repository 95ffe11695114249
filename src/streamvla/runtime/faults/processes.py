"""Faults that only a process can have: killed, suspended, its interpreter or its memory taken.

The owner's side (`ProcessStriker`) sends signals; the model's own side (`hog`) wastes what it has.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from types import TracebackType

import numpy as np

from streamvla.core.clock import NS_PER_S, SystemClock
from streamvla.runtime.faults.plan import SIGNALS, Fault, FaultPlan

PRESSURE_BYTES = 256 << 20
"""What a memory-pressure fault allocates and keeps touching."""


class ProcessStriker:
    """Sends signals as planned, on a thread; a context manager that leaves suspended processes
    running, if they live.

    Args:
        pids: of "model", "executor" and "owner".
        start_ns: the instant the plan counts from.
    """

    def __init__(
        self, pids: Mapping[str, int], plan: FaultPlan, clock: SystemClock, start_ns: int
    ) -> None:
        self._pids = pids
        self._clock = clock
        self._over = threading.Event()
        self._strikes = sorted(
            (start_ns + instant_ns, process, number)
            for fault in plan.of(*SIGNALS)
            for instant_ns, process, number in _signals(fault)
        )
        self._thread = threading.Thread(target=self._strike, daemon=True)

    def __enter__(self) -> ProcessStriker:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        for process in {process for _, process, _ in self._strikes}:
            self._send(process, signal.SIGCONT)

    def _strike(self) -> None:
        for instant_ns, process, number in self._strikes:
            wait_s = max(0, instant_ns - self._clock.now_ns()) / NS_PER_S
            if self._over.wait(wait_s):
                return
            self._send(process, number)

    def _send(self, process: str, number: signal.Signals) -> None:
        try:
            os.kill(self._pids[process], number)
        except ProcessLookupError:
            self._over.set()


def _signals(fault: Fault) -> list[tuple[int, str, signal.Signals]]:
    process, number = SIGNALS[fault.kind]
    signals = [(fault.start_ns, process, number)]
    if number == signal.SIGSTOP:
        signals.append((fault.end_ns, process, signal.SIGCONT))
    return signals


def hog(plan: FaultPlan, clock: SystemClock, start_ns: int) -> None:
    """In the model process: start a thread for every gil-hog and memory-pressure fault."""
    works = {"gil-hog": _spin, "memory-pressure": _press}
    for fault in plan.of(*works):
        arguments = (clock, start_ns + fault.start_ns, start_ns + fault.end_ns)
        threading.Thread(target=works[fault.kind], args=arguments, daemon=True).start()


def _spin(clock: SystemClock, begin_ns: int, end_ns: int) -> None:
    """Pure Python, without a pause."""
    clock.sleep_until_ns(begin_ns)
    count = 0
    while clock.now_ns() < end_ns:
        for _ in range(1000):
            count += 1


def _press(clock: SystemClock, begin_ns: int, end_ns: int) -> None:
    """Allocate, and write to every page again and again."""
    clock.sleep_until_ns(begin_ns)
    block = np.zeros(PRESSURE_BYTES, np.uint8)
    while clock.now_ns() < end_ns:
        block[::4096] += 1
