"""Skipped observations: when a context is used again, with which age, and what that costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import FlowStart, Policy
from streamvla.policy.reuse import ReusingPolicy
from streamvla.policy.skipping import SkippingPolicy, SkipRule
from streamvla.runtime.drivers.episode import EpisodeLimits
from streamvla.runtime.drivers.settings import EpisodeSettings
from streamvla.runtime.drivers.simulated import run_simulated
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.timing.latency import ConstantLatency, named_profile
from streamvla.testing import StillRobot
from streamvla.testing.fakes import CountingPolicy
from streamvla.testing.policy_contract import PolicyContract
from streamvla.trace import MemoryTrace, ObserveCost, ObserveReady, ObserveRequested, Sent
from tests.policy.test_action_flow import make_observation, make_policy
from tests.runtime.scenario import MIXED
from tests.runtime.test_observation_cost import WHOLE

PERIOD_NS = 50_000_000
START = FlowStart(np.array([0.4, -0.2, 0.5]), age=2)


def skipping(**rule):
    return SkippingPolicy(make_policy(max_age=12), SkipRule(**rule))


def later(periods, **changes):
    """The observation so many periods after the first, otherwise the same."""
    observation = make_observation()
    return replace(observation, captured_ns=periods * PERIOD_NS, **changes)


def actions(policy: Policy, context, start=START):
    return np.array(list(policy.generate(context, start)))


class TestASkippingPolicy(PolicyContract):
    def policy(self):
        return skipping()


def test_a_used_context_generates_as_the_first_one_does_at_that_age():
    """7 periods later the actions are those of the old context, told that it is 7 older."""
    policy, inside = skipping(most=3), make_policy(max_age=12)
    policy.encode(later(0))
    again = policy.encode(later(7))
    expected = actions(inside, inside.encode(later(0)), replace(START, age=START.age + 7))
    assert np.array_equal(actions(policy, again), expected)
    assert (again.age, again.old_ns, again.skips) == (7, 7 * PERIOD_NS, 1)


def test_at_most_so_many_in_a_row_and_then_a_new_one():
    """With two in a row every third observation is encoded."""
    policy = skipping(most=2)
    skips = [policy.encode(later(3 * number)).skips for number in range(7)]
    assert skips == [0, 1, 2, 0, 1, 2, 0]


def test_the_phase_says_which_ones():
    """Every second one is skipped, beginning one later for every phase."""
    for phase in range(3):
        policy = skipping(phase=phase)
        skips = [policy.encode(later(3 * number)).skips for number in range(6)]
        assert skips == [0] * phase + [0, 1, 0, 1, 0, 1][: 6 - phase]


STATE = make_observation().state


@pytest.mark.parametrize(
    "changes",
    [
        {"instruction": "pull the puck"},
        {"action_state": np.array([0.4, -0.2, -0.5])},  # the gripper, absolute, was told to move
        {"state": STATE + np.array([0.0, 0.1], np.float32)},  # the opening has moved
    ],
)
def test_what_begins_another_phase_is_encoded(changes):
    """Another instruction, a gripper that was told to move, or one that moved."""
    policy = skipping()
    policy.encode(later(0))
    assert policy.encode(later(3, **changes)).skips == 0


def test_what_moves_with_the_arm_is_no_reason():
    """Deltas that were commanded, and the arm's own place, change while a context is used again."""
    policy = skipping()
    policy.encode(later(0))
    moved = {"state": STATE + np.array([0.3, 0.0], np.float32)}
    there = {"action_state": np.array([1.4, 0.8, 0.5])}
    assert policy.encode(later(3, **moved, **there)).skips == 1


@pytest.mark.parametrize("periods", [0, -1, 21, 1000])
def test_frames_that_are_too_old_or_not_older_are_made_anew(periods):
    """Beyond `oldest` actions, and where the clock began again, nothing is used again."""
    policy = skipping(oldest=20)
    policy.encode(later(0))
    assert policy.encode(later(periods)).skips == 0


def test_an_episode_begins_with_an_encoding():
    """After `begin` nothing that was seen before counts."""
    policy = skipping()
    policy.encode(later(0))
    policy.begin()
    assert policy.encode(later(3)).skips == 0


def test_a_skipped_observation_costs_no_encoding():
    """No view is encoded, no operation of the context done, and the time is the measured share."""
    policy = skipping(time_share=0.03)
    whole = policy.cost(policy.encode(later(0)))
    cost = policy.cost(policy.encode(later(3)))
    assert (whole.encodes, cost.encodes) == (2, 0)
    assert (cost.look_flops, cost.context_flops) == (0, 0)
    assert cost.visual_tokens_attended == whole.visual_tokens_attended
    assert (cost.look_time, cost.context_time, cost.frames_old_ns) == (0.03, 0.03, 3 * PERIOD_NS)


def test_the_clock_shift_is_refused():
    """A later flow step and an older context are two answers to one question."""
    policy = skipping()
    policy.encode(later(0))
    again = policy.encode(later(3))
    with pytest.raises(ConfigError, match="clock shift"):
        actions(policy, again, FlowStart(np.zeros(3), index=2))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"most": 0}, "at most 0 in a row"),
        ({"oldest": 0}, "up to 0 periods old"),
        ({"phase": -1}, "phase -1"),
        ({"tolerance": float("nan")}, "tolerance nan"),
        ({"time_share": 1.5}, "share of the time 1.5"),
        ({"opening": (2,)}, "state dimension 2 of 2"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(rule, message):
    """Each setting out of range is named."""
    with pytest.raises(ConfigError, match=message):
        skipping(**rule)


def test_the_trace_states_the_instant_of_the_frames():
    """Commands behind a skipped observation carry the capture of the one that was encoded, so
    their age is that of the frames."""
    times = named_profile("paper-20hz")
    inside = CountingPolicy(MIXED, 10, times.execute_ns, [WHOLE], lambda *_: np.array([0.1, 1.0]))
    inside.spec = replace(inside.spec, state_dim=len(inside.spec.views), max_age=20)
    policy = SkippingPolicy(inside, SkipRule(opening=()))
    settings = EpisodeSettings(
        MIXED, 10, ActionFlow(3), times, "grid", EpisodeLimits(None), max_observations=6
    )
    trace = MemoryTrace()
    robot = StillRobot(MIXED, times.execute_ns)
    run_simulated(settings.episode(policy, robot, trace), ConstantLatency(times))
    events = trace.events
    asked = {e.observation: e.t_ns for e in events if isinstance(e, ObserveRequested)}
    seen = {e.observation: e.captured_ns for e in events if isinstance(e, ObserveReady)}
    costs = {e.observation: e for e in events if isinstance(e, ObserveCost)}
    skipped = [number for number, cost in costs.items() if not cost.encodes]
    assert skipped == [2, 4]  # the gripper was told to move between 0 and 1
    for number in costs:
        behind = number - 1 if number in skipped else number
        assert seen[number] == asked[behind]
        assert costs[number].frames_old_ns == asked[number] - asked[behind]
    for sent in (e for e in events if isinstance(e, Sent) and e.observation >= 0):
        assert sent.captured_ns == seen[sent.observation]


def test_a_policy_that_knows_no_ages_is_refused():
    """One that plans from the capture itself would act on a world of some time ago."""
    with pytest.raises(ConfigError, match="does not know how old"):
        SkippingPolicy(make_policy(), SkipRule())


def test_an_episode_begins_for_the_policy_inside_too():
    """Views that it kept are encoded anew."""
    policy = SkippingPolicy(ReusingPolicy(make_policy(max_age=12), 0.0), SkipRule())
    policy.encode(later(0))
    policy.begin()
    assert policy.cost(policy.encode(later(0))).encodes == 2


def test_frames_behind_a_skipped_observation_are_as_old_as_the_camera_that_rested():
    """A camera rests at the second encoding, and the third observation uses that context again:
    its oldest frame is of the first."""
    inside = ReusingPolicy(make_policy(max_age=12), None, every={"front": 2})
    policy = SkippingPolicy(inside, SkipRule(phase=1))
    old = [policy.cost(policy.encode(later(p))).frames_old_ns // PERIOD_NS for p in (0, 3, 6)]
    assert old == [0, 3, 6]


def test_every_picture_of_a_skipped_observation_is_a_hit():
    """Two views and the instruction, also where the views were kept before."""
    policy = SkippingPolicy(ReusingPolicy(make_policy(max_age=12), 0.0), SkipRule())
    for periods in (0, 3, 6, 9):
        kept = policy.encode(later(periods))
    assert kept.skips == 1
    assert policy.cost(kept).cache_hits == 3
