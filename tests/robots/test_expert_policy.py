"""Experts that drive like policies: what they see, and what they consider."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from streamvla.core.clock import NS_PER_S, ms_to_ns
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import FlowStart, Observation
from streamvla.data.experts import for_task, of_every_task
from streamvla.policy.sources import find_policy
from streamvla.robots.expert_policy import ExpertPolicy
from streamvla.robots.point import REACH_M
from streamvla.robots.registry import make_robot, suite_tasks
from streamvla.robots.truth import TruthView
from streamvla.runtime import EpisodeLimits, run_simulated
from streamvla.runtime.drivers.settings import EpisodeSettings
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.executors.async_chunks import AsyncChunks
from streamvla.runtime.executors.synchronous import Synchronous
from streamvla.runtime.timing.latency import ConstantLatency, profile_ms
from streamvla.testing.fakes import StillRobot, unit_space
from streamvla.testing.policy_contract import PolicyContract
from streamvla.trace import MemoryTrace, Sent
from streamvla.trace.events import ObserveReady

PERIOD_NS = ms_to_ns(50)


def observed(robot, now_ns=0):
    frames = robot.observe(robot.capture())
    return Observation(frames.images, frames.state, np.zeros(3), robot.instruction, now_ns)


@pytest.fixture
def view():
    robot = make_robot("point", sees_truth=True)
    robot.reset(3, 0, PERIOD_NS)
    yield robot
    robot.close()


def driven(robot, actions):
    """Where the point is after these actions (k, d), one a period."""
    for i, action in enumerate(actions):
        robot.command(action, i * PERIOD_NS)
        robot.advance_to((i + 1) * PERIOD_NS)
    return robot.capture()["position"]


def test_its_actions_reach_the_goal_from_what_was_captured(view):
    """Ten actions from one observation bring the point as near as ten of the teacher would."""
    policy = ExpertPolicy("point", horizon=20)
    actions = list(policy.generate(policy.encode(observed(view)), FlowStart(np.zeros(3))))
    assert len(actions) == 20
    assert np.linalg.norm(driven(view, actions) - view.capture()["goal"]) < REACH_M / 4


def test_it_considers_what_is_executed_before_its_first_action(view):
    """With age stated, executed and pending commands act first in its mind; without, none does."""
    policy = ExpertPolicy("point", horizon=1)
    context = policy.encode(observed(view))
    goal, here = view.capture()["goal"], view.capture()["position"]
    step = np.array([*np.clip((goal - here) / REACH_M, -1, 1) * 0.5, 0.0])
    start = FlowStart(step * 3, age=3, prefix=np.stack([step] * 2), executed=step[None])
    (told,) = policy.generate(context, start)
    (untold,) = policy.generate(context, FlowStart(step * 3))
    expected = np.clip((goal - here - 3 * step[:2] * REACH_M) / REACH_M, -1, 1)
    assert np.allclose(told[:2], expected)
    assert np.allclose(untold[:2], np.clip((goal - here) / REACH_M, -1, 1))


def test_a_goal_that_will_jump_is_not_foreseen():
    """From one truth, the point whose goal will be moved and the one whose will not act alike."""
    views = [make_robot(name, sees_truth=True) for name in ("point", "point-moved")]
    chunks = []
    for robot in views:
        robot.reset(3, 0, PERIOD_NS)
        policy = ExpertPolicy(robot.task, horizon=80)
        chunks.append(list(policy.generate(policy.encode(observed(robot)), FlowStart(np.zeros(3)))))
        robot.close()
    assert np.array_equal(*chunks)


def test_a_robot_that_does_not_tell_is_refused():
    """In one line that names the methods it lacks."""
    with pytest.raises(ConfigError, match="truth"):
        TruthView(StillRobot(unit_space(), PERIOD_NS))


@pytest.mark.parametrize("source", ["expert:", "expert:point:x", "expert:pont"])
def test_a_source_without_a_task_is_refused(source):
    """As is one with an unknown task, or a horizon that is no number."""
    with pytest.raises(ConfigError):
        find_policy(source)


@pytest.mark.parametrize(
    "option", ["look=fast", "look=-1", "look=nan", "looks=0.9", "look=1:look=1", "look", "5:6"]
)
def test_a_wrong_share_is_refused(option):
    """As is one stated twice, an unknown one, and a second horizon."""
    with pytest.raises(ConfigError, match=r"expert:point:"):
        find_policy(f"expert:point:{option}")


def test_a_stated_cost_belongs_to_the_source():
    """It is part of the identity and the settings, and every observation reports it; a source
    without one is what it was, and counts nothing."""
    found = find_policy("expert-chunks:point:5:context=0.55:look=0.9")
    assert found.identity == {"source": "expert-chunks:point:5:look=0.9:context=0.55"}
    policy = found.load({})
    assert policy.spec.settings == {"look": 0.9, "context": 0.55}
    assert (policy.spec.horizon, policy.spec.chunk_passes) == (5, 5)
    cost = policy.cost(None)
    assert (cost.look_time, cost.context_time, cost.look_flops) == (0.9, 0.55, 0)
    plain = find_policy("expert:point")
    assert plain.identity == {"source": "expert:point:10"}
    assert not plain.load({}).spec.counts


def test_a_task_is_filled_in_before_the_options():
    """Of an expert whose task is not named, and of nothing else."""
    assert for_task("expert:look=0.9:context=0.5", "point") == "expert:point:look=0.9:context=0.5"
    for source in ("expert:point:look=0.9", "runs/a=b", "expert:point", "experts"):
        assert not of_every_task(source)
        assert for_task(source, "reach") == source


class TestExpertPolicy(PolicyContract):
    def policy(self):
        return find_policy("expert:point").load({})

    def observation(self, policy, seed=0):
        robot = make_robot("point", sees_truth=True)
        robot.reset(seed, 0, PERIOD_NS)
        return observed(robot)


class TestCostedExpert(TestExpertPolicy):
    def policy(self):
        return find_policy("expert:point:look=0.9:context=0.55").load({})


def test_a_cheaper_observation_is_ready_sooner():
    """Of 33 ms to look and 74 ms for the context half and a quarter, where that is stated."""
    profile = profile_ms("test", 107, 33, 50, look=33)
    ready_ns = []
    for source in ("expert:point", "expert:point:look=0.5:context=0.25"):
        policy, trace = find_policy(source).load({}), MemoryTrace()
        with closing(make_robot("point", sees_truth=True)) as robot:
            robot.reset(3, 0, PERIOD_NS)
            parts = (Synchronous(), profile, "grid", EpisodeLimits(ms_to_ns(500)))
            settings = EpisodeSettings(policy.spec.action_space, 10, *parts)
            run_simulated(settings.episode(policy, robot, trace), ConstantLatency(profile))
        ready_ns += [event.t_ns for event in trace.events if isinstance(event, ObserveReady)][:1]
    assert ready_ns == [ms_to_ns(107), ms_to_ns(33 / 2 + 74 / 4)]


def test_a_timed_expert_considers_what_no_executor_compensates(view):
    """Told no age, it lets executed and pending commands act, and stands for the rest of the delay;
    of a chunk from the capture on the first actions are those."""
    policy = ExpertPolicy("point", horizon=5, timed=True)
    context = policy.encode(observed(view))
    goal, here = view.capture()["goal"], view.capture()["position"]
    step = np.array([*np.clip((goal - here) / REACH_M, -1, 1) * 0.5, 0.0])
    known = {"prefix": np.stack([step] * 2), "executed": step[None], "delay": 4}
    after = list(policy.generate(context, FlowStart(step * 3, **known)))
    expected = np.clip((goal - here - 3 * step[:2] * REACH_M) / REACH_M, -1, 1)
    assert np.allclose(after[0][:2], expected)
    whole = list(policy.generate(context, FlowStart(np.zeros(3), elapsed=3, **known)))
    assert np.allclose(whole[3:], after[:2])


class Imagining(ExpertPolicy):
    """Keeps where its world stands whenever it makes an action: (generation, index) → (2,)."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.stands: dict[tuple[int, int], np.ndarray] = {}
        self._count = 0
        self._teacher = self

    def act(self):
        """Never stands still, and depends on where it is."""
        x, y = self._robot.capture()["position"]
        return np.array([np.cos(40 * y), np.sin(40 * x), 0.0])

    def generate(self, context, start):
        number, self._count = self._count, self._count + 1
        for index, action in enumerate(super().generate(context, start), start.index):
            self.stands[number, index] = self._robot.capture()["position"]
            yield action


@pytest.mark.parametrize("pacing", ["grid", "event"])
@pytest.mark.parametrize(
    ("executor", "settings"),
    [
        (ActionFlow(3), {}),
        (ActionFlow(lead="auto", replan="as-fast-as-possible"), {}),
        (ActionFlow(5), {"chunk_passes": 10, "timed": True}),
        (AsyncChunks(0.0, 5), {"chunk_passes": 10, "timed": True}),
        (Synchronous(), {"chunk_passes": 10, "timed": True}),
    ],
)
def test_its_world_is_the_true_one_when_its_action_is_sent(executor, settings, pacing):
    """Wherever the executor says what is executed meanwhile, an action is made for the place where
    the robot is when it leaves, once the delay was measured."""
    if pacing == "event" and settings.get("timed"):
        return  # what halts between two commands is no whole number of periods
    policy = Imagining("point", horizon=10, **settings)
    robot, trace = make_robot("point", sees_truth=True), MemoryTrace()
    profile = profile_ms("near", 60, 12, 50)
    robot.reset(3, 0, PERIOD_NS)
    stood: dict[int, np.ndarray] = {}
    episode = EpisodeSettings(
        robot.spec.action_space,
        10,
        executor.fitted(policy.spec, profile),
        profile,
        pacing,
        EpisodeLimits(6 * NS_PER_S, stop_on_success=False),
    ).episode(
        policy,
        robot,
        trace,
        lambda now_ns: stood.__setitem__(now_ns, robot.capture()["position"]),
    )
    run_simulated(episode, ConstantLatency(profile))
    robot.close()
    sent = [e for e in trace.events if isinstance(e, Sent) and e.source == "policy"]
    late = [e for e in sent if e.generation >= 3 and e.t_ns in stood]
    assert len(late) > 5
    assert np.ptp([stood[event.t_ns] for event in late], axis=0).max() > 0.05
    for event in late:
        imagined = policy.stands[event.generation, event.index]
        assert np.allclose(imagined, stood[event.t_ns], atol=1e-6), event


@pytest.mark.parametrize("suite", ["metaworld", "language", "tempo-arm", "memory"])
def test_the_expert_of_every_task_drives_from_the_truth(suite):
    """Every task of a suite: the whole state is seen, assumed, and answered by H finite actions."""
    for task in suite_tasks(suite):
        policy = find_policy(for_task("expert-chunks", task), None).load({})
        with closing(make_robot(task, sees_truth=True)) as robot:
            robot.reset(5, 0, robot.spec.control_period_ns)
            still = robot.spec.action_space.initial_state()
            frames = robot.observe(robot.capture())
            seen = Observation({}, frames.state, still, robot.instruction, 0)
            actions = list(policy.generate(policy.encode(seen), FlowStart(still)))
        assert len(actions) == policy.spec.horizon, task
        assert np.isfinite(actions).all(), task
