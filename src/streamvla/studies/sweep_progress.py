"""How far a long sweep is: a bar on a terminal, else a line every few seconds."""

from __future__ import annotations

import sys
from types import TracebackType

from streamvla.core.clock import NS_PER_S, Clock, SystemClock

LINE_EVERY_NS = 10 * NS_PER_S


class SweepProgress:
    """Episodes done, the pace, and how long the rest will take. Use it as a context.

    Args:
        name: of the command.
        total: episodes, those that were there already (`done`) included.
    """

    def __init__(self, name: str, total: int, done: int, clock: Clock | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._name, self._total, self._done, self._now = name, total, done, 0
        self._clock = clock or SystemClock()
        self._began_ns = self._said_ns = self._clock.now_ns()
        columns = (
            TextColumn(name),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
        )
        shown = sys.stderr.isatty()
        self._bar = Progress(*columns, console=Console(stderr=True), disable=not shown)
        self._shown = shown
        self._row = self._bar.add_task(name, total=total, completed=done, pace="")

    @property
    def per_minute(self) -> float:
        """Episodes, since the sweep began or went on."""
        return self._now * 60 * NS_PER_S / max(1, self._clock.now_ns() - self._began_ns)

    def advance(self, episodes: int) -> None:
        """So many more are done."""
        self._done += episodes
        self._now += episodes
        pace = self._words()
        self._bar.update(self._row, completed=self._done, pace=pace)
        now_ns = self._clock.now_ns()
        if not self._shown and (
            now_ns - self._said_ns >= LINE_EVERY_NS or self._done == self._total
        ):
            self._said_ns = now_ns
            line = f"{self._name}: {self._done} of {self._total} episodes, {pace}"
            print(line, file=sys.stderr, flush=True)

    def _words(self) -> str:
        """`34.2 a minute, 0:24:33 left`."""
        left_s = round((self._total - self._done) * 60 / self.per_minute)
        return f"{self.per_minute:.1f} a minute, {_clock_words(left_s)} left"

    def __enter__(self) -> SweepProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        if kind is KeyboardInterrupt:
            print(
                "Interrupted; finished episodes are kept. Run the same command to go on.",
                file=sys.stderr,
            )


def _clock_words(seconds: int) -> str:
    """
    >>> _clock_words(3725)
    '1:02:05'
    """
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
