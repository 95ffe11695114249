"""A policy that tells where the motion should end, and who hears of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from streamvla.core.errors import StageFailedError
from streamvla.core.interfaces import goal_of
from streamvla.runtime.drivers.simulated import run_simulated
from streamvla.runtime.drivers.threads import run_realtime
from streamvla.runtime.executors.synchronous import Synchronous
from streamvla.runtime.faults.plan import NO_FAULTS, parse_faults
from streamvla.runtime.governor.fallbacks import TowardGoal
from streamvla.runtime.timing.latency import ConstantLatency
from streamvla.testing.fakes import GoalPolicy, ScriptedPolicy
from streamvla.trace import MemoryTrace, Sent

from .scenario import MIXED, PAPER, Scenario
from .test_ladder import LADDER

GOAL = np.array([2.0, 0.5])


def episode(goal=lambda observation: GOAL, **settings):
    scenario = Scenario(Synchronous(), pacing="grid", observations=None, **settings)
    trace = MemoryTrace()
    policy = GoalPolicy(MIXED, 10, PAPER.execute_ns, goal)
    return replace(scenario.episode(trace), policy=policy), trace


def driven_to(faults=NO_FAULTS, **settings) -> np.ndarray:
    """(d,) the action state at the end of six seconds."""
    ladder = replace(LADDER, controller=TowardGoal(), stop_after=None)
    made, _ = episode(fallback=ladder, duration_ns=6 * 10**9, **settings)
    run_simulated(made, ConstantLatency(PAPER), faults=faults)
    return made.streamer.action_state


def test_a_policy_that_falls_silent_leaves_its_goal_to_the_fallback():
    """The classical controller drives where the last context said, also through injected faults."""
    stall = parse_faults(["model-stall:9s@1s"])
    assert driven_to(stall) == pytest.approx(GOAL, abs=1e-2)
    unknown = driven_to(stall, goal=lambda observation: None)
    assert unknown[0] == pytest.approx(0, abs=0.1)


def test_an_undeclared_goal_is_not_asked_for():
    """Of a policy whose spec does not say it, whatever its context has."""

    class Context:
        goal = GOAL

    assert goal_of(ScriptedPolicy(MIXED, 10, 50_000_000), Context()) is None


@pytest.mark.parametrize("goal", [np.zeros(3), np.array([np.nan, 0.0])])
def test_a_goal_that_is_no_action_state_fails_the_stage(goal):
    """Under both clocks: the robot is stopped, and the error says what was expected."""
    made, trace = episode(lambda observation: goal, duration_ns=10**9)
    with pytest.raises(StageFailedError, match="expected 2 finite numbers"):
        run_simulated(made, ConstantLatency(PAPER))
    made, trace = episode(lambda observation: goal, duration_ns=10**9)
    with pytest.raises(StageFailedError, match="expected 2 finite numbers"):
        run_realtime(made)
    assert {event.source for event in trace.events if isinstance(event, Sent)} == {"hold"}
