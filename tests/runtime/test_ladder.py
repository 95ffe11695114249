"""The governor's ladder: each rung, the order of the rungs, and the limits on every tick."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamvla.core.errors import ConfigError, StageFailedError
from streamvla.core.limits import MotionLimits
from streamvla.runtime.drivers.simulated import run_simulated
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.executors.synchronous import Synchronous
from streamvla.runtime.governor.fallbacks import Compliance, HoldPosition, TowardGoal
from streamvla.runtime.governor.governor import Ruling
from streamvla.runtime.governor.ladder import Ladder, LadderGovernor
from streamvla.runtime.streamer.machine import Streamer
from streamvla.runtime.streamer.messages import (
    Generated,
    Observed,
    Rearm,
    Send,
    Started,
    StartGenerate,
    StartObserve,
    Tick,
)
from streamvla.runtime.timing.latency import ConstantLatency, EmpiricalLatency
from streamvla.trace import Failed, Intervened, MemoryTrace, Rearmed, Sent

from .motion import violations
from .scenario import MIXED, PAPER, Scenario

LIMITS = MotionLimits((-math.inf, -1.0), (math.inf, 1.0), (1.0, 2.0), (0.3, 4.0), (0.15, 8.0))
LADDER = Ladder(LIMITS, extrapolate_ticks=1, fallback_after=12, stop_after=30)
SMOOTH = np.array([0.1, 0.0])


class Drive:
    """Rules a sequence of actions and keeps the action state, as the streamer does."""

    def __init__(self, ladder: Ladder) -> None:
        self.governor = LadderGovernor(MIXED, ladder)
        self.state = MIXED.initial_state()
        self.rulings: list[Ruling] = []

    def __call__(self, action: np.ndarray | None, times: int = 1) -> Ruling:
        for _ in range(times):
            ruling = self.governor.rule(action, self.state)
            self.state = MIXED.advance(self.state, ruling.values)
            self.rulings.append(ruling)
        return self.rulings[-1]

    @property
    def rungs(self) -> list[str]:
        return [ruling.source for ruling in self.rulings]


def moving(ladder: Ladder = LADDER) -> Drive:
    """A robot at 0.8 a tick."""
    drive = Drive(ladder)
    drive(np.array([0.8, 0.0]), 10)
    assert drive.rulings[-1].values[0] == pytest.approx(0.8)
    return drive


def test_pass_a_legal_action_goes_out_as_it_is():
    """An action within the limits is sent unchanged and without an intervention."""
    ruling = Drive(LADDER)(SMOOTH)
    assert ruling.source == "policy"
    assert ruling.values.tolist() == SMOOTH.tolist()
    assert ruling.interventions == ()


def test_clamp_brings_an_action_within_the_limits_and_says_which():
    """A jump from rest to 0.9 leaves as the largest legal first step, with its cause."""
    ruling = Drive(LADDER)(np.array([0.9, 0.0]))
    assert ruling.values[0] == pytest.approx(0.15)  # the jerk limit from rest
    assert [tuple(i) for i in ruling.interventions] == [("clamp", "acceleration of dx")]


def test_reject_keeps_an_action_back_that_cannot_be_meant():
    """An action beyond four times the velocity limit is not sent, not even clamped."""
    drive = moving()
    ruling = drive(np.array([50.0, 0.0]))
    assert ruling.source == "extrapolate"
    assert [i.rung for i in ruling.interventions] == ["reject", "extrapolate"]
    assert "dx asks for 50" in ruling.interventions[0].cause


def test_extrapolate_is_bounded_and_then_the_robot_stops_smoothly():
    """One tick at the velocity it had, then the jerk-limited stop, then rest."""
    drive = moving()
    drive(None, 11)
    assert drive.rungs[10:] == ["extrapolate"] + ["decelerate"] * 4 + ["hold"] * 6
    velocities = [ruling.values[0] for ruling in drive.rulings[10:]]
    assert velocities == pytest.approx([0.8, 0.65, 0.36, 0.15, 0, 0, 0, 0, 0, 0, 0], abs=0.05)
    assert velocities == sorted(velocities, reverse=True)


def test_extrapolation_can_be_switched_off():
    """With extrapolate_ticks = 0 the first tick without an action already decelerates."""
    drive = moving(replace(LADDER, extrapolate_ticks=0))
    assert drive(None).source == "decelerate"


def test_hold_before_the_first_action_is_no_intervention():
    """A robot that waits for its first action is held, and neither falls back nor latches."""
    drive = Drive(LADDER)
    drive(None, 100)
    assert set(drive.rungs) == {"hold"}
    assert not any(ruling.interventions for ruling in drive.rulings)


def test_compliance_returns_to_the_pose_of_the_last_action():
    """The spring takes back the stopping distance, slower than its `fastest`, and no more."""
    drive = moving(replace(LADDER, controller=Compliance(0.3, fastest=0.05), stop_after=None))
    anchor = drive.state[0]
    drive(None, 12)
    assert drive.state[0] > anchor + 1
    drive(None, 150)
    assert drive.rungs[-1] == "fallback"
    assert drive.state[0] == pytest.approx(anchor, abs=1e-3)
    assert all(ruling.values[0] >= -0.05 - 1e-9 for ruling in drive.rulings)


def test_a_classical_controller_goes_to_the_goal_of_the_last_context():
    """With a goal from the context, the fallback rung ends at it; without one it holds."""
    ladder = replace(LADDER, controller=TowardGoal(), stop_after=None)
    drive = moving(ladder)
    drive.governor.aim(np.array([2.0, 0.5]))
    drive(None, 120)
    assert drive.state == pytest.approx([2.0, 0.5], abs=1e-3)
    without = moving(ladder)
    without(None, 20)
    resting = without.state.copy()
    without(None, 50)
    assert without.state.tolist() == resting.tolist()


def test_a_controller_of_the_users_own_is_asked_and_limited():
    """Any object with `velocity` drives the fallback rung, within the robot's limits."""

    class Racing:
        def velocity(self, situation):
            return np.array([100.0, 0.0])

    drive = moving(replace(LADDER, controller=Racing()))
    drive(None, 25)
    assert drive.rungs[-1] == "fallback"
    assert drive.rulings[-1].values[0] == pytest.approx(1.0)
    assert violations(MIXED, LIMITS, [r.values for r in drive.rulings]) == []


def test_a_controller_that_breaks_latches_the_safe_stop():
    """A fallback controller that gives NaN moves nothing and latches the stop, with its cause."""

    class Broken:
        def velocity(self, situation):
            return np.array([math.nan, 0.0])

    drive = moving(replace(LADDER, controller=Broken()))
    drive(None, 20)
    assert drive.rungs[-1] == "stop"
    assert drive.governor.latched
    assert "fallback controller gave" in drive.rulings[-1].interventions[0].cause
    assert violations(MIXED, LIMITS, [r.values for r in drive.rulings]) == []


def test_the_safe_stop_is_latched_until_it_is_rearmed():
    """After stop_after ticks no action moves the robot any more, until `rearm`."""
    drive = moving()
    drive(None, 31)
    assert drive.governor.latched
    assert drive(SMOOTH).source == "stop"
    assert drive.rulings[-1].interventions[0].cause == "no action for 30 control periods"
    drive.governor.rearm()
    assert drive(SMOOTH).source == "policy"


def test_told_to_stop_at_full_speed_it_comes_to_rest_within_the_limits():
    """`stop` mid-motion latches at once and decelerates; nothing is cut off."""
    drive = moving()
    drive.governor.stop("emergency button")
    drive(SMOOTH, 10)
    assert set(drive.rungs[10:]) == {"stop"}
    assert drive.governor.at_rest
    assert violations(MIXED, LIMITS, [r.values for r in drive.rulings]) == []


def test_rearmed_in_motion_it_goes_on_slowing_down():
    """A stop that is re-armed before the robot rests does not let it run on."""
    drive = moving()
    drive(None, 3)
    drive.governor.stop("emergency button")
    drive.governor.rearm()
    drive(None, 4)
    assert drive.rungs[10:] == ["extrapolate"] + ["decelerate"] * 4 + ["hold"] * 2


MAY_FOLLOW = {
    "policy": {"policy", "extrapolate", "decelerate", "hold"},
    "extrapolate": {"policy", "extrapolate", "decelerate", "hold"},
    "decelerate": {"policy", "decelerate", "hold", "fallback"},
    "hold": {"policy", "hold", "fallback"},
    "fallback": {"policy", "fallback"},
    "stop": {"stop"},
}
action = st.one_of(
    st.none(), st.tuples(st.floats(-1.5, 1.5), st.floats(-1.5, 1.5)), st.just((1e9, 0.0))
)
controllers = st.sampled_from([HoldPosition(), Compliance(), TowardGoal()])


@settings(deadline=None, max_examples=200)
@given(
    runs=st.lists(st.tuples(action, st.integers(1, 40)), min_size=1, max_size=8),
    controller=controllers,
    stop_at=st.integers(0, 300),
    rearm_at=st.integers(0, 300),
)
def test_the_ladder_keeps_its_order_and_the_limits_whatever_comes(
    runs, controller, stop_at, rearm_at
):
    """For any actions, stops and rearms: legal transitions only, and all bounds on every tick."""
    drive = Drive(replace(LADDER, controller=controller))
    drive.governor.aim(np.array([5.0, 0.0]))
    previous = "hold"
    for value, times in runs:
        for _ in range(times):
            tick = len(drive.rulings)
            if tick == rearm_at and drive.governor.latched:
                drive.governor.rearm()
                previous = "hold" if drive.governor.at_rest else "policy"
            if tick == stop_at:
                drive.governor.stop("test")
            ruling = drive(None if value is None else np.array(value))
            allowed = MAY_FOLLOW[previous] | {"stop"}
            assert ruling.source in allowed, (previous, ruling.source)
            if ruling.source == "policy":
                assert value is not None
            previous = ruling.source
    assert violations(MIXED, LIMITS, [r.values for r in drive.rulings]) == []


# --- in the streamer ---------------------------------------------------------------------------


def test_a_stage_that_dies_mid_motion_ends_in_a_smooth_stop_before_the_owner_hears_of_it():
    """With a ladder the failure is raised only after the robot came to rest within its limits."""

    def script(observation, start, index):
        if observation.captured_ns > 0:
            raise RuntimeError("device lost")
        return np.array([0.8, 1.0])

    trace = MemoryTrace()
    episode = Scenario(ActionFlow(2), pacing="grid", script=script, fallback=LADDER).episode(trace)
    with pytest.raises(StageFailedError, match="device lost"):
        run_simulated(episode, ConstantLatency(PAPER))
    failed = next(i for i, e in enumerate(trace.events) if isinstance(e, Failed))
    after = [event for event in trace.events[failed:] if isinstance(event, Sent)]
    assert {event.source for event in after} == {"stop"}
    assert after[0].values[0] > 0.1
    assert after[-1].values[0] == pytest.approx(0.0)
    sent = [np.array(event.values) for event in trace.events if isinstance(event, Sent)]
    assert violations(MIXED, LIMITS, sent) == []


def test_frames_from_before_a_stop_make_no_plan_after_it():
    """After `Rearm` a context that is used again is dropped, and the robot looks once more."""
    ladder = replace(LADDER, fallback_after=3, stop_after=5, extrapolate_ticks=0)
    streamer = Streamer(MIXED, 2, ActionFlow(0), "grid", MemoryTrace(), fallback=ladder)
    streamer.handle(Started(0))
    streamer.handle(Observed(1, 0))
    streamer.handle(Generated(2, 1, 0, 0, SMOOTH))
    for tick in range(8):
        streamer.handle(Tick(10 + tick, 10 + tick, tick))
    streamer.handle(Generated(30, 29, 0, 1, SMOOTH))
    assert streamer.handle(Rearm(40))[0].observation == 1  # pyright: ignore
    again = streamer.handle(Observed(41, 1, frames_old_ns=39))  # of the capture at 1
    assert [type(command) for command in again] == [StartObserve]
    fresh = streamer.handle(Observed(43, 2))
    assert any(isinstance(command, StartGenerate) for command in fresh)


def test_rearming_starts_from_a_fresh_look():
    """After `Rearm` nothing planned before is sent: the next action is from a new observation."""
    trace = MemoryTrace()
    ladder = replace(LADDER, fallback_after=3, stop_after=5, extrapolate_ticks=0)
    streamer = Streamer(MIXED, 2, ActionFlow(0), "grid", trace, fallback=ladder)
    streamer.handle(Started(0))
    streamer.handle(Observed(1, 0))
    streamer.handle(Generated(2, 1, 0, 0, SMOOTH))
    for tick in range(8):
        streamer.handle(Tick(10 + tick, 10 + tick, tick))
    assert streamer.latched
    streamer.handle(Generated(30, 29, 0, 1, SMOOTH))  # the late second action
    assert streamer.handle(Rearm(40))[0].observation == 1  # pyright: ignore
    commands = streamer.handle(Tick(41, 41, 8))
    assert isinstance(commands[0], Send)
    assert [e.source for e in trace.events if isinstance(e, Sent)][-2:] == ["stop", "hold"]
    assert any(isinstance(event, Rearmed) for event in trace.events)
    streamer.handle(Observed(50, 1))
    streamer.handle(Generated(51, 50, 1, 0, SMOOTH))
    streamer.handle(Tick(52, 52, 9))
    last = [e for e in trace.events if isinstance(e, Sent)][-1]
    assert (last.source, last.observation) == ("policy", 1)


def test_a_stop_on_a_tick_that_looks_does_not_end_looking():
    """The ladder's own stop falls on the tick of an early look: that look is left out, not all."""
    limits = replace(LIMITS, velocity=(0.1, 2.0))
    ladder = replace(LADDER, limits=limits, reject_factor=1.0, fallback_after=2, stop_after=6)
    streamer = Streamer(MIXED, 10, ActionFlow(3), "grid", MemoryTrace(), fallback=ladder)
    streamer.handle(Started(0))
    streamer.handle(Observed(1, 0))
    for index in range(10):
        action = np.array([1.0, 0.0]) if index else SMOOTH  # all but the first are refused
        streamer.handle(Generated(2, 1, 0, index, action))
    looked = [streamer.handle(Tick(10 + tick, 10 + tick, tick)) for tick in range(8)]
    assert streamer.latched
    assert any(isinstance(command, StartObserve) for command in looked[-1])
    streamer.handle(Rearm(40))
    fresh = streamer.handle(Observed(45, 1))
    assert [type(command) for command in fresh] == [StartObserve]


stage_times = st.lists(st.integers(0, 600_000_000), min_size=1, max_size=12)


@settings(deadline=None, max_examples=100)
@given(
    observe=stage_times,
    generate=stage_times,
    executor=st.sampled_from([Synchronous(), Synchronous(3), *(ActionFlow(n) for n in range(6))]),
    controller=controllers,
    bad=st.sets(st.integers(0, 40), max_size=2),
    wild=st.sets(st.integers(0, 40), max_size=4),
)
def test_every_tick_has_one_command_within_the_limits(
    observe, generate, executor, controller, bad, wild
):
    """Whatever the stages take and the policy gives, each tick sends one command within limits."""
    calls = iter(range(10_000))

    def script(observation, start, index):
        call = next(calls)
        return np.array([np.nan if call in bad else 40.0 if call in wild else 0.9, 3.0])

    run = Scenario(
        executor,
        pacing="grid",
        observations=None,
        duration_ns=80 * 27_000_000,
        script=script,
        fallback=replace(LADDER, controller=controller),
        latency=EmpiricalLatency(observe, generate, [27_000_000]),
    ).run()
    assert [event.tick for event in run.sent] == list(range(80))
    assert violations(MIXED, LIMITS, [values for _, values in run.robot.commands]) == []
    state = np.zeros(2)
    for _, values in run.robot.commands:
        state = MIXED.advance(state, values)
    assert run.streamer.action_state == pytest.approx(state)
    first = next((e.tick for e in run.sent if e.source == "policy"), 80)
    assert run.stop[-1].source == "stop"
    assert run.streamer.at_rest
    sent = [*run.sent, *run.stop]
    filled = Counter(
        e.source for e in sent if e.source == "stop" or (e.source != "policy" and e.tick > first)
    )
    told = Counter()
    for event in run.events:
        if isinstance(event, Intervened) and event.rung not in {"clamp", "reject"}:
            told[event.rung] += event.ticks
    assert told == filled


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ladder(LIMITS, reject_factor=0.5), "reject factor 0.5"),
        (lambda: Ladder(LIMITS, fallback_after=9, stop_after=5), "rungs have an order"),
        (lambda: Ladder(LIMITS, controller=object()), "no method velocity"),  # pyright: ignore
        (lambda: Compliance(stiffness=2.0), "stiffness 2.0"),
        (lambda: TowardGoal(fastest=0.0), "fastest 0.0"),
        (lambda: Scenario(ActionFlow(0), fallback=LADDER).run(), "needs grid pacing"),
    ],
)
def test_a_ladder_that_makes_no_sense_is_refused(make, message):
    """Every bad setting raises ConfigError naming what was wrong."""
    with pytest.raises(ConfigError, match=message):
        make()
