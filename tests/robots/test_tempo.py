"""The tempo suite on the arm: its world does not wait, and nobody knows what is still to come."""

from __future__ import annotations

import numpy as np
import pytest

from streamvla.core.errors import ConfigError
from streamvla.robots.registry import make_robot
from streamvla.robots.tempo.appearance import TRIALS, domain_of
from streamvla.robots.tempo.scene import SUCCESS_SCORE
from streamvla.robots.tempo.suite import ARM_TASKS, TEMPO
from streamvla.testing.robot_contract import TruthRobotContract

pytestmark = pytest.mark.render

EVENTFUL = ("pick-from-conveyor", "press-lit-button", "intercept-rolling-ball")
COMMANDS = 260


class TestARobotOfEveryTask(TruthRobotContract):
    @pytest.fixture(autouse=True, params=list(ARM_TASKS))
    def which(self, request):
        self.name = request.param

    def robot(self):
        return make_robot(self.name)


@pytest.fixture(params=list(ARM_TASKS))
def robot(request):
    robot = make_robot(request.param)
    yield robot
    robot.close()


def driven(robot, seed, commands=COMMANDS):
    """(k, measures) after every command of the expert, until it succeeds."""
    period_ns, expert = robot.spec.control_period_ns, TEMPO.teacher(robot)
    robot.reset(seed, 0, period_ns)
    measured = []
    for index in range(commands):
        robot.command(expert.act(), index * period_ns)
        robot.advance_to((index + 1) * period_ns)
        measured.append(robot.measure())
        if robot.success:
            break
    return np.array(measured)


def of(robot, name, measured):
    return measured[:, robot.spec.measures.index(name)]


def test_the_expert_succeeds_and_the_score_never_falls(robot):
    """Driven on every tick, on one seed of two, without an object missed."""
    runs = [driven(robot, seed) for seed in (11, 12)]
    for run in runs:
        score = of(robot, "score", run)
        assert (np.diff(score) >= 0).all()
        assert score.min() >= 0
        assert score.max() <= 10 + 1e-9
    best = max(runs, key=lambda run: of(robot, "score", run)[-1])
    assert of(robot, "score", best)[-1] >= SUCCESS_SCORE
    assert of(robot, "missed", best)[-1] == 0


def test_same_seed_same_episode(robot):
    """To the last bit of what is measured, after another episode in between."""
    first = driven(robot, 12, commands=60)
    driven(robot, 13, commands=10)
    assert np.array_equal(first, driven(robot, 12, commands=60))


def test_nothing_is_won_by_waiting(robot):
    """A hand that stays where it starts does not succeed."""
    robot.reset(11, 0, robot.spec.control_period_ns)
    robot.advance_to(COMMANDS * robot.spec.control_period_ns)
    assert not robot.success


@pytest.mark.parametrize("task", EVENTFUL)
def test_what_is_still_to_come_is_not_in_an_assumed_world(task):
    """The true world changes within three seconds of the start; one assumed there does not, and
    neither its truth nor its expert says what will come."""
    true, imagined = make_robot(task), make_robot(task)
    period_ns = true.spec.control_period_ns
    for robot in (true, imagined):
        robot.reset(11, 0, period_ns)
    imagined.assume(true.truth(), np.zeros(4))
    for robot in (true, imagined):
        robot.advance_to(60 * period_ns)
    assert true.stimulus_ns is not None
    assert imagined.stimulus_ns is None
    assert not np.array_equal(true.truth(), imagined.truth())
    for robot in (true, imagined):
        robot.close()


@pytest.mark.parametrize("task", EVENTFUL)
def test_what_came_already_goes_on_in_an_assumed_world(task):
    """Right after an event, true and assumed world have the same half second before them, whatever
    episode the other robot was in."""
    true, imagined = make_robot(task), make_robot(task)
    period_ns = true.spec.control_period_ns
    true.reset(11, 0, period_ns)
    imagined.reset(12, 0, period_ns)
    tick = 0
    while true.stimulus_ns is None:
        tick += 1
        true.advance_to(tick * period_ns)
    imagined.assume(true.truth(), np.zeros(4))
    true.advance_to((tick + 10) * period_ns)
    imagined.advance_to(10 * period_ns)
    assert np.allclose(true.truth(), imagined.truth(), rtol=1e-6, atol=1e-6)
    for robot in (true, imagined):
        robot.close()


@pytest.mark.parametrize("task", EVENTFUL)
def test_the_stimulus_is_told_within_its_command(task):
    """Its instant lies in the command in which the scene changed, and is a sub-step's end."""
    robot = make_robot(task)
    period_ns = robot.spec.control_period_ns
    robot.reset(12, 0, period_ns)
    tick = 0
    while robot.stimulus_ns is None:
        tick += 1
        robot.advance_to(tick * period_ns)
    assert (tick - 1) * period_ns < robot.stimulus_ns <= tick * period_ns
    assert robot.stimulus_ns % (period_ns // 4) == 0
    robot.close()


def test_objects_that_pass_are_counted():
    """A hand that does nothing misses every block, light and ball."""
    for task, count in zip(EVENTFUL, (3, 4, 3), strict=True):
        robot = make_robot(task)
        period_ns = robot.spec.control_period_ns
        robot.reset(12, 0, period_ns)
        robot.advance_to(15_000_000_000)
        assert of(robot, "missed", robot.measure()[None])[0] == count, task
        robot.close()


def test_a_dark_button_costs():
    """With a dark button pressed before the first light, four lights answered are no success."""
    robot = make_robot("press-lit-button@0.5")
    period_ns, expert = robot.spec.control_period_ns, TEMPO.teacher(robot)
    robot.reset(11, 0, period_ns)
    down_m = robot.scene.top_m(0) + np.array([0.0, 0.0, 0.02])  # of the hand, with the cap down
    for index in range(COMMANDS):
        action = expert.act()
        if robot.stimulus_ns is None:
            step = 12 * (down_m - robot.measure()[:3])
            action = np.clip([*step, 1.0], -1, 1)
        robot.command(action, index * period_ns)
        robot.advance_to((index + 1) * period_ns)
    assert robot.scene.missed == 0
    assert 8 <= robot.scene.score < SUCCESS_SCORE
    robot.close()


@pytest.mark.parametrize("task", ["press-lit-button@", "press-lit-button@fast"])
def test_a_difficulty_that_is_no_number_is_refused(task):
    """With an example of one that is."""
    with pytest.raises(ConfigError, match=r"press-lit-button@1\.5"):
        make_robot(task)


@pytest.mark.parametrize("number", ["0", "-1", "nan", "inf"])
def test_a_difficulty_that_makes_no_sense_is_refused(number):
    """It has to be finite and above zero."""
    with pytest.raises(ConfigError, match="> 0"):
        make_robot(f"follow-moving-target@{number}")


def test_an_unknown_task_with_a_difficulty_suggests_the_nearest():
    """The number does not hide the misspelt name."""
    with pytest.raises(ConfigError, match="did you mean 'press-lit-button'"):
        make_robot("press-lit-buton@1.5")


def test_ten_trials_have_four_four_and_two_of_each_appearance():
    """As the tens of seeds go by."""
    domains = [domain_of(1_000_000 + trial) for trial in range(TRIALS)]
    assert domains == ["in domain"] * 4 + ["shifted"] * 4 + ["out of domain"] * 2
    assert [domain_of(seed + TRIALS) for seed in range(TRIALS)] == domains


@pytest.mark.parametrize("task", EVENTFUL)
def test_every_goal_has_words_to_train_on_and_words_held_out(task):
    """Four to train on, one or two held out, and none is both."""
    phrasings = ARM_TASKS[task].phrasings
    assert len(set(phrasings.train)) == 4
    assert 1 <= len(phrasings.heldout) <= 2
    assert not set(phrasings.train) & set(phrasings.heldout)
