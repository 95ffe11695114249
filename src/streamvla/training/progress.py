"""What a person sees of a long training: a bar on a terminal, elsewhere a line every few seconds.

step 1200 of 30000  loss 0.1234  3.92 steps/s  2 h 03 min left
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from streamvla.core.clock import NS_PER_S, Clock

EVERY_S = 5.0
"""Seconds between two lines, and between two texts beside the bar."""


class ProgressReport:
    """Tells how far a training is; a context manager. Where it is read no longer (a lost terminal,
    a closed pipe), it falls silent, and the training goes on.

    Args:
        name: of what goes on, beside the bar.
        step, steps: taken so far, and in all.
        shown: false in all processes but the first.
    """

    def __init__(
        self, name: str, step: int, steps: int, clock: Clock, *, shown: bool = True
    ) -> None:
        self.steps: Final = steps
        self._clock = clock
        self._lines = shown and not sys.stdout.isatty()
        self._bar = _bar(shown=shown and not self._lines)
        self._task: TaskID = self._bar.add_task(name, total=steps, completed=step, note="")
        self._said_step = self._step = step
        self._said_ns = clock.now_ns()
        self._note: Callable[[], str] = str

    def __enter__(self) -> ProgressReport:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None and self._step > self._said_step:
            self._say()
        with suppress(OSError):
            self._bar.stop()

    def advance(self, step: int, note: Callable[[], str]) -> None:
        """After every step.

        Args:
            step: taken so far.
            note: gives what else is to be told, such as the loss; called only when it is shown.
        """
        self._step, self._note = step, note
        self._bar.update(self._task, completed=step)
        if self._clock.now_ns() - self._said_ns >= EVERY_S * NS_PER_S:
            self._say()

    def _say(self) -> None:
        now = self._clock.now_ns()
        rate = (self._step - self._said_step) * NS_PER_S / max(1, now - self._said_ns)
        note = f"{self._note()}  {rate:.2f} steps/s"
        self._bar.update(self._task, note=note)
        if self._lines:
            left = duration((self.steps - self._step) / rate)
            try:
                sys.stdout.write(f"step {self._step} of {self.steps}  {note}  {left} left\n")
                sys.stdout.flush()
            except OSError:
                self._lines = False
        self._said_step, self._said_ns = self._step, now


def duration(seconds: float) -> str:
    """
    >>> duration(12.3), duration(754), duration(7412)
    ('12 s', '13 min', '2 h 04 min')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _bar(*, shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        disable=not shown,
    )
