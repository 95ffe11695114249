"""Absolute dimensions begin where the robot stands, not at zero."""

from __future__ import annotations

import math

import numpy as np
import pytest

from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import ConfigError, RobotError
from streamvla.core.limits import MotionLimits
from streamvla.runtime.drivers.simulated import run_simulated
from streamvla.runtime.drivers.threads import run_realtime
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.faults.plan import parse_faults
from streamvla.runtime.governor.fallbacks import Compliance
from streamvla.runtime.governor.ladder import Ladder
from streamvla.runtime.timing.latency import ConstantLatency
from streamvla.trace import Ended, MemoryTrace, Sent

from .scenario import PAPER, Scenario

JOINTS = ActionSpace(("dx", "elbow_rad"), ("delta", "absolute"), (-1.0, 0.5), (1.0, 2.5))
LIMITS = MotionLimits((-math.inf, 0.5), (math.inf, 2.5), (1.0, 0.05), (0.5, 0.02), (0.5, 0.01))
ELBOW_RAD = 1.5
STANDING = np.array([9.0, ELBOW_RAD])  # what it says of a delta dimension is ignored


def bend(observation, start, index) -> np.ndarray:
    """Ask for an elbow 0.1 rad further than it was when the camera looked."""
    return np.array([0.1, observation.action_state[1] + 0.1])


def scenario(fallback: Ladder | None = None, **settings) -> Scenario:
    settings = {"standing": STANDING, "observations": 3, **settings}
    return Scenario(
        ActionFlow(0), pacing="grid", space=JOINTS, script=bend, fallback=fallback, **settings
    )


@pytest.mark.parametrize("simulated", [True, False])
def test_the_first_hold_keeps_the_joints_where_they_are(simulated):
    """Until the first action comes, the joint is commanded to where it was measured."""
    trace = MemoryTrace()
    if simulated:
        run_simulated(scenario().episode(trace), ConstantLatency(PAPER))
    else:
        run_realtime(scenario(observations=1).episode(trace))
    sent = [event for event in trace.events if isinstance(event, Sent)]
    assert sent[0].source == "hold"
    assert sent[0].values == (0.0, ELBOW_RAD)
    assert next(e for e in sent if e.source == "policy").values == (0.1, ELBOW_RAD + 0.1)


def test_the_ladder_moves_joints_from_where_they_stand_within_their_limits():
    """From 1.5 rad on, velocity, acceleration and jerk of the joint keep their limits."""
    run = scenario(Ladder(LIMITS, controller=Compliance())).run()
    elbow = np.array([ELBOW_RAD] * 3 + [values[1] for _, values in run.robot.commands])
    for order, bound in enumerate((0.05, 0.02, 0.01), start=1):
        assert np.abs(np.diff(elbow, order)).max() <= bound + 1e-9
    assert elbow.max() > ELBOW_RAD + 0.05


def test_a_robot_with_faults_stands_where_it_stands():
    """A fault that wraps the robot does not hide where its joints are."""
    trace = MemoryTrace()
    faults = parse_faults(["nan@1s"])
    run_simulated(scenario().episode(trace), ConstantLatency(PAPER), faults=faults)
    assert next(e for e in trace.events if isinstance(e, Sent)).values == (0.0, ELBOW_RAD)


@pytest.mark.parametrize(
    ("standing", "fallback", "error", "message"),
    [
        (np.array([0.0, 3.0]), Ladder(LIMITS), ConfigError, "elbow_rad stands at 3, outside"),
        (np.array([0.0, math.nan]), None, RobotError, "expected 2 finite numbers"),
        (np.zeros(3), None, RobotError, "one for each of dx, elbow_rad"),
    ],
)
def test_a_robot_that_stands_nowhere_legal_is_not_moved(standing, fallback, error, message):
    """Outside its limits, or not measured: refused before the first command, trace ended."""
    trace = MemoryTrace()
    with pytest.raises(error, match=message):
        run_simulated(scenario(fallback, standing=standing).episode(trace), ConstantLatency(PAPER))
    assert not [event for event in trace.events if isinstance(event, Sent)]
    assert isinstance(trace.events[-1], Ended)
