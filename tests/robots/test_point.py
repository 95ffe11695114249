"""The point robot."""

import numpy as np

from streamvla.robots.point import SPEC, PointRobot

PERIOD_NS = SPEC.control_period_ns


def test_success_is_latched():
    """Having touched the goal once, the episode stays a success after leaving it."""
    robot = PointRobot()
    robot.reset(0, 0, PERIOD_NS)
    goal = robot.capture()["goal"]
    instant = 0
    while not robot.success:
        direction = np.sign(goal - robot.capture()["position"])
        robot.command(np.array([*direction, 0.0]), instant)
        instant += PERIOD_NS
        robot.advance_to(instant)
    for _ in range(20):
        robot.command(np.array([1.0, 1.0, 0.0]), instant)
        instant += PERIOD_NS
        robot.advance_to(instant)
    assert np.linalg.norm(robot.capture()["position"] - goal) > 0.1
    assert robot.success


def test_the_goal_is_in_the_picture():
    """The only pure green pixels lie around the goal."""
    robot = PointRobot()
    robot.reset(1, 0, PERIOD_NS)
    capture = robot.capture()
    image = robot.observe(capture).images["top"]
    rows, columns = np.nonzero((image == (0, 255, 0)).all(axis=-1))
    assert np.allclose([columns.mean() / 31, 1 - rows.mean() / 31], capture["goal"], atol=1.0 / 31)
