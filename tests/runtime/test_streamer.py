"""What the streamer promises, in virtual time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamvla.core.clock import NS_PER_S, ms_to_ns
from streamvla.core.errors import StageFailedError
from streamvla.runtime.drivers.simulated import run_simulated
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.executors.synchronous import Synchronous
from streamvla.runtime.governor.governor import Decelerate
from streamvla.runtime.streamer.machine import Streamer
from streamvla.runtime.streamer.messages import Generated, Observed, Started, Stop, Tick
from streamvla.runtime.timing.latency import ConstantLatency, EmpiricalLatency, profile_ms
from streamvla.trace import (
    ActionReady,
    Dropped,
    Ended,
    Failed,
    GenerateRequested,
    MemoryTrace,
    ObserveReady,
    ObserveRequested,
    Rejected,
    Sent,
)

from .scenario import MIXED, PAPER, Scenario, wandering


def steady(run) -> tuple[float, float]:
    """(T_action, halt per observation) in ms, by the definitions of StreamingVLA, appendix C."""
    sent = run.sent
    last = sent[-1].generation
    end = next(event for event in sent if event.generation == last)
    inside = [event for event in sent if event.generation < last]
    gaps = sum(event.t_ns - event.due_ns for event in [*inside[1:], end])
    return (end.t_ns - sent[0].t_ns) / len(inside) / 1e6, gaps / last / 1e6


@pytest.mark.parametrize(
    ("executor", "t_action", "halt"),
    [
        (Synchronous(), 50.8, 238.0),
        (Synchronous(execute_horizon=5), 74.6, 238.0),
        (ActionFlow(lead=0), 34.6, 76.0),
        (ActionFlow(lead=2), 29.2, 22.0),
        (ActionFlow(lead=3), 27.0, 0.0),
    ],
)
def test_halting_follows_the_closed_form(executor, t_action, halt):
    """Event pacing at the published profile gives exactly the published timing model's figures."""
    run = Scenario(executor, observations=20).run()
    assert steady(run) == pytest.approx((t_action, halt))


@given(
    observe=st.integers(0, 120),
    generate=st.integers(0, 60),
    execute=st.integers(1, 60),
    lead=st.integers(0, 4),
)
def test_halt_is_observe_plus_first_action_less_the_overlap(observe, generate, execute, lead):
    """With generation faster than execution, halt = max(0, T_o + g − n·e) for every profile."""
    generate = min(generate, execute)
    late_generation = observe + 10 * generate > (10 - lead) * execute
    if late_generation and lead:
        return  # the accelerator is shared: the closed form does not cover contention
    profile = profile_ms("drawn", observe, generate, execute)
    run = Scenario(ActionFlow(lead), profile=profile, observations=6).run()
    expected = max(0, observe + generate - lead * execute)
    assert steady(run)[1] == pytest.approx(expected)


@pytest.mark.parametrize("pacing", ["event", "grid"])
def test_streaming_at_zero_latency_equals_synchronous(pacing):
    """With no latency and lead 0, streaming sends exactly the synchronous action sequence."""
    instant = profile_ms("instant", 0, 0, 27)
    runs = [
        Scenario(executor, pacing=pacing, profile=instant, script=wandering).run()
        for executor in (Synchronous(), ActionFlow(0))
    ]
    assert runs[0].policy_values == runs[1].policy_values
    assert len(runs[0].policy_values) == 50


def test_a_lead_starts_the_flow_after_the_pending_actions():
    """At lead n the flow starts from the captured action state advanced by all n pending ones."""
    starts = []

    def script(observation, start, index):
        if index == 0:
            starts.append((observation.action_state, start.action_state))
        return np.array([0.25, (-1.0) ** index])

    Scenario(ActionFlow(3), script=script, observations=3).run()
    for captured, start in starts[1:]:
        assert start[0] - captured[0] == pytest.approx(3 * 0.25)  # delta: the pending sum
        assert start[1] == -1.0  # absolute: the last pending command


@pytest.mark.parametrize("lead", [0, 2, 5, 9])
def test_an_observation_starts_with_exactly_the_lead_pending(lead):
    """Every observation after the first is requested when `lead` actions are pending."""
    run = Scenario(ActionFlow(lead), observations=6).run()
    pending = [event.pending for event in run.events if isinstance(event, ObserveRequested)]
    assert pending == [0] + [lead] * 5


@pytest.mark.parametrize("executor", [Synchronous(), Synchronous(5), ActionFlow(0), ActionFlow(4)])
@pytest.mark.parametrize("pacing", ["event", "grid"])
@pytest.mark.parametrize("bad", [None, 15, 40])
def test_every_generated_action_is_sent_once_in_order_or_dropped_with_a_reason(
    executor, pacing, bad
):
    """Generated actions leave in order, none twice; every other one is Dropped or Rejected.

    So is a step that was under way when its generation was given up.
    """
    calls = iter(range(10_000))

    def script(observation, start, index):
        return np.array([np.nan if next(calls) == bad else 0.1, 1.0])

    run = Scenario(executor, pacing=pacing, script=script).run()
    made = [(e.generation, e.index) for e in run.events if isinstance(e, ActionReady)]
    sent = [(e.generation, e.index) for e in run.sent if e.source == "policy"]
    gone = [e for e in run.events if isinstance(e, Dropped | Rejected)]
    late = [e for e in gone if isinstance(e, Dropped) and e.reason == "cancelled"]
    assert sent == sorted(set(sent))
    numbers = [(e.generation, e.index) for e in gone if e not in late]
    assert sorted(sent + numbers) == made
    assert len(late) <= (bad is not None)


@pytest.mark.parametrize("profile", [PAPER, profile_ms("late", 107, 80, 50)])
@pytest.mark.parametrize("lead", [0, 1, 4])
def test_the_flow_starts_exactly_where_its_first_action_leaves(lead, profile):
    """With a moving fallback too, a flow starts at the state its first action departs from."""
    starts = []

    def script(observation, start, index):
        if index == 0:
            starts.append(start.action_state[0])
        return np.array([0.5, 1.0])

    run = Scenario(
        ActionFlow(lead),
        pacing="grid",
        profile=profile,
        script=script,
        fallback=Decelerate(),
        observations=6,
    ).run()
    state, departures = 0.0, []
    for event in run.sent:
        if event.source == "policy" and event.index == 0:
            departures.append(state)
        state += event.values[0]
    assert starts == pytest.approx(departures)
    assert lead > 1 or any(event.source == "decelerate" for event in run.sent)


@pytest.mark.parametrize("pacing", ["event", "grid"])
def test_an_unusable_last_generation_ends_the_run(pacing):
    """A NaN at the first step of the last allowed observation ends in Ended, not in a hang."""

    def script(observation, start, index):
        last = len(seen) == 3
        if index == 0:
            seen.append(observation)
        return np.array([np.nan if last else 0.1, 1.0])

    seen: list = []
    run = Scenario(ActionFlow(0), pacing=pacing, script=script, observations=4).run()
    assert run.result.reason == "observations"


@pytest.mark.parametrize("stage", ["capture", "generate"])
@pytest.mark.parametrize("pacing", ["event", "grid"])
def test_what_raises_at_once_is_a_stage_failure_too(stage, pacing):
    """A capture or a `generate` that raises when called ends in Failed, a hold and Ended."""

    def broken(*arguments):
        raise OSError("camera unplugged")

    trace = MemoryTrace()
    episode = Scenario(ActionFlow(0), pacing=pacing).episode(trace)
    setattr(episode.robot if stage == "capture" else episode.policy, stage, broken)
    with pytest.raises(StageFailedError, match="camera unplugged"):
        run_simulated(episode, ConstantLatency(PAPER))
    kinds = [type(event) for event in trace.events]
    assert kinds.index(Failed) < kinds.index(Sent, kinds.index(Failed)) < kinds.index(Ended)


def test_every_sent_action_names_its_observation_and_age():
    """A sent action carries the capture instant of the observation its generation came from."""
    run = Scenario(ActionFlow(2)).run()
    captured = {e.observation: e.t_ns for e in run.events if isinstance(e, ObserveRequested)}
    behind = {e.generation: e.observation for e in run.events if isinstance(e, GenerateRequested)}
    for event in run.sent:
        assert event.observation == behind[event.generation]
        assert event.captured_ns == captured[event.observation] < event.t_ns


stage_times = st.lists(st.integers(0, 200_000_000), min_size=1, max_size=12)


@settings(deadline=None, max_examples=150)
@given(
    observe=stage_times,
    generate=stage_times,
    executor=st.sampled_from(
        [Synchronous(), Synchronous(3), *(ActionFlow(lead) for lead in range(8))]
    ),
    fallback=st.sampled_from([None, Decelerate()]),
    serial=st.booleans(),
    bad=st.sets(st.integers(0, 40), max_size=2),
)
def test_exactly_one_command_leaves_on_every_tick(
    observe, generate, executor, fallback, serial, bad
):
    """Whatever the stages take and the policy gives, each tick sends one finite legal command."""
    calls = iter(range(10_000))

    def script(observation, start, index):
        return np.array([np.nan if next(calls) in bad else 0.9, 3.0])

    latency = EmpiricalLatency(observe, generate, [27_000_000])
    run = Scenario(
        executor,
        pacing="grid",
        observations=None,
        duration_ns=80 * 27_000_000,
        script=script,
        fallback=fallback,
        latency=latency,
        serial=serial,
    ).run()
    assert [event.tick for event in run.sent] == list(range(80))
    assert [event.t_ns for event in run.sent] == [tick * 27_000_000 for tick in range(80)]
    for event in run.sent:
        assert np.isfinite(event.values).all()
        assert np.abs(event.values).max() <= 1.0
    state = np.zeros(2)
    for _, values in run.robot.commands:
        state = MIXED.advance(state, values)
    assert run.streamer.action_state == pytest.approx(state)
    assert run.streamer.action_state[0] == pytest.approx(sum(e.values[0] for e in run.sent))


def test_hold_keeps_absolute_dimensions_and_zeroes_deltas():
    """A starved tick repeats the last gripper command and adds no displacement."""
    run = Scenario(
        ActionFlow(0), pacing="grid", script=lambda *_: np.array([0.5, 1.0]), observations=2
    ).run()
    starved = [e for e in run.sent if e.source == "hold" and e.t_ns > run.sent[9].t_ns]
    assert starved
    assert all(event.values == (0.0, 1.0) for event in starved)


def test_decelerate_fades_the_last_delta_then_holds():
    """The decelerating fallback halves the delta each starved tick and ends in a hold."""
    run = Scenario(
        Synchronous(),
        pacing="grid",
        script=lambda *_: np.array([0.8, 1.0]),
        fallback=Decelerate(factor=0.5, floor=0.05),
        observations=2,
    ).run()
    first = next(i for i, e in enumerate(run.sent) if e.source == "policy")
    after = run.sent[first + 10 : first + 16]
    assert [event.values[0] for event in after] == pytest.approx([0.4, 0.2, 0.1, 0.0, 0.0, 0.0])
    assert [event.source for event in after] == ["decelerate"] * 3 + ["hold"] * 3


@pytest.mark.parametrize("pacing", ["event", "grid"])
def test_nan_never_reaches_the_robot_and_the_run_goes_on(pacing):
    """A NaN action is rejected with its cause, its generation ends, and a fresh look follows."""
    calls = iter(range(10_000))

    def script(observation, start, index):
        return np.array([np.nan if next(calls) == 14 else 0.1, 1.0])

    run = Scenario(ActionFlow(2), pacing=pacing, script=script, observations=6).run()
    rejected = [event for event in run.events if isinstance(event, Rejected)]
    assert len(rejected) == 1
    assert "not finite" in rejected[0].cause
    assert all(np.isfinite(values).all() for _, values in run.robot.commands)
    assert max(event.generation for event in run.sent) > rejected[0].generation


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        (np.array([0.0]), "shape (1,), expected (2,)"),
        (np.array([np.inf, 0.0]), "not finite"),
        (np.array(["a", "b"]), "not a numeric array"),
        (["a", "b"], "not a numeric array: list"),
    ],
)
@pytest.mark.parametrize("pacing", ["event", "grid"])
def test_a_policy_that_only_gives_unusable_actions_is_stopped(values, cause, pacing):
    """Three unusable generations in a row end the run in a hold and an error with the cause."""
    trace = MemoryTrace()
    scenario = Scenario(
        ActionFlow(0),
        pacing=pacing,
        script=lambda *_: values,
        observations=None,
        duration_ns=10**10,
    )
    with pytest.raises(StageFailedError, match="generate stage failed") as error:
        run_simulated(scenario.episode(trace), ConstantLatency(PAPER))
    assert cause in str(error.value)
    assert isinstance(trace.events[-1], Ended)
    assert trace.events[-1].reason == "failed"
    last = [event for event in trace.events if isinstance(event, Sent)][-1]
    assert last.source == "hold"


@pytest.mark.parametrize(("lasts_ms", "survives"), [(900, True), (1300, False)])
def test_a_burst_of_unusable_generations_passes_if_it_is_short(lasts_ms, survives):
    """Three and more in a row, within a second: the robot goes on; over a second: it is stopped."""
    trace = MemoryTrace()

    def script(observation, start, index):
        bad = ms_to_ns(500) <= observation.captured_ns <= ms_to_ns(500 + lasts_ms)
        return np.array([np.nan if bad else 0.1, 0.0])

    scenario = Scenario(ActionFlow(0), pacing="grid", script=script, observations=None)
    scenario = replace(scenario, duration_ns=3 * NS_PER_S)
    if survives:
        run_simulated(scenario.episode(trace), ConstantLatency(PAPER))
    else:
        with pytest.raises(StageFailedError, match="in a row unusable, last: not finite"):
            run_simulated(scenario.episode(trace), ConstantLatency(PAPER))
    rejected = [event.t_ns for event in trace.events if isinstance(event, Rejected)]
    assert len(rejected) >= 3
    sent = [e.t_ns for e in trace.events if isinstance(e, Sent) and e.source == "policy"]
    assert (max(sent) > max(rejected)) == survives


@pytest.mark.parametrize("pacing", ["event", "grid"])
def test_a_dead_stage_stops_the_robot_before_the_owner_hears_of_it(pacing):
    """The hold command leaves before StageFailedError is raised, and Failed is in the trace."""

    def script(observation, start, index):
        if observation.captured_ns > 0:
            raise RuntimeError("device lost")
        return np.array([0.5, 1.0])

    trace = MemoryTrace()
    episode = Scenario(ActionFlow(2), pacing=pacing, script=script).episode(trace)
    with pytest.raises(StageFailedError, match="RuntimeError: device lost"):
        run_simulated(episode, ConstantLatency(PAPER))
    failed = next(i for i, e in enumerate(trace.events) if isinstance(e, Failed))
    after = [event for event in trace.events[failed:] if isinstance(event, Sent)]
    assert [event.source for event in after] == ["hold"]
    assert after[0].values == (0.0, 1.0)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([Observed(1, 0), Generated(2, 1, 0, 1, np.zeros(2))], "flow step 1 arrived, 0 was next"),
        ([Observed(1, 7)], "observation 7 arrived, which nobody waits for"),
        ([Observed(1, 0), Observed(2, 0)], "observation 0 arrived, which nobody waits for"),
        ([Observed(1, 0, np.array([np.nan, 0.0]))], "a goal that is no position"),
        ([Observed(1, 0, np.zeros(5))], "a goal that is no position"),
    ],
)
def test_what_a_model_must_not_say_is_a_failed_stage(events, message):
    """Out of order, unknown, no position: the robot is stopped, the owner told why."""
    trace = MemoryTrace()
    streamer = Streamer(MIXED, 10, ActionFlow(0), "grid", trace)
    streamer.handle(Started(0))
    for event in events:
        streamer.handle(event)
    assert message in next(e.message for e in trace.events if isinstance(e, Failed))
    *_, stop = streamer.handle(Tick(10, 10, 0))
    assert isinstance(stop, Stop)


def test_a_cancelled_generation_is_ignored():
    """A step of a generation that is over changes nothing but leaves a Dropped event."""
    trace = MemoryTrace()
    streamer = Streamer(MIXED, 10, ActionFlow(0), "grid", trace)
    assert streamer.handle(Generated(5, 1, 7, 0, np.ones(2))) == []
    assert trace.events == [Dropped(5, 7, 0, "cancelled")]


def test_a_shared_accelerator_delays_the_observation_an_own_one_does_not():
    """Serial: the encode waits for the running step and shares turns; concurrent: it does not."""
    profile = profile_ms("slow model", 60, 40, 20)
    ready = {}
    for serial in (True, False):
        run = Scenario(ActionFlow(6), profile=profile, observations=3, serial=serial).run()
        requested = [e.t_ns for e in run.events if isinstance(e, ObserveRequested)]
        done = [e.t_ns for e in run.events if isinstance(e, ObserveReady)]
        ready[serial] = done[1] - requested[1]
    assert ready[False] == 60_000_000 < ready[True]
