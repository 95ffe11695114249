"""The real-time driver: real threads and the system clock, order and safety (never speed)."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from streamvla.core.clock import SystemClock, ms_to_ns
from streamvla.core.errors import StageFailedError
from streamvla.core.limits import MotionLimits
from streamvla.robots.point import REACH_M, PointRobot
from streamvla.runtime.drivers.episode import Episode, EpisodeLimits
from streamvla.runtime.drivers.simulated import run_simulated
from streamvla.runtime.drivers.threads import RealtimeDriver, run_realtime
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.executors.synchronous import Synchronous
from streamvla.runtime.governor.ladder import Ladder
from streamvla.runtime.streamer.machine import Streamer
from streamvla.runtime.timing.latency import ConstantLatency, profile_ms
from streamvla.testing import ScriptedPolicy
from streamvla.trace import ActionReady, Ended, Failed, FileTrace, MemoryTrace, Sent, read_trace

from .motion import violations
from .scenario import MIXED, Scenario, wandering

QUICK = profile_ms("quick", 2, 1, 4)
STEP = np.array([0.05, 0.0, 0.0])


@pytest.mark.parametrize("pacing", ["event", "grid"])
@pytest.mark.parametrize("executor", [Synchronous(), Synchronous(4), ActionFlow(0)])
def test_both_drivers_send_the_same_actions(executor, pacing):
    """Real time and virtual time send the same policy actions, in the same order."""
    scenario = Scenario(executor, pacing=pacing, profile=QUICK, script=wandering, observations=3)
    wall = MemoryTrace()
    run_realtime(scenario.episode(wall))
    virtual = MemoryTrace()
    run_simulated(scenario.episode(virtual), ConstantLatency(QUICK))

    def actions(trace: MemoryTrace) -> list:
        sent = [event for event in trace.events if isinstance(event, Sent)]
        return [(e.generation, e.index, e.values) for e in sent if e.source == "policy"]

    assert actions(wall) == actions(virtual)


def test_stages_overlap_for_real():
    """While one action executes the next ones are made: some are ready before it is finished."""
    trace = MemoryTrace()
    run_realtime(Scenario(ActionFlow(2), profile=QUICK, observations=4).episode(trace))
    depths = [event.depth for event in trace.events if isinstance(event, Sent)]
    assert max(depths) >= 2


def test_the_trace_is_in_order_of_time():
    """Events of both threads are recorded with non-decreasing instants."""
    trace = MemoryTrace()
    run_realtime(Scenario(ActionFlow(3), pacing="grid", profile=QUICK).episode(trace))
    instants = [event.t_ns for event in trace.events]
    assert instants == sorted(instants)


def test_every_tick_is_served_while_the_model_hangs():
    """A model that hangs longer than the episode does not hold the ticks up: they get a hold."""
    release = threading.Event()

    def script(observation, start, index):
        release.wait(20)
        return np.zeros(2)

    scenario = Scenario(
        ActionFlow(0),
        pacing="grid",
        profile=QUICK,
        script=script,
        observations=None,
        duration_ns=ms_to_ns(100),
    )
    trace = MemoryTrace()
    threading.Timer(0.3, release.set).start()
    result = run_realtime(scenario.episode(trace))
    sent = [event for event in trace.events if isinstance(event, Sent)]
    assert result.reason == "time-limit"
    assert len(sent) > 3  # of 25; a loaded machine may skip many, a held-up loop serves one
    assert {event.source for event in sent} == {"hold"}


def test_ticks_that_went_by_are_skipped_not_served_in_a_burst():
    """A control thread held up for many periods sends one command then, for the present tick."""
    clock, calls, resumed = SystemClock(), iter(range(10_000)), []

    def watch(now_ns: int) -> None:
        if next(calls) == 5:
            threading.Event().wait(0.05)
            resumed.append(clock.now_ns())

    trace = MemoryTrace()
    scenario = Scenario(
        ActionFlow(0),
        pacing="grid",
        profile=QUICK,
        observations=None,
        duration_ns=ms_to_ns(120),
    )
    run_realtime(replace(scenario.episode(trace), watch=watch))
    sent = [event for event in trace.events if isinstance(event, Sent)]
    before = [event for event in sent if event.t_ns < resumed[0]]
    after = [event for event in sent if event.t_ns >= resumed[0]]
    assert after[0].due_ns > resumed[0] - QUICK.execute_ns
    assert after[0].tick - before[-1].tick >= 50_000_000 // QUICK.execute_ns
    gaps = [later.t_ns - sooner.t_ns for sooner, later in pairwise(sent)]
    assert min(gaps) >= QUICK.execute_ns // 2


def test_what_was_commanded_is_what_the_robot_moved():
    """After a hold-up, the distance the point moved is the sum of the deltas that were sent."""
    held_up = iter([False] * 4 + [True] + [False] * 1000)

    def watch(now_ns: int) -> None:
        if next(held_up):
            threading.Event().wait(0.09)

    profile = profile_ms("slow enough", 2, 1, 40)
    robot, trace = PointRobot(), MemoryTrace()
    policy = ScriptedPolicy(robot.spec.action_space, 10, profile.execute_ns, lambda *_: STEP)
    streamer = Streamer(robot.spec.action_space, 10, ActionFlow(3), "grid", trace)
    limits = EpisodeLimits(ms_to_ns(600), stop_on_success=False)
    episode = Episode(robot, policy, streamer, trace, profile, limits, watch=watch)
    with RealtimeDriver() as driver:
        robot.reset(0, driver.clock.now_ns(), profile.execute_ns)
        before = robot.observe(robot.capture()).state[0]
        driver.run(episode)
    robot.advance_to(driver.clock.now_ns() + profile.execute_ns)
    moved = robot.observe(robot.capture()).state[0] - before
    commanded = sum(event.values[0] for event in trace.events if isinstance(event, Sent))
    assert commanded > 0.05
    assert moved == pytest.approx(commanded * REACH_M, abs=0.1 * STEP[0] * REACH_M)


def test_a_dead_stage_ends_in_a_hold_and_the_driver_lives_on():
    """After a stage raised, the robot holds, the owner hears of it, and the next episode runs."""

    def broken(observation, start, index):
        raise RuntimeError("device lost")

    with RealtimeDriver() as driver:
        trace = MemoryTrace()
        episode = Scenario(ActionFlow(0), pacing="grid", profile=QUICK, script=broken).episode(
            trace
        )
        with pytest.raises(StageFailedError, match="device lost"):
            driver.run(episode)
        assert any(isinstance(event, Failed) for event in trace.events)
        assert [e for e in trace.events if isinstance(e, Sent)][-1].source == "hold"
        good = MemoryTrace()
        result = driver.run(Scenario(ActionFlow(1), profile=QUICK).episode(good))
    assert result.reason == "observations"


def test_ctrl_c_holds_the_robot_and_leaves_a_readable_trace(tmp_path):
    """Ctrl-C passes through after a hold command; the trace on disk ends with Ended."""

    def script(observation, start, index):
        return np.array([0.5, 1.0])

    def interrupt(now_ns: int) -> None:
        if len(robot.commands) == 12:
            raise KeyboardInterrupt

    path = tmp_path / "trace.jsonl"
    with FileTrace(path, {"seed": 1}) as trace:
        scenario = Scenario(
            ActionFlow(0), pacing="grid", profile=QUICK, script=script, observations=None
        )
        episode = replace(scenario.episode(trace), watch=interrupt)
        robot = episode.robot
        with pytest.raises(KeyboardInterrupt):
            run_realtime(episode)
    assert robot.commands[-1][1].tolist() == [0.0, 1.0]
    events = read_trace(path).events
    assert isinstance(events[-1], Ended)
    assert events[-1].reason == "interrupted"
    assert [event.source for event in events if isinstance(event, Sent)][-1] == "hold"


def test_emulated_stages_take_at_least_their_time():
    """Padding: no flow step of an emulated profile is shorter than stated."""
    trace = MemoryTrace()
    run_realtime(Scenario(ActionFlow(0), profile=QUICK, observations=2).episode(trace))
    steps = [event for event in trace.events if isinstance(event, ActionReady)]
    assert all(event.t_ns - event.started_ns >= QUICK.generate_ns for event in steps)


def test_measure_reports_every_flow_step():
    """`measure` gives one observe time and H step times per repeat."""
    with RealtimeDriver() as driver:
        episode = Scenario(ActionFlow(0), profile=QUICK).episode(MemoryTrace())
        times = driver.measure(episode.robot, episode.policy, repeats=2)
    assert [len(time.generate_ns) for time in times] == [10, 10]


def test_ctrl_c_before_the_first_tick_sends_nothing(monkeypatch):
    """While the episode waits for its start the robot has had no command: it gets none."""
    trace = MemoryTrace()
    episode = Scenario(ActionFlow(0), pacing="grid", profile=QUICK).episode(trace)

    def interrupt(clock: SystemClock, instant_ns: int) -> None:
        raise KeyboardInterrupt

    with RealtimeDriver() as driver:
        monkeypatch.setattr(SystemClock, "sleep_until_ns", interrupt)
        with pytest.raises(KeyboardInterrupt):
            driver.run(episode, SystemClock().now_ns() + 10**9)
    assert episode.robot.commands == []
    assert isinstance(trace.events[-1], Ended)
    assert trace.events[-1].reason == "interrupted"


def test_ctrl_c_with_a_ladder_brings_the_robot_to_rest_within_its_limits():
    """Interrupted at full speed, the loop serves the ticks of a smooth stop before it passes on."""
    limits = MotionLimits((-math.inf, -1.0), (math.inf, 1.0), (1.0, 2.0), (0.3, 4.0), (0.15, 8.0))

    def interrupt(now_ns: int) -> None:
        if len(robot.commands) == 40:
            raise KeyboardInterrupt

    trace = MemoryTrace()
    scenario = Scenario(
        ActionFlow(3),
        pacing="grid",
        profile=QUICK,
        script=lambda *_: np.array([0.8, 1.0]),
        observations=None,
        fallback=Ladder(limits),
    )
    episode = replace(scenario.episode(trace), watch=interrupt)
    robot = episode.robot
    with pytest.raises(KeyboardInterrupt):
        run_realtime(episode)
    sent = [event for event in trace.events if isinstance(event, Sent)]
    assert [event.values for event in sent] == [tuple(v.tolist()) for _, v in robot.commands]
    assert sent[-1].source == "stop"
    assert sent[-1].values[0] == pytest.approx(0.0)
    assert len(sent) > 41
    assert violations(MIXED, limits, [np.array(event.values) for event in sent]) == []
