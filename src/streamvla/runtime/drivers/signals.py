"""Signals that end the process stop the robot first: SIGTERM, SIGHUP, SIGQUIT as Ctrl-C does.

They come from systemd, Docker, a lost ssh session, Ctrl-\\; Python's default for them is to be gone
at once, with the robot in motion. All of this is for the main thread, where signals arrive; a
handler of the caller's own stays.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from streamvla.core.clock import NS_PER_S, Clock, SystemClock

_PATIENCE_NS, _STOP_PATIENCE_NS = NS_PER_S, 10 * NS_PER_S
"""How old a signal that waits may be when another one does not."""

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

_Handler = Callable[[int, FrameType | None], Any]


class Terminated(KeyboardInterrupt):
    """A signal asked this process to end.

    Attributes:
        number: the signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def _raise(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)


_stops: list[Callable[[], object]] = []


def _stop_all(number: int, frame: FrameType | None) -> None:
    """Stop every run in the background, then end the process."""
    for stop in list(_stops):
        stop()
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


_OURS = (signal.SIG_DFL, signal.default_int_handler, _raise, _stop_all)


@contextmanager
def _handled_by(
    handler: _Handler, numbers: tuple[signal.Signals, ...]
) -> Generator[None, None, None]:
    """Inside, these signals go to `handler`, unless the caller has one of its own for them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.getsignal(each) for each in numbers}
    taken = {each: own for each, own in before.items() if own in _OURS}
    for each in taken:
        signal.signal(each, handler)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for each, own in taken.items():
                signal.signal(each, own)


@contextmanager
def raised_as_interrupts() -> Generator[None, None, None]:
    """Inside, signals of `ENDING` raise `Terminated`. For what surrounds a run."""
    with _handled_by(_raise, ENDING):
        yield


@contextmanager
def stopped_by_signals(stop: Callable[[], object]) -> Generator[None, None, None]:
    """Inside, signals of `ENDING` call `stop`, then end the process. For a program whose main
    thread does something else while runs go on: each has its own stop."""
    _stops.append(stop)
    try:
        with _handled_by(_stop_all, ENDING):
            yield
    finally:
        _stops.remove(stop)


class Ending:
    """Whether a signal asked for the end; `check` raises it at a point where that is safe."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._number: int | None = None
        self._since_ns = 0
        self._patience_ns = _PATIENCE_NS
        self._clock: Clock = clock or SystemClock()

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """One that comes much later than the first is raised at once: what should have checked
        hangs."""
        now_ns = self._clock.now_ns()
        if self._number is None:
            self._number, self._since_ns = number, now_ns
        elif now_ns - self._since_ns > self._patience_ns:
            _raise(number, frame)

    def begin_stop(self) -> None:
        """The robot is being stopped: that may take longer."""
        self._since_ns, self._patience_ns = self._clock.now_ns(), _STOP_PATIENCE_NS

    def check(self) -> None:
        """
        Raises:
            KeyboardInterrupt: it was Ctrl-C; `Terminated`, if it was another.
        """
        if self._number is not None:
            _raise(self._number, None)


@contextmanager
def ending_between_steps() -> Generator[Ending, None, None]:
    """Inside, signals of `ENDING`, and Ctrl-C, wait for `Ending.check`. For a control loop, which
    must not be torn out of the middle of sending a command."""
    ending = Ending()
    with _handled_by(ending.on_signal, (signal.SIGINT, *ENDING)):
        yield ending
    ending.check()  # one that came while the robot was being stopped
