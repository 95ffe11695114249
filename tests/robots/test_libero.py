"""LIBERO's tasks as robots: against LIBERO itself where it is installed.

Making an environment takes ten seconds, so the contract is among the slow tests.
"""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from streamvla.core.errors import ConfigError, RobotError
from streamvla.core.interfaces import Robot
from streamvla.evaluation.metrics import metrics_of
from streamvla.robots.libero import package
from streamvla.robots.libero.robot import ACTION_SPACE, OPEN, SETTLING_COMMANDS, VIEWS, LiberoRobot
from streamvla.robots.registry import make_robot, suite_named, suite_tasks
from streamvla.robots.suite import Suite
from streamvla.runtime import ActionFlow
from streamvla.runtime.drivers.episode import Episode, EpisodeLimits
from streamvla.runtime.drivers.simulated import run_simulated
from streamvla.runtime.streamer.machine import Streamer
from streamvla.runtime.timing.latency import ConstantLatency, named_profile
from streamvla.testing.fakes import ScriptedPolicy
from streamvla.testing.robot_contract import SimulatedRobotContract, alike
from streamvla.trace import MemoryTrace

PERIOD_NS = 50_000_000
TASK = "libero-object-0"


@pytest.fixture
def absent(monkeypatch):
    """As if LIBERO were not installed."""
    monkeypatch.setattr(package, "_root", lambda: None)
    package.task_titles.cache_clear()
    yield
    package.task_titles.cache_clear()


@pytest.fixture(scope="module")
def robot():
    """One task's robot for all tests that only reset it."""
    made = make_robot(TASK)
    yield made
    made.close()


def commands(count: int) -> np.ndarray:
    """(count, 7) a motion in all dimensions that closes the hand half way."""
    motion = np.tile([0.2, -0.3, -0.5, 0.05, 0.1, 0.0, -1.0], (count, 1))
    motion[count // 2 :, -1] = 1.0
    return motion


def test_without_libero_its_robots_say_how_to_install_it(absent):
    """The one error has the remedy."""
    assert package.task_titles("libero_object") == ()
    with pytest.raises(RobotError, match=r"not installed; install LIBERO .*streamvla\[libero\]"):
        package.make_environment("libero_object", 0)


def test_a_suite_without_tasks_says_what_is_missing(monkeypatch):
    """Naming it is an error with the remedy, not an evaluation of nothing."""
    from streamvla.robots import registry

    spec = suite_named("libero").spec
    empty = Suite("libero", spec, (), lambda *_: None, lambda _: (), remedy=package.REMEDY)
    monkeypatch.setattr(registry, "suite_named", lambda name: empty)
    with pytest.raises(ConfigError, match=r"suite libero has no tasks here: .*streamvla\[libero\]"):
        suite_tasks("libero")


@pytest.mark.libero
def test_the_names_are_those_of_liberos_files():
    """Ten tasks in each of four suites and ninety more; every title is a task file, and an
    initial-state file."""
    assert len(suite_tasks("libero")) == 40
    assert len(suite_tasks("libero-90")) == 90
    spec = find_spec("libero")
    assert spec is not None
    folder = Path((spec.submodule_search_locations or [""])[0]) / "libero"
    for suite in ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90"):
        for title in package.task_titles(suite):
            assert (folder / "bddl_files" / suite / f"{title}.bddl").is_file()
            assert list((folder / "init_files" / suite).glob(f"{title}.pruned_init*"))


@pytest.mark.libero
def test_the_instructions_are_liberos_own():
    """What the suite says of a task is what LIBERO's benchmark says of it, for all 130."""
    from libero.libero import benchmark

    for name in ("libero-spatial", "libero-object", "libero-goal", "libero-10", "libero-90"):
        suite = suite_named(name)
        with redirect_stdout(io.StringIO()):
            theirs = benchmark.get_benchmark(name.replace("-", "_"))(0)
        for index, task in enumerate(suite.tasks):
            assert suite.instructions(task) == (theirs.get_task(index).language,)


@pytest.mark.libero
def test_the_world_is_liberos_to_the_last_bit(robot):
    """After the same commands, all joints and objects are where LIBERO's own `step` has them."""
    environment, states = package.make_environment("libero_object", 0)
    stream = np.random.get_state()
    np.random.seed(3)
    environment.reset()
    np.random.set_state(stream)
    environment.set_init_state(states[3])
    for _ in range(SETTLING_COMMANDS):
        environment.step(np.array(OPEN))
    robot.reset(3, 0, PERIOD_NS)
    for index, command in enumerate(commands(16)):
        environment.step(command)
        robot.command(command, index * PERIOD_NS)
        robot.advance_to((index + 1) * PERIOD_NS)
    assert np.abs(environment.sim.data.qpos - robot.capture()["qpos"]).max() < 1e-12


@pytest.mark.libero
@pytest.mark.render
def test_the_pictures_are_liberos_pixel_by_pixel(robot):
    """What robosuite draws of the same instant, right side up, in both cameras."""
    robot.reset(1, 0, PERIOD_NS)
    frames = robot.observe(robot.capture())
    from robosuite.utils.binding_utils import MjRenderContextOffscreen

    simulation = robot._simulation
    simulation.forward()
    context = MjRenderContextOffscreen(simulation, device_id=-1)
    context.vopt.geomgroup[0] = 0
    for view in VIEWS:
        theirs = simulation.render(width=256, height=256, camera_name=view)[::-1]
        different = (np.abs(frames.images[view].astype(int) - theirs) > 2).any(axis=-1).mean()
        assert different < 0.001, view


@pytest.mark.libero
def test_a_halt_keeps_the_hand_and_the_gripper(robot):
    """Half a second without commands moves the hand by less than a millimetre a command, and the
    fingers stay as they were told."""
    robot.reset(0, 0, PERIOD_NS)
    closing = np.array([0.0] * 6 + [1.0])
    for index in range(10):
        robot.command(closing, index * PERIOD_NS)
    robot.advance_to(10 * PERIOD_NS)
    before, fingers = robot.measure()[:3], robot.capture()["state"][-2:]
    assert np.abs(fingers).max() < 0.01
    robot.advance_to(20 * PERIOD_NS)
    assert np.linalg.norm(robot.measure()[:3] - before) < 0.01
    assert np.abs(robot.capture()["state"][-2:]).max() < 0.01


@pytest.mark.libero
def test_success_is_liberos_goal(robot):
    """With its object dropped into the basket the task is reached; before it was not."""
    robot.reset(0, 0, PERIOD_NS)
    assert not robot.success
    data = robot._simulation.data
    x, y, z = data.get_body_xpos("basket_1_main")
    data.set_joint_qpos("alphabet_soup_1_joint0", np.array([x, y, z + 0.1, 1, 0, 0, 0]))
    robot.advance_to(20 * PERIOD_NS)
    assert robot.success


@pytest.mark.libero
def test_it_is_driven_like_any_robot(robot):
    """A policy that streams moves the hand in virtual time, and the figures of its motion
    are there."""
    trace, profile = MemoryTrace(), named_profile("paper-20hz")
    down = np.array([0, 0, -0.5, 0, 0, 0, -1.0])
    policy = ScriptedPolicy(ACTION_SPACE, 10, PERIOD_NS, lambda *_: down, robot=robot.spec)
    streamer = Streamer(ACTION_SPACE, 10, ActionFlow(3), "grid", trace)
    episode = Episode(robot, policy, streamer, trace, profile, EpisodeLimits(1_500_000_000))
    robot.reset(2, 0, PERIOD_NS)
    run_simulated(episode, ConstantLatency(profile))
    run = metrics_of(trace.events, PERIOD_NS, "grid", ACTION_SPACE)
    assert run.success is False
    assert run.task.hand_path_m is not None
    assert run.task.hand_path_m > 0.05
    assert run.task.energy_j is not None
    assert run.task.energy_j > 0
    assert run.task.score is None


@pytest.mark.libero
@pytest.mark.render
def test_plain_pictures_show_the_same_scene(robot):
    """Without shadows they differ, but not much."""
    plain = LiberoRobot(TASK, "libero_object", 0, faithful=False)
    for each in (robot, plain):
        each.reset(4, 0, PERIOD_NS)
    one, other = robot.observe(robot.capture()), plain.observe(plain.capture())
    assert not alike(one, other)
    assert np.array_equal(one.state, other.state)
    for view in VIEWS:
        assert np.abs(one.images[view].astype(int) - other.images[view]).mean() < 30
    plain.close()


@pytest.mark.libero
def test_one_instruction_and_one_goal():
    """Neither another split nor another goal is there."""
    with pytest.raises(ConfigError, match="one instruction and one goal"):
        make_robot(TASK, "heldout")
    with pytest.raises(ConfigError, match="one instruction and one goal"):
        make_robot(TASK, "train", "swapped")


@pytest.mark.libero
@pytest.mark.slow
@pytest.mark.render
class TestLibero(SimulatedRobotContract):
    """It keeps the contract of every simulated robot."""

    def robot(self) -> Robot:
        return make_robot("libero-goal-2")
