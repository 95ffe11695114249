"""Gymnasium environments as robots, and our robots as Gymnasium environments."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from streamvla.adapters.gymnasium_robot import GymnasiumRobot, box_space
from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import ConfigError, RobotError
from streamvla.testing.robot_contract import SimulatedRobotContract

PERIOD_NS = 20_000_000
JOINTS = ActionSpace(
    ("shoulder_rad", "elbow_rad"), ("absolute", "absolute"), (-3.1, -3.0), (3.1, 3.0)
)


def joints(environment):
    return environment.unwrapped.data.qpos[:2]


def torque(environment, target):
    """A controller of the joints, as a robot has one."""
    speed = environment.unwrapped.data.qvel[:2]
    return np.clip(2 * (target - joints(environment)) - 0.2 * speed, -1, 1)


def reacher():
    return GymnasiumRobot(
        lambda: gymnasium.make("Reacher-v5", render_mode="rgb_array", width=64, height=48),
        control_hz=50,
        space=JOINTS,
        act=torque,
        standing=joints,
        state=lambda environment, observation: joints(environment),
        state_names=JOINTS.names,
        instruction="reach",
    )


@pytest.mark.render
class TestReacher(SimulatedRobotContract):
    def robot(self):
        return reacher()


@pytest.mark.render
def test_an_environment_that_never_says_success_has_no_task():
    """Reacher says nothing of success; with a rule of one's own, or a frozen world that does say
    it, there is a task."""
    assert not reacher().spec.has_task
    environment = lambda: gymnasium.make("Reacher-v5", render_mode="rgb_array")  # noqa: E731
    settings = {"control_hz": 50, "space": JOINTS, "act": torque, "standing": joints}
    judged = GymnasiumRobot(environment, success=lambda *_: False, **settings)
    assert judged.spec.has_task
    says = lambda: Says(environment())  # noqa: E731
    assert GymnasiumRobot(says, **settings).spec.has_task


class Says(gymnasium.Wrapper):
    """Says after every step whether its task is reached."""

    def step(self, action):
        *rest, info = super().step(action)
        return *rest, {**info, "is_success": False}


@pytest.mark.render
def test_a_command_brings_the_joints_there():
    """The world makes one step for every command duration, and holds the target afterwards."""
    robot = reacher()
    robot.reset(1, 0, PERIOD_NS)
    assert np.abs(robot.standing()).max() < 0.2
    robot.command(np.array([0.5, -0.5]), 0)
    robot.advance_to(60 * PERIOD_NS)
    assert np.allclose(robot.standing(), [0.5, -0.5], atol=0.01)
    robot.close()


@pytest.mark.render
def test_until_the_first_command_the_joints_are_held_where_they_stand():
    """Nothing drives them to zero while the first action is made."""
    robot = reacher()
    robot.reset(1, 0, PERIOD_NS)
    standing = robot.standing().copy()
    robot.advance_to(40 * PERIOD_NS)
    assert np.allclose(robot.standing(), standing, atol=0.005)
    robot.close()


@pytest.mark.render
def test_a_capture_is_drawn_while_the_world_goes_on():
    """Pictures drawn beside the steps are those that were drawn with the world at rest."""
    robot = reacher()
    robot.reset(2, 0, PERIOD_NS)
    captures, drawn = [], []
    with ThreadPoolExecutor(1) as thread:
        for step in range(30):
            robot.command(np.array([0.1 * step, -0.05 * step]), step * PERIOD_NS)
            robot.advance_to((step + 1) * PERIOD_NS)
            captures.append(robot.capture())
            drawn.append(thread.submit(robot.observe, captures[-1]))
    for capture, picture in zip(captures, drawn, strict=True):
        again = robot.observe(capture).images["camera"]
        assert np.array_equal(picture.result().images["camera"], again)
    robot.close()


def test_an_environment_without_bounds_is_refused():
    """An action space that is no bounded box is named, with what to state instead."""
    environment = gymnasium.make("CartPole-v1")
    with pytest.raises(ConfigError, match="expected a Box"):
        box_space(environment, "absolute")
    environment.close()


def test_something_else_is_no_environment():
    """A function that makes no environment is refused."""
    with pytest.raises(RobotError, match="expected a gymnasium"):
        GymnasiumRobot(lambda: object(), control_hz=50)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_our_tasks_are_gymnasium_environments():
    """Gymnasium's own checker passes on a registered task."""
    name = "streamvla.adapters.gymnasium_env:streamvla/point-v0"
    environment = gymnasium.make(name, render_mode="rgb_array")
    check_env(environment.unwrapped, skip_close_check=True)
    _, told = environment.reset(seed=3)
    assert told["instruction"] == "move to the green dot"
    assert environment.render().shape == (32, 32, 3)
    environment.close()
