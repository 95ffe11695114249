"""Faults: how they are written, and what each does to a run in virtual and in real time."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamvla.core.clock import VirtualClock, ms_to_ns
from streamvla.core.errors import ConfigError, StageFailedError
from streamvla.core.interfaces import Frames
from streamvla.core.limits import MotionLimits
from streamvla.runtime.drivers.injection import JumpingClock
from streamvla.runtime.drivers.simulated import run_simulated
from streamvla.runtime.drivers.threads import RealtimeDriver
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.faults.plan import KINDS, PROCESS_KINDS, Fault, FaultPlan, parse_faults
from streamvla.runtime.governor.ladder import Ladder
from streamvla.runtime.timing.latency import ConstantLatency, profile_ms
from streamvla.trace import (
    Dropped,
    FaultInjected,
    HealthChanged,
    Intervened,
    MemoryTrace,
    ObserveReady,
    ObserveRequested,
    Rejected,
    Sent,
    Stopping,
    TraceEvent,
)

from .motion import violations
from .scenario import MIXED, PAPER, Scenario

LIMITS = MotionLimits((-math.inf, -1.0), (math.inf, 1.0), (1.0, 2.0), (0.3, 4.0), (0.15, 8.0))
LADDER = Ladder(LIMITS)
HALF = np.array([0.5, 1.0])


def run(text: str, seconds: float = 6.0, executor=None, script=None) -> MemoryTrace:
    """A run at the paper's profile on the grid, with a ladder and these faults."""
    trace = MemoryTrace()
    scenario = Scenario(
        executor or ActionFlow(3),
        pacing="grid",
        observations=None,
        duration_ns=ms_to_ns(1000 * seconds),
        script=script or (lambda *_: HALF),
        fallback=LADDER,
    )
    run_simulated(scenario.episode(trace), ConstantLatency(PAPER), faults=parse_faults([text]))
    return trace


def sent(trace: MemoryTrace) -> list[Sent]:
    return [event for event in trace.events if isinstance(event, Sent)]


def episode(trace: MemoryTrace) -> list[TraceEvent]:
    """The events until the episode is over."""
    over = next(i for i, event in enumerate(trace.events) if isinstance(event, Stopping))
    return trace.events[:over]


# --- text --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("model-stall:800ms@3s", Fault("model-stall", 3_000_000_000, 800_000_000)),
        ("model-crash@0.5s", Fault("model-crash", 500_000_000)),
        ("nan@2s+200ms", Fault("nan", 2_000_000_000, 0, 200_000_000)),
        ("clock-jump:-200ms@1s", Fault("clock-jump", 10**9, -200_000_000, 100_000_000)),
        ("slow-consumer:5ms@1s", Fault("slow-consumer", 10**9, 5_000_000, 10**9)),
        ("sigstop:300us@7ms", Fault("sigstop", 7_000_000, 300_000)),
    ],
)
def test_a_fault_is_read_as_it_is_written(text, fault):
    """KIND:AMOUNT@START+LENGTH becomes the fault with these instants."""
    assert parse_faults([text]).faults == (fault,)


def test_several_faults_are_separated_by_commas_or_spaces():
    """A list in one text, or several texts, give the same plan."""
    together = parse_faults(["nan@1s, inf@2s sigkill@3s"])
    assert together == parse_faults(["nan@1s", "inf@2s", "sigkill@3s"])
    assert [fault.kind for fault in together.of_process] == ["sigkill"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model-stal:1s@1s", "did you mean 'model-stall'"),
        ("model-stall@3s", "say how long"),
        ("clock-jump@3s", "say by how much"),
        ("slow-consumer@3s", "say how late"),
        ("nan:3s@3s", "it takes none"),
        ("model-stall:800@3s", "expected KIND"),
        ("model-stall:800ms", "expected KIND"),
        ("nan@-1s", "must be ≥ 0"),
    ],
)
def test_a_malformed_fault_is_refused_with_the_remedy(text, message):
    """What cannot be meant raises ConfigError and shows how it is written."""
    with pytest.raises(ConfigError, match=message):
        parse_faults([text])


@pytest.mark.parametrize("kind", sorted(PROCESS_KINDS))
def test_a_fault_of_a_process_needs_one(kind):
    """The simulated and the threaded driver refuse what only a model process can suffer."""
    plan = FaultPlan((Fault(kind, 0, 0 if KINDS[kind].amount == "none" else 1),))
    episode = Scenario(ActionFlow(0)).episode(MemoryTrace())
    with pytest.raises(ConfigError, match="hit a model process"):
        run_simulated(episode, ConstantLatency(PAPER), faults=plan)


# --- effects, in virtual time ------------------------------------------------------------------


def test_stalled_work_takes_longer_by_the_part_of_the_stall_it_meets():
    """Work from 0 to 5 that stands still from 3 to 9 takes 6 longer; after it, nothing."""
    plan = FaultPlan((Fault("model-stall", 3, 6),))
    assert plan.stalled_ns(0, 5, "model-stall") == 6
    assert plan.stalled_ns(4, 5, "model-stall") == 5
    assert plan.stalled_ns(9, 5, "model-stall") == 0
    assert plan.stalled_ns(0, 3, "model-stall") == 0


def test_the_golden_timeline_of_a_stall_the_robot_slows_holds_and_resumes():
    """model-stall:800ms@3s: what leaves on every tick from 3 s until the stream is back."""
    trace = run("model-stall:800ms@3s")
    period_ns = PAPER.execute_ns
    first = 3_000_000_000 // period_ns
    seen = [
        (event.tick - first, event.source, round(event.values[0], 2))
        for event in sent(trace)
        if 0 <= event.tick - first <= 40
    ]
    assert seen == GOLDEN_STALL
    changes = [(e.before, e.after) for e in episode(trace) if isinstance(e, HealthChanged)]
    assert changes[-3:] == [
        ("streaming", "degraded"),
        ("degraded", "stalled"),
        ("stalled", "streaming"),
    ]
    assert violations(MIXED, LIMITS, [np.array(e.values) for e in sent(trace)]) == []


GOLDEN_STALL = [
    (0, "policy", 0.5),
    (1, "policy", 0.5),  # the last action made before the stall
    (2, "extrapolate", 0.5),
    (3, "decelerate", 0.35),
    (4, "decelerate", 0.1),
    (5, "decelerate", 0.0),
    *((tick, "hold", 0.0) for tick in range(6, 22)),
    *((tick, "fallback", 0.0) for tick in range(22, 32)),
    (32, "policy", 0.15),  # the stall ended on tick 29.7; the robot speeds up within its limits
    (33, "policy", 0.4),
    *((tick, "policy", 0.5) for tick in range(34, 41)),
]


def test_a_crash_ends_in_a_smooth_stop_and_an_error():
    """model-crash: the owner hears of it after the robot came to rest within its limits."""
    trace = MemoryTrace()
    scenario = Scenario(
        ActionFlow(3), pacing="grid", observations=None, script=lambda *_: HALF, fallback=LADDER
    )
    with pytest.raises(StageFailedError, match="injected crash, planned for 2 s"):
        run_simulated(
            scenario.episode(trace), ConstantLatency(PAPER), faults=parse_faults(["model-crash@2s"])
        )
    assert sent(trace)[-1].source == "stop"
    assert sent(trace)[-1].values[0] == pytest.approx(0)
    assert violations(MIXED, LIMITS, [np.array(e.values) for e in sent(trace)]) == []


@pytest.mark.parametrize(
    ("kind", "cause"), [("nan", "not finite"), ("inf", "not finite"), ("wrong-shape", "shape")]
)
def test_an_unusable_action_is_rejected_when_it_is_made(kind, cause):
    """nan, inf, wrong-shape: one rejection with its cause, and the stream goes on."""
    trace = run(f"{kind}@2s")
    rejected = [event for event in trace.events if isinstance(event, Rejected)]
    assert [cause in event.cause for event in rejected] == [True]
    assert [e for e in episode(trace) if isinstance(e, Sent)][-1].source == "policy"


def test_an_action_out_of_range_is_rejected_when_it_is_due():
    """out-of-range: it is refused as a discontinuity and never clamped into the robot."""
    trace = run("out-of-range@2s")
    refused = [e for e in trace.events if isinstance(e, Dropped) and e.reason == "refused"]
    causes = [e.cause for e in trace.events if isinstance(e, Intervened) and e.rung == "reject"]
    assert len(refused) == len(causes) == 1
    assert "discontinuity" in causes[0]
    assert max(event.values[0] for event in sent(trace)) == pytest.approx(0.5)


def test_dropped_frames_make_the_observation_wait():
    """frame-drop: the observation that needs the frame is ready only after the drop."""
    trace = run("frame-drop:500ms@2s")
    requested = {e.observation: e.t_ns for e in trace.events if isinstance(e, ObserveRequested)}
    took = [e.t_ns - requested[e.observation] for e in trace.events if isinstance(e, ObserveReady)]
    assert max(took) > ms_to_ns(300)
    assert sorted(took)[-2] < ms_to_ns(200)


def test_a_frozen_camera_shows_the_same_picture_while_the_joints_go_on():
    """frozen-camera: observations in its time carry the picture from before, and the state of
    their own instant."""
    shown, measured = [], []

    class Counting:
        """A robot wrapper that numbers its captures."""

        def __init__(self, robot):
            self._robot, self._count = robot, 0
            self.spec = replace(robot.spec, state_names=("count",))

        def __getattr__(self, name):
            return getattr(self._robot, name)

        def capture(self):
            self._count += 1
            return {"count": np.array([self._count])}

        def observe(self, capture):
            image = np.full((1, 1, 3), capture["count"], np.uint8)
            return Frames({"camera": image}, capture["count"].astype(np.float32))

    def script(observation, start, index):
        if index == 0:
            shown.append(int(observation.images["camera"][0, 0, 0]))
            measured.append(int(observation.state[0]))
        return np.zeros(2)

    scenario = Scenario(
        ActionFlow(3), pacing="grid", observations=None, duration_ns=ms_to_ns(4000), script=script
    )
    episode = scenario.episode(MemoryTrace())
    episode = replace(episode, robot=Counting(episode.robot))
    faults = parse_faults(["frozen-camera:1s@1s"])
    run_simulated(episode, ConstantLatency(PAPER), faults=faults)
    assert measured == sorted(set(measured))
    assert len(shown) - len(set(shown)) >= 3
    assert shown[-1] == measured[-1]


def test_a_slow_consumer_delays_commands_and_skips_none():
    """slow-consumer of 5 ms: commands leave 5 ms late for a while, one for every tick."""
    trace = run("slow-consumer:5ms@2s+1s")
    late = {event.t_ns - event.due_ns for event in sent(trace)}
    assert late == {0, 5_000_000}
    ticks = [event.tick for event in sent(trace)]
    assert ticks == list(range(len(ticks)))


def test_a_consumer_slower_than_the_period_skips_ticks_and_never_bursts():
    """slow-consumer of 60 ms at 27 ms: fewer commands, never two at one instant."""
    trace = run("slow-consumer:60ms@2s+1s")
    ticks = [event.tick for event in sent(trace)]
    instants = [event.t_ns for event in sent(trace)]
    assert ticks == sorted(set(ticks))
    assert instants == sorted(set(instants))
    assert len(ticks) < ticks[-1] + 1


@pytest.mark.parametrize("jump", ["200ms", "-200ms"])
def test_no_clock_jump_makes_time_go_back_or_costs_a_tick(jump):
    """clock-jump: instants in the trace never decrease, and every tick is served once."""
    trace = run(f"clock-jump:{jump}@2s")
    instants = [event.t_ns for event in trace.events]
    assert instants == sorted(instants)
    assert [event.tick for event in sent(trace)] == list(range(len(sent(trace))))


@given(steps=st.lists(st.integers(0, 50), max_size=30), jump=st.integers(-200, 200))
def test_a_jumping_clock_never_goes_back(steps, jump):
    """Whatever the jump, readings of the guarded clock do not decrease."""
    truth = VirtualClock()
    plan = FaultPlan((Fault("clock-jump", 100, jump or 1, 150),))
    clock = JumpingClock(truth, plan, 0)
    readings = []
    for step in steps:
        truth.advance_to(truth.now_ns() + step)
        readings.append(clock.now_ns())
    assert readings == sorted(readings)


def test_faults_are_in_the_trace():
    """Every fault appears once, at the first control instant on which it is on."""
    trace = run("nan@1s, model-stall:300ms@2s")
    injected = [event for event in trace.events if isinstance(event, FaultInjected)]
    assert [event.kind for event in injected] == ["nan", "model-stall"]
    assert injected[0].until_ns == -1
    assert injected[1].until_ns == 2_300_000_000
    for event, start_ns in zip(injected, (10**9, 2 * 10**9), strict=True):
        assert 0 <= event.t_ns - start_ns < PAPER.execute_ns


TOGETHER = sorted(
    set(KINDS)
    - PROCESS_KINDS
    - {"model-crash", "tensor", "disk-full", "trace-removed", "loop-pause", "slow-robot"}
)
"""Those that need neither PyTorch nor a trace file, and leave no tick out."""


@settings(deadline=None, max_examples=60)
@given(
    faults=st.lists(
        st.builds(
            lambda kind, start, amount, length: Fault(
                kind, start, 0 if KINDS[kind].amount == "none" else amount, length
            ),
            kind=st.sampled_from(TOGETHER),
            start=st.integers(0, 2_000_000_000),
            amount=st.integers(1, 1_500_000_000),
            length=st.integers(0, 500_000_000),
        ),
        max_size=5,
    ),
    lead=st.integers(0, 6),
)
def test_any_faults_together_leave_one_legal_command_a_tick(faults, lead):
    """For any faults at once: at most one command a tick, in order, all within the limits."""
    trace = MemoryTrace()
    scenario = Scenario(
        ActionFlow(lead),
        pacing="grid",
        observations=None,
        duration_ns=ms_to_ns(3000),
        script=lambda *_: HALF,
        fallback=LADDER,
    )
    try:
        run_simulated(
            scenario.episode(trace), ConstantLatency(PAPER), faults=FaultPlan(tuple(faults))
        )
    except StageFailedError:
        assert sent(trace)[-1].source == "stop"
    ticks = [event.tick for event in sent(trace)]
    assert ticks == sorted(set(ticks))
    if not any(fault.kind == "slow-consumer" for fault in faults):
        assert ticks == list(range(len(ticks)))
    assert violations(MIXED, LIMITS, [np.array(e.values) for e in sent(trace)]) == []


# --- effects, in real time ---------------------------------------------------------------------


def test_a_stall_in_real_time_is_governed_and_ends():
    """The same stall on the system clock: the stream falls silent, the robot stops, it resumes."""
    quick = profile_ms("quick", 2, 1, 4)
    trace = MemoryTrace()
    scenario = Scenario(
        ActionFlow(2),
        pacing="grid",
        profile=quick,
        observations=None,
        duration_ns=ms_to_ns(500),
        script=lambda *_: HALF,
        fallback=LADDER,
    )
    with RealtimeDriver() as driver:
        driver.run(scenario.episode(trace), faults=parse_faults(["model-stall:200ms@100ms"]))
    sources = [event.source for event in sent(trace)]
    assert {"policy", "decelerate", "hold"} <= set(sources)
    assert sources.index("decelerate") < len(sources) - sources[::-1].index("policy")
    assert violations(MIXED, LIMITS, [np.array(e.values) for e in sent(trace)]) == []
