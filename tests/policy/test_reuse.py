"""Views that did not change are not encoded again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from streamvla.core.errors import ConfigError
from streamvla.model.phrases import Phrases, Told
from streamvla.policy.reuse import ReusingPolicy, largest_change
from streamvla.testing.policy_contract import PolicyContract
from tests.policy.test_action_flow import make_observation, make_policy


def reusing(tolerance=0.0):
    return ReusingPolicy(make_policy(), tolerance)


def slow(tolerance=None, **every):
    return ReusingPolicy(make_policy(), tolerance, every=every)


def moving(number, **changes):
    """The observation so many ms after the first, with other pictures."""
    return replace(make_observation(number), captured_ns=number * 1_000_000, **changes)


def brighter(observation, view, levels=40, cells=1):
    """The first cells of 16 px of a view, at most two of four, brighter by so many levels."""
    image = observation.images[view].copy()
    image[:16, : 16 * cells] = np.clip(image[:16, : 16 * cells].astype(int) // 2 + levels, 0, 255)
    return replace(observation, images={**observation.images, view: image})


class TestAReusingPolicy(PolicyContract):
    def policy(self):
        return reusing()


def test_a_repeated_frame_is_not_encoded_and_gives_the_same_tokens():
    """The second look at a still scene encodes nothing, and its tokens are bit for bit the same."""
    policy = reusing()
    seen = make_observation()
    first, again = (policy.look(replace(seen, captured_ns=ns)) for ns in (0, 1))
    assert torch.equal(first.seen, again.seen)
    assert (first.cost.encodes, again.cost.encodes) == (2, 0)
    assert again.cost.look_flops == 0
    assert again.cost.cache_hits == first.cost.cache_hits + 3  # two views and the instruction
    assert again.cost.look_time == pytest.approx(0.12)


def test_an_instruction_is_told_as_the_policy_inside_tells_it(monkeypatch):
    """The nearest phrasing of the training, where that is asked for."""
    inside = make_policy()
    inside.phrases = Phrases((("push the puck",), ("pull the puck",)), 0.3)
    monkeypatch.setattr(Phrases, "told", lambda *_: Told("push the puck", 0.8))
    assert ReusingPolicy(inside, 0.0).told("shove it") == ("push the puck", 0.8)


def test_with_the_tolerance_zero_every_look_is_that_of_a_whole_encoding():
    """One view changes, then the other, then none: tokens as of the policy inside, to 1e-6."""
    policy, whole = reusing(), make_policy()
    seen = make_observation()
    looks = [seen, brighter(seen, "side")]
    looks += [brighter(looks[-1], "front"), brighter(looks[-1], "front")]
    encodes = []
    for observation in looks:
        sight = policy.look(observation)
        encodes.append(sight.cost.encodes)
        assert torch.allclose(sight.seen, whole.look(observation).seen, atol=1e-6)
    assert encodes == [2, 1, 1, 0]


def test_a_part_of_the_views_costs_that_part():
    """One view of two: half of the operations, to 5 %, but more than half of the time."""
    policy, seen = reusing(), make_observation()
    whole = policy.look(seen).cost
    half = policy.look(brighter(seen, "side")).cost
    assert half.look_flops == pytest.approx(whole.look_flops / 2, rel=0.05)
    assert half.look_time == pytest.approx(0.77)


def test_small_changes_add_up():
    """A view that brightens by one level a frame is encoded once it differs by more than three from
    what was encoded, not from the frame before."""
    policy = reusing(3.0)
    base = make_observation()
    encodes = []
    for step in range(6):
        images = {view: np.full_like(image, 100 + step) for view, image in base.images.items()}
        encodes.append(policy.look(replace(base, images=images)).cost.encodes)
    assert encodes == [2, 0, 0, 0, 2, 0]


def test_another_instruction_or_episode_encodes_all():
    """The asked keypoints depend on the words; an episode begins with nothing kept."""
    policy, seen = reusing(), make_observation()
    policy.look(seen)
    assert policy.look(replace(seen, instruction="pull the puck")).cost.encodes == 2
    policy.begin()
    assert policy.look(replace(seen, instruction="pull the puck")).cost.encodes == 2


def test_a_small_thing_that_moves_is_seen_however_large_the_picture_is():
    """The largest change is that of a cell, not the mean of the frame."""
    before = np.zeros((96, 96, 3), np.uint8)
    now = before.copy()
    now[32:48, 64:80] = 10
    assert largest_change(before, now) == 10.0
    assert largest_change(now, before) == 10.0


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_a_tolerance_that_is_no_number_of_levels_is_refused(tolerance):
    """Negative, NaN and infinite are named."""
    with pytest.raises(ConfigError, match="tolerance"):
        reusing(tolerance)


def test_a_camera_with_a_rate_is_encoded_every_so_many_observations():
    """Views side and front, front every third: its tokens are those of observations 0 and 3, those
    of side are new, to 1e-6; the frames are as old as the older view."""
    policy, whole = slow(front=3), make_policy()
    encodes, old_ms = [], []
    for number in range(5):
        sight = policy.look(moving(number))
        encodes.append(sight.cost.encodes)
        old_ms.append(sight.cost.frames_old_ns / 1e6)
        images = {
            "side": moving(number).images["side"],
            "front": moving(number // 3 * 3).images["front"],
        }
        expected = whole.look(replace(moving(number), images=images)).seen
        assert torch.allclose(sight.seen, expected, atol=1e-6)
    assert encodes == [2, 1, 1, 2, 1]
    assert old_ms == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("tolerance", [None, 0.0])
def test_rates_of_one_are_exact(tolerance):
    """With every camera at 1 each observation costs and shows, bit for bit, what it does without
    rates."""
    policy = slow(tolerance, front=1, side=1)
    other = make_policy() if tolerance is None else reusing(tolerance)
    assert policy.spec.settings == other.spec.settings
    for number in range(3):
        one, two = policy.look(moving(number)), other.look(moving(number))
        assert torch.equal(one.seen, two.seen)
        assert (one.cost.frames_old_ns, one.cost.encodes) == (0, two.cost.encodes)


def test_a_camera_that_rests_is_encoded_for_another_instruction_or_episode():
    """Both encode all views, and the rate counts from there."""
    policy = slow(front=3)
    policy.look(moving(0))
    asked = [moving(number, instruction="pull the puck") for number in range(1, 4)]
    assert [policy.look(each).cost.encodes for each in asked] == [2, 1, 1]
    policy.begin()
    assert policy.look(asked[0]).cost.encodes == 2


def test_a_view_that_did_not_change_at_its_turn_is_not_old():
    """With a tolerance a camera that was looked at and showed nothing new is good for that
    capture; one that rests is as old as the capture it was last looked at."""
    policy = slow(0.0, front=2)
    still = [replace(moving(0), captured_ns=ns) for ns in range(4)]
    costs = [policy.look(each).cost for each in still]
    assert [cost.encodes for cost in costs] == [2, 0, 0, 0]
    assert [cost.frames_old_ns for cost in costs] == [0, 1, 0, 1]


def test_a_policy_with_slow_cameras_does_not_anticipate():
    """What was not looked at cannot be foreseen, whatever lies beside the policy."""
    inside = make_policy()
    inside.spec = replace(inside.spec, anticipates=True)
    assert not ReusingPolicy(inside, None, every={"front": 2}).spec.anticipates
    assert ReusingPolicy(inside, 0.0).spec.anticipates


@pytest.mark.parametrize(
    ("every", "message"),
    [
        ({"top": 2}, "camera 'top': the policy has side, front"),
        ({"front": 0}, "every 0 observations"),
        ({"front": 1.5}, "every 1.5 observations"),
        ({"front": float("nan")}, "every nan"),
        ({"front": float("inf")}, "every inf"),
    ],
)
def test_rates_that_cannot_be_are_refused(every, message):
    """Unknown cameras, and rates that are no whole number of at least 1."""
    with pytest.raises(ConfigError, match=message):
        slow(**every)
