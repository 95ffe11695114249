"""The control loop under virtual time, also with the settings it has on the system clock."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from streamvla.core.action_space import ActionSpace
from streamvla.core.clock import NS_PER_MS, NS_PER_S, SystemClock, VirtualClock
from streamvla.core.limits import MotionLimits
from streamvla.evaluation.metrics import metrics_of
from streamvla.runtime.drivers.injection import JumpingClock
from streamvla.runtime.drivers.loop import ControlLoop, Timing
from streamvla.runtime.drivers.loop_statistics import TickLog
from streamvla.runtime.drivers.robot_side import check_robot_side
from streamvla.runtime.drivers.stages import ActionMade, ContextReady, StageResult
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.executors.async_chunks import AsyncChunks
from streamvla.runtime.executors.base import Decisions
from streamvla.runtime.executors.synchronous import Synchronous
from streamvla.runtime.faults.plan import NO_FAULTS, parse_faults
from streamvla.runtime.governor.ladder import Ladder
from streamvla.runtime.streamer.messages import StartGenerate
from streamvla.runtime.timing.latency import profile_ms
from streamvla.testing import StillRobot
from streamvla.trace import (
    FileTrace,
    HealthChanged,
    MemoryTrace,
    Sent,
    TicksSkipped,
    TraceEvent,
    TraceSink,
    read_trace,
)

from .scenario import MIXED, Scenario

PERIOD_MS = 20
LIMITS = MotionLimits((-math.inf, -1.0), (math.inf, 1.0), (1.0, 2.0), (0.3, 4.0), (0.15, 8.0))
PROFILE = profile_ms("even", 15, 5, PERIOD_MS)


class AtOnce:
    """Stages whose results are there the moment they are asked for. Implements `Stages`."""

    def __init__(self, clock: VirtualClock, horizon: int) -> None:
        self._clock = clock
        self._horizon = horizon
        self._results: list[StageResult] = []

    def observe(self, command, capture, captured_ns: int) -> None:
        self._results.append(ContextReady(command.observation))

    def generate(self, command: StartGenerate) -> None:
        now_ns, zero = self._clock.now_ns(), MIXED.initial_state()
        self._results += [
            ActionMade(now_ns, command.generation, index, zero) for index in range(self._horizon)
        ]

    def cancel(self, generation: int) -> None:
        pass

    def take(self) -> StageResult | None:
        return self._results.pop(0) if self._results else None

    def wait(self, until_ns: int | None) -> None:
        assert until_ns is not None
        self._clock.sleep_until_ns(until_ns)


class SlowRobot(StillRobot):
    """Takes one command, the fourth, so slowly that the loop comes back 1.6 periods later."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(MIXED, PROFILE.execute_ns)
        self._clock = clock

    def command(self, values, now_ns: int) -> None:
        super().command(values, now_ns)
        if len(self.commands) == 4:
            self._clock.advance_to(now_ns + PROFILE.execute_ns * 8 // 5)


def held_up(margin: bool) -> tuple[list[Sent], TickLog]:
    """What is sent in ten periods with the slow robot, by the rules of the system clock."""
    clock, trace, ticks = VirtualClock(), MemoryTrace(), TickLog()
    scenario = Scenario(Synchronous(), "grid", PROFILE, observations=None, duration_ns=200_000_000)
    episode = replace(scenario.episode(trace), robot=SlowRobot(clock))
    timing = Timing.real(clock, PROFILE)
    timing = timing if margin else replace(timing, margin_ns=0)
    ControlLoop(episode, timing, AtOnce(clock, scenario.horizon), 0, ticks).run()
    *sent, stop = [event for event in trace.events if isinstance(event, Sent)]
    assert stop.source == "hold"
    return sent, ticks


def test_a_tick_that_comes_too_soon_after_a_late_one_is_left_out():
    """Tick 4 leaves 12 ms late; tick 5 would leave 8 ms after it and is skipped."""
    sent, ticks = held_up(margin=True)
    assert [event.tick for event in sent] == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert sent[4].t_ns - sent[4].due_ns == 12 * NS_PER_MS
    assert ticks.lateness_ns().tolist() == [0, 0, 0, 0, 12 * NS_PER_MS, 0, 0, 0, 0]


def test_without_a_margin_no_tick_is_left_out():
    """The same robot: ten ticks, ten commands."""
    sent, _ = held_up(margin=False)
    assert [event.tick for event in sent] == list(range(10))


@pytest.mark.parametrize("pacing", ["grid", "event"])
def test_a_result_that_comes_with_the_control_instant_is_in_time(pacing):
    """15 ms for the context and 5 ms a step, tick 1 after 20 ms: its command is the policy's."""
    run = Scenario(AsyncChunks(), pacing, PROFILE, chunk_passes=1).run()
    first = next(event for event in run.sent if event.source == "policy")
    assert first.t_ns == PERIOD_MS * NS_PER_MS
    assert [event.t_ns for event in run.sent if event.t_ns < first.t_ns] == (
        [0] if pacing == "grid" else []
    )


def test_a_time_limit_ends_an_event_paced_run_while_the_robot_executes():
    """The limit lies between two commands: the run ends on it to the nanosecond."""
    run = Scenario(Synchronous(), "event", PROFILE, observations=None, duration_ns=333_333_333)
    assert run.run().result.duration_ns == 333_333_333


@dataclass(frozen=True)
class NeverLooks(AsyncChunks):
    """An executor with which nothing ever happens."""

    def begin(self, space: ActionSpace, horizon: int, trace: TraceSink) -> Decisions:
        decisions = super().begin(space, horizon, trace)
        decisions.look = lambda plan, now_ns: None
        return decisions


def test_a_simulated_run_in_which_nothing_can_happen_raises():
    """Event pacing, no time limit, no stage at work: an error instead of an endless wait."""
    with pytest.raises(RuntimeError, match="no event is left"):
        Scenario(NeverLooks(), "event").run()


@pytest.mark.parametrize(
    "clock", [VirtualClock(7), SystemClock(), JumpingClock(SystemClock(), NO_FAULTS, 0)]
)
def test_a_deadline_is_met_by_every_clock(clock):
    """The reading after `sleep_until_ns` is the deadline or later, also if it lay in the past."""
    for ahead_ns in (NS_PER_MS, 0, -NS_PER_MS):
        deadline_ns = clock.now_ns() + ahead_ns
        clock.sleep_until_ns(deadline_ns)
        assert clock.now_ns() >= deadline_ns


def test_the_virtual_clock_meets_a_deadline_exactly():
    """It jumps there, and stays where it is for a deadline that has passed."""
    clock = VirtualClock(5)
    clock.sleep_until_ns(9)
    clock.sleep_until_ns(3)
    assert clock.now_ns() == 9


def test_a_jump_of_the_reading_does_not_move_the_deadline():
    """A clock that reads 200 ms ahead sleeps as long as the true one."""
    true = VirtualClock()
    jumping = JumpingClock(true, parse_faults(["clock-jump:200ms@0s+1s"]), 0)
    assert jumping.now_ns() == 200 * NS_PER_MS
    jumping.sleep_until_ns(30 * NS_PER_MS)
    assert true.now_ns() == 30 * NS_PER_MS


# --- gaps -------------------------------------------------------------------------------------


class Dozing(SlowRobot):
    """Its fifth command, or every `advance_to`, takes so long."""

    def __init__(self, clock: VirtualClock, call: str, periods: float) -> None:
        super().__init__(clock)
        self._call, self._takes_ns = call, round(periods * PROFILE.execute_ns)

    def command(self, values, now_ns: int) -> None:
        StillRobot.command(self, values, now_ns)
        if self._call == "command" and len(self.commands) == 15:
            self._clock.advance_to(now_ns + self._takes_ns)

    def advance_to(self, now_ns: int) -> None:
        super().advance_to(now_ns)
        if self._call == "advance_to" and len(self.commands) > 15:
            self._clock.advance_to(now_ns + self._takes_ns)


class Forward(AtOnce):
    """Every action is a step of a half."""

    def generate(self, command: StartGenerate) -> None:
        now_ns, step = self._clock.now_ns(), np.array([0.5, 0.0])
        self._results += [
            ActionMade(now_ns, command.generation, index, step) for index in range(self._horizon)
        ]


def doze(call: str, periods: float) -> list[TraceEvent]:
    clock, trace = VirtualClock(), MemoryTrace()
    scenario = Scenario(
        ActionFlow(2),
        "grid",
        PROFILE,
        observations=None,
        duration_ns=6 * NS_PER_S,
        fallback=Ladder(LIMITS),
    )
    episode = replace(scenario.episode(trace), robot=Dozing(clock, call, periods))
    ControlLoop(episode, Timing.real(clock, PROFILE), Forward(clock, scenario.horizon), 0).run()
    return trace.events


def test_a_gap_is_an_event_changes_health_and_ends_without_a_jump():
    """The loop is away for three seconds in the middle of a motion: it says so, is "stalled", and
    sets out again from rest, by what it sees then."""
    events = doze("command", 150)
    (gap,) = [event for event in events if isinstance(event, TicksSkipped)]
    assert (gap.ticks, gap.cause) == (149, "the robot's command took 3000 ms")
    change = next(e for e in events if isinstance(e, HealthChanged) and e.after == "stalled")
    assert change.cause == "149 ticks skipped: the robot's command took 3000 ms"
    sent = [event for event in events if isinstance(event, Sent)]
    before = [event for event in sent if event.tick < gap.tick]
    after = [event for event in sent if event.tick >= gap.tick]
    assert before[-1].values[0] == 0.5
    assert abs(after[0].values[0]) <= LIMITS.jerk[0]
    steps = np.diff([0.0, *(event.values[0] for event in after)])
    assert np.abs(steps).max() <= LIMITS.acceleration[0] + 1e-9
    assert min(e.captured_ns for e in after if e.source == "policy") >= gap.t_ns
    assert metrics_of(events, PROFILE.execute_ns, "grid").skipped_ticks == 149


def test_a_robot_that_cannot_keep_the_rate_is_degraded_with_its_cause():
    """`advance_to` takes one and a half periods on every tick: nothing of that is silent."""
    events = doze("advance_to", 1.5)
    changes = [event for event in events if isinstance(event, HealthChanged)]
    assert changes[0].after == "degraded"
    assert changes[0].cause == "1 ticks skipped: the robot's advance_to took 30 ms"
    assert not any(event.after == "streaming" for event in changes)


class MuteError(Exception):
    """Its own words fail."""

    def __str__(self) -> str:
        raise ValueError("no words")


class Failing(SlowRobot):
    """Its fifteenth command raises, and asking for success afterwards does as well."""

    def command(self, values, now_ns: int) -> None:
        StillRobot.command(self, values, now_ns)
        if len(self.commands) == 15:
            raise MuteError

    @property
    def success(self) -> bool:
        if len(self.commands) >= 15:
            raise KeyboardInterrupt
        return np.bool_(False)  # pyright: ignore[reportReturnType]

    @success.setter
    def success(self, value: bool) -> None:
        """The fake sets it on a reset."""


def test_a_robot_that_raises_whatever_it_likes_is_stopped(tmp_path):
    """No command twice on a tick, no negative gap, the hold last, the trace whole."""
    clock, path = VirtualClock(), tmp_path / "trace.jsonl"
    scenario = Scenario(ActionFlow(2), "grid", PROFILE, observations=None)
    with FileTrace(path, {}) as trace:
        episode = replace(scenario.episode(trace), robot=Failing(clock))
        stages = Forward(clock, scenario.horizon)
        with pytest.raises(MuteError):
            ControlLoop(episode, Timing.real(clock, PROFILE), stages, 0).run()
    events = read_trace(path).events
    ticks = [event.tick for event in events if isinstance(event, Sent)]
    assert ticks == list(range(16))
    assert not any(isinstance(event, TicksSkipped) for event in events)
    assert isinstance(episode.robot, Failing)
    assert episode.robot.commands[-1][1][0] == 0


def test_a_slow_robot_side_is_said_before_motion(caplog):
    """Captures that take most of a period."""
    clock = VirtualClock()

    class Slow(StillRobot):
        def capture(self):
            clock.advance_to(clock.now_ns() + 15 * NS_PER_MS)
            return super().capture()

    assert check_robot_side(StillRobot(MIXED, PROFILE.execute_ns), clock) is None
    text = check_robot_side(Slow(MIXED, PROFILE.execute_ns), clock)
    assert "capture 15.0 ms, of a control period of 20 ms" in str(text)
    assert str(text) in caplog.text
