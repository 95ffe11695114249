"""The memory suite: what was seen before decides, and nothing that is seen later tells it."""

from __future__ import annotations

import itertools
from contextlib import closing

import numpy as np
import pytest

from streamvla.core.errors import ConfigError
from streamvla.data.noise import ExecutionNoise, NoiseConfig
from streamvla.robots.memory.chance import chance, drive
from streamvla.robots.memory.robot import STRAYED_M
from streamvla.robots.memory.scene import REST_M
from streamvla.robots.memory.suite import MEMORY, TASKS, MemoryExpert, dials_of, make_memory_robot
from streamvla.robots.registry import make_robot
from streamvla.robots.sawyer import SPEC
from streamvla.robots.suite import same_robot
from streamvla.robots.tempo.scene import SUCCESS_SCORE
from streamvla.testing.robot_contract import TruthRobotContract, alike

pytestmark = pytest.mark.render

PERIOD_NS = SPEC.control_period_ns
NAMES = list(TASKS)
STILL = np.zeros(4)
FIRST_SEED = 1_000_000


class TestARobotOfEveryTask(TruthRobotContract):
    @pytest.fixture(autouse=True, params=[*NAMES, "count-flashes@delay=0,distractors=4"])
    def which(self, request):
        self.name = request.param

    def robot(self):
        return make_robot(self.name)


@pytest.fixture(params=NAMES)
def robot(request):
    with closing(make_memory_robot(request.param)) as robot:
        yield robot


def advanced(robot, tick, action):
    """One control period further."""
    robot.command(action, tick * PERIOD_NS)
    robot.advance_to((tick + 1) * PERIOD_NS)
    return tick + 1


def until_go(robot, action=None, tick=0):
    """Wait; the tick after which "go" was given."""
    while not robot.went:
        tick = advanced(robot, tick, robot.act(robot.answer) if action is None else action)
    return tick


def driven(robot, seed, answer=None, noise=None):
    """Ticks until an expert that believes in an answer succeeds; 0 if it does not."""
    robot.reset(seed, 0, PERIOD_NS)
    expert, tick = MemoryExpert(robot, answer), 0
    off = noise and ExecutionNoise(noise, SPEC.action_space.is_delta(), np.random.default_rng(seed))
    while tick * PERIOD_NS < robot.longest_s * 1e9:
        action = expert.act()
        tick = advanced(robot, tick, SPEC.action_space.clip(off.perturb(action)) if off else action)
        if robot.success:
            return tick
    return 0


def test_the_arm_is_the_one_of_the_other_scenes(robot):
    """Specification, cameras and state are Meta-World's, so one policy drives all of them."""
    assert same_robot(robot.spec, SPEC)
    assert robot.spec.control_period_ns == 50_000_000


def test_the_expert_that_knows_the_answer_succeeds(robot):
    """On ten seeds of ten within the time that the suite states, with a score of ten."""
    reached = drive(robot.task, range(FIRST_SEED, FIRST_SEED + 10), guesses=False)
    assert (reached.success, reached.score) == (1.0, 10.0)
    assert reached.seconds < MEMORY.longest_s(robot.task, 0.0) < 15


def test_the_expert_succeeds_under_the_noise_of_training(robot):
    """On at least nine seeds of ten."""
    seeds = range(FIRST_SEED, FIRST_SEED + 10)
    assert sum(driven(robot, seed, noise=NoiseConfig()) > 0 for seed in seeds) >= 9


def test_of_all_answers_just_one_succeeds(robot):
    """Whatever an expert believes, it succeeds where that is the answer, and nowhere else."""
    for answer in robot.answers:
        found = driven(robot, FIRST_SEED + 5, answer)
        assert (found > 0) == (answer == robot.answer), answer
        assert found or robot.score < SUCCESS_SCORE


def test_the_answers_are_equally_frequent(robot):
    """Over 200 seeds none is more than twice as frequent as another."""
    counts = dict.fromkeys(robot.answers, 0)
    for seed in range(200):
        robot.reset(seed, 0, PERIOD_NS)
        counts[robot.answer] += 1
    assert max(counts.values()) < 2 * min(counts.values())


def test_a_guess_is_right_as_often_as_there_are_answers():
    """Of 40 guesses between three places, 7 to 20 are right (binomial, 98 %)."""
    reached = chance("recall-place", range(FIRST_SEED, FIRST_SEED + 40))
    assert 7 <= reached.success * reached.episodes <= 20
    assert reached.score == pytest.approx(10 * reached.success)


@pytest.mark.parametrize("task", NAMES)
def test_nothing_that_is_seen_after_go_tells_the_answer(task):
    """Of two episodes that differ only in the cue, pictures and state differ before "go", and are
    equal to the last bit from "go" on, while the arm does the same in both."""
    pair = [make_memory_robot(f"{task}@delay=0.3,distractors=4") for _ in range(2)]
    for robot, cued in zip(pair, (pair[0].answers[0], pair[0].answers[-1]), strict=True):
        robot.reset(FIRST_SEED + 5, 0, PERIOD_NS)
        robot.give_cue(cued)
    believed, tick, told, since = pair[0].answers[1], 0, False, 0
    while since < 40:
        frames = [robot.observe(robot.capture()) for robot in pair] if tick % 6 == 0 else []
        if frames and since == 0:
            told |= not alike(*frames)
        elif frames:
            assert alike(*frames), tick
        since += pair[0].went
        assert pair[0].went == pair[1].went
        for robot in pair:
            advanced(robot, tick, SPEC.action_space.clip(robot.act(believed)))
        tick += 1
    assert told
    for robot in pair:
        robot.close()


@pytest.mark.parametrize(
    ("task", "body"),
    [
        ("count-flashes", "flashing-lamp"),
        ("recall-place", "hidden-block"),
        ("recall-order", "button-light"),
        ("imitate-motion", "moving-ball"),
    ],
)
def test_the_cue_shows_in_both_views(task, body):
    """A second into the cue, or later, what tells it covers at least 30 pixels of each view, drawn
    by another robot from the capture alone."""
    with closing(make_memory_robot(task)) as robot, closing(make_memory_robot(task)) as other:
        index = int(robot.physics.body(body).mocapid[0])
        robot.reset(FIRST_SEED, 0, PERIOD_NS)
        most = np.zeros(2)
        for tick in range(50):
            advanced(robot, tick, SPEC.action_space.clip(robot.act(robot.answer)))
            if tick % 10 == 9:
                shown = robot.capture()
                hidden = {**shown, "mocap_pos": shown["mocap_pos"].copy()}
                hidden["mocap_pos"][index] = (0.0, -2.0, -0.8)
                with_it, without = (other.observe(each).images for each in (shown, hidden))
                counts = [(with_it[v] != without[v]).any(axis=-1).sum() for v in with_it]
                most = np.maximum(most, counts)
        assert (most >= 30).all()


def test_same_seed_same_episode(robot):
    """To the last bit of what is measured, after half another episode in between."""
    runs = []
    for seed in (FIRST_SEED, FIRST_SEED + 1, FIRST_SEED):
        robot.reset(seed, 0, PERIOD_NS)
        measured = []
        for tick in range(130):
            advanced(robot, tick, SPEC.action_space.clip(robot.act(robot.answer)))
            measured.append(robot.measure())
        runs.append(np.array(measured))
    assert np.array_equal(runs[0], runs[2])
    assert not np.array_equal(runs[0], runs[1])


def test_nothing_is_reached_by_waiting(robot):
    """A hand that rests succeeds in none of five episodes, with a score of 0."""
    for seed in range(5):
        robot.reset(seed, 0, PERIOD_NS)
        robot.advance_to(round(robot.longest_s * 1e9))
        assert (robot.success, robot.score, robot.went) == (False, 0.0, True)


def test_a_hand_that_has_left_at_go_has_lost(robot):
    """One that is farther than 12 cm from where it should wait, whatever it does after; one that
    moved a little has not."""
    for offset_m, lost in ((0.04, False), (STRAYED_M + 0.03, True)):
        robot.reset(FIRST_SEED, 0, PERIOD_NS)
        away_m, tick = REST_M - (0.0, offset_m, 0.0), 0
        while not robot.went:
            hand_m = robot.measure()[:3]
            tick = advanced(robot, tick, np.clip([*(12 * (away_m - hand_m)), 1.0], -1, 1))
        while tick * PERIOD_NS < robot.longest_s * 1e9 and not robot.success:
            tick = advanced(robot, tick, SPEC.action_space.clip(robot.act(robot.answer)))
        assert robot.success != lost
        assert (robot.score == 0.0) == lost


def test_go_is_the_stimulus(robot):
    """Its instant lies in the command in which "go" was given, not before."""
    robot.reset(FIRST_SEED, 0, PERIOD_NS)
    tick = until_go(robot)
    assert (tick - 1) * PERIOD_NS < robot.stimulus_ns <= tick * PERIOD_NS


def test_go_does_not_come_in_an_assumed_world(robot):
    """Nobody could know when: a world that is assumed before "go" waits for ever."""
    with closing(make_memory_robot(robot.task)) as imagined:
        robot.reset(FIRST_SEED, 0, PERIOD_NS)
        robot.advance_to(20 * PERIOD_NS)
        imagined.assume(robot.truth(), STILL)
        for each in (robot, imagined):
            each.advance_to(round(robot.longest_s * 1e9) + 20 * PERIOD_NS)
        assert (robot.went, imagined.went) == (True, False)


def test_an_answer_goes_on_in_an_assumed_world(robot):
    """From the middle of an answer, the same commands lead to the same success, though the other
    robot was in another episode, or in the same with another cue."""
    with closing(make_memory_robot(robot.task)) as imagined:
        for seed in (FIRST_SEED, FIRST_SEED + 1):
            imagined.reset(seed, 0, PERIOD_NS)
            imagined.give_cue(imagined.answers[0])
            robot.reset(FIRST_SEED, 0, PERIOD_NS)
            tick = until_go(robot)
            for _ in range(14):
                tick = advanced(robot, tick, SPEC.action_space.clip(robot.act(robot.answer)))
            imagined.assume(robot.truth(), STILL)
            assert imagined.answer == robot.answer
            steps = 0
            while not robot.success:
                action = SPEC.action_space.clip(robot.act(robot.answer))
                tick, steps = advanced(robot, tick, action), advanced(imagined, steps, action)
                assert np.allclose(robot.truth(), imagined.truth(), rtol=1e-6, atol=1e-6)
            assert imagined.success


def test_presses_after_a_pause_do_not_count():
    """Who presses once, waits, and presses again has answered "one", and cannot try all counts."""
    with closing(make_memory_robot("count-flashes")) as robot:
        for answer, expected in (((1,), True), ((2,), False)):
            robot.reset(FIRST_SEED, 0, PERIOD_NS)
            robot.give_cue(answer)
            tick = until_go(robot)
            for believed in ((1,), (2,)):
                for _ in range(60):
                    tick = advanced(robot, tick, SPEC.action_space.clip(robot.act(believed)))
            assert robot.success == expected


def test_a_press_too_many_fails_and_costs():
    """Three presses for one flash score less than one; one too few scores between."""
    with closing(make_memory_robot("count-flashes")) as robot:
        scores = {}
        for believed in robot.answers:
            robot.reset(FIRST_SEED, 0, PERIOD_NS)
            robot.give_cue((3,))
            tick = until_go(robot)
            for _ in range(120):
                tick = advanced(robot, tick, SPEC.action_space.clip(robot.act(believed)))
            scores[believed] = robot.score
        assert 0 < scores[(1,)] < scores[(2,)] < scores[(3,)] == 10


def test_a_wrong_button_leaves_the_share_before_it():
    """One right press of three, then a wrong one: a third of ten, also if the right one follows."""
    with closing(make_memory_robot("recall-order")) as robot:
        robot.reset(FIRST_SEED, 0, PERIOD_NS)
        robot.give_cue((0, 1, 2))
        until_go(robot)
        assert driven_from(robot, (0, 2, 1)) == pytest.approx(10 / 3)


def driven_from(robot, believed):
    """The score after three seconds of an expert that believes so, and three that know better."""
    tick = round(robot.stimulus_ns / PERIOD_NS) + 1
    for answer in (believed, robot.answer):
        for _ in range(60):
            tick = advanced(robot, tick, SPEC.action_space.clip(robot.act(answer)))
    return robot.score


def test_dials_are_read_from_the_name():
    """A number is the delay; names set each dial."""
    assert dials_of("count-flashes").delay_s == 1.0
    assert dials_of("count-flashes@10").delay_s == 10.0
    dials = dials_of("count-flashes@delay=2,distractors=3,choices=4")
    assert (dials.delay_s, dials.distractors, dials.choices) == (2.0, 3, 4)


@pytest.mark.parametrize(
    "dials",
    ["", "fast", "delay=", "delay=1,delay=2", "31", "-1", "nan", "distractors=5", "choices=1"],
)
def test_dials_that_make_no_sense_are_refused(dials):
    """Each with what is expected."""
    with pytest.raises(ConfigError, match="expected"):
        make_robot(f"recall-place@{dials}")


def test_an_unknown_dial_or_task_suggests_the_nearest():
    """A misspelt dial or task is refused with the right name."""
    with pytest.raises(ConfigError, match="did you mean 'distractors'"):
        make_robot("recall-place@distractor=2")
    with pytest.raises(ConfigError, match="did you mean 'recall-place'"):
        make_robot("recal-place@2")


def test_the_delay_comes_before_go_and_counts_for_the_length():
    """Ten seconds more of delay: "go" comes ten seconds later, and an episode may take longer."""
    instants = []
    for task in ("recall-place@2", "recall-place@12"):
        with closing(make_memory_robot(task)) as robot:
            robot.reset(FIRST_SEED, 0, PERIOD_NS)
            robot.advance_to(20_000_000_000)
            instants.append(robot.stimulus_ns)
    assert instants[1] - instants[0] == 10_000_000_000
    longest = [MEMORY.longest_s(task, 0.0) for task in ("recall-place@2", "recall-place@12")]
    assert longest[1] - longest[0] == pytest.approx(10)


@pytest.mark.parametrize("task", NAMES)
def test_the_expert_succeeds_at_the_far_end_of_the_dials(task):
    """With four distractors, four choices and five seconds of delay, on three seeds of three."""
    hard = f"{task}@delay=5,distractors=4,choices=4"
    assert drive(hard, range(FIRST_SEED, FIRST_SEED + 3), guesses=False).success == 1.0


def test_distractors_change_the_picture_and_nothing_else():
    """With one more of them the first frame differs, and layout, answer and words do not."""
    seen = []
    for count in range(5):
        with closing(make_memory_robot(f"recall-place@distractors={count}")) as robot:
            robot.reset(FIRST_SEED, 0, PERIOD_NS)
            told = (robot.answer, robot.instruction, robot.places().tolist())
            seen.append((robot.observe(robot.capture()), told))
    for (less, one), (more, other) in itertools.pairwise(seen):
        assert not alike(less, more)
        assert one == other


def test_another_answer_cannot_be_asked_for_in_words(robot):
    """The words are the same whatever the answer: nothing to swap; an unknown cue is refused."""
    with pytest.raises(ConfigError, match="cannot be swapped"):
        make_robot(robot.task, asked="swapped")
    robot.reset(0, 0, PERIOD_NS)
    said = robot.instruction
    for answer in robot.answers:
        robot.give_cue(answer)
        assert robot.instruction == said
    with pytest.raises(ConfigError, match="expected one of"):
        robot.give_cue((9,))


def test_every_task_is_said_in_seven_ways():
    """Five to train on, two held out, and no text belongs to two tasks or both splits."""
    said = [task.phrasings for task in TASKS.values()]
    assert all((len(each.train), len(each.heldout)) == (5, 2) for each in said)
    texts = [text for each in said for text in (*each.train, *each.heldout)]
    assert len(set(texts)) == len(texts)
