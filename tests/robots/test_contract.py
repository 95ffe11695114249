"""What every robot of this package promises, checked on one robot of each kind."""

import numpy as np
import pytest

from streamvla.core.errors import ConfigError, RobotError
from streamvla.core.limits import MotionLimits
from streamvla.robots.registry import make_robot, task_names

PERIOD_NS = 50_000_000


@pytest.fixture(
    params=[
        "point",
        pytest.param("reach", marks=pytest.mark.render),
        pytest.param("press-named-button", marks=pytest.mark.render),
        pytest.param("put-named-block", marks=pytest.mark.render),
    ]
)
def robot(request):
    robot = make_robot(request.param)
    yield robot
    robot.close()


def rollout(robot, seed, steps=6):
    """The frames of a fixed sequence of commands."""
    stream = np.random.default_rng(0)
    robot.reset(seed, 0, PERIOD_NS)
    frames = []
    for index in range(steps):
        robot.command(stream.uniform(-1, 1, robot.spec.action_space.dim), index * PERIOD_NS)
        robot.advance_to((index + 1) * PERIOD_NS)
        frames.append(robot.observe(robot.capture()))
    return frames


def same(left, right):
    return np.array_equal(left.state, right.state) and all(
        np.array_equal(left.images[view], right.images[view]) for view in left.images
    )


def test_same_seed_and_commands_give_the_same_frames(robot):
    """An episode is a function of seed and commands, whatever ran on the robot before."""
    first = rollout(robot, seed=7)
    rollout(robot, seed=8, steps=3)
    assert all(same(a, b) for a, b in zip(first, rollout(robot, seed=7), strict=True))


def test_another_seed_gives_another_scene(robot):
    """Two seeds do not start with the same picture."""
    robot.reset(1, 0, PERIOD_NS)
    first = robot.observe(robot.capture())
    robot.reset(2, 0, PERIOD_NS)
    assert not same(first, robot.observe(robot.capture()))


def test_frames_fit_the_spec(robot):
    """Frames have the views, sizes, types and state names of the spec."""
    robot.reset(0, 0, PERIOD_NS)
    frames = robot.observe(robot.capture())
    assert tuple(frames.images) == robot.spec.views
    for image in frames.images.values():
        assert image.shape == (*robot.spec.image_size, 3)
        assert image.dtype == np.uint8
    assert frames.state.shape == (len(robot.spec.state_names),)
    assert frames.state.dtype == np.float32
    assert robot.instruction


def test_the_world_moves_with_the_clock_alone(robot):
    """After one command the arm moves while nobody calls anything but the clock."""
    robot.reset(3, 0, PERIOD_NS)
    before = robot.observe(robot.capture()).state
    robot.command(np.full(robot.spec.action_space.dim, 0.5), 0)
    robot.advance_to(PERIOD_NS // 2)
    middle = robot.observe(robot.capture()).state
    robot.advance_to(PERIOD_NS)
    after = robot.observe(robot.capture()).state
    assert not np.array_equal(before, middle)
    assert not np.array_equal(middle, after)


def test_a_capture_shows_its_own_instant(robot):
    """Observing after the world moved on shows what was captured, not what is."""
    robot.reset(5, 0, PERIOD_NS)
    capture = robot.capture()
    at_once = robot.observe(capture)
    robot.command(np.ones(robot.spec.action_space.dim), 0)
    robot.advance_to(4 * PERIOD_NS)
    assert same(at_once, robot.observe(capture))
    assert not same(at_once, robot.observe(robot.capture()))


def test_a_capture_outlives_its_episode(robot):
    """A capture of one episode is drawn right after the next episode has begun."""
    robot.reset(5, 0, PERIOD_NS)
    capture = robot.capture()
    at_once = robot.observe(capture)
    robot.reset(6, 0, PERIOD_NS)
    assert same(at_once, robot.observe(capture))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_commands_that_are_not_finite_are_refused(robot, value):
    """NaN or infinity never reaches the arm."""
    robot.reset(0, 0, PERIOD_NS)
    command = np.zeros(robot.spec.action_space.dim)
    command[0] = value
    with pytest.raises(RobotError, match="not finite"):
        robot.command(command, 0)


def test_commands_of_another_shape_are_refused(robot):
    """A command with a dimension too many is refused, and the message says what was expected."""
    robot.reset(0, 0, PERIOD_NS)
    dim = robot.spec.action_space.dim
    with pytest.raises(RobotError, match=rf"shape \({dim + 1},\): expected \({dim},\)"):
        robot.command(np.zeros(dim + 1), 0)


def test_time_cannot_go_back(robot):
    """An earlier instant than the last is refused."""
    robot.reset(0, 1000, PERIOD_NS)
    with pytest.raises(RobotError, match="time went back from 1000 to 999"):
        robot.advance_to(999)


def test_nothing_works_before_reset(robot):
    """Command, advance and capture before the first reset say what to do."""
    for call in (
        lambda: robot.command(np.zeros(robot.spec.action_space.dim), 0),
        lambda: robot.advance_to(0),
        robot.capture,
    ):
        with pytest.raises(RobotError, match="call reset"):
            call()


def test_bad_resets_are_refused(robot):
    """A negative seed and a vanishing command duration are refused."""
    with pytest.raises(ConfigError, match="seed -1"):
        robot.reset(-1, 0, PERIOD_NS)
    with pytest.raises(ConfigError, match="command duration 0 ns"):
        robot.reset(0, 0, 0)


def test_closing_twice_is_harmless(robot):
    """A second close does nothing."""
    robot.close()
    robot.close()


def test_an_unknown_task_suggests_the_nearest():
    """A misspelt task is refused with the right name."""
    with pytest.raises(ConfigError, match="did you mean 'drawer-open'"):
        make_robot("drawer-opn")
    assert {"point", "reach", "push", "open-named-drawer"} <= set(task_names())


def test_declared_limits_fit_the_robot_and_are_tighter_than_none(robot):
    """Every robot declares motion limits that fit its action space and bound its acceleration."""
    space, limits = robot.spec.action_space, robot.spec.limits
    assert limits is not None
    limits.require(space)
    implied = MotionLimits.of_space(space)
    delta = space.is_delta()
    assert (np.array(limits.acceleration)[delta] < np.array(implied.acceleration)[delta]).all()
