"""The streamer under arbitrary orders of events: what no order of them can break."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamvla.core.limits import MotionLimits
from streamvla.runtime.buffer import Blend, Replace, Shift
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.executors.synchronous import Synchronous
from streamvla.runtime.governor.fallbacks import Compliance, HoldPosition, TowardGoal
from streamvla.runtime.governor.governor import Decelerate, Hold
from streamvla.runtime.governor.ladder import Ladder
from streamvla.runtime.streamer.machine import Streamer
from streamvla.runtime.streamer.messages import (
    CancelGenerate,
    Command,
    Event,
    Free,
    Generated,
    Interrupted,
    Observed,
    Rearm,
    SafeStop,
    Send,
    StageFailed,
    Started,
    StartGenerate,
    StartObserve,
    Stop,
    Tick,
)
from streamvla.trace import Dropped, HealthChanged, MemoryTrace, Rejected, Sent

from .motion import violations
from .scenario import MIXED

HORIZON = 4
PERIOD_NS = 10
LIMITS = MotionLimits((-math.inf, -1.0), (math.inf, 1.0), (1.0, 2.0), (0.3, 4.0), (0.15, 8.0))
LADDER = Ladder(LIMITS, extrapolate_ticks=1, fallback_after=4, stop_after=9)

MAY_FOLLOW = {
    "policy": {"policy", "extrapolate", "decelerate", "hold"},
    "extrapolate": {"policy", "extrapolate", "decelerate", "hold"},
    "decelerate": {"policy", "decelerate", "hold", "fallback"},
    "hold": {"policy", "hold", "fallback"},
    "fallback": {"policy", "fallback"},
    "stop": {"stop"},
    "rearm": {"policy", "decelerate", "hold"},
}

GOOD = [(0.5, 1.0), (0.9, -1.0), (-1.0, 0.0), (0.0, 0.0), (0.2, 0.5)]
BAD = [(1e9, 0.0), (math.nan, 0.0), (0.1,)]
KINDS = {"control": 10, "observed": 5, "generated": 12, "rearm": 2, "stale": 1, "stop": 1}
MOVES = st.tuples(
    st.sampled_from([kind for kind, weight in KINDS.items() for _ in range(weight)]),
    st.sampled_from([*GOOD * 8, *BAD]),
    st.sampled_from([1] * 9 + [2, 5]),
)
MANY = st.lists(MOVES, min_size=20, max_size=150)
ENDS = st.sampled_from(["", "interrupted", "failed"])
RULES = [
    Hold(),
    Decelerate(),
    *(replace(LADDER, controller=c) for c in (HoldPosition(), Compliance(), TowardGoal())),
]


class World:
    """Stages and robot that answer in any order they like, each only when it was asked."""

    def __init__(self, pacing: Any, **settings: Any) -> None:
        self.trace = MemoryTrace()
        self.streamer = Streamer(MIXED, HORIZON, pacing=pacing, trace=self.trace, **settings)
        self.pacing = pacing
        self.now_ns = 0
        self.tick = 0
        self.observing: int | None = None
        self.generating: int | None = None
        self.index = 0
        self.executing = False
        self.over = False
        self.given: dict[tuple[int, int], tuple[float, ...]] = {}  # what the policy said
        self.sends: list[tuple[np.ndarray, tuple[float, ...]]] = []  # what left, and a copy of it
        self.rungs: list[str] = []  # with "rearm" where that ended a safe stop
        self.feed(Started(0))

    def feed(self, event: Event) -> list[Command]:
        commands = self.streamer.handle(event)
        for command in commands:
            match command:
                case Send():
                    self.sends.append((command.values, tuple(command.values.tolist())))
                    self.executing = True
                case StartObserve():
                    assert self.observing is None
                    self.observing = command.observation
                case StartGenerate():
                    assert self.generating is None
                    self.generating, self.index = command.generation, command.start.index
                case CancelGenerate():
                    if command.generation == self.generating:
                        self.generating = None
                case Stop():
                    self.over = True
        return commands

    def move(self, kind: str, what: tuple[float, ...], periods: int) -> None:
        """One event, if it can come now; `what` the policy gives, `periods` to the next tick."""
        self.now_ns += 1
        before = len(self.sends)
        if kind == "control":
            self.control(periods)
            return
        if kind == "observed" and self.observing is not None:
            observation, self.observing = self.observing, None
            goal = np.array([2.0, 0.5]) if periods > 1 else None
            self.feed(Observed(self.now_ns, observation, goal))
        elif kind == "generated" and self.generating is not None:
            generation, index, values = self.generating, self.index, np.array(what)
            self.given[generation, index] = what
            self.index += 1
            if self.index == HORIZON:
                self.generating = None
            self.feed(Generated(self.now_ns, self.now_ns - 1, generation, index, values))
            values.fill(77.0)  # the policy uses its array for something else
        elif kind == "stale":
            self.feed(Generated(self.now_ns, self.now_ns - 1, 10**6, 0, np.array(what)))
        elif kind == "stop":
            self.feed(SafeStop(self.now_ns, "test"))
        elif kind == "rearm":
            latched = self.streamer.latched
            self.feed(Rearm(self.now_ns))
            if latched and not self.streamer.latched:
                self.rungs.append("rearm")
        sent = len(self.sends) - before
        assert sent <= (self.pacing == "event")

    def control(self, periods: int) -> None:
        """A control tick, some skipped before it; or the robot is free."""
        before = len(self.sends)
        if self.pacing == "grid":
            self.tick += periods
            due_ns = self.now_ns = max(self.now_ns, self.tick * PERIOD_NS)
            self.feed(Tick(self.now_ns, due_ns, self.tick))
            assert len(self.sends) == before + 1, "one command a tick"
            self.rungs.append(self.sent()[-1].source)
        elif self.executing:
            self.executing = False
            self.feed(Free(self.now_ns, self.now_ns))
            assert len(self.sends) <= before + 1, "one command at a time"

    def sent(self) -> list[Sent]:
        return [event for event in self.trace.events if isinstance(event, Sent)]

    def end(self, how: str) -> None:
        """Ctrl-C, or a stage that dies, and the control instants after it."""
        if how == "interrupted":
            resting = self.streamer.at_rest
            before = len(self.sends)
            self.feed(Interrupted(self.now_ns))
            assert len(self.sends) == before + resting, "a hold at once, if the robot stands"
        if how == "failed":
            self.feed(StageFailed(self.now_ns, "generate", "device lost"))
        for _ in range(30 if how and self.pacing == "grid" else 0):
            if not self.over:
                self.control(1)
        if how == "failed" and (self.pacing == "grid" or not self.executing):
            assert self.over, "the owner hears of it"


def run(moves: list[tuple[str, Any, int]], end: str, pacing: str, **settings: Any) -> World:
    world = World(pacing, **settings)
    for move in moves:
        if not world.over:
            world.move(*move)
    if not world.over:
        world.end(end)
    return world


@settings(max_examples=300)
@given(
    moves=MANY,
    end=ENDS,
    executor=st.sampled_from([Synchronous(), Synchronous(2), ActionFlow(0), ActionFlow(2)]),
    rule=st.sampled_from(RULES),
    late=st.sampled_from([Shift(), Replace(), Blend()]),
    validity_ns=st.sampled_from([None, 25, 200]),
)
def test_on_a_grid_no_order_of_events_breaks_a_promise(
    moves, end, executor, rule, late, validity_ns
):
    """One command a tick and none between; what was sent never changes; every action is sent at
    most once, in order, within its window; the trace goes forward in time."""
    world = run(
        moves, end, "grid", executor=executor, fallback=rule, late=late, validity_ns=validity_ns
    )
    check_sent(world)
    check_actions(world)
    changes = [event for event in world.trace.events if isinstance(event, HealthChanged)]
    assert all(sooner.after == later.before for sooner, later in pairwise(changes))
    if isinstance(rule, Ladder):
        check_ladder(world)
    elif not isinstance(late, Blend):
        check_values(world)


@settings(max_examples=150)
@given(
    moves=MANY,
    end=ENDS,
    executor=st.sampled_from([Synchronous(), Synchronous(2), ActionFlow(0), ActionFlow(2)]),
    rule=st.sampled_from([Hold(), Decelerate()]),
)
def test_in_event_pacing_no_order_of_events_breaks_a_promise(moves, end, executor, rule):
    """One command at a time, and the same about what was sent."""
    world = run(moves, end, "event", executor=executor, fallback=rule)
    check_sent(world)
    check_actions(world)
    check_values(world)


def check_values(world: World) -> None:
    """An action leaves as the policy made it, within the action space."""
    for event in world.sent():
        if event.source == "policy":
            made = np.array(world.given[event.generation, event.index])
            assert event.values == tuple(MIXED.clip(made).tolist())


def check_sent(world: World) -> None:
    """The trace says what left, in order; nothing of it changed afterwards; the action state is the
    sum of it."""
    assert [values for _, values in world.sends] == [event.values for event in world.sent()]
    assert all(tuple(array.tolist()) == values for array, values in world.sends)
    state = MIXED.initial_state()
    for array, _ in world.sends:
        assert np.isfinite(array).all()
        state = MIXED.advance(state, array)
    assert np.allclose(world.streamer.action_state, state)
    instants = [event.t_ns for event in world.trace.events]
    assert instants == sorted(instants)


def check_actions(world: World) -> None:
    """No action twice, none out of order, none after its window, none both sent and dropped."""
    policy = [event for event in world.sent() if event.source == "policy"]
    names = [(event.generation, event.index) for event in policy]
    assert names == sorted(set(names))
    assert all(e.valid_until_ns == -1 or e.t_ns <= e.valid_until_ns for e in policy)
    lost = [
        (event.generation, event.index)
        for event in world.trace.events
        if isinstance(event, Dropped | Rejected) and event.generation < 10**6
    ]
    assert len(lost) == len(set(lost))
    assert not set(lost) & set(names)


def check_ladder(world: World) -> None:
    """Rungs follow each other by the rules, only `Rearm` leaves the stop, and every limit holds."""
    for previous, rung in pairwise(["hold", *world.rungs]):
        assert rung in MAY_FOLLOW[previous] | {"stop", "rearm"}, (previous, rung)
    commands = [np.array(values) for _, values in world.sends]
    assert violations(MIXED, LIMITS, commands) == []
