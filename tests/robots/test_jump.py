"""A goal that is moved: when, where to, and what counts."""

from __future__ import annotations

import numpy as np
import pytest

from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import stimulus_of
from streamvla.robots.jump import EARLIEST, LATEST, GoalJump
from streamvla.robots.metaworld.robot import MetaWorldRobot
from streamvla.robots.registry import make_robot
from streamvla.testing import StillRobot, unit_space

PERIOD_NS = 50_000_000


@pytest.fixture(params=["point-moved", pytest.param("reach-moved", marks=pytest.mark.render)])
def robot(request):
    robot = make_robot(request.param)
    yield robot
    robot.close()


def goal(robot) -> np.ndarray:
    capture = robot.capture()
    return capture["goal"] if "goal" in capture else capture["site_pos"]


def test_the_goal_moves_at_the_stated_instant_and_not_before(robot):
    """Up to the sub-step before the stimulus goal and picture stand still; then both change."""
    for seed in (3, 4):
        robot.reset(seed, 1000, PERIOD_NS)
        instant_ns = GoalJump.draw(seed, 1000, PERIOD_NS, 4).instant_ns
        first = goal(robot)
        robot.advance_to(instant_ns - 1)
        before = robot.observe(robot.capture())
        assert np.array_equal(goal(robot), first)
        assert stimulus_of(robot) is None
        robot.advance_to(instant_ns)
        after = robot.observe(robot.capture())
        assert not np.array_equal(goal(robot), first)
        assert stimulus_of(robot) == instant_ns
        assert any(not np.array_equal(before.images[v], after.images[v]) for v in before.images)
        assert EARLIEST * PERIOD_NS <= instant_ns - 1000 <= LATEST * PERIOD_NS


def test_same_seed_same_jump(robot):
    """Instant and place are functions of the seed."""
    found = []
    for seed in (5, 6, 5):
        robot.reset(seed, 0, PERIOD_NS)
        robot.advance_to(LATEST * PERIOD_NS)
        found.append((stimulus_of(robot), goal(robot).tolist()))
    assert found[0] == found[2] != found[1]


def test_reaching_the_goal_counts_only_after_the_jump():
    """A point that sits on its first goal has not succeeded; on the second it has."""
    robot = make_robot("point-moved")
    robot.reset(0, 0, PERIOD_NS)
    now_ns, reached_first = 0, False
    while stimulus_of(robot) is None or not robot.success:
        capture = robot.capture()
        step = np.clip((capture["goal"] - capture["position"]) / 0.05, -1, 1)
        reached_first |= bool(np.linalg.norm(capture["goal"] - capture["position"]) < 0.01)
        robot.command(np.array([*step, 0.0]), now_ns)
        now_ns += PERIOD_NS
        robot.advance_to(now_ns)
        assert stimulus_of(robot) is not None or not robot.success
    assert reached_first
    assert robot.success


def test_instants_are_spread_evenly():
    """Over many seeds the instants fill the whole range."""
    instants = [GoalJump.draw(seed, 0, 4, 4).step for seed in range(400)]
    counts, _ = np.histogram(instants, bins=4, range=(EARLIEST * 4, LATEST * 4))
    assert counts.min() > 60


def test_a_robot_without_stimuli_states_none():
    """The attribute is optional."""
    assert stimulus_of(StillRobot(unit_space(), 1)) is None


def test_only_a_free_goal_can_be_moved():
    """Moving the goal of a task with things in it is refused."""
    with pytest.raises(ConfigError, match="'push' cannot be moved"):
        MetaWorldRobot("push", moved=True)
