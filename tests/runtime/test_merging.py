"""Actions that are merged into what is planned: one command, several parents."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import StageFailedError
from streamvla.evaluation.metrics import metrics_of
from streamvla.evaluation.report.timeline import TimelineRun, timeline_svg
from streamvla.runtime.executors.async_chunks import AsyncChunks
from streamvla.runtime.executors.base import (
    Capture,
    Decisions,
    Generation,
    Look,
    Merge,
    Placement,
    Plan,
)
from streamvla.runtime.timing.latency import profile_ms
from streamvla.testing.executor_contract import ExecutorContract
from streamvla.trace import Dropped, FileTrace, Sent, TraceSink, read_trace
from streamvla.trace.perfetto import PerfettoRun, perfetto_trace
from streamvla.trace.spans import Pacing, command_spans
from streamvla.trace.store import trace_lines

from .scenario import Run, Scenario

FAST = profile_ms("fast", 20, 3, 50)
"""A chunk of ten takes 50 ms: one period."""


@dataclass(frozen=True)
class Ensembling(AsyncChunks):
    """Temporal ensembling: what is sent is the mean of everything that is due then."""

    def begin(self, space: ActionSpace, horizon: int, trace: TraceSink) -> Decisions:
        return _Ensemble(super().begin(space, horizon, trace))


class _Ensemble(Decisions):
    """Looks and starts as asynchronous chunks do."""

    def __init__(self, chunks: Decisions) -> None:
        self._chunks = chunks
        self._sent_at_capture = 0

    def look(self, plan: Plan, now_ns: int) -> Look | None:
        return self._chunks.look(plan, now_ns)

    def start(self, plan: Plan, capture: Capture, now_ns: int):
        self._sent_at_capture = capture.actions_sent
        return self._chunks.start(plan, capture, now_ns)

    def place(self, plan: Plan, generation: Generation, *, last: bool) -> Placement:
        if not last:
            return Placement()
        elapsed = plan.actions_sent - self._sent_at_capture
        stale = [(each, "elapsed") for each in generation.held if each.index < elapsed]
        fresh = generation.held[len(stale) :]
        planned = plan.buffered
        merge = [
            Merge(action, into, 1 / (1 + len(into.sources)))
            for action, into in zip(fresh, planned, strict=False)
        ]
        return Placement(fresh[len(planned) :], stale, merge=merge)


class TestEnsembling(ExecutorContract):
    def executor(self) -> Ensembling:
        return Ensembling()


def made_of(captured_ns: int, index: int) -> float:
    """What the scripted policy commands, told from a parent's names alone."""
    return (captured_ns // 1_000_000 % 97) / 200 + index / 100


def drive(pacing: Pacing = "grid", executor: AsyncChunks | None = None, **settings) -> Run:
    script = settings.pop(
        "script",
        lambda observation, start, index: np.array([made_of(observation.captured_ns, index), 0]),
    )
    return Scenario(
        executor or Ensembling(0.8),
        pacing=pacing,
        profile=FAST,
        observations=12,
        script=script,
        **settings,
    ).run()


@pytest.mark.parametrize("pacing", ["grid", "event"])
def test_a_command_is_the_mean_of_its_parents(pacing):
    """Of every policy command: the mean of what its parents' observations and indices give."""
    sent = [event for event in drive(pacing).sent if event.source == "policy"]
    assert max(len(event.sources) for event in sent) >= 3
    for event in sent:
        parts = [made_of(each.captured_ns, each.index) for each in event.sources]
        assert event.values[0] == pytest.approx(np.mean(parts))


def test_parents_go_from_the_oldest_to_the_youngest():
    """By capture; and the command goes by the names of the last."""
    merged = [event for event in drive().sent if event.parents]
    for event in merged:
        assert all(a.captured_ns < b.captured_ns for a, b in pairwise(event.parents))
        youngest = (event.observation, event.generation, event.index, event.captured_ns)
        assert youngest == event.parents[-1]


def test_a_trace_with_parents_comes_back(tmp_path):
    """Every event is read as it was recorded; only merged commands have the field `parents`."""
    events = drive().events
    with FileTrace(tmp_path / "trace.jsonl", {}) as trace:
        for event in events:
            trace.record(event)
    assert read_trace(tmp_path / "trace.jsonl").events == events
    lines = [json.loads(line) for line in trace_lines({}, events)[1:]]
    with_field = [fields for fields in lines if "parents" in fields]
    assert len(with_field) == sum(isinstance(e, Sent) and bool(e.parents) for e in events) > 0


def test_a_trace_without_merging_has_no_new_field():
    """The lines of another executor name no parents."""
    events = drive(executor=AsyncChunks()).events
    assert not any("parents" in line for line in trace_lines({}, events))


def test_the_age_is_that_of_the_oldest_parent():
    """The longest age measured is of the oldest observation that went into a command."""
    events = drive().events
    ages = [e.t_ns - e.sources[0].captured_ns for e in events if isinstance(e, Sent) and e.sources]
    figures = metrics_of(events, FAST.execute_ns, "grid").to_json()
    assert figures["action_age_ms"]["max"] == pytest.approx(max(ages) / 1e6)


def test_spans_exports_and_timeline_show_merged_commands():
    """The span has the parents, the timeline says how many, Perfetto draws an arrow from each."""
    events = drive().events
    merged = [event for event in events if isinstance(event, Sent) and event.parents]
    spans = [span for span in command_spans(events, FAST.execute_ns) if span.parents]
    assert [span.parents for span in spans] == [event.parents for event in merged]
    run = TimelineRun("ensembling", events, FAST.execute_ns, "grid")
    assert f"merged from {len(merged[0].parents)}" in timeline_svg([run])
    drawn = perfetto_trace([PerfettoRun("ensembling", events, FAST.execute_ns)])["traceEvents"]
    names = {each["name"] for each in drawn}
    assert any(" + " in name for name in names)
    arrows = sum(each["ph"] == "s" and each["name"] == "generate → execute" for each in drawn)
    sources = sum(len(e.sources) for e in events if isinstance(e, Sent))
    assert arrows == sources


def test_a_dropped_command_is_dropped_with_all_its_parents():
    """The stop at the end drops each generated action of the plan once, merged ones included."""
    run = drive(duration_ns=10**9)
    after = run.events[len(run.episode) :]
    dropped = [(e.generation, e.index) for e in after if isinstance(e, Dropped)]
    sent = {(each.generation, each.index) for event in run.sent for each in event.sources}
    assert len({generation for generation, _ in dropped}) > 1
    assert len(set(dropped)) == len(dropped)
    assert not sent & set(dropped)


@pytest.mark.parametrize("weight", [0.0, 1.0, -0.5])
def test_a_weight_outside_0_to_1_is_refused(weight):
    """Nothing of one of the two: that is no merge."""
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        Merge(None, None, weight)  # type: ignore[arg-type]


def test_merging_into_what_was_sent_is_refused():
    """What is no longer planned cannot be changed."""

    class Late(_Ensemble):
        first = None

        def place(self, plan: Plan, generation: Generation, *, last: bool) -> Placement:
            self.first = self.first or (plan.buffered[0] if plan.buffered else None)
            if self.first is None or generation.number < 2:
                return super().place(plan, generation, last=last)
            return Placement(merge=[Merge(generation.held[0], self.first, 0.5)])

    @dataclass(frozen=True)
    class TooLate(AsyncChunks):
        def begin(self, space: ActionSpace, horizon: int, trace: TraceSink) -> Decisions:
            return Late(super().begin(space, horizon, trace))

    with pytest.raises(
        StageFailedError, match=r"planning stage failed: .*is not planned: it was sent"
    ):
        drive(executor=TooLate(0.8))
