"""Experts that drive like policies: what they see, and what they consider."""

from __future__ import annotations

import numpy as np
import pytest

from streamvla.core.clock import ms_to_ns
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import FlowStart, Observation
from streamvla.policy.sources import find_policy
from streamvla.robots.expert_policy import ExpertPolicy
from streamvla.robots.point import REACH_M
from streamvla.robots.registry import make_robot
from streamvla.robots.truth import TruthView
from streamvla.testing.fakes import StillRobot, unit_space
from streamvla.testing.policy_contract import PolicyContract

PERIOD_NS = ms_to_ns(50)


def observed(robot, now_ns=0):
    frames = robot.observe(robot.capture())
    return Observation(frames.images, frames.state, np.zeros(3), robot.instruction, now_ns)


@pytest.fixture
def view():
    robot = make_robot("point", sees_truth=True)
    robot.reset(3, 0, PERIOD_NS)
    yield robot
    robot.close()


def driven(robot, actions):
    """Where the point is after these actions (k, d), one a period."""
    for i, action in enumerate(actions):
        robot.command(action, i * PERIOD_NS)
        robot.advance_to((i + 1) * PERIOD_NS)
    return robot.capture()["position"]


def test_its_actions_reach_the_goal_from_what_was_captured(view):
    """Ten actions from one observation bring the point as near as ten of the teacher would."""
    policy = ExpertPolicy("point", horizon=20)
    actions = list(policy.generate(policy.encode(observed(view)), FlowStart(np.zeros(3))))
    assert len(actions) == 20
    assert np.linalg.norm(driven(view, actions) - view.capture()["goal"]) < REACH_M / 4


def test_it_considers_what_is_executed_before_its_first_action(view):
    """With age stated, executed and pending commands act first in its mind; without, none does."""
    policy = ExpertPolicy("point", horizon=1)
    context = policy.encode(observed(view))
    goal, here = view.capture()["goal"], view.capture()["position"]
    step = np.array([*np.clip((goal - here) / REACH_M, -1, 1) * 0.5, 0.0])
    start = FlowStart(step * 3, age=3, prefix=np.stack([step] * 2), executed=step[None])
    (told,) = policy.generate(context, start)
    (untold,) = policy.generate(context, FlowStart(step * 3))
    expected = np.clip((goal - here - 3 * step[:2] * REACH_M) / REACH_M, -1, 1)
    assert np.allclose(told[:2], expected)
    assert np.allclose(untold[:2], np.clip((goal - here) / REACH_M, -1, 1))


def test_a_goal_that_will_jump_is_not_foreseen():
    """From one truth, the point whose goal will be moved and the one whose will not act alike."""
    views = [make_robot(name, sees_truth=True) for name in ("point", "point-moved")]
    chunks = []
    for robot in views:
        robot.reset(3, 0, PERIOD_NS)
        policy = ExpertPolicy(robot.task, horizon=80)
        chunks.append(list(policy.generate(policy.encode(observed(robot)), FlowStart(np.zeros(3)))))
        robot.close()
    assert np.array_equal(*chunks)


def test_a_robot_that_does_not_tell_is_refused():
    """In one line that names the methods it lacks."""
    with pytest.raises(ConfigError, match="truth"):
        TruthView(StillRobot(unit_space(), PERIOD_NS))


@pytest.mark.parametrize("source", ["expert:", "expert:point:x", "expert:pont"])
def test_a_source_without_a_task_is_refused(source):
    """As is one with an unknown task, or a horizon that is no number."""
    with pytest.raises(ConfigError):
        find_policy(source)


class TestExpertPolicy(PolicyContract):
    def policy(self):
        return find_policy("expert:point").load({})

    def observation(self, policy, seed=0):
        robot = make_robot("point", sees_truth=True)
        robot.reset(seed, 0, PERIOD_NS)
        return observed(robot)


def test_a_timed_expert_considers_what_no_executor_compensates(view):
    """Told no age, it lets executed and pending commands act, and stands for the rest of the delay;
    of a chunk from the capture on the first actions are those."""
    policy = ExpertPolicy("point", horizon=5, timed=True)
    context = policy.encode(observed(view))
    goal, here = view.capture()["goal"], view.capture()["position"]
    step = np.array([*np.clip((goal - here) / REACH_M, -1, 1) * 0.5, 0.0])
    known = {"prefix": np.stack([step] * 2), "executed": step[None], "delay": 4}
    after = list(policy.generate(context, FlowStart(step * 3, **known)))
    expected = np.clip((goal - here - 3 * step[:2] * REACH_M) / REACH_M, -1, 1)
    assert np.allclose(after[0][:2], expected)
    whole = list(policy.generate(context, FlowStart(np.zeros(3), elapsed=3, **known)))
    assert np.allclose(whole[3:], after[:2])
