"""How a long training is stopped: between two steps, so that it can save.

Ctrl-C comes from a person; SIGTERM, SIGHUP and SIGQUIT from systemd, Slurm, Docker, a preempted
machine, a lost ssh session. A signal that is ignored (`nohup`) stays ignored.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Stop:
    """Whether a signal asked for the end.

    Attributes:
        number: the first such signal's; None: there was none.
    """

    def __init__(self, number: int | None = None) -> None:
        self.number = number

    def is_set(self) -> bool:
        return self.number is not None


@contextmanager
def stop_on_interrupt(*, shared: bool = False) -> Iterator[Stop]:
    """Inside, signals set the `Stop` that is yielded, and a second Ctrl-C kills.

    Save inside: outside, the next signal ends the process. A repeated SIGTERM changes nothing; a
    host that has lost patience sends SIGKILL.

    Args:
        shared: of several processes under `torchrun`, which passes on what its terminal sent to
            all: they may get one Ctrl-C twice, and it never kills.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = {number: own for number, own in before.items() if own not in (signal.SIG_IGN, None)}

    def request_stop(number: int, _frame: object) -> None:
        if stop.number is None:
            stop.number = number
        if number == signal.SIGINT and not shared:
            signal.signal(signal.SIGINT, taken[signal.SIGINT])

    for number in taken:
        signal.signal(number, request_stop)
    try:
        yield stop
    finally:
        for number, own in taken.items():
            signal.signal(number, own)
