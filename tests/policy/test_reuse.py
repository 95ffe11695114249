"""Views that did not change are not encoded again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from streamvla.core.errors import ConfigError
from streamvla.policy.reuse import ReusingPolicy, largest_change
from streamvla.testing.policy_contract import PolicyContract
from tests.policy.test_action_flow import make_observation, make_policy


def reusing(tolerance=0.0):
    return ReusingPolicy(make_policy(), tolerance)


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
