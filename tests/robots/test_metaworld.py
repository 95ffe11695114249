"""What is particular to Meta-World."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from streamvla.core.errors import ConfigError, RobotError
from streamvla.data.expert import ScriptedExpert
from streamvla.robots.instructions import INSTRUCTIONS, phrasings
from streamvla.robots.metaworld import GREEN, SPEC, TASKS, MetaWorldRobot

pytestmark = pytest.mark.render
PERIOD_NS = SPEC.control_period_ns


@pytest.fixture(scope="module")
def reach():
    robot = MetaWorldRobot("reach")
    yield robot
    robot.close()


def run_expert(robot, seed, limit=60):
    """Drive the expert until success; the instant it ended."""
    expert = ScriptedExpert(robot.task)
    robot.reset(seed, 0, PERIOD_NS)
    for index in range(limit):
        robot.command(expert.act(robot.privileged_observation), index * PERIOD_NS)
        robot.advance_to((index + 1) * PERIOD_NS)
        if robot.success:
            return (index + 1) * PERIOD_NS
    return limit * PERIOD_NS


def test_one_command_moves_the_hand_target_four_centimetres(reach):
    """A unit step moves the mocap target 1 cm in each of four sub-steps, then it stays."""
    reach.reset(0, 0, PERIOD_NS)
    start = reach.capture().pose.mocap_pos[0]
    reach.command(np.array([1.0, 0.0, 0.0, 0.0]), 0)
    moved = []
    for substep in range(1, 8):
        reach.advance_to(substep * PERIOD_NS // 4)
        moved.append(float(reach.capture().pose.mocap_pos[0, 0] - start[0]))
    assert moved == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.04, 0.04, 0.04])


def test_a_shorter_command_duration_is_the_same_motion_sooner(reach):
    """Halving the command duration changes the clock, not the path."""

    def final_state(duration_ns):
        reach.reset(4, 0, duration_ns)
        for index in range(5):
            reach.command(np.array([0.5, 0.5, 0.0, 1.0]), index * duration_ns)
        reach.advance_to(5 * duration_ns)
        return reach.capture().state

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
        return seen, reach.capture().state

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
    assert np.isfinite(reach.capture().state).all()


@pytest.mark.parametrize("task", sorted(TASKS))
def test_the_expert_solves_every_task(task):
    """The scripted expert, clipped and held for four sub-steps, solves this task at 20 Hz."""
    robot = MetaWorldRobot(task)
    run_expert(robot, seed=0)
    solved = robot.success
    robot.close()
    assert solved


def test_every_task_has_instructions_of_both_splits():
    """Each task has at least four training phrasings and two others held out."""
    assert set(TASKS) == set(INSTRUCTIONS)
    for task in TASKS:
        train, heldout = phrasings(task, "train"), phrasings(task, "heldout")
        assert len(set(train)) >= 4
        assert len(set(heldout)) >= 2
        assert not set(train) & set(heldout)


def test_no_instruction_means_two_tasks():
    """Every phrasing belongs to one task."""
    said = [text for p in INSTRUCTIONS.values() for text in (*p.train, *p.heldout)]
    assert len(said) == len(set(said))


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
    assert seen <= set(phrasings("reach", "train"))
    with pytest.raises(ConfigError, match="expected 'train' or 'heldout'"):
        MetaWorldRobot("reach", split="test")
