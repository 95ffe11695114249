"""Gripper crops: where they are cut, what they say of where they are, and what the model makes of
them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from streamvla.core.action_space import ActionSpace
from streamvla.core.cameras import CameraView, Gaze
from streamvla.core.errors import ConfigError, SpecMismatchError
from streamvla.core.interfaces import Observation, PolicySpec, check_fit
from streamvla.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from streamvla.model.crops import CropAim, CropConfig, CroppedViews, cut, in_view
from streamvla.model.instruction import mean_word
from streamvla.model.methods.action_flow import ActionFlowConfig
from streamvla.model.models import model_config_from_json
from streamvla.model.normalisation import Normalisation
from streamvla.model.saliency import SaliencyConfig, SaliencyPredictor
from streamvla.model.vla import StreamingVLA, VLAConfig
from streamvla.policy import load_policy, resolve_checkpoint
from streamvla.policy.base import ModelPolicy
from streamvla.policy.transforms import to_images
from streamvla.robots.sawyer import GAZE
from streamvla.robots.sawyer import SPEC as SAWYER
from tests.model.tiny import TINY

HANDS = st.tuples(st.floats(-0.35, 0.35), st.floats(0.35, 1.05), st.floats(0.0, 0.5))
CROPS = CropConfig(GAZE)
OVERHEAD = CameraView(((48.0, 0.0, 0.0, 48.0), (0.0, 48.0, 0.0, 48.0), (0.0, 0.0, 0.0, 1.0)))
"""Shows x and y from −1 to 1 on 96 px."""
SMALL = replace(
    TINY,
    action_dim=4,
    state_dim=4,
    image_size=(96, 96),
    places_token=True,
    crops=replace(CROPS, channels=4),
)
SPACE = ActionSpace(
    ("dx", "dy", "dz", "grip"), ("delta", "delta", "delta", "absolute"), (-1.0,) * 4, (1.0,) * 4
)
SPEC = PolicySpec(SPACE, 10, SAWYER.views, (96, 96), 4, 50_000_000)
UNITS = Normalisation((0.0,) * 4, (1.0,) * 4, (1.0,) * 4)


def state_of(hand) -> np.ndarray:
    return np.array([[*hand, 1.0]], np.float32)


def small_policy(seed: int = 0, config: VLAConfig = SMALL) -> ModelPolicy:
    torch.manual_seed(seed)
    model = StreamingVLA(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return ModelPolicy(model, SPEC, ActionFlowConfig(), UNITS)


def observation(seed: int) -> Observation:
    rng = np.random.default_rng(seed)
    images = {view: rng.integers(0, 255, (96, 96, 3), dtype=np.uint8) for view in SPEC.views}
    hand = rng.uniform((-0.3, 0.45, 0.05), (0.3, 0.9, 0.3))
    state = np.array([*hand, 0.5], np.float32)
    return Observation(images, state, rng.normal(size=4), "push the puck", seed)


# --- cutting


@given(HANDS, st.tuples(st.floats(0, 1), st.floats(0, 1)), st.integers(0, 1))
def test_what_is_found_in_a_crop_maps_back_to_its_place_in_the_view(hand, where, view):
    """A marked pixel of the window, wherever the hand is, lies at centre + scale · its place."""
    corner = CROPS.corners(state_of(hand), 96)[0, view]
    column, row = corner + np.rint(np.array(where) * 23).astype(int)
    pixels = torch.zeros(1, 2, 96, 96, 3, dtype=torch.uint8)
    pixels[0, view, row, column] = 255
    images = to_images(pixels, state_of(hand), CROPS)
    light = images.crops[0, view].mean(0) + 1  # (48, 48)
    cells = (torch.arange(48) + 0.5) / 24 - 1
    found = torch.stack([(light.sum(0) * cells).sum(), (light.sum(1) * cells).sum()]) / light.sum()
    told = in_view(found[None], images.geometry[0, view][None])[0]
    expected = (np.array([column, row]) + 0.5) / 48 - 1
    assert torch.allclose(told, torch.from_numpy(expected).float(), atol=0.25 / 48)


@given(HANDS)
def test_a_window_at_the_edge_ends_there_and_says_its_true_centre(hand):
    """It is always within the view, as near to the aim as that allows; never a border is made."""
    corners, aim = CROPS.corners(state_of(hand), 96)[0], GAZE.aim(state_of(hand))[0]
    assert (corners >= 0).all()
    assert (corners <= 96 - 24).all()
    assert np.abs(corners + 12 - np.clip(aim, 12, 84)).max() <= 0.5
    images = torch.rand(1, 2, 3, 96, 96)
    geometry = cut(images, torch.from_numpy(corners)[None], CROPS).geometry[0].numpy()
    assert geometry[:, :2] == pytest.approx((corners + 12) / 48 - 1, abs=1e-6)
    assert geometry[:, 2] == pytest.approx(0.25)


def test_a_hand_outside_the_view_is_cut_at_the_border():
    """An example in numbers: aimed at (200, −50) px, the window is the upper right corner."""
    crops = CropConfig(Gaze((0, 1, 2), (0.0, 0.0, 0.0), (OVERHEAD,)))
    corners = crops.corners(np.array([200 / 48 - 1, -50 / 48 - 1, 0.0]), 96)
    assert corners.tolist() == [[72, 0]]
    images = torch.rand(1, 1, 3, 96, 96)
    cropped = cut(images, torch.from_numpy(corners)[None], crops)
    assert cropped.geometry.tolist() == [[[0.75, -0.75, 0.25]]]


def test_the_small_view_is_the_mean_of_its_pixels():
    """Every pixel of the whole view is the mean of 2×2; the crop's mean is its window's."""
    images = torch.rand(2, 2, 3, 96, 96)
    cropped = cut(images, torch.tensor([[[3, 40], [72, 0]], [[10, 11], [0, 72]]]), CROPS)
    assert cropped.whole.shape == cropped.crops.shape == (2, 2, 3, 48, 48)
    torch.testing.assert_close(
        cropped.whole[1, 0, 2, 5, 7], images[1, 0, 2, 10:12, 14:16].mean(), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(
        cropped.crops[0, 1, 1, 20:28, 20:28].mean(),
        images[0, 1, 1, 10:14, 82:86].mean(),
        rtol=0,
        atol=0.05,
    )
    flat = cut(torch.full((1, 2, 3, 96, 96), 0.25), torch.zeros(1, 2, 2).long(), CROPS)
    assert (flat.crops == 0.25).all()


def test_views_that_cannot_be_cut_are_refused():
    """Not square, not a multiple, too few cameras, another state: each with one line."""
    for change, told in (
        ({"image_size": (96, 128)}, "square views"),
        ({"image_size": (80, 80)}, "multiple of coarse_px 48"),
        ({"views": 3}, "2 cameras"),
        ({"state_dim": 2}, "2 state dimensions"),
    ):
        with pytest.raises(ConfigError, match=told):
            replace(SMALL, **change)
    with pytest.raises(ConfigError, match="multiple of 16"):
        replace(CROPS, zoomed_px=40)


# --- crops that the instruction pulls

LEASHED = replace(CROPS, leash_px=9.0)


def pulled(weight: float, corners, places: float) -> tuple[CroppedViews, CroppedViews]:
    """Crops before and after two keypoints, both at (places, places), pulled with that weight."""
    images = torch.rand(1, 2, 3, 96, 96)
    aim = CropAim(2, LEASHED)
    torch.nn.init.constant_(aim.weight, weight)
    before = cut(images, torch.tensor([corners]), LEASHED)
    return before, aim(before, torch.full((1, 8), places))


@torch.inference_mode()
def test_an_untrained_pull_leaves_crops_at_the_gripper():
    """Their geometry is the same to the last bit, their pixels are but at the window's edge."""
    before, after = pulled(0.0, [[30, 40], [72, 0]], 0.3)
    assert torch.equal(after.geometry, before.geometry)
    inner = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(after.crops[inner], before.crops[inner], rtol=0, atol=1e-4)


@torch.inference_mode()
@given(st.floats(-5, 5), st.integers(0, 72), st.integers(0, 72), st.floats(-1, 1))
def test_a_pulled_crop_stays_on_its_leash_and_in_the_view(weight, x, y, places):
    """Whatever pulls: at most leash_px each way, and the window never leaves the image."""
    before, after = pulled(weight, [[x, y], [y, x]], places)
    moved_px = (after.geometry - before.geometry)[..., :2] * 48
    assert moved_px.abs().max() <= 9 + 1e-3
    assert after.geometry[..., :2].abs().max() <= 0.75 + 1e-6


@torch.inference_mode()
def test_a_pulled_crop_says_where_it_is():
    """A light that is found in the crop lies at centre + scale · its place, pulled by 8.9 px."""
    images = -torch.ones(1, 2, 3, 96, 96)
    images[..., 50, 62] = 1.0
    aim = CropAim(1, LEASHED)
    torch.nn.init.constant_(aim.weight, 1.0)
    before = cut(images, torch.tensor([[[40, 40], [40, 40]]]), LEASHED)
    after = aim(before, torch.ones(1, 4))
    light = after.crops[0, 0].mean(0) + 1
    cells = (torch.arange(48) + 0.5) / 24 - 1
    found = torch.stack([(light.sum(0) * cells).sum(), (light.sum(1) * cells).sum()]) / light.sum()
    told = in_view(found[None], after.geometry[0, 0][None])[0]
    assert after.geometry[0, 0, 0] * 48 + 48 == pytest.approx(52 + 9 * np.tanh(44 / 9), abs=0.1)
    assert told.tolist() == pytest.approx([62.5 / 48 - 1, 50.5 / 48 - 1], abs=0.3 / 48)


def test_what_is_found_in_a_pulled_crop_teaches_the_pull():
    """The gradient of a crop's pixels reaches the weights of the keypoints."""
    aim = CropAim(2, LEASHED)
    before = cut(torch.rand(1, 2, 3, 96, 96), torch.tensor([[[30, 40], [20, 10]]]), LEASHED)
    aim(before, torch.rand(1, 8)).crops.square().mean().backward()
    assert (aim.weight.grad != 0).all()


def test_a_pull_needs_asked_keypoints():
    """Nothing could pull: one line that says what to change."""
    with pytest.raises(ConfigError, match="leash_px is 9 in a model without asked keypoints"):
        StreamingVLA(replace(SMALL, crops=LEASHED, asked_keypoints=0))


# --- the model


@torch.inference_mode()
def test_without_crops_vision_is_the_shipped_one_to_the_last_bit():
    """The shipped policy has no weight of crops, and its tokens are its one encoder's and the
    token of places, as before there were crops."""
    policy = load_policy(resolve_checkpoint(None))
    model = policy.model
    assert policy.spec.gaze is None
    assert model.config.crops is None
    assert not [name for name in model.state_dict() if "crop" in name or "geometry" in name]
    sample = observation(0)
    pixels = np.stack([sample.images[view] for view in policy.spec.views])[None]
    images = torch.from_numpy(pixels).permute(0, 1, 4, 2, 3).float() / 127.5 - 1.0
    words = model.tokenise([sample.instruction])
    tokens, located = model.vision.look(images, mean_word(*model.instruction(words)))
    placed = model.from_places(model.to_places(located))[:, None, None].expand(-1, 2, -1, -1)
    expected = torch.cat([tokens.unflatten(1, (2, -1)), placed], dim=2)
    assert torch.equal(policy.look(sample).seen, expected)


def test_a_header_from_before_crops_is_read_as_none():
    """Sizes without the setting, and sizes with it, come back from JSON as they were."""
    old = {name: value for name, value in asdict(TINY).items() if name != "crops"}
    assert model_config_from_json(json.loads(json.dumps(old))) == TINY
    assert model_config_from_json(json.loads(json.dumps(asdict(SMALL)))) == SMALL


@torch.inference_mode()
def test_a_batch_of_two_is_one_by_one():
    """Each observation is cut with its own state, whatever lies beside it in the batch."""
    policy, seen = small_policy(), [observation(1), observation(2)]
    together = policy.look_batch(seen).seen
    assert together.shape == (2, 2, 9 + 2 + 9 + 2 + 1, SMALL.width)
    for index, each in enumerate(seen):
        torch.testing.assert_close(together[index], policy.look(each).seen[0])


@torch.inference_mode()
@pytest.mark.parametrize("leash_px", [0.0, 9.0])
def test_the_state_says_where_to_cut(leash_px):
    """The same pictures with the hand elsewhere give other crop tokens, and equal whole ones."""
    crops = replace(CROPS, channels=4, leash_px=leash_px)
    policy, sample = small_policy(config=replace(SMALL, crops=crops)), observation(1)
    elsewhere = replace(sample, state=sample.state + np.array([0.1, 0.1, 0, 0], np.float32))
    one, two = policy.look(sample).seen, policy.look(elsewhere).seen
    assert torch.equal(one[:, :, :11], two[:, :, :11])
    assert ((one - two)[:, :, 11:22].abs().amax(dim=(0, 1, 3)) > 1e-3).all()


@torch.inference_mode()
def test_places_are_told_by_both_encoders():
    """What vision tells of places changes with the whole view alone, and with the crop alone."""
    model, words = small_policy().model, torch.ones(1, 2).long()
    seen = CroppedViews(
        torch.rand(1, 2, 3, 48, 48), torch.rand(1, 2, 3, 48, 48), torch.rand(1, 2, 3)
    )
    told = model.locate(seen, words)
    assert told.shape == (1, 3)
    for change in ("whole", "crops", "geometry"):
        other = replace(seen, **{change: getattr(seen, change) + torch.rand(1)})
        assert not torch.allclose(told, model.locate(other, words))


def test_whole_views_are_refused_by_a_model_with_crops_and_the_other_way_round():
    """Neither runs on what it was not made for."""
    words = torch.ones(1, 1).long()
    with pytest.raises(ConfigError, match="given whole views"):
        small_policy().model.look(torch.zeros(1, 2, 3, 96, 96), words)
    seen = CroppedViews(*torch.zeros(2, 1, 2, 3, 48, 48), torch.zeros(1, 2, 3))
    with pytest.raises(ConfigError, match="given cropped views"):
        StreamingVLA(replace(SMALL, crops=None)).look(seen, words)


@torch.inference_mode()
def test_anticipation_takes_the_tokens_of_crops():
    """A saliency predictor of as many tokens changes what a policy with crops sees."""
    policy = small_policy()
    sight = policy.look(observation(0))
    policy.attach(SaliencyPredictor(SaliencyConfig(*sight.seen.shape[1:], 4, width=16, layers=1)))
    change = policy.anticipate(sight, np.ones((1, 4))).changes[0]
    assert policy.contextualise(sight, change).prefix.tokens > 2 * 23


def test_a_checkpoint_brings_its_gaze_along(tmp_path):
    """What is loaded looks where the saved policy did, and fits robots with these cameras only."""
    policy = small_policy()
    path = tmp_path / "policy.safetensors"
    weights = policy.model.state_dict()
    save_checkpoint(path, Checkpoint(SMALL, ActionFlowConfig(), SPEC, UNITS, {}, weights))
    assert load_checkpoint(path).model == SMALL
    loaded = load_policy(path)
    assert torch.equal(loaded.look(observation(3)).seen, policy.look(observation(3)).seen)
    robot = replace(SAWYER, action_space=SPACE)
    check_fit(loaded.spec, robot)
    with pytest.raises(SpecMismatchError, match="has no camera model"):
        check_fit(loaded.spec, replace(robot, gaze=None))
    nearer = replace(GAZE, offset=(0.0, 0.0, 0.0))
    with pytest.raises(SpecMismatchError, match="has another camera model"):
        check_fit(loaded.spec, replace(robot, gaze=nearer))


def test_the_shipped_size_costs_less_with_crops():
    """Vision and backbone of one observation take at most 0.8 of today's operations."""
    from torch.utils.flop_counter import FlopCounterMode

    size = VLAConfig(4, 4, places_dim=9, asked_keypoints=32, places_hidden=256, places_token=True)
    images, state = torch.rand(1, 2, 3, 96, 96), torch.zeros(1, 4)
    words, flop = torch.ones(1, 5).long(), {}
    for crops in (None, CROPS):
        model = StreamingVLA(replace(size, crops=crops))
        seen = images
        if crops is not None:
            seen = cut(images, torch.zeros(1, 2, 2).long(), crops)
        with FlopCounterMode(display=False) as counter:
            model.encode(seen, words, state, state)
        flop[crops] = counter.get_total_flops()
    assert flop[CROPS] <= 0.8 * flop[None]
