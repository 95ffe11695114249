"""A policy that gives whole chunks is timed as such, in both drivers."""

from __future__ import annotations

import pytest

from streamvla.core.clock import ms_to_ns
from streamvla.runtime.drivers.simulated import run_simulated
from streamvla.runtime.drivers.threads import RealtimeDriver, run_realtime
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.executors.synchronous import Synchronous
from streamvla.runtime.timing.latency import ConstantLatency, profile_ms
from streamvla.trace import ActionReady, MemoryTrace, Sent

from .scenario import PAPER, Scenario, wandering

QUICK = profile_ms("quick", 2, 1, 4)


def first_actions(trace: MemoryTrace) -> list[ActionReady]:
    ready = [event for event in trace.events if isinstance(event, ActionReady)]
    return [event for event in ready if event.generation == 0]


@pytest.mark.parametrize("passes", [1, 4, 10])
def test_a_chunk_is_ready_after_all_its_passes_at_once(passes):
    """All H actions of a chunk become ready together, T_o + passes·g after the observation."""
    trace = MemoryTrace()
    scenario = Scenario(ActionFlow(0), chunk_passes=passes)
    run_simulated(scenario.episode(trace), ConstantLatency(PAPER))
    ready = first_actions(trace)
    assert {event.t_ns for event in ready} == {ms_to_ns(58 + passes * 18)}
    assert {event.started_ns for event in ready} == {ms_to_ns(58)}
    assert [event.index for event in ready] == list(range(10))


def test_streaming_a_chunk_policy_gains_nothing_over_synchronous():
    """With ten passes and lead 0 the streaming executor sends at the instants of synchronous."""
    instants = []
    for executor in (Synchronous(), ActionFlow(0)):
        run = Scenario(executor, chunk_passes=10).run()
        instants.append([event.t_ns for event in run.sent])
    assert instants[0] == instants[1]


def test_a_streaming_policy_sends_its_first_action_nine_steps_earlier():
    """At equal g the first action leaves H − 1 flow steps before that of a ten-pass chunk."""
    firsts = [Scenario(ActionFlow(0), chunk_passes=n).run().sent[0].t_ns for n in (0, 10)]
    assert firsts[1] - firsts[0] == 9 * PAPER.generate_ns


@pytest.mark.parametrize("executor", [Synchronous(4), ActionFlow(0)])
def test_both_drivers_send_the_same_actions(executor):
    """Real time and virtual time send the same chunk actions, in the same order."""
    scenario = Scenario(executor, profile=QUICK, script=wandering, observations=3, chunk_passes=10)
    wall, virtual = MemoryTrace(), MemoryTrace()
    run_realtime(scenario.episode(wall))
    run_simulated(scenario.episode(virtual), ConstantLatency(QUICK))
    sent = [
        [(e.generation, e.index, e.values) for e in trace.events if isinstance(e, Sent)]
        for trace in (wall, virtual)
    ]
    assert sent[0] == sent[1]


def test_an_emulated_chunk_takes_at_least_its_time():
    """In real time no action of a chunk is ready before passes·g of an emulated profile."""
    trace = MemoryTrace()
    run_realtime(Scenario(ActionFlow(0), profile=QUICK, chunk_passes=10).episode(trace))
    for event in trace.events:
        if isinstance(event, ActionReady):
            assert event.t_ns - event.started_ns >= 10 * QUICK.generate_ns


def test_a_chunk_that_ends_early_is_a_dead_stage():
    """A policy that yields fewer actions than it owes fails the run; the robot holds."""
    from streamvla.core.errors import StageFailedError

    def short(observation, start, index):
        if index == 3:
            raise StopIteration
        return wandering(observation, start, index)

    trace = MemoryTrace()
    with pytest.raises(StageFailedError, match="generate stage failed"):
        run_simulated(
            Scenario(ActionFlow(0), script=short, chunk_passes=2).episode(trace),
            ConstantLatency(PAPER),
        )


def test_measure_reports_the_time_of_one_pass():
    """`measure` shares a chunk's time out over its passes."""
    with RealtimeDriver() as driver:
        episode = Scenario(ActionFlow(0), profile=QUICK, chunk_passes=4).episode(MemoryTrace())
        times = driver.measure(episode.robot, episode.policy, repeats=2)
    assert [len(time.generate_ns) for time in times] == [4, 4]
