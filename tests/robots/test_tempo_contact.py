"""A peg to insert and a pole to balance: what is measured, what is scored, what nobody foresees."""

from __future__ import annotations

import numpy as np
import pytest

from streamvla.robots.registry import make_robot
from streamvla.robots.sawyer import ACTION_SPACE, CONTROL_PERIOD_NS
from streamvla.robots.tempo.peg import FORCE_LIMIT_N, JAM_N, TURN_SUBSTEPS
from streamvla.robots.tempo.pole import FALLEN_RAD, PUSH_SUBSTEPS, TAU_S
from streamvla.robots.tempo.scene import SUBSTEP_NS, SUCCESS_SCORE
from streamvla.robots.tempo.suite import TEMPO
from streamvla.testing.robot_contract import TruthRobotContract

TASKS = ("insert-peg", "balance-pole")
SEEDS = (11, 12)
STILL = np.array([0.0, 0.0, 0.0, 1.0])
TICKS = 110  # 5.5 s


@pytest.fixture(scope="module", params=TASKS)
def robot(request):
    robot = make_robot(request.param)
    yield robot
    robot.close()


@pytest.fixture(scope="module")
def peg():
    robot = make_robot("insert-peg")
    yield robot
    robot.close()


@pytest.fixture(scope="module")
def pole():
    robot = make_robot("balance-pole")
    yield robot
    robot.close()


def measured(robot):
    return dict(zip(robot.spec.measures, robot.measure(), strict=True))


def drive(robot, act, ticks=TICKS, first=0):
    """What is measured after each of so many commands."""
    record = []
    for tick in range(first, first + ticks):
        robot.command(ACTION_SPACE.clip(act()), tick * CONTROL_PERIOD_NS)
        robot.advance_to((tick + 1) * CONTROL_PERIOD_NS)
        record.append(measured(robot))
    return record


def start(robot, seed=11):
    robot.reset(seed, 0, CONTROL_PERIOD_NS)
    return TEMPO.teacher(robot)


def lean_rad(robot):
    """Of the pole, from where its bob is and where it would be upright."""
    bob, upright = robot.scene.places_m()
    return 2 * np.arcsin(np.linalg.norm(bob - upright) / (2 * robot.scene.length_m))


def test_the_expert_solves_it(robot):
    """Acting on every tick, it succeeds on both of two seeds, and no contact is too strong."""
    for seed in SEEDS:
        record = drive(robot, start(robot, seed).act)
        assert robot.success, seed
        assert max(each["contact_force_n"] for each in record) < FORCE_LIMIT_N / 2


def test_an_episode_repeats_itself(robot):
    """Same seed, same commands: the same world to the last bit, whatever ran before."""
    ends = []
    for _ in range(2):
        drive(robot, start(robot).act, ticks=60)
        ends.append((robot.truth(), robot.stimulus_ns))
        drive(robot, start(robot, 12).act, ticks=5)
    assert np.array_equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1] is not None


def test_the_score_never_falls(robot):
    """Over an episode of random commands and one of the expert, with 0 ≤ score ≤ 10."""
    stream = np.random.default_rng(3)
    for act in (lambda: stream.uniform(-1, 1, 4), start(robot).act):
        start(robot)
        scores = [each["score"] for each in drive(robot, act)]
        assert min(scores) >= 0.0
        assert max(scores) <= 10.0
        assert (np.diff(scores) >= 0.0).all()


@pytest.mark.parametrize(
    ("task", "latest"), [("insert-peg", TURN_SUBSTEPS[1]), ("balance-pole", PUSH_SUBSTEPS[1])]
)
def test_what_is_still_to_come_is_not_in_an_assumed_world(task, latest):
    """The first turn or push comes in the true world, and never in one that took its state over."""
    true, assumed = make_robot(task), make_robot(task)
    start(true)
    assumed.assume(true.truth(), STILL)
    instant_ns = (latest + 8) * SUBSTEP_NS
    for world in (true, assumed):
        world.advance_to(instant_ns)
    assert true.stimulus_ns is not None
    assert assumed.stimulus_ns is None
    assert not np.allclose(true.truth(), assumed.truth(), atol=1e-6)
    true.close()
    assumed.close()


def pressing(peg, rate):
    """Actions that go 4 cm beside the hole, then down by this share of a full command."""

    def act():
        tip_m, hole_m = peg.scene.places_m()
        aside = (hole_m - tip_m)[:2] + np.array([0.04, 0.0])
        near = np.linalg.norm(aside) < 0.012
        return np.array([*(aside / 0.04), -rate if near else 0.0, 1.0])

    return act


def test_pressing_beside_the_hole_is_felt_and_costs_points(peg):
    """A light press is a jam: it is measured, and the expert then ends below ten points."""
    expert = start(peg)
    record = []
    while not record or record[-1]["contact_force_n"] < 2 * JAM_N:
        record += drive(peg, pressing(peg, 0.15), 1, len(record))
        assert len(record) < 60, "it never touched the box"
    assert record[-1]["missed"] == 0
    later = drive(peg, expert.act, TICKS, len(record))
    assert max(each["contact_force_n"] for each in record) < FORCE_LIMIT_N
    assert SUCCESS_SCORE <= later[-1]["score"] < 10.0


def test_an_assumed_world_presses_as_the_true_one(peg):
    """Taken over in the middle of a contact, it goes on with the same force for four commands."""
    start(peg)
    press, record = pressing(peg, 0.15), []
    while not record or record[-1]["contact_force_n"] < JAM_N:
        record += drive(peg, press, 1, len(record))
    assumed = make_robot("insert-peg")
    assumed.assume(peg.truth(), STILL)
    further = np.array([0.2, 0.0, -0.1, 1.0])
    one = drive(peg, lambda: further, 4, len(record))
    other = drive(assumed, lambda: further, 4)
    forces = [[each["contact_force_n"] for each in run] for run in (one, other)]
    assert min(forces[0]) > JAM_N
    assert np.allclose(*forces, rtol=1e-6)
    assumed.close()


def test_a_force_beyond_the_limit_cannot_be_made_good(peg):
    """After pressing on regardless, even a peg that is fully deep is no success."""
    expert = start(peg)
    record = drive(peg, pressing(peg, 0.5), 40)
    assert max(each["contact_force_n"] for each in record) > FORCE_LIMIT_N
    assert record[-1]["missed"] == 1
    later = drive(peg, expert.act, TICKS, len(record))
    assert later[-1]["score"] < SUCCESS_SCORE
    tip_m, hole_m = peg.scene.places_m()
    assert tip_m[2] < hole_m[2] - 0.04


def test_above_the_hole_and_no_further_is_a_part_of_the_score(peg):
    """An expert that may not come down earns two points of ten."""
    expert = start(peg)
    drive(peg, lambda: expert.act() * (1.0, 1.0, 0.0, 1.0) - (0.0, 0.0, lift(peg), 0.0))
    assert measured(peg)["score"] == 2.0


def lift(peg):
    """Down to 15 mm above the rim, in commands."""
    tip_m, hole_m = peg.scene.places_m()
    return float(np.clip((tip_m[2] - hole_m[2] - 0.015) / 0.04, -0.25, 0.25))


def test_a_hand_that_stands_still_lets_the_pole_fall(pole):
    """Within the episode, on every one of five seeds, and what it earned stays."""
    for seed in range(20, 25):
        start(pole, seed)
        record = drive(pole, lambda: STILL)
        assert record[-1]["missed"] == 1
        assert lean_rad(pole) > FALLEN_RAD
        assert 0.0 < record[-1]["score"] < SUCCESS_SCORE


@pytest.mark.parametrize("difficulty", [0.8, 1.0, 1.5, 2.5])
def test_the_dial_is_how_fast_the_pole_falls(difficulty):
    """Over a still hand a lean grows e-fold in `TAU_S` / difficulty, within a tenth."""
    robot = make_robot(f"balance-pole@{difficulty}")
    start(robot)
    leans = []
    for step in range(2000):
        robot.advance_to(step * SUBSTEP_NS)
        leans.append(lean_rad(robot))
        if leans[-1] > 0.3:
            break
    late = [k for k, lean in enumerate(leans) if lean > 0.1]
    grown = np.log(leans[late[-1]] / leans[late[0]])
    tau_s = (late[-1] - late[0]) * SUBSTEP_NS / 1e9 / grown
    assert tau_s == pytest.approx(TAU_S / difficulty, rel=0.1)
    robot.close()


@pytest.mark.render
class TestPegRobot(TruthRobotContract):
    def robot(self):
        return make_robot("insert-peg")


@pytest.mark.render
class TestPoleRobot(TruthRobotContract):
    def robot(self):
        return make_robot("balance-pole")
