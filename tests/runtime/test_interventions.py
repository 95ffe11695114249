"""Interventions in the trace: few events, every tick counted."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamvla.core.limits import MotionLimits
from streamvla.evaluation.metrics import metrics_of
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.governor.governor import Intervention
from streamvla.runtime.governor.interventions import EVERY_TICKS, InterventionLog
from streamvla.runtime.governor.ladder import Ladder
from streamvla.trace import Intervened, MemoryTrace

from .scenario import MIXED, Scenario

KINDS = [Intervention("clamp", "jerk of dx"), Intervention("reject", "discontinuity")]
ticks = st.lists(st.sets(st.sampled_from(KINDS)), max_size=200)


def written(log: list[set[Intervention]]) -> list[Intervened]:
    trace = MemoryTrace()
    interventions = InterventionLog(trace)
    for tick, each in enumerate(log):
        detailed = (
            i._replace(cause=f"{i.cause} {tick}" if ":" in i.cause else i.cause) for i in each
        )
        interventions.note(10 * tick, tick, tuple(detailed))
    interventions.flush(10 * len(log))
    return [event for event in trace.events if isinstance(event, Intervened)]


@given(log=ticks)
def test_every_tick_is_counted_once_and_events_are_few(log):
    """Whatever comes: the ticks of the events add up to those that were noted, and no window of
    `EVERY_TICKS` has more than two events of one rung and cause."""
    events = written(log)
    noted = Counter(each.rung for ones in log for each in ones)
    told = Counter()
    for event in events:
        told[event.rung] += event.ticks
    assert told == noted
    for kind in KINDS:
        instants = [event.tick for event in events if event.rung == kind.rung]
        for tick in instants:
            assert sum(tick <= other < tick + EVERY_TICKS for other in instants) <= 2


def test_the_first_is_written_at_once_and_the_rest_together():
    """A clamp on 22 ticks in a row: one event, then one for 20 ticks, then one for the last."""
    events = written([{KINDS[0]}] * 22)
    assert [(event.tick, event.ticks) for event in events] == [(0, 1), (20, 20), (20, 1)]


def test_the_report_counts_all_of_them():
    """The metrics of a run that is clamped on every tick count ticks, not events."""
    limits = MotionLimits((-np.inf, -1.0), (np.inf, 1.0), (0.3, 2.0), (0.3, 4.0), (0.3, 8.0))
    run = Scenario(
        ActionFlow(3),
        pacing="grid",
        script=lambda *_: np.array([0.9, 1.0]),
        observations=None,
        duration_ns=100 * 27_000_000,
        fallback=Ladder(limits),
    ).run()
    clamped = sum(event.source == "policy" for event in run.sent)
    events = [event for event in run.episode if isinstance(event, Intervened)]
    metrics = metrics_of(run.events, 27_000_000, "grid", MIXED)
    assert metrics.interventions["clamp"] == clamped > 80
    assert len(events) < 20
