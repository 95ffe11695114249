"""Two arms: gym-aloha's model as a robot that starts where it stands, and its tempo tasks."""

import sys

import numpy as np
import pytest

from streamvla.core.errors import ConfigError, RobotError
from streamvla.robots.registry import make_robot, suite_of
from streamvla.robots.tempo.aloha import arms as arms_module
from streamvla.robots.tempo.aloha.arms import JOINT_HIGH_RAD, JOINT_LOW_RAD, SIDES, Arms
from streamvla.robots.tempo.aloha.kinematics import HandPose, hand_pose, joints_of
from streamvla.robots.tempo.aloha.robot import ACTION_SPACE, ALOHA_SPEC, LIMITS
from streamvla.robots.tempo.suite import ALOHA_TASKS, TEMPO
from streamvla.testing.robot_contract import SuiteContract, TruthRobotContract

needs_aloha = pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="gym-aloha has no packages for this Python"
)
TASKS = list(ALOHA_TASKS)
PERIOD_NS = ALOHA_SPEC.control_period_ns


@pytest.fixture(params=TASKS)
def robot(request):
    robot = make_robot(request.param)
    yield robot
    robot.close()


def drive(robot, seed, seconds):
    """Let the expert act on every tick; (ticks, 10) what was measured after each."""
    expert = suite_of(robot.task).teacher(robot)
    robot.reset(seed, 0, PERIOD_NS)
    measured = []
    for tick in range(int(seconds * 50)):
        robot.command(expert.act(), tick * PERIOD_NS)
        robot.advance_to((tick + 1) * PERIOD_NS)
        measured.append(robot.measure())
    return np.array(measured)


@needs_aloha
@pytest.mark.render
class TestTwoArms(TruthRobotContract):
    @pytest.fixture(autouse=True, params=TASKS)
    def which(self, request):
        self.task = request.param

    def robot(self):
        return make_robot(self.task)


@needs_aloha
@pytest.mark.render
class TestTasksOfTwoArms(SuiteContract):
    suite = TEMPO
    sampled = tuple(TASKS)


@needs_aloha
@pytest.mark.render
def test_the_expert_scores_and_its_score_never_falls(robot):
    """It succeeds within 7 s, and the score on every tick is at least the one before."""
    scores = drive(robot, 11, 7)[:, ALOHA_SPEC.measures.index("score")]
    assert robot.success
    assert scores[0] < 9.0 <= scores[-1] <= 10.0
    assert (np.diff(scores) >= 0).all()


@needs_aloha
@pytest.mark.render
def test_an_expert_episode_repeats_itself(robot):
    """Same seed, same measurements to the last bit; another seed gives others."""
    first = drive(robot, 12, 2)
    drive(robot, 13, 0.5)
    again = drive(robot, 12, 2)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, drive(robot, 13, 2))


@needs_aloha
@pytest.mark.render
def test_the_first_hold_keeps_the_joints_where_they_stand(robot):
    """Half a second after a reset without a command no joint is 0.02 rad from where it stood."""
    robot.reset(5, 0, PERIOD_NS)
    standing = robot.standing()
    robot.advance_to(25 * PERIOD_NS)
    assert np.abs(robot.standing() - standing).max() < 0.02


@needs_aloha
@pytest.mark.render
def test_the_expert_moves_within_the_limits(robot):
    """No joint's commands leave the declared velocity, acceleration or jerk."""
    expert = TEMPO.teacher(robot)
    robot.reset(11, 0, PERIOD_NS)
    commands = [robot.standing()] * 3
    for tick in range(150):
        commands.append(expert.act())
        robot.command(commands[-1], tick * PERIOD_NS)
        robot.advance_to((tick + 1) * PERIOD_NS)
    for order, limit in enumerate((LIMITS.velocity, LIMITS.acceleration, LIMITS.jerk), start=1):
        assert (np.abs(np.diff(commands, order, axis=0)) <= np.array(limit) + 1e-9).all(), order


@needs_aloha
@pytest.mark.render
def test_the_expert_acts_alike_in_an_assumed_world(robot):
    """It keeps no memory: from any captured state another robot's expert gives the same action."""
    other = make_robot(robot.task)
    expert, double = TEMPO.teacher(robot), TEMPO.teacher(other)
    robot.reset(11, 0, PERIOD_NS)
    other.reset(3, 0, PERIOD_NS)
    action = robot.standing()
    for tick in range(120):
        if tick % 10 == 0:
            other.assume(robot.truth(), action)
            assert np.allclose(double.act(), expert.act(), atol=1e-9)
        action = expert.act()
        robot.command(action, tick * PERIOD_NS)
        robot.advance_to((tick + 1) * PERIOD_NS)
    other.close()


@needs_aloha
@pytest.mark.render
@pytest.mark.parametrize(
    ("task", "body"), [("transfer-cube", "tray"), ("meet-in-time", "left_dark")]
)
def test_a_harder_task_moves_faster(task, body):
    """At twice the difficulty what moves by itself has come at least 1.4 times as far after 0.24 s
    (a tray takes a moment to get going)."""
    ways = []
    for name in (task, f"{task}@2"):
        robot = make_robot(name)
        robot.reset(4, 0, PERIOD_NS)
        moving = robot._arms.data.body(body)
        before = moving.xpos.copy()
        robot.advance_to(12 * PERIOD_NS)
        ways.append(np.linalg.norm(moving.xpos - before))
        robot.close()
    assert ways[1] > 1.4 * ways[0]


@needs_aloha
@pytest.mark.render
def test_the_stimulus_is_told_when_it_happens():
    """Within three seconds a light goes on, and its instant lies within them, on the grid."""
    robot = make_robot("meet-in-time")
    robot.reset(11, 0, PERIOD_NS)
    robot.advance_to(150 * PERIOD_NS)
    assert 0 < robot.stimulus_ns <= 150 * PERIOD_NS
    assert robot.stimulus_ns % (PERIOD_NS // 2) == 0
    robot.close()


@needs_aloha
@pytest.mark.render
def test_a_task_with_one_goal_cannot_be_swapped():
    """Asking for another goal, or for no difficulty, is refused."""
    with pytest.raises(ConfigError, match="cannot be swapped"):
        make_robot("transfer-cube", asked="swapped")
    with pytest.raises(ConfigError, match="expected a number > 0"):
        make_robot("transfer-cube@0")


@pytest.mark.render
def test_a_machine_without_gym_aloha_is_told_the_extra(monkeypatch):
    """Where the package is missing, the error names what to install."""
    monkeypatch.setattr(arms_module, "find_spec", lambda name: None)
    with pytest.raises(RobotError, match=r"streamvla\[sim,aloha\]"):
        make_robot("transfer-cube")


def test_joints_bring_the_hand_where_they_are_asked():
    """Before the arm, gripper down, the joints for a pose are within their limits and give that
    pose back."""
    stream = np.random.default_rng(0)
    for _ in range(200):
        tip = stream.uniform((0.22, -0.15, 0.02), (0.5, 0.15, 0.3))
        pose = HandPose(tip, float(stream.uniform(0.6, 1.3)), float(stream.uniform(-1.6, 1.6)))
        joints = joints_of(pose)
        found = hand_pose(joints)
        assert np.allclose(found.tip_m, tip)
        assert (found.pitch_rad, found.roll_rad) == pytest.approx((pose.pitch_rad, pose.roll_rad))
        assert (joints >= JOINT_LOW_RAD).all()
        assert (joints <= JOINT_HIGH_RAD).all()


def test_out_of_reach_is_as_near_as_it_gets():
    """Joints for a point two metres away are finite, and stretch the arm towards it."""
    joints = joints_of(HandPose(np.array((2.0, 0.0, 0.2)), 0.0, 0.0))
    assert np.isfinite(joints).all()
    assert hand_pose(joints).tip_m[0] > 0.7


@needs_aloha
@pytest.mark.render
def test_the_closed_form_is_the_models_own():
    """Fingertips as the joints tell them lie where the simulator has them, within 0.01 mm."""
    arms = Arms(lambda spec: None)
    stream = np.random.default_rng(1)
    for _ in range(5):
        joints = 0.3 * stream.uniform(ACTION_SPACE.low, ACTION_SPACE.high)
        joints[[3, 10]] = 0.0
        arms.reset(joints)
        arms.settle(steps=0)
        for side in SIDES:
            body = arms.data.body(f"vx300s_{side}/gripper_link")
            tip = body.xpos + body.xmat.reshape(3, 3) @ (0.142, 0.0, 0.0)
            assert np.allclose(arms.tip_m(side), tip, atol=1e-5)
