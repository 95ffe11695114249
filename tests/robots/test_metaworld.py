"""What is particular to Meta-World."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from streamvla.core.errors import ConfigError, RobotError
from streamvla.robots.metaworld.expert import MetaWorldExpert
from streamvla.robots.metaworld.robot import MetaWorldRobot
from streamvla.robots.metaworld.tasks import GREEN, TASKS
from streamvla.robots.sawyer import SPEC

pytestmark = pytest.mark.render
PERIOD_NS = SPEC.control_period_ns


@pytest.fixture(scope="module")
def reach():
    robot = MetaWorldRobot("reach")
    yield robot
    robot.close()


def run_expert(robot, seed, limit=120):
    """Drive the expert until success; the instant it ended."""
    expert = MetaWorldExpert(robot)
    robot.reset(seed, 0, PERIOD_NS)
    for index in range(limit):
        robot.command(expert.act(), index * PERIOD_NS)
        robot.advance_to((index + 1) * PERIOD_NS)
        if robot.success:
            return (index + 1) * PERIOD_NS
    return limit * PERIOD_NS


def test_one_command_moves_the_hand_target_four_centimetres(reach):
    """A unit step moves the mocap target 1 cm in each of four sub-steps, then it stays."""
    reach.reset(0, 0, PERIOD_NS)
    start = reach.capture()["mocap_pos"][0]
    reach.command(np.array([1.0, 0.0, 0.0, 0.0]), 0)
    moved = []
    for substep in range(1, 8):
        reach.advance_to(substep * PERIOD_NS // 4)
        moved.append(float(reach.capture()["mocap_pos"][0, 0] - start[0]))
    assert moved == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.04, 0.04, 0.04])


def test_a_shorter_command_duration_is_the_same_motion_sooner(reach):
    """Halving the command duration changes the clock, not the path."""

    def final_state(duration_ns):
        reach.reset(4, 0, duration_ns)
        for index in range(5):
            reach.command(np.array([0.5, 0.5, 0.0, 1.0]), index * duration_ns)
        reach.advance_to(5 * duration_ns)
        return reach.capture()["state"]

    assert np.array_equal(final_state(PERIOD_NS), final_state(PERIOD_NS // 2))


def test_observing_in_another_thread_does_not_disturb_the_world(reach):
    """Frames rendered while physics steps equal those rendered at rest, and so does the motion."""

    def rollout(observe):
        reach.reset(9, 0, PERIOD_NS)
        seen = []
        for index in range(12):
            seen.append(observe(reach.capture()))
            reach.command(np.array([0.3, 0.8, -0.2, 1.0]), index * PERIOD_NS)
            reach.advance_to((index + 1) * PERIOD_NS)
        return seen, reach.capture()["state"]

    at_rest, state_at_rest = rollout(reach.observe)
    with ThreadPoolExecutor(max_workers=2) as threads:
        futures, state = rollout(lambda capture: threads.submit(reach.observe, capture))
        frames = [future.result() for future in futures]
    assert np.array_equal(state, state_at_rest)
    for quiet, busy in zip(at_rest, frames, strict=True):
        for view in SPEC.views:
            assert np.array_equal(quiet.images[view], busy.images[view])


def test_success_is_latched(reach):
    """Having reached the goal once, the episode stays a success after moving away."""
    instant = run_expert(reach, seed=1)
    assert reach.success
    for index in range(10):
        reach.command(np.array([0.0, -1.0, 0.0, 0.0]), instant + index * PERIOD_NS)
    reach.advance_to(instant + 10 * PERIOD_NS)
    hand, goal = reach.privileged_observation[:3], reach.privileged_observation[-3:]
    assert np.linalg.norm(hand - goal) > 0.1
    assert reach.success
    reach.reset(1, 0, PERIOD_NS)
    assert not reach.success


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_reach_goal_shows_in_both_views(reach, seed):
    """At the start of an episode at least six pixels of each view are saturated green."""
    reach.reset(seed, 0, PERIOD_NS)
    for image in reach.observe(reach.capture()).images.values():
        red, green, blue = np.moveaxis(image.astype(int), -1, 0)
        assert ((green > 120) & (red < 60) & (blue < 60)).sum() >= 6


def test_the_goal_marker_shows_only_where_the_task_needs_it():
    """Where the scene itself says what to do, no site is painted as a goal."""
    robot = MetaWorldRobot("drawer-open")
    robot.reset(0, 0, PERIOD_NS)
    model = robot._environment.model
    robot.close()
    assert not any(tuple(colour) == GREEN for colour in model.site_rgba)


def test_videos_are_rendered_after_the_fact(reach):
    """A capture renders at any size, long after its instant."""
    reach.reset(0, 0, PERIOD_NS)
    capture = reach.capture()
    reach.advance_to(10 * PERIOD_NS)
    image = reach.render_capture(capture, "front", size=(120, 160))
    assert image.shape == (120, 160, 3)
    assert image.std() > 10
    with pytest.raises(ConfigError, match="did you mean 'front'"):
        reach.render_capture(capture, "frnt")


def test_a_closed_robot_says_so():
    """Observing after close is refused."""
    robot = MetaWorldRobot("reach")
    robot.reset(0, 0, PERIOD_NS)
    capture = robot.capture()
    robot.close()
    with pytest.raises(RobotError, match="closed"):
        robot.observe(capture)


def test_an_episode_does_not_end_by_itself(reach):
    """The world goes on past Meta-World's 500 steps."""
    reach.reset(0, 0, PERIOD_NS)
    reach.advance_to(130 * PERIOD_NS)
    assert np.isfinite(reach.capture()["state"]).all()


@pytest.mark.parametrize("task", sorted(TASKS))
def test_the_expert_solves_every_task(task):
    """The scripted expert, clipped and held for four sub-steps, solves this task at 20 Hz."""
    robot = MetaWorldRobot(task)
    run_expert(robot, seed=0)
    solved = robot.success
    robot.close()
    assert solved


def test_recoloured_objects_are_blue_in_a_view():
    """A block that stock Meta-World shows brown on brown has blue pixels where the hand is not."""
    robot = MetaWorldRobot("sweep")
    robot.reset(0, 0, PERIOD_NS)
    images = robot.observe(robot.capture()).images.values()
    robot.close()
    blue = [image.reshape(-1, 3).astype(int) for image in images]
    assert max(((v[:, 2] > 100) & (v[:, 0] < 60) & (v[:, 1] < 100)).sum() for v in blue) >= 6


def test_there_are_at_least_eighteen_tasks():
    """The suite is as large as promised, and each task names its phrasings once."""
    assert len(TASKS) >= 18
    for task in TASKS.values():
        assert len(set(task.phrasings.train)) >= 4
        assert len(set(task.phrasings.heldout)) >= 2


def test_instructions_follow_seed_and_split(reach):
    """The instruction is a function of the seed, and a held-out robot never says a training one."""
    seen = set()
    for seed in range(12):
        reach.reset(seed, 0, PERIOD_NS)
        said = reach.instruction
        reach.reset(seed, 0, PERIOD_NS)
        assert reach.instruction == said
        seen.add(said)
    assert len(seen) > 1
    assert seen <= set(TASKS["reach"].phrasings.train)
    with pytest.raises(ConfigError, match="unknown instruction split"):
        MetaWorldRobot("reach", split="test")


def test_a_scene_with_one_goal_can_be_asked_for_nothing_but_not_for_another():
    """Blank makes the instruction empty; swapped is refused with the reason."""
    robot = MetaWorldRobot("reach", asked="blank")
    robot.reset(0, 0, PERIOD_NS)
    assert robot.instruction == ""
    robot.close()
    with pytest.raises(ConfigError, match="'reach' has one goal"):
        MetaWorldRobot("reach", asked="swapped")


@pytest.mark.parametrize("task", ["window-close", "dial-turn"])
def test_places_are_those_of_the_picture_from_the_first_frame(task):
    """Where things are told to be right after reset is where they still are when nothing moved."""
    robot = MetaWorldRobot(task)
    robot.reset(3, 0, PERIOD_NS)
    told = robot.places()
    robot.command(np.zeros(4), 0)
    robot.advance_to(PERIOD_NS)
    assert told == pytest.approx(robot.places(), abs=5e-3)
    robot.close()
