"""The language scenes: only the instruction tells what to do, and it is in nobody's picture."""

import numpy as np
import pytest

from streamvla.core.errors import ConfigError
from streamvla.robots.registry import make_robot
from streamvla.robots.sawyer import SPEC
from streamvla.robots.suite import same_robot
from streamvla.robots.tabletop.experts import TabletopExpert
from streamvla.robots.tabletop.robot import FAMILIES, TabletopRobot
from streamvla.robots.tabletop.scene import COLOURS

pytestmark = pytest.mark.render
PERIOD_NS = SPEC.control_period_ns
SEEDS = range(20)
COMMANDS = 40


@pytest.fixture(scope="module", params=list(FAMILIES))
def robot(request):
    robot = TabletopRobot(request.param)
    yield robot
    robot.close()


@pytest.fixture(scope="module")
def buttons():
    robot = TabletopRobot("press-named-button")
    yield robot
    robot.close()


def run_expert(robot, expert, first=0, commands=COMMANDS):
    """Drive an expert until a goal is reached; commands sent since `reset`."""
    for index in range(first, commands):
        robot.command(expert.act(), index * PERIOD_NS)
        robot.advance_to((index + 1) * PERIOD_NS)
        if robot.reached is not None:
            return index + 1
    return commands


def frames(robot):
    return robot.observe(robot.capture()).images


def test_one_policy_fits_both_suites(robot):
    """Spec, action space, views and state are Meta-World's."""
    assert same_robot(robot.spec, SPEC)


def test_the_expert_solves_every_seed(robot):
    """The scripted expert reaches the goal asked for within 40 commands on 20 of 20 seeds."""
    expert = TabletopExpert(robot)
    for seed in SEEDS:
        robot.reset(seed, 0, PERIOD_NS)
        run_expert(robot, expert)
        assert robot.success, (seed, robot.goal, robot.reached)
        assert not robot.reached_other


def test_the_expert_stays_reached_and_comes_to_rest(robot):
    """Eighteen commands after success the goal still holds and the next asks for under 2 cm."""
    expert = TabletopExpert(robot)
    robot.reset(1, 0, PERIOD_NS)
    done = run_expert(robot, expert)
    run = [expert.act()]
    for index in range(done, done + 18):
        robot.command(run[-1], index * PERIOD_NS)
        robot.advance_to((index + 1) * PERIOD_NS)
        run.append(expert.act())
    assert robot.scene.reached() == robot.goal
    assert np.abs(run[-1][:3]).max() < 0.5


def test_nothing_is_reached_by_waiting(robot):
    """Over 20 seeds, a second without commands reaches no goal."""
    for seed in SEEDS:
        robot.reset(seed, 0, PERIOD_NS)
        robot.advance_to(20 * PERIOD_NS)
        assert robot.reached is None


def test_another_goal_is_another_success_in_the_same_picture(robot):
    """Asked for every goal in turn, one scene gives pixel-identical frames and other successes."""
    expert = TabletopExpert(robot)
    robot.reset(3, 0, PERIOD_NS)
    first, goals, said = frames(robot), robot.goals, set()
    assert 2 <= len(goals) <= 6
    for goal in goals:
        robot.reset(3, 0, PERIOD_NS)
        robot.instruct(goal)
        said.add(robot.instruction)
        for view, image in frames(robot).items():
            assert np.array_equal(image, first[view])
        run_expert(robot, expert)
        assert robot.success
        assert robot.reached == goal
    assert len(said) == len(goals)


def test_reaching_the_wrong_goal_is_no_success(robot):
    """An expert that follows the swapped instruction fails the original one, and we know why."""
    robot.reset(5, 0, PERIOD_NS)
    own = robot.goal
    other = next(goal for goal in robot.goals if goal != own)
    robot.instruct(other)
    done = run_expert(robot, TabletopExpert(robot))
    robot.instruct(own)
    assert robot.reached_other
    assert not robot.success
    run_expert(robot, TabletopExpert(robot), first=done, commands=done + COMMANDS)
    assert robot.reached == other
    assert not robot.success


def test_a_swapped_robot_asks_for_another_goal_of_the_same_scene(robot):
    """On every seed: same picture and same phrasing split, never the goal of the seed itself."""
    swapped = make_robot(robot.task, asked="swapped")
    for seed in SEEDS[:5]:
        robot.reset(seed, 0, PERIOD_NS)
        swapped.reset(seed, 0, PERIOD_NS)
        assert swapped.goals == robot.goals
        assert swapped.goal != robot.goal
        assert swapped.instruction in swapped.phrasings.train
        for view, image in frames(robot).items():
            assert np.array_equal(image, frames(swapped)[view])
    swapped.close()


def test_a_blank_robot_says_nothing_and_keeps_its_goal(buttons):
    """Blank empties the instruction and leaves goal and success as they were."""
    blank = TabletopRobot("press-named-button", asked="blank")
    for seed in SEEDS[:5]:
        buttons.reset(seed, 0, PERIOD_NS)
        blank.reset(seed, 0, PERIOD_NS)
        assert blank.instruction == ""
        assert blank.goal == buttons.goal
    blank.close()


def test_the_goal_is_independent_of_the_layout(buttons):
    """Over 300 seeds the goal is each of the scene's goals equally often (within 4 deviations)."""
    place = {2: [], 3: [], 4: []}
    for seed in range(300):
        buttons.reset(seed, 0, PERIOD_NS)
        place[len(buttons.goals)].append(buttons.goals.index(buttons.goal))
    for count, chosen in place.items():
        share = np.bincount(chosen, minlength=count) / len(chosen)
        deviation = np.sqrt((1 / count) * (1 - 1 / count) / len(chosen))
        assert np.abs(share - 1 / count).max() < 4 * deviation


@pytest.mark.parametrize("family", ["press-named-button", "reach-named-ball", "put-named-block"])
def test_every_colour_in_the_scene_shows_in_some_view(family):
    """Each named colour has at least eight saturated pixels in one of the two views."""
    robot = TabletopRobot(family)
    for seed in SEEDS[:5]:
        robot.reset(seed, 0, PERIOD_NS)
        images = [image.reshape(-1, 3).astype(float) for image in frames(robot).values()]
        for colour in {goal.split("-")[0] for goal in robot.goals}:
            assert max(pixels_of(colour, image) for image in images) >= 8, (seed, colour)
    robot.close()


def pixels_of(colour, pixels):
    """How many pixels (n, 3) have the hue of a colour and are bright."""
    wanted = np.array(COLOURS[colour][:3])
    bright = pixels.max(axis=1) > 90
    direction = pixels / np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1)
    return int((bright & (direction @ (wanted / np.linalg.norm(wanted)) > 0.97)).sum())


def test_layouts_vary_in_place_colour_and_number(buttons):
    """Twenty seeds show buttons at twenty places, every colour, and two, three and four of them."""
    places, colours, counts = set(), set(), set()
    for seed in SEEDS:
        buttons.reset(seed, 0, PERIOD_NS)
        places.add(tuple(buttons.scene.top_m(buttons.goals[0])))
        colours |= set(buttons.goals)
        counts.add(len(buttons.goals))
    assert len(places) == 20
    assert colours == set(COLOURS)
    assert counts == {2, 3, 4}


def test_an_unknown_goal_is_refused_by_name(buttons):
    """A goal that is not in the scene is refused, with those that are."""
    buttons.reset(0, 0, PERIOD_NS)
    with pytest.raises(ConfigError, match=f"Known: {', '.join(sorted(buttons.goals))}"):
        buttons.instruct("purple")


def test_unknown_settings_are_refused():
    """A family, split or way of asking that does not exist is refused with what was expected."""
    with pytest.raises(ConfigError, match="did you mean 'press-named-button'"):
        TabletopRobot("press-named-buton")
    with pytest.raises(ConfigError, match="expected 'own', 'swapped' or 'blank'"):
        TabletopRobot("press-named-button", asked="other")


def test_the_goal_asked_for_decides_the_places(buttons):
    """Asking for another button of the same scene moves the places told, and nothing else."""
    buttons.reset(4, 0, PERIOD_NS)
    told = {}
    for goal in buttons.goals:
        buttons.instruct(goal)
        told[goal] = buttons.places()[:3]
    assert all(told[goal] == pytest.approx(buttons.scene.top_m(goal)) for goal in told)
