"""Gymnasium environments as robots, and our robots as Gymnasium environments."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import streamvla.adapters.gymnasium_env  # noqa: F401 (registers the tasks)
from streamvla.adapters.gymnasium_robot import GymnasiumRobot, box_space
from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import ConfigError, RobotError
from streamvla.robots.point import REACH_M
from streamvla.robots.registry import SUITES, suite_named
from streamvla.robots.tempo.suite import TEMPO
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


@pytest.mark.render
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_tempo_task_is_an_environment_that_tells_its_score():
    """The checker passes on one, and `info` has score, misses and success after every step."""
    environment = gymnasium.make(f"streamvla/{TEMPO.tasks[0]}-v0", render_mode="rgb_array")
    check_env(environment.unwrapped, skip_close_check=True)
    _, told = environment.reset(seed=1)
    assert (told["score"], told["missed"], told["success"]) == (0, 0, False)
    *_, told = environment.step(environment.action_space.sample())
    assert {"score", "missed", "success", "is_success", "contact_force_n"} <= set(told)
    environment.close()


def test_every_task_of_every_suite_is_registered():
    """Each has an id of its own in our namespace."""
    tasks = {task for name in SUITES.names() for task in suite_named(name).tasks}
    assert {f"streamvla/{task}-v0" for task in tasks} <= set(gymnasium.registry)


def test_one_step_is_one_control_period_and_success_ends_the_episode():
    """Two commands of 1 move the point by two reaches; on the goal, `terminated` and reward 1."""
    environment = gymnasium.make("streamvla/point-v0")
    observed, _ = environment.reset(seed=5)
    start = observed["state"][:2].copy()
    robot = environment.unwrapped._robot  # an expert needs to know where the goal is
    goal = robot.places()
    towards = np.sign(goal - start)
    for _ in range(2):
        observed, *_ = environment.step(np.array([*towards, 0], np.float32))
    assert np.allclose(observed["state"][:2] - start, 2 * REACH_M * towards, atol=1e-6)
    terminated, truncated, steps = False, False, 0
    while not (terminated or truncated):
        action = np.clip((goal - observed["state"][:2]) / REACH_M, -1, 1)
        observed, reward, terminated, truncated, told = environment.step(
            np.array([*action, 0], np.float32)
        )
        steps += 1
    assert (terminated, reward, told["success"], told["is_success"]) == (True, 1.0, True, True)
    assert steps < 30
    environment.close()


def test_a_task_without_a_dial_has_no_difficulty():
    """Asking for one is an error that says where there is one."""
    with pytest.raises(ConfigError, match="point has no difficulty, but 2"):
        gymnasium.make("streamvla/point-v0", difficulty=2.0)


def test_a_difficulty_reaches_the_task():
    """A tempo task is made at the difficulty that was asked for, and refuses an impossible one."""
    with pytest.raises(ConfigError, match=r"difficulty 0\.0 of task"):
        gymnasium.make(f"streamvla/{TEMPO.tasks[0]}-v0", difficulty=0.0)


def test_an_environment_lasts_as_long_as_an_episode():
    """15 seconds of the robot's time, whatever its control rate."""
    for task, steps in (("reach", 300), ("balance-pole", 300), ("meet-in-time", 750)):
        assert gymnasium.spec(f"streamvla/{task}-v0").max_episode_steps == steps
