"""What a generation is requested with: the prefix that will have been executed, and the delay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from streamvla.core.interfaces import FlowStart
from streamvla.runtime.buffer import Replace, Shift
from streamvla.runtime.drivers.simulated import run_simulated
from streamvla.runtime.drivers.threads import run_realtime
from streamvla.runtime.executors import action_flow
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.executors.async_chunks import AsyncChunks
from streamvla.runtime.executors.base import prefix_of
from streamvla.runtime.executors.synchronous import Synchronous
from streamvla.runtime.streamer.execution import KEPT, Execution
from streamvla.runtime.streamer.machine import Streamer
from streamvla.runtime.streamer.messages import Generated, Observed, Started, Tick
from streamvla.runtime.timing.latency import ConstantLatency, profile_ms
from streamvla.testing.fakes import ScriptedPolicy
from streamvla.trace import ActionReady, GenerateRequested, MemoryTrace, ObserveRequested, Sent

from .scenario import MIXED, Run, Scenario

EDGE = profile_ms("edge", 60, 12, 50)


class Requests:
    """A script that keeps where every generation started."""

    def __init__(self) -> None:
        self.starts: list[FlowStart] = []

    def __call__(self, observation, start, index) -> np.ndarray:
        if not self.starts or self.starts[-1] is not start:
            self.starts.append(start)
        return np.array([0.01 * len(self.starts) + 0.001 * index, 0.1 * index])


def drive(executor, pacing="grid", **settings) -> tuple[list[FlowStart], Run]:
    requests = Requests()
    run = Scenario(executor, pacing, EDGE, observations=8, script=requests, **settings).run()
    return requests.starts, run


def requested(run: Run) -> list[GenerateRequested]:
    return [event for event in run.events if isinstance(event, GenerateRequested)]


def policy_commands(run: Run) -> list[Sent]:
    return [event for event in run.sent if event.source == "policy"]


@pytest.mark.parametrize("pacing", ["grid", "event"])
@pytest.mark.parametrize("lead", [0, 2, 4])
def test_the_prefix_of_action_flow_is_what_is_sent_before_its_first_action(lead, pacing):
    """The rows are the policy commands between the request and the generation's first, in order."""
    starts, run = drive(ActionFlow(lead), pacing)
    for request, start in zip(requested(run), starts, strict=True):
        between = [
            event.values
            for event in policy_commands(run)
            if event.t_ns >= request.t_ns and event.generation < request.generation
        ]
        assert start.prefix is not None
        assert start.prefix.tolist() == [list(values) for values in between]
    assert any(len(start.prefix) for start in starts if start.prefix is not None) == (lead == 4)


def test_the_delay_of_action_flow_counts_the_ticks_before_its_first_action():
    """Once a first action was measured, as many ticks fall before the next one as were stated."""
    slow = replace(EDGE, generate_ns=130_000_000)
    requests = Requests()
    run = Scenario(ActionFlow(4), "grid", slow, observations=8, script=requests).run()
    for request, start in list(zip(requested(run), requests.starts, strict=True))[3:]:
        first = next(
            event
            for event in run.events
            if isinstance(event, ActionReady) and event.generation == request.generation
        )
        ticks = [e for e in run.sent if request.t_ns <= e.t_ns < first.t_ns]
        assert start.delay == len(ticks) > 0


def test_the_prefix_of_asynchronous_chunks_is_executed_before_the_chunk_takes_over():
    """Once chunks were measured: the prefix goes out first, one action a tick of the delay."""
    starts, run = drive(AsyncChunks())
    assert starts[0].prefix is None
    assert starts[0].delay == 0
    for request, start in list(zip(requested(run), starts, strict=True))[3:]:
        after = [e.values for e in policy_commands(run) if e.t_ns >= request.t_ns]
        old = [
            e
            for e in policy_commands(run)
            if e.t_ns >= request.t_ns and e.generation < request.generation
        ]
        assert start.prefix is not None
        assert start.delay == len(start.prefix) == len(old) > 0
        assert start.prefix.tolist() == [list(values) for values in after[: start.delay]]


def test_nothing_is_executed_before_a_synchronous_chunk():
    """Its prefix has no rows; the delay is as long as chunks took, once that was measured."""
    starts, run = drive(Synchronous(4))
    assert [start.prefix.shape for start in starts if start.prefix is not None] == [(0, 2)] * 8
    assert starts[0].delay == 0
    for request, start in list(zip(requested(run), starts, strict=True))[-3:]:
        sent = [event for event in run.sent if event.t_ns > request.t_ns]
        halted = next(i for i, event in enumerate(sent) if event.source == "policy")
        assert start.delay == halted > 0


class PrefixDecisions(action_flow._Decisions):
    """States a prefix of so many rows; all that is pending if None."""

    rows: int | None = None

    def start(self, plan, capture, now_ns):
        start = super().start(plan, capture, now_ns)
        first = self.rows is None or capture.number == 0
        rows = prefix_of(plan) if first else np.zeros((self.rows, 2))
        return replace(start, prefix=rows)


def streamer_with_four_pending(late, rows: int | None = None) -> Streamer:
    """Tick 6 of a lead of 4: four actions are pending and the second context is ready."""
    executor = ActionFlow(4)
    streamer = Streamer(MIXED, 10, executor, "grid", MemoryTrace(), late=late)
    decisions = PrefixDecisions(executor, MIXED, 10, MemoryTrace())
    decisions.rows = rows
    streamer._decisions = decisions
    streamer.handle(Started(0))
    streamer.handle(Observed(1, 0))
    for index in range(10):
        streamer.handle(Generated(2, 1, 0, index, np.array([0.1, 0.0])))
    for tick in range(7):
        streamer.handle(Tick(10 + tick, 10 + tick, tick))
    return streamer


@pytest.mark.parametrize("late", [Shift(), Replace()])
def test_a_generation_knows_the_ticks_on_which_its_prefix_is_due(late):
    """On the grid, actions that shift are due on the next ticks, those with a tick on theirs."""
    streamer = streamer_with_four_pending(late)
    streamer.handle(Observed(20, 1))
    generation = streamer._plan.generation
    assert generation is not None
    assert [each.index for each in generation.prefix] == [7, 8, 9]
    assert generation.prefix_ticks == (7, 8, 9)


def test_a_prefix_longer_than_the_plan_is_refused():
    """An executor cannot promise actions that are not pending; the message says how to get them."""
    streamer = streamer_with_four_pending(Shift(), rows=4)
    with pytest.raises(ValueError, match="prefix of 4 actions: 3 are pending"):
        streamer.handle(Observed(20, 1))


@pytest.mark.parametrize("pacing", ["grid", "event"])
@pytest.mark.parametrize("executor", [ActionFlow(0), ActionFlow(4), AsyncChunks(), Synchronous()])
def test_what_was_executed_since_the_capture_is_stated(executor, pacing):
    """The rows are all commands between the capture and the request, the governor's own included,
    in order."""
    starts, run = drive(executor, pacing)
    requests = requested(run)
    assert starts
    for request, start in zip(requests, starts, strict=True):
        begun = next(
            i
            for i, event in enumerate(run.events)
            if isinstance(event, ObserveRequested) and event.observation == request.observation
        )
        between = run.events[begun : run.events.index(request)]
        expected = [list(event.values) for event in between if isinstance(event, Sent)]
        assert start.executed is not None
        assert start.executed.tolist() == expected


def test_only_the_latest_commands_are_remembered():
    """A generation that comes after a very long wait gets so many rows and no more."""
    execution = Execution(MIXED, "grid")
    for i in range(KEPT + 5):
        execution.commit(np.array([0.0, i]))
    assert execution.since(0)[:, 1].tolist() == list(range(5, KEPT + 5))
    assert execution.since(KEPT + 3)[:, 1].tolist() == [KEPT + 3, KEPT + 4]
    assert execution.since(KEPT + 5).shape == (0, 2)


class NoContext(ScriptedPolicy):
    """Makes nothing of what it sees."""

    def encode(self, observation):
        return None


@pytest.mark.parametrize("executor", [Synchronous(), ActionFlow(2)], ids=lambda made: made.name)
def test_a_context_may_be_none(executor):
    """It is no refusal: the actions that the policy makes of it are sent, under both clocks."""
    for drive_it in (
        lambda made: run_simulated(made, ConstantLatency(EDGE)),
        run_realtime,
    ):
        trace = MemoryTrace()
        scenario = Scenario(executor, "grid", EDGE, observations=2)
        policy = NoContext(MIXED, 10, EDGE.execute_ns)
        drive_it(replace(scenario.episode(trace), policy=policy))
        sent = [event for event in trace.events if isinstance(event, Sent)]
        assert sum(event.source == "policy" for event in sent) >= 10
