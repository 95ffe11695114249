"""Stress on robots: every factor changes what it says, by how much it says, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamvla.core.action_space import ActionSpace
from streamvla.core.clock import ms_to_ns
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import stimulus_of
from streamvla.core.stress import FACTORS, NO_STRESS, Stress, StressFactor, parse_stress, stream_of
from streamvla.robots.point import REACH_M, PointRobot
from streamvla.robots.registry import make_robot
from streamvla.robots.sawyer import CAMERA_OFFSET
from streamvla.robots.stress import stressed_robot
from streamvla.robots.stress.images import METRES_PER_DEGREE, blurred, gaussian
from streamvla.robots.stress.physics import SCALED
from streamvla.testing.fakes import StillRobot, unit_space
from streamvla.testing.robot_contract import SimulatedRobotContract, alike

PERIOD_NS = ms_to_ns(50)
SUBSTEP_NS = PERIOD_NS // 4
OF_ROBOTS = tuple(name for name, factor in FACTORS.items() if factor.wraps == "robot")
OF_POINT = tuple(name for name in OF_ROBOTS if name not in {*SCALED, "camera-pose"})
ACTION = np.array([0.4, -0.2, 0.5])


def stressed(text, task="point", seed=3, *, sees_truth=False):
    """The robot of a task under stress, after a reset."""
    robot = stressed_robot(make_robot(task, sees_truth=sees_truth), parse_stress(text))
    robot.reset(seed, 0, PERIOD_NS)
    return robot


def seen(robot, ticks=30, seed=0):
    """Frames at the end of every control period under random commands."""
    stream, space = np.random.default_rng(seed), robot.spec.action_space
    frames = []
    for tick in range(ticks):
        robot.command(stream.uniform(space.low, space.high), tick * PERIOD_NS)
        robot.advance_to((tick + 1) * PERIOD_NS)
        frames.append(robot.observe(robot.capture()))
    return frames


def positions(robot, until_ns):
    """(n, 2) the state's position at the end of every sub-step while `ACTION` is commanded once."""
    robot.command(ACTION, 0)
    rows = []
    for now_ns in range(SUBSTEP_NS, until_ns + 1, SUBSTEP_NS):
        robot.advance_to(now_ns)
        rows.append(robot.observe(robot.capture()).state[:2])
    return np.array(rows)


# --- words -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("camera-pos:1", "did you mean 'camera-pose'"),
        ("mass", "such as mass:2"),
        ("mass:0", "severity of 1, 2 or 3"),
        ("mass:4", "severity of 1, 2 or 3"),
        ("mass:-1", "such as mass:2"),
        ("mass:1+mass:2", "twice"),
        ("mass:1+", "unknown stress ''"),
        ("", "unknown stress ''"),
    ],
)
def test_what_is_not_written_so_is_refused(text, why):
    """Unknown names, other severities, and a factor named twice are refused in one line."""
    with pytest.raises(ConfigError, match=why):
        parse_stress(text)


def test_the_order_of_factors_does_not_matter():
    """One text for the same factors in any order, and it reads back as the same stress."""
    one, other = parse_stress("mass:2+camera-drop:1"), parse_stress("camera-drop:1+mass:2")
    assert one == other
    assert str(one) == "camera-drop:1+mass:2"
    assert parse_stress(str(one)) == one
    assert one.slug() == "camera-drop-1+mass-2"
    assert [factor.name for factor, _ in one.of("robot")] == ["mass", "camera-drop"]
    assert one.sizes() == {"mass": 1.5, "camera-drop": 10.0}


def test_streams_are_independent():
    """A factor draws the same in the same episode, and otherwise in another or by another name."""
    draws = {(n, s): stream_of(n, s).random() for n in ("mass", "friction") for s in (0, 1)}
    assert stream_of("mass", 0).random() == draws["mass", 0]
    assert len(set(draws.values())) == 4


def test_every_severity_is_worse_than_the_one_before():
    """The sizes of every factor grow strictly with its severity."""
    for factor in FACTORS.values():
        assert factor.sizes[0] < factor.sizes[1] < factor.sizes[2], factor.name


def test_packages_add_factors(monkeypatch):
    """An entry point with a `StressFactor` is found by name and put on last."""
    from streamvla.core import stress
    from streamvla.core.registry import Registry

    other = {"cable": f"{__name__}:CABLE"}
    monkeypatch.setattr(stress, "_OTHERS", Registry("stress", "none", other))
    found = parse_stress("cable:2+mass:1").of("robot")
    assert [(factor.name, size) for factor, size in found] == [("mass", 1.25), ("cable", 2.0)]
    with pytest.raises(ConfigError, match="did you mean 'cable'"):
        parse_stress("cabel:2")


CABLE = StressFactor("cable", "robot", "N", (1.0, 2.0, 4.0), "a cable pulls", f"{__name__}:pulled")


# --- all of them -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_POINT)
def test_the_same_seed_brings_the_same_stress(name):
    """Two robots see the same in the same episode, and one in every repetition of it."""
    robot, other = (stressed(f"{name}:3") for _ in range(2))
    first = seen(robot)
    assert all(map(alike, first, seen(other)))
    robot.reset(9, 0, PERIOD_NS)
    seen(robot, 7)
    robot.reset(3, 0, PERIOD_NS)
    assert all(map(alike, first, seen(robot)))


@pytest.mark.parametrize("name", [n for n in OF_POINT if n not in ("control-rate", "clock-drift")])
def test_every_factor_changes_something(name):
    """Under each, at the severities 2 and 3, some frame of 60 differs from those without stress."""
    plain = seen(_plain(), 60)
    for severity in (2, 3):
        frames = seen(stressed(f"{name}:{severity}"), 60)
        assert not all(map(alike, plain, frames)), severity


def _plain(task="point", seed=3):
    robot = make_robot(task)
    robot.reset(seed, 0, PERIOD_NS)
    return robot


def test_no_stress_is_the_robot_itself():
    """Without factors nothing is wrapped."""
    robot = PointRobot()
    assert stressed_robot(robot, NO_STRESS) is robot


@pytest.mark.parametrize("name", [*SCALED, "camera-pose"])
def test_a_robot_that_lacks_something_is_refused(name):
    """The point has neither a physics model nor a camera that could stand elsewhere."""
    with pytest.raises(ConfigError, match=f"{name}.*'point'"):
        stressed_robot(PointRobot(), parse_stress(f"{name}:1"))


@pytest.mark.parametrize("name", ["camera-drop", "camera-noise", "proprioception-noise"])
def test_a_robot_without_captures_is_refused(name):
    """What is kept or changed is a capture, and real cameras freeze nothing."""
    with pytest.raises(ConfigError, match="captures nothing"):
        stressed_robot(StillRobot(unit_space(), PERIOD_NS), parse_stress(f"{name}:1"))


def test_two_factors_both_act():
    """Delayed commands and an old picture: the state is late by one, the picture by both."""
    plain = positions(_plain(), 8 * SUBSTEP_NS)
    robot = stressed("actuation-delay:1+camera-delay:1")
    late = positions(robot, 8 * SUBSTEP_NS)
    assert np.array_equal(late[2:], plain[:-2])
    picture = robot.observe(robot.capture()).images["top"]
    then = _plain()
    then.command(ACTION, 0)
    then.advance_to(2 * SUBSTEP_NS)
    assert np.array_equal(picture, then.observe(then.capture()).images["top"])


# --- actuation -------------------------------------------------------------------------------


@pytest.mark.parametrize(("severity", "substeps"), [(1, 2), (2, 4), (3, 8)])
def test_a_delayed_command_moves_the_world_exactly_so_much_later(severity, substeps):
    """25, 50 and 100 ms are 2, 4 and 8 sub-steps."""
    plain = positions(_plain(), 16 * SUBSTEP_NS)
    late = positions(stressed(f"actuation-delay:{severity}"), 16 * SUBSTEP_NS)
    assert np.array_equal(late[substeps:], plain[:-substeps])
    start = _plain().capture()["position"].astype(np.float32)
    assert np.array_equal(late[:substeps], np.tile(start, (substeps, 1)))


def test_a_delayed_command_cannot_be_changed_by_its_sender():
    """What arrives is what was sent, whatever becomes of the array meanwhile."""
    robot, values = stressed("actuation-delay:1"), ACTION.copy()
    robot.command(values, 0)
    values[:] = 0.0
    robot.advance_to(2 * PERIOD_NS)
    expected = _plain().capture()["position"] + ACTION[:2] * REACH_M
    assert np.allclose(robot.capture()["position"], expected)


def test_command_noise_grows_with_the_change_and_stays_within_the_limits():
    """A command without change is exact; of others the error has the stated spread and no mean."""
    space = ActionSpace(("x", "joint"), ("delta", "absolute"), (-1.0, -2.0), (1.0, 2.0))
    kept = StillRobot(space, PERIOD_NS)
    robot = stressed_robot(kept, parse_stress("command-noise:1"))
    robot.reset(7, 0, PERIOD_NS)
    sent = [np.array([0.2, 0.5 if tick % 2 else 1.0]) for tick in range(4000)]
    for tick, values in enumerate(sent):
        robot.command(values, tick * PERIOD_NS)
    done = np.array([values for _, values in kept.commands])
    assert done[0, 1] == 1.0  # nothing is known before
    changes = np.array([0.2, 0.5])
    errors = (done[1:] - sent[1:]) / changes
    assert np.allclose(errors.mean(axis=0), 0, atol=0.02)
    assert np.allclose(errors.std(axis=0), 0.2, atol=0.02)
    robot.command(np.array([0.0, sent[-1][1]]), 4000 * PERIOD_NS)
    assert np.array_equal(kept.commands[-1][1], [0.0, sent[-1][1]])
    for tick in range(100):
        robot.command(np.array([1.0, 2.0 * (-1) ** tick]), (4001 + tick) * PERIOD_NS)
    furthest = np.abs([values for _, values in kept.commands[-100:]]).max(axis=0)
    assert furthest == pytest.approx([1.0, 2.0])


@pytest.mark.parametrize("name", ["control-rate", "clock-drift"])
def test_a_command_lasts_longer_or_shorter_by_the_stated_share(name):
    """Of 100 commands given at once the stated share more or less is done after 50 periods; both
    occur among seeds."""
    share, done = FACTORS[name].size(3) / 100, set()
    for seed in range(8):
        robot = stressed(f"{name}:3", seed=seed)
        for _ in range(100):
            robot.command(np.array([0.01, 0.0, 0.0]), 0)
        start = robot.capture()["position"]
        robot.advance_to(50 * PERIOD_NS)
        metres = (robot.capture()["position"] - start)[0]
        done.add(round(float(metres / (0.01 * REACH_M / 4))))
    rates = (1 / (1 + share), 1 / (1 - share)) if name == "control-rate" else (1 - share, 1 + share)
    assert done == {int(200 * rate) for rate in rates}


def test_the_stimulus_is_told_on_our_clock():
    """Under a drifting clock the goal jumps when our clock, not the robot's, reads what is told."""
    robot = stressed("clock-drift:3", "point-moved")
    goal = robot.capture()["goal"]
    now_ns = 0
    while np.array_equal(robot.capture()["goal"], goal):
        now_ns += ms_to_ns(1)
        robot.advance_to(now_ns)
    assert 0 <= now_ns - stimulus_of(robot) <= ms_to_ns(1)


# --- pictures and state of two instants --------------------------------------------------------


def shown(robot):
    frames = robot.observe(robot.capture())
    return frames.images["top"], frames.state


def moving(robot, until_ns, step_ns=SUBSTEP_NS):
    """Pictures and states at the end of every sub-step, while the point moves fast."""
    rows = []
    for now_ns in range(0, until_ns, step_ns):
        if now_ns % PERIOD_NS == 0:
            sign = 1 if now_ns // (8 * PERIOD_NS) % 2 else -1
            robot.command(sign * np.array([0.9, 0.9, 0.0]), now_ns)
        robot.advance_to(now_ns + step_ns)
        rows.append(shown(robot))
    return rows


@pytest.mark.parametrize(("severity", "substeps"), [(1, 4), (2, 8), (3, 16)])
def test_delayed_pictures_are_old_and_the_state_is_new(severity, substeps):
    """50, 100 and 200 ms are 4, 8 and 16 sub-steps; before, the picture shows the start."""
    plain = moving(_plain(), 40 * SUBSTEP_NS)
    late = moving(stressed(f"camera-delay:{severity}"), 40 * SUBSTEP_NS)
    start, _ = shown(_plain())
    for i, (picture, state) in enumerate(late):
        expected = plain[i - substeps][0] if i >= substeps else start
        assert np.array_equal(picture, expected)
        assert np.array_equal(state, plain[i][1])


@pytest.mark.parametrize("aside_ns", [0, 5_000_000])
def test_a_capture_behind_a_command_has_the_state_of_now_and_an_old_picture(aside_ns):
    """On a tick or between two: the picture is that of the latest sub-step that is 50 ms old, the
    state that of the capture; the command at the same instant is in neither."""
    plain = moving(_plain(), 12 * SUBSTEP_NS)
    robot = stressed("camera-delay:1")
    moving(robot, 12 * SUBSTEP_NS)
    robot.advance_to(12 * SUBSTEP_NS + aside_ns)
    robot.command(ACTION, 12 * SUBSTEP_NS + aside_ns)
    picture, state = shown(robot)
    assert np.array_equal(picture, plain[12 - 4 - 1][0])
    assert np.array_equal(state, plain[12 - 1][1])


def test_a_skewed_state_is_old_and_pictures_are_new():
    """100 ms are 8 sub-steps."""
    plain = moving(_plain(), 30 * SUBSTEP_NS)
    late = moving(stressed("camera-state-skew:3"), 30 * SUBSTEP_NS)
    for i in range(8, 30):
        assert np.array_equal(late[i][0], plain[i][0])
        assert np.array_equal(late[i][1], plain[i - 8][1])


def test_a_lost_frame_shows_the_one_before():
    """Each picture is the present one, or that of the start of the latest period not lost; half of
    200 periods are lost, give or take, and the state never is."""
    plain = moving(_plain(), 200 * PERIOD_NS)
    losing = moving(stressed("camera-drop:3"), 200 * PERIOD_NS)
    kept, lost_periods = shown(_plain())[0], 0
    for i, (picture, state) in enumerate(losing):
        assert np.array_equal(state, plain[i][1])
        lost = not np.array_equal(picture, plain[i][0])
        if (i + 1) % 4 == 0:  # a new frame
            lost_periods += lost
            kept = kept if lost else plain[i][0]
        if lost:
            assert np.array_equal(picture, kept)
    assert 70 < lost_periods < 130


def test_frozen_pictures_stand_for_the_stated_time():
    """At severity 2 pictures stand still for 500 ms, within two sub-steps, while the state moves;
    between two freezes 1 to 3 s pass."""
    plain = moving(_plain(), 400 * PERIOD_NS)
    frozen = moving(stressed("camera-freeze:2"), 400 * PERIOD_NS)
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(plain, frozen, strict=True))
    stands = [not np.array_equal(a[0], b[0]) for a, b in zip(plain, frozen, strict=True)]
    begins = [i for i in range(1, len(stands)) if stands[i] and not any(stands[max(0, i - 40) : i])]
    assert 20 / 3.5 - 1 <= len(begins) <= 20 / 1.5
    for first in begins[:-1]:
        window = [i for i in range(first, first + 60) if stands[i]]
        assert 30 <= window[-1] - first + 1 <= 41
        pictures = [frozen[i][0] for i in range(first, window[-1])]
        assert all(np.array_equal(picture, pictures[0]) for picture in pictures)


@pytest.mark.parametrize("name", ["camera-delay", "camera-drop", "camera-freeze"])
def test_the_truth_comes_late_too(name):
    """What a policy that sees the truth gets was true at an earlier instant: 16 sub-steps before
    under a delay of 200 ms, now and then before under the others."""

    def truths(robot):
        robot.reset(3, 0, PERIOD_NS)
        rows = []
        for step in range(480):
            robot.command(np.array([0.001, 0.0, 0.0]), step * SUBSTEP_NS)  # one on top of another
            robot.advance_to((step + 1) * SUBSTEP_NS)
            rows.append(float(robot.observe(robot.capture()).state[0]))
        robot.close()
        return rows

    plain = truths(make_robot("point", sees_truth=True))
    assert len(set(plain)) == len(plain)
    late = truths(stressed(f"{name}:3", sees_truth=True))
    ages = [i - plain.index(truth) for i, truth in enumerate(late[16:], 16)]
    assert min(ages) == (16 if name == "camera-delay" else 0)
    assert max(ages) >= 4


@pytest.mark.parametrize(
    "name",
    [
        "camera-noise",
        "camera-blur",
        "camera-exposure",
        "camera-pose",
        "proprioception-noise",
        "camera-state-skew",
    ],
)
def test_what_touches_pictures_or_state_alone_leaves_the_truth(name):
    """It is allowed, and the view is not even wrapped."""
    view = make_robot("point", sees_truth=True)
    assert stressed_robot(view, parse_stress(f"{name}:3")) is view


# --- sensors ---------------------------------------------------------------------------------


def difference(text, seed=3):
    """Of pictures and states with and without stress after the reset."""
    robot, plain = stressed(text, seed=seed), _plain(seed=seed)
    one, other = robot.observe(robot.capture()), plain.observe(plain.capture())
    return one.images["top"].astype(float) - other.images["top"], one.state - other.state


def test_camera_noise_has_the_stated_size():
    """Its standard deviation is that of the severity where nothing is clipped, its mean none; the
    state is not touched."""
    picture, state = difference("camera-noise:1")
    background = np.abs(picture) < 40  # away from the dots, which saturate
    assert picture[background].std() == pytest.approx(5.0, rel=0.05)
    assert abs(picture[background].mean()) < 0.5
    assert not state.any()


def test_camera_noise_belongs_to_the_instant_of_the_capture():
    """Two captures of one instant show the same noise, those of two instants do not."""
    robot = stressed("camera-noise:2")
    once, twice = robot.observe(robot.capture()), robot.observe(robot.capture())
    robot.advance_to(1)
    later = robot.observe(robot.capture())
    assert alike(once, twice)
    assert not alike(once, later)


def test_exposure_multiplies_grey_levels():
    """At severity 2 pictures have 2^½ or 2^−½ of their brightness; both occur among seeds."""
    gains = set()
    for seed in range(8):
        robot, plain = stressed("camera-exposure:2", seed=seed), _plain(seed=seed)
        seen_40 = robot.observe(robot.capture()).images["top"]
        was_40 = plain.observe(plain.capture()).images["top"] == 40
        (level,) = set(seen_40[was_40].tolist())
        gains.add(level)
    assert gains == {round(40 * 2**0.5), round(40 * 2**-0.5)}


def test_blur_keeps_brightness_and_spreads_a_point():
    """A single bright pixel becomes a spot of the stated standard deviation and the same sum."""
    image = np.zeros((96, 96, 3), np.uint8)
    image[40:44, 50:54] = 255
    after = blurred(image, gaussian(2.0)).astype(float)[..., 0]
    rows = after.sum(axis=1) / after.sum()
    centre = (rows * np.arange(96)).sum()
    spread = (rows * (np.arange(96) - centre) ** 2).sum() - (4**2 - 1) / 12
    assert after.sum() == pytest.approx(image[..., 0].sum(), rel=0.01)
    assert centre == pytest.approx(41.5, abs=0.05)
    assert np.sqrt(spread) == pytest.approx(2.0, rel=0.05)


def test_proprioception_noise_is_on_the_state_alone():
    """5 mm at severity 2, over many instants; pictures are not touched."""
    robot, plain = stressed("proprioception-noise:2"), _plain()
    clean, errors = plain.observe(plain.capture()), []
    for now_ns in range(300):
        robot.advance_to(now_ns)
        frames = robot.observe(robot.capture())
        errors.append(frames.state - clean.state)
        assert np.array_equal(frames.images["top"], clean.images["top"])
    assert np.std(errors) == pytest.approx(0.005, rel=0.1)
    assert abs(np.mean(errors)) < 0.001


# --- the arm ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reach():
    robot = make_robot("reach")
    yield robot
    robot.close()


@pytest.mark.render
@pytest.mark.parametrize("name", SCALED)
def test_physics_is_rescaled_and_restored(reach, name):
    """Its arrays are the stated factor off, all others of the model are not; the next reset finds
    them as they were, and closing leaves them so."""
    robot = stressed_robot(reach, parse_stress(f"{name}:2"))
    reach.reset(5, 0, PERIOD_NS)
    arrays = [a for a in dir(reach.physics) if isinstance(getattr(reach.physics, a), np.ndarray)]
    factors = set()
    for seed in range(8):
        reach.reset(seed, 0, PERIOD_NS)
        built = {array: getattr(reach.physics, array).copy() for array in arrays}
        robot.reset(seed, 0, PERIOD_NS)
        for array in arrays:
            now, power = getattr(reach.physics, array), SCALED[name].get(array)
            if power is None:
                assert np.array_equal(now, built[array]), array
            elif built[array].any():
                ratio = now[built[array] != 0] / built[array][built[array] != 0]
                assert np.allclose(ratio, ratio.flat[0])
                factors.add(round(float(ratio.flat[0] ** power), 6))
        robot._restore()
        assert all(np.array_equal(getattr(reach.physics, a), built[a]) for a in arrays)
    size = FACTORS[name].size(2)
    assert factors == {round(size, 6), round(1 / size, 6)}


@pytest.mark.render
def test_cameras_stand_elsewhere_for_an_episode(reach):
    """Every view is off by 5° in all and at most 5 cm, the same at every instant; the pictures
    differ from those of cameras in place, the state does not."""
    robot = stressed_robot(reach, parse_stress("camera-pose:2"))
    robot.reset(5, 0, PERIOD_NS)
    capture = robot.capture()
    offset = capture[CAMERA_OFFSET]
    assert np.allclose(np.hypot(offset[:, 0], offset[:, 1]), 5.0)
    assert (np.abs(offset[:, 2]) <= 5 * METRES_PER_DEGREE).all()
    robot.advance_to(3 * PERIOD_NS)
    assert np.array_equal(robot.capture()[CAMERA_OFFSET], offset)
    moved = robot.observe(capture)
    plain = reach.observe({name: a for name, a in capture.items() if name != CAMERA_OFFSET})
    assert all(not np.array_equal(moved.images[v], plain.images[v]) for v in reach.spec.views)
    assert np.array_equal(moved.state, plain.state)


@pytest.mark.render
def test_the_arm_is_not_drawn_twice_for_two_instants(reach):
    """Its captures keep picture and state apart, so a delayed one is as large as any other."""
    robot = stressed_robot(reach, parse_stress("camera-delay:2"))
    assert robot.spec == reach.spec
    robot.reset(5, 0, PERIOD_NS)
    for tick in range(6):
        robot.command(np.array([1.0, 0.0, 0.0, 0.0]), tick * PERIOD_NS)
    old = robot.capture()
    new = reach.capture()
    assert np.array_equal(old["state"], new["state"])
    assert not np.array_equal(old["qpos"], new["qpos"])


CONTRACTS = (
    "camera-delay:2+camera-noise:2+actuation-delay:1+command-noise:1+clock-drift:3+proprioception-noise:1",
    "camera-drop:3+camera-freeze:1+control-rate:2+camera-exposure:1+camera-blur:1",
    "camera-state-skew:2",
)


class TestAStressedPoint(SimulatedRobotContract):
    @pytest.fixture(autouse=True, params=CONTRACTS)
    def which(self, request):
        self.stress = parse_stress(request.param)

    def robot(self):
        return stressed_robot(make_robot("point-moved"), self.stress)


@pytest.mark.render
class TestAStressedArm(SimulatedRobotContract):
    stress = Stress(tuple((name, 1) for name in OF_ROBOTS))

    def robot(self):
        return stressed_robot(make_robot("push"), self.stress)


def test_the_page_has_the_table_of_the_code():
    """Every factor's row, with what it wraps, its three sizes and its text, and no other row."""
    page = Path(__file__).parents[2] / "docs" / "how-to" / "stress.md"
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line[:3] == "| `"]
    assert rows == [
        f"| `{factor.name}` | {factor.wraps} | "
        + " | ".join(f"{size:g} {factor.unit}" for size in factor.sizes)
        + f" | {factor.text} |"
        for factor in FACTORS.values()
    ]
