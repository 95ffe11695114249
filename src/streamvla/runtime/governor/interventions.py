"""Interventions of the governor as events: few of them, and every control tick counted.

    tick         7   8   9  10 …  26  27  28        the robot is clamped from 7 to 28
    Intervened   1                    20   1        `ticks` of each event: 22 together

The first of a rung and cause is written at once; more of the same are counted and written together
every `EVERY_TICKS`, and when the episode ends.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamvla.runtime.governor.governor import Intervention
from streamvla.trace import Intervened, TraceSink

EVERY_TICKS = 20


@dataclass(slots=True)
class _Same:
    """Interventions of one rung and cause.

    Attributes:
        written: the tick of the latest event.
        latest: the latest one, which stands for all that are not written yet.
        waiting: how many those are.
    """

    written: int
    latest: Intervention
    waiting: int = 0


class InterventionLog:
    """See the module's docstring. Causes are the same up to their first colon."""

    def __init__(self, trace: TraceSink) -> None:
        self._trace = trace
        self._same: dict[tuple[str, str], _Same] = {}

    def note(self, now_ns: int, tick: int, interventions: tuple[Intervention, ...]) -> None:
        """Take what the governor did on a tick; to be called on every one."""
        if not self._same and not interventions:
            return
        for each in interventions:
            self._count(now_ns, tick, each)
        for key, same in list(self._same.items()):
            if tick - same.written >= EVERY_TICKS:
                self._write(now_ns, tick, same)
                if same.written != tick:  # nothing new: the next one is a first one again
                    del self._same[key]

    def flush(self, now_ns: int) -> None:
        """Write what was counted and not written."""
        for same in self._same.values():
            self._write(now_ns, same.written, same)
        self._same.clear()

    def _count(self, now_ns: int, tick: int, each: Intervention) -> None:
        key = each.rung, each.cause.split(":")[0]
        same = self._same.get(key)
        if same is None:
            self._same[key] = _Same(tick, each)
            self._trace.record(Intervened(now_ns, tick, each.rung, each.cause))
        else:
            same.latest = each
            same.waiting += 1

    def _write(self, now_ns: int, tick: int, same: _Same) -> None:
        if same.waiting:
            rung, cause = same.latest
            self._trace.record(Intervened(now_ns, tick, rung, cause, same.waiting))
            same.written, same.waiting = tick, 0
