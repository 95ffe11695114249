"""Parity and invariance of the model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from streamvla.core.errors import ConfigError
from streamvla.model.backbone import PrefixCache
from streamvla.model.expert import STATE_OCTAVES, STATE_WAVELENGTH, TAU_OCTAVES
from streamvla.model.instruction import mean_word
from streamvla.model.layers import fourier_features, split_heads
from streamvla.model.vision import Keypoints
from streamvla.model.vla import StreamingVLA, VLAConfig, parameter_count
from streamvla.training.config import ModelSize
from tests.model.tiny import TINY, tiny_inputs, tiny_model


@torch.inference_mode()
def joint_forward(model: StreamingVLA, inputs: tuple, x: Tensor, tau: Tensor) -> Tensor:
    """One uncached pass over [prefix | suffix] with a block mask; x (b, d), tau (b,) → (b, d).

    Prefix tokens see the prefix, the suffix sees the prefix and itself; each stream has its own
    weights, attention is one softmax over the concatenated keys.
    """
    images, words, state, command = inputs
    told, is_word = model.instruction(words)
    felt = torch.stack([model.from_state(state), model.from_command(command)], 1)
    seen = model.vision(images, mean_word(told, is_word))
    prefix = torch.cat([seen, told, felt], 1)
    present = torch.ones(prefix.shape[:2], dtype=torch.bool)
    present[:, seen.shape[1] : seen.shape[1] + told.shape[1]] = is_word
    expert, heads = model.expert, model.config.heads
    waves = fourier_features(x, STATE_WAVELENGTH, STATE_OCTAVES).flatten(-2)
    suffix = expert.from_state(torch.cat([x * 8 / STATE_WAVELENGTH, waves], -1))[:, None]
    condition = expert.from_tau(fourier_features(tau[:, None], 2.0, TAU_OCTAVES))
    tokens = prefix.shape[1] + 1
    allowed = torch.zeros(len(x), tokens, tokens, dtype=torch.bool)
    allowed[:, :, :-1] = present[:, None, :]
    allowed[:, -1, -1] = True
    last = len(expert.blocks) - 1
    for layer, block in enumerate(expert.blocks):
        mine, gate = block.attention_norm(suffix, condition)
        q_s, k_s, v_s = (split_heads(part, heads) for part in block.qkv(mine).chunk(3, -1))
        if layer < last:
            base = model.backbone.blocks[layer]
            parts = base.qkv(base.attention_norm(prefix)).chunk(3, -1)
            q_p, k_p, v_p = (split_heads(part, heads) for part in parts)
        else:
            k_p, v_p = model.backbone.last(prefix)
            q_p = torch.zeros_like(k_p)
        q, k, v = (torch.cat(pair, 2) for pair in ((q_p, q_s), (k_p, k_s), (v_p, v_s)))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        scores = scores.masked_fill(~allowed[:, None], float("-inf"))
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        suffix = suffix + gate * block.out(mixed[:, -1:])
        mine, gate = block.feed_norm(suffix, condition)
        suffix = suffix + gate * block.feed(mine)
        if layer < last:
            prefix = prefix + base.out(mixed[:, :-1])
            prefix = prefix + base.feed(base.feed_norm(prefix))
    normed, _ = expert.final_norm(suffix, condition)
    return expert.to_step(normed)[:, 0]


@torch.inference_mode()
def test_cached_prefix_equals_one_joint_pass():
    """Encoding once and attending to the cache gives what an uncached joint pass gives."""
    model, inputs = tiny_model(), tiny_inputs()
    x, tau = torch.randn(2, 3), torch.tensor([0.0, 0.7])
    cached = model(x[:, None], tau[:, None], model.encode(*inputs))[:, 0]
    torch.testing.assert_close(cached, joint_forward(model, inputs, x, tau), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_samples_of_one_observation_do_not_see_each_other():
    """m suffixes against one prefix give what m separate calls give."""
    model = tiny_model()
    prefix = model.encode(*tiny_inputs())
    x, tau = torch.randn(2, 5, 3), torch.rand(2, 5)
    together = model(x, tau, prefix)
    apart = [model(x[:, i : i + 1], tau[:, i : i + 1], prefix) for i in range(5)]
    torch.testing.assert_close(together, torch.cat(apart, 1), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_padding_changes_nothing():
    """An instruction with padding gives the same actions as the same one without."""
    model, (images, words, state, command) = tiny_model(), tiny_inputs()
    x, tau = torch.randn(2, 1, 3), torch.rand(2, 1)
    padded = model(x, tau, model.encode(images, words, state, command))
    trimmed = model(x, tau, model.encode(images, words[:, :3], state, command))
    torch.testing.assert_close(padded, trimmed, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("part", range(4))
@torch.inference_mode()
def test_every_input_reaches_the_action(part):
    """Changing images, words, state or command changes the predicted step."""
    model, inputs = tiny_model(), list(tiny_inputs())
    x, tau = torch.randn(2, 1, 3), torch.rand(2, 1)
    before = model(x, tau, model.encode(*inputs))
    inputs[part] = inputs[part] + 1
    assert not torch.allclose(before, model(x, tau, model.encode(*inputs)))


@torch.inference_mode()
def test_anything_that_fills_a_prefix_cache_drives_the_expert():
    """The expert needs keys, values and a bias, and nothing else of the backbone."""
    model = tiny_model()
    keys = tuple(torch.randn(1, 2, 7, 8) for _ in range(3))
    prefix = PrefixCache(keys, keys, torch.zeros(1, 1, 1, 7))
    assert (prefix.batch, prefix.tokens) == (1, 7)
    assert model(torch.zeros(1, 4, 3), torch.zeros(1, 4), prefix).shape == (1, 4, 3)


def test_keypoints_find_a_spot_between_cells():
    """A feature spread evenly over two cells is located halfway, below the grid's resolution."""
    keypoints = Keypoints(1, (4, 4))
    with torch.no_grad():
        keypoints.score.weight.fill_(50.0)
        features = torch.zeros(1, 1, 4, 4)
        features[0, 0, 1, 1] = features[0, 0, 1, 2] = 1.0
        x, y = keypoints(features)[0].tolist()
    assert (x, y) == (pytest.approx(0.0, abs=1e-4), pytest.approx(-0.25, abs=1e-4))


@torch.inference_mode()
def test_the_instruction_steers_the_asked_keypoints_and_nothing_else_in_vision():
    """Other words move the asked places and change the asked token of each view only."""
    model, (images, words, *_) = tiny_model(), tiny_inputs()
    seen = []
    for said in (words, words + (words > 0)):
        told = mean_word(*model.instruction(said))
        seen.append(model.vision.look(images, told))
    (tokens, places), (others, elsewhere) = seen
    assert places.shape == (2, 2 * 2 * TINY.asked_keypoints)
    assert (places - elsewhere).abs().max() > 1e-3
    changed = (tokens - others).abs().amax(-1) > 1e-6  # (b, v·l)
    asked = model.vision.token_grid[0] * model.vision.token_grid[1] + 1
    assert changed.unflatten(1, (2, -1)).nonzero()[:, 2].unique().tolist() == [asked]


@torch.inference_mode()
def test_words_that_training_never_said_are_passed_over():
    """Once it is told what was said, a word from outside changes nothing, one of another sentence
    does; until then every word is heard."""
    model, (images, _, state, command) = tiny_model(), tiny_inputs(1)

    def acts(said: str) -> torch.Tensor:
        prefix = model.encode(images, model.tokenise([said]), state, command)
        return model(torch.zeros(1, 1, 3), torch.zeros(1, 1), prefix)

    assert not torch.allclose(acts("push it yonder"), acts("push it"))
    model.instruction.hear_only(["push it"])
    model.instruction.hear_only(["pull it softly"])
    torch.testing.assert_close(acts("push it yonder"), acts("push it"))
    assert not torch.allclose(acts("push it softly"), acts("push it"))


@torch.inference_mode()
def test_places_are_told_by_vision_alone():
    """State and command do not change where the asked keypoints say things are."""
    model, (images, words, state, command) = tiny_model(), tiny_inputs()
    _, told = model.encode_and_locate(images, words, state, command)
    _, again = model.encode_and_locate(images, words, state + 1, command + 1)
    assert told.shape == (2, TINY.places_dim)
    assert torch.equal(told, again)


def test_a_model_without_asked_keypoints_has_no_token_of_them():
    """As policies of before: one token a view less, and no places from vision."""
    plain = StreamingVLA(replace(TINY, asked_keypoints=0)).eval()
    images, words, state, command = tiny_inputs()
    prefix, places = plain.encode_and_locate(images, words, state, command)
    assert prefix.tokens == tiny_model().encode(images, words, state, command).tokens - 2
    assert places.shape == (2, 0)


@torch.inference_mode()
def test_the_places_that_vision_tells_are_a_token_of_each_view():
    """The last one; it says the places alone, and the same in each view."""
    torch.manual_seed(0)
    model = StreamingVLA(replace(TINY, places_token=True)).eval()
    images, words, _, _ = tiny_inputs()
    seen, placed = model.look(images, words), model.locate(images, words)
    assert seen.shape[2] == tiny_model().look(images, words).shape[2] + 1
    assert torch.equal(seen[:, 0, -1], seen[:, 1, -1])
    assert model.from_places is not None
    assert torch.equal(seen[:, 0, -1], model.from_places(placed))


def test_default_size():
    """What is trained by default has less than 7.5 million parameters: 30 MB in float32."""
    config = VLAConfig(action_dim=4, state_dim=4, places_dim=9, **vars(ModelSize()))
    assert 6e6 < parameter_count(StreamingVLA(config)) < 7.5e6


@pytest.mark.parametrize("wrong", [{"image_size": (100, 96)}, {"layers": 0}])
def test_impossible_sizes_are_refused(wrong):
    """A model size that cannot be built raises ConfigError."""
    with pytest.raises(ConfigError):
        VLAConfig(**{**vars(TINY), **wrong})
