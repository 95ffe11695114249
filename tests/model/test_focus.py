"""Focus attention: what it leaves as it was, what it keeps, and what it can learn."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor

from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import FlowStart, Observation, PolicySpec
from streamvla.evaluation.heat import overlay
from streamvla.model.backbone import PrefixCache
from streamvla.model.checkpoint import Checkpoint, save_checkpoint
from streamvla.model.expert import ExpertBlock, attend
from streamvla.model.focus import FocusConfig, watching
from streamvla.model.methods.action_flow import ActionFlowConfig
from streamvla.model.methods.chunk_flow import ChunkFlowConfig
from streamvla.model.methods.registry import Method
from streamvla.model.models import model_config_from_json
from streamvla.model.normalisation import Normalisation
from streamvla.model.vla import StreamingVLA
from streamvla.policy import load_policy, resolve_checkpoint
from streamvla.policy.base import ModelPolicy
from streamvla.policy.focus import vision_attention
from streamvla.studies.trainings import Train, train_config
from streamvla.training.initial import start_from
from streamvla.training.state import _up_to_date
from tests.model.tiny import TINY, tiny_inputs, tiny_model

FLOW, CHUNK = ActionFlowConfig(horizon=5), ChunkFlowConfig(horizon=5, euler_steps=2)
SPACE = ActionSpace(("x", "y", "grip"), ("delta", "delta", "absolute"), (-1.0,) * 3, (1.0,) * 3)
CASCADED = FocusConfig("cascaded", gate="element")
WITH_WEIGHTS = [
    FocusConfig("cascaded"),
    *(FocusConfig("cascaded", 0.5, gate) for gate in ("scalar", "head", "element")),
    FocusConfig("mixed", 0.5, "element"),
]


def checkpoint(model: StreamingVLA, method: Method = FLOW) -> Checkpoint:
    return Checkpoint(
        model=model.config,
        method=method,
        spec=PolicySpec(SPACE, 5, ("side", "front"), (32, 32), 2, 50_000_000, method.chunk_passes),
        normalisation=Normalisation((0.0,) * 2, (1.0,) * 2, (1.0,) * 3),
        provenance={},
        weights=model.state_dict(),
    )


def focused(focus: FocusConfig, seed: int = 0, method: Method = FLOW) -> StreamingVLA:
    """A tiny model with random weights everywhere, those of the focus included."""
    torch.manual_seed(seed)
    model = StreamingVLA(replace(TINY, focus=focus), method).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def from_mixed(focus: FocusConfig, mixed: StreamingVLA, method: Method = FLOW) -> StreamingVLA:
    """A model with focus, begun from the weights of one without."""
    model = StreamingVLA(replace(TINY, focus=focus), method).eval()
    start_from({method.name: model}, checkpoint(mixed, method), "the mixed policy")
    return model.eval()


def suffixes(batch: int = 2, m: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return (
        torch.randn((batch, m, 3), generator=generator),
        torch.rand((batch, m), generator=generator),
    )


def policy_of(model: StreamingVLA, method: Method = FLOW) -> ModelPolicy:
    made = checkpoint(model, method)
    return ModelPolicy(model, made.spec, method, made.normalisation)


def observation(seed: int = 0) -> Observation:
    generator = np.random.default_rng(seed)
    images = {
        view: generator.integers(0, 256, (32, 32, 3), dtype=np.uint8) for view in ("side", "front")
    }
    return Observation(images, generator.normal(size=2), np.zeros(3), "push the puck", 0)


# --- as it was -------------------------------------------------------------------------------


def before_focus(block: ExpertBlock, x: Tensor, modulation, cache, keep=None) -> Tensor:
    """A block as it was before there was a focus, line by line."""
    normed, gate = block.attention_norm.modulate(x, modulation[0])
    q, k, v = (block._split(part) for part in block.qkv(normed).chunk(3, dim=-1))
    q = q * q.shape[-1] ** -0.5
    t = q.shape[3]
    to_prefix = q.flatten(2, 3) @ cache.keys.transpose(-1, -2) + cache.bias.to(q.dtype)
    to_group = q @ k.transpose(-1, -2) if t > 1 else (q * k).sum(-1, keepdim=True)
    scores = torch.cat([to_prefix, to_group.flatten(2, 3)], dim=-1)
    of_prefix, of_group = scores.softmax(-1).split([cache.keys.shape[-2], t], dim=-1)
    of_group = of_group.unflatten(2, q.shape[2:4])
    own = of_group @ v if t > 1 else of_group * v
    mixed = ((of_prefix @ cache.values).view(v.shape) + own).permute(0, 2, 3, 1, 4).flatten(-2)
    x = x + gate * block.out(mixed)
    normed, gate = block.feed_norm.modulate(x, modulation[1])
    return x + gate * block.feed(normed)


@pytest.mark.parametrize("method", ["action-flow", "chunk-flow", "regression"])
def test_the_policies_that_ship_act_as_before_to_the_last_bit(method, monkeypatch):
    """By default blocks give bit for bit what they gave before there was a focus."""
    policy = load_policy(resolve_checkpoint(None, method))
    generator = np.random.default_rng(3)
    size, spec = policy.spec.image_size, policy.spec
    images = {view: generator.integers(0, 256, (*size, 3), dtype=np.uint8) for view in spec.views}
    seen = Observation(images, np.zeros(4), np.zeros(4), "reach the red goal", 0)

    def acts() -> np.ndarray:
        start = FlowStart(seen.action_state)
        return np.array(list(islice(policy.generate(policy.encode(seen), start), 3)))

    now = acts()
    monkeypatch.setattr(ExpertBlock, "forward", before_focus)
    assert np.array_equal(now, acts())


def test_a_header_from_before_has_no_focus():
    """Sizes without a focus are those of today's default, and its weights have the same names."""
    old = asdict(TINY)
    del old["focus"]
    config = model_config_from_json(old)
    assert config == TINY
    assert config.expert_size().focus == FocusConfig()
    assert not any("focus" in name for name in StreamingVLA(TINY).state_dict())
    assert model_config_from_json(asdict(replace(TINY, focus=CASCADED))).expert_size().focus == (
        CASCADED
    )


@pytest.mark.parametrize("focus", [FocusConfig(), *WITH_WEIGHTS])
@torch.inference_mode()
def test_all_tokens_are_no_focus(focus):
    """K = 1.0 gives exactly what the same attention without a choice gives, choosing once too."""
    model, (x, tau) = focused(focus), suffixes(m=1)
    prefix = model.encode(*tiny_inputs())
    model.expert.focus = replace(focus, patch_k=1.0, once=True)
    all_tokens = model(x, tau, prefix)
    model.expert._keep = lambda prefix: None  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.equal(all_tokens, model(x, tau, prefix))


# --- cascaded --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [FLOW, CHUNK])
@pytest.mark.parametrize("patch_k", [1.0, 0.4])
@pytest.mark.parametrize("gate", ["none", "scalar", "head", "element"])
@torch.inference_mode()
def test_cascaded_attention_begins_as_the_mixed_one(method, patch_k, gate):
    """Begun from mixed weights it acts within 1e-5 (1e-4 of the size) of them, with any gate, and
    with the same share of the vision tokens."""
    mixed = tiny_model(method=method)
    model = from_mixed(FocusConfig("cascaded", patch_k, gate), mixed, method)
    x, tau = suffixes()
    prefix = mixed.encode(*tiny_inputs())
    mixed.expert.focus = FocusConfig(patch_k=patch_k)
    age = torch.zeros(2, 3, dtype=torch.int64)
    inputs = (x, tau) if method is FLOW else (torch.randn(2, 3, 5, 3), tau, x, age)
    expected = mixed(*inputs, prefix)
    torch.testing.assert_close(model(*inputs, prefix), expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_without_competition_no_part_takes_attention_from_another():
    """With β = 0 a word that draws all attention to itself leaves vision its share, a third at the
    start; in mixed attention it leaves nothing."""
    for focus, left in ((FocusConfig("cascaded", competition=0.0), 1 / 3), (FocusConfig(), 0.0)):
        model = StreamingVLA(replace(TINY, focus=focus)).eval()
        x, tau = suffixes(1, 1)
        block, cache = model.expert.blocks[0], next(model.encode(*tiny_inputs(1)).layers())
        suffix = model.expert.embed_state(x).unsqueeze(2)
        asked, _ = block._ask(suffix, model.expert.modulations(tau)[:2])
        keys = cache.keys.clone()
        keys[:, :, cache.vision] = 1e6 * asked.q[:, :, 0, 0]
        share = block.focus.mass(asked, replace(cache, keys=keys), None).sum()
        assert float(share) == pytest.approx(left, abs=1e-5)


def test_a_policy_without_focus_starts_one_with_it_and_not_the_other_way():
    """Fresh focus is left as it is and the rest copied; learned focus is never dropped."""
    mixed, cascaded = tiny_model(), focused(CASCADED)
    model = from_mixed(CASCADED, mixed)
    own, given = model.state_dict(), mixed.state_dict()
    assert all(torch.equal(own[name], value) for name, value in given.items())
    assert {name.split(".")[3] for name in own.keys() - given.keys()} == {"focus"}
    with pytest.raises(ConfigError, match=r"another size: .*\.focus\."):
        start_from({FLOW.name: tiny_model()}, checkpoint(cascaded), "the cascaded policy")


# --- top K -----------------------------------------------------------------------------------


@torch.inference_mode()
def test_the_tokens_with_the_largest_logits_are_kept():
    """Attention to K of the vision tokens is attention to a cache with those K, which have the
    largest mean logit over the heads, and all that is not vision."""
    q, k, v = torch.randn(3, 1, 2, 1, 1, 8)
    keys, values = torch.randn(2, 1, 2, 9, 8)
    prefix = PrefixCache((keys,), (values,), torch.zeros(1, 1, 1, 9), vision=6)
    (cache,) = prefix.layers()
    logits = (q[:, :, 0] @ keys.transpose(-1, -2))[0, :, 0, :6].mean(0)
    best = logits.argsort(descending=True)[:2]
    expected = attend(q, k, v, cache.only(best[None]))
    torch.testing.assert_close(attend(q, k, v, cache, keep=2), expected)
    index = torch.tensor([*best.tolist(), 6, 7, 8])
    smaller = PrefixCache((keys[:, :, index],), (values[:, :, index],), torch.zeros(1, 1, 1, 5))
    torch.testing.assert_close(expected, attend(q, k, v, next(smaller.layers())))


@pytest.mark.parametrize("method", [FLOW, CHUNK])
@pytest.mark.parametrize("focus", [FocusConfig(patch_k=0.3), *WITH_WEIGHTS])
@torch.inference_mode()
def test_each_group_chooses_for_itself(method, focus):
    """m groups of two observations give what each group of each observation gives alone."""
    model = focused(focus, method=method)
    inputs = tiny_inputs()
    x, tau = suffixes()
    age = torch.zeros(2, 3, dtype=torch.int64)
    asked = (x, tau) if method is FLOW else (torch.randn(2, 3, 5, 3), tau, x, age)
    together = model(*asked, model.encode(*inputs))
    for row in range(2):
        prefix = model.encode(*(each[row : row + 1] for each in inputs))
        for group in range(3):
            alone = (each[row : row + 1, group : group + 1] for each in asked)
            torch.testing.assert_close(
                model(*alone, prefix)[0, 0], together[row, group], rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("focus", [FocusConfig(patch_k=0.3), *WITH_WEIGHTS[1:]])
@torch.inference_mode()
def test_choosing_once_chooses_what_the_first_action_attends_to(focus):
    """The read that chooses is the one that does not, and leaves a cache of the K tokens a layer
    and all others, from which it gives the same again."""
    model, (x, tau) = focused(focus), suffixes(m=1)
    prefix = model.encode(*tiny_inputs())
    expert = model.expert
    suffix, modulations = expert.embed_state(x).unsqueeze(2), expert.modulations(tau)
    read = expert.read(suffix, modulations, prefix)
    again, left = expert.read_and_choose(suffix, modulations, prefix)
    torch.testing.assert_close(again, read, rtol=1e-4, atol=1e-5)
    kept = focus.kept(prefix.vision)
    assert (left.vision, left.tokens) == (kept, prefix.tokens - prefix.vision + kept)
    torch.testing.assert_close(expert.read(suffix, modulations, left), read, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("once", [False, True])
def test_a_batch_acts_as_each_observation_alone(once):
    """Two observations of one length of instruction in one batch give the actions of each, however
    often the tokens are chosen."""
    policy = policy_of(focused(replace(CASCADED, patch_k=0.3, once=once)))
    seen = [observation(0), observation(1)]
    together = np.stack(list(policy.generate_batch(policy.encode_batch(seen), np.zeros((2, 3)))), 1)
    for each, actions in zip(seen, together, strict=True):
        alone = list(policy.generate(policy.encode(each), FlowStart(np.zeros(3))))
        np.testing.assert_allclose(np.array(alone), actions, rtol=1e-4, atol=1e-5)


def test_the_share_can_be_changed_on_a_loaded_policy(tmp_path):
    """As a setting when it is loaded or later; actions change, and the specification says it."""
    path = tmp_path / "policy.safetensors"
    save_checkpoint(path, checkpoint(tiny_model()))
    seen, start = observation(), FlowStart(np.zeros(3))
    policy, few = load_policy(path), load_policy(path, settings={"patch_k": 0.2})
    assert (policy.spec.settings, few.spec.settings) == ({}, {"patch_k": 0.2})
    every = np.array(list(policy.generate(policy.encode(seen), start)))
    fewer = np.array(list(few.generate(few.encode(seen), start)))
    assert not np.allclose(every, fewer)
    policy.focus_on(FocusConfig(patch_k=0.2))
    assert np.array_equal(fewer, np.array(list(policy.generate(policy.encode(seen), start))))
    with pytest.raises(ConfigError, match="only patch_k and once can change"):
        policy.focus_on(CASCADED)


# --- weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize("focus", WITH_WEIGHTS)
def test_gradients_reach_every_parameter_of_the_focus(focus):
    """One step of training gives each a gradient that is not zero."""
    model, (x, tau) = focused(focus), suffixes()
    model(x, tau, model.encode(*tiny_inputs())).square().sum().backward()
    own = {name: p for name, p in model.named_parameters() if ".focus." in name}
    assert own
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in own.values()), own.keys()


@pytest.mark.parametrize("focus", [replace(CASCADED, patch_k=0.5, once=True), *WITH_WEIGHTS])
def test_a_saved_policy_acts_as_before(focus, tmp_path):
    """Written and read again it has the same focus and gives the same actions, bit for bit."""
    model = focused(focus)
    policy, seen = policy_of(model), observation()
    expected = list(policy.generate(policy.encode(seen), FlowStart(np.zeros(3))))
    save_checkpoint(tmp_path / "policy.safetensors", checkpoint(model))
    loaded = load_policy(tmp_path / "policy.safetensors")
    assert loaded.model.config.focus == focus
    actions = list(loaded.generate(loaded.encode(seen), FlowStart(np.zeros(3))))
    assert np.array_equal(np.array(actions), np.array(expected))


def test_a_training_is_told_the_focus_and_an_older_one_had_none():
    """The flags of `streamvla train` reach the model, and a training begun before there was a focus
    may be resumed with the default, not with another."""
    command = Train(attention="cascaded", patch_k=0.5, gate="head")
    assert train_config(command).model.focus == FocusConfig("cascaded", 0.5, "head")
    recipe = train_config(Train()).recipe()
    old = {**recipe, "model": {k: v for k, v in recipe["model"].items() if k != "focus"}}
    assert _up_to_date(old) == recipe
    assert _up_to_date(train_config(command).recipe())["model"]["focus"]["patch_k"] == 0.5


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"attention": "apart"}, r"attention is 'apart'; use one of \('mixed', 'cascaded'\)"),
        ({"gate": "view"}, r"gate is 'view'; use one of"),
        ({"patch_k": 0.0}, r"patch_k is 0.0; expected a share"),
        ({"patch_k": 1.5}, r"patch_k is 1.5; expected a share"),
        ({"patch_k": float("nan")}, r"patch_k is nan; expected a share"),
        ({"once": 2}, r"once is 2; expected true or false"),
        ({"competition": float("inf")}, r"competition is inf; expected a finite"),
    ],
)
def test_impossible_settings_are_refused(wrong, line):
    """The message says the value and what was expected."""
    with pytest.raises(ConfigError, match=line):
        FocusConfig(**wrong)


@torch.inference_mode()
def test_focus_needs_to_know_what_is_vision():
    """A cache that does not say which tokens are vision is refused, and read without focus."""
    keys = tuple(torch.randn(1, 2, 7, 8) for _ in range(3))
    prefix = PrefixCache(keys, keys, torch.zeros(1, 1, 1, 7))
    tiny_model()(torch.zeros(1, 1, 3), torch.zeros(1, 1), prefix)
    for focus in (FocusConfig(patch_k=0.5), CASCADED):
        with pytest.raises(ConfigError, match="without vision tokens; make the PrefixCache with"):
            focused(focus)(torch.zeros(1, 1, 3), torch.zeros(1, 1), prefix)


# --- visible ---------------------------------------------------------------------------------


@pytest.mark.parametrize("focus", [FocusConfig(), replace(CASCADED, patch_k=0.25, once=True)])
def test_attention_is_told_for_every_cell(focus):
    """A share for each cell of each view, the sum below 1, zero where a token is not chosen; and
    looking leaves the policy as it was."""
    policy = policy_of(focused(focus))
    found = vision_attention(policy, observation(), index=2)
    assert found.grid.shape == (2, 2, 2)
    assert found.others.shape == (2, 2)
    assert found.layers.shape == (3, 2, 2, 2)
    assert 0 < found.total < 1
    kept = focus.kept(2 * 6)
    assert all((layer > 0).sum() <= kept for layer in found.layers)
    assert policy.model.expert.focus == focus
    assert not any(block._forward_pre_hooks for block in policy.model.expert.blocks)


def test_the_share_of_vision_is_what_is_left_of_all_others():
    """In mixed attention the shares of a layer are those of one softmax, written out."""
    model, (x, tau) = tiny_model(), suffixes(1, 1)
    with torch.inference_mode():
        prefix = model.encode(*tiny_inputs(1))
        with watching(model.expert) as seen:
            model(x, tau, prefix)
        block = model.expert.blocks[0]
        suffix = model.expert.embed_state(x).unsqueeze(2)
        asked, _ = block._ask(suffix, model.expert.modulations(tau)[:2])
        cache = next(prefix.layers())
        values = torch.eye(prefix.tokens)[None, None].expand(1, 2, -1, -1)
        one_hot = replace(cache, values=values[..., : prefix.tokens])
        v = torch.zeros(1, 2, 1, 1, prefix.tokens)
        shares = attend(asked.q, asked.k, v, one_hot).mean(1)[0, 0, 0, : prefix.vision]
    torch.testing.assert_close(seen[0][0, 0], shares, rtol=1e-4, atol=1e-6)
    assert len(seen) == TINY.layers


def test_the_hottest_cell_is_drawn_hottest():
    """A heat map changes a frame most where the heat is, and refuses what is no frame."""
    frame = np.full((32, 48, 3), 128, np.uint8)
    heat = np.zeros((2, 3))
    heat[1, 2] = 1.0
    drawn = overlay(frame, heat)
    assert drawn.shape == frame.shape
    assert drawn.dtype == np.uint8
    assert drawn[24, 40, 0] > drawn[8, 8, 0]
    for wrong, cells in ((frame[..., 0], heat), (frame, -heat), (frame.astype(float), heat)):
        with pytest.raises(ConfigError):
            overlay(wrong, cells)
    with pytest.raises(ConfigError, match="expected a hottest above the coldest"):
        overlay(frame, heat, coldest=0.5, hottest=0.5)
