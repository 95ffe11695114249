"""Vision-language models of transformers as backbones: tiny ones with random weights, offline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from streamvla.core.errors import ConfigError
from streamvla.data.store import load_dataset
from streamvla.model.checkpoint import load_checkpoint, save_checkpoint
from streamvla.model.expert import TAU_OCTAVES
from streamvla.model.layers import fourier_features
from streamvla.model.methods.chunk_flow import ChunkFlowConfig
from streamvla.model.past import MemoryConfig
from streamvla.model.pretrained import ABSENT, PretrainedConfig, PretrainedVLA, pretrained_config
from tests.training.small import small_config
from tests.training.toy import META, toy_episode, write_toy_dataset

pytestmark = pytest.mark.filterwarnings("default")  # other people's code

KINDS = ["smolvlm", "paligemma"]
WORDS = ["go", "to", "the", "dot", "move", "stay", "where", "you", "are"]


def tiny_vlm(kind: str) -> Any:
    """A configuration of the real architecture: 3 layers, grouped queries, 4 image tokens."""
    from transformers import AutoConfig

    text = {
        "vocab_size": 16,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    if kind == "smolvlm":
        text_config = {"model_type": "llama", "pad_token_id": 0, **text}
        return AutoConfig.for_model(
            kind, text_config=text_config, vision_config=vision, scale_factor=2, image_token_id=15
        )
    vision = {"model_type": "siglip_vision_model", "vision_use_head": False, **vision}
    return AutoConfig.for_model(
        kind,
        text_config={"model_type": "gemma", **text},
        vision_config={"projection_dim": 32, **vision},
        projection_dim=32,
        hidden_size=32,
        image_token_index=15,
    )


@pytest.fixture(scope="module", params=KINDS)
def source(request, tmp_path_factory) -> Path:
    """A folder as a hub download would leave it: configuration, weights and tokeniser."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(1)
    AutoModel.from_config(tiny_vlm(request.param)).save_pretrained(folder)
    vocabulary = {word: number for number, word in enumerate(["<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    return folder


def make_config(source: Path, **settings: Any) -> PretrainedConfig:
    sizes = {"expert_width": 16, "condition_width": 8, "expansion": 2, **settings}
    return pretrained_config(str(source), 2, 1, 1, layers=None, **sizes)


@pytest.fixture
def model(source) -> PretrainedVLA:
    """Random weights everywhere, also where training starts from zero."""
    model = PretrainedVLA(make_config(source)).eval()
    model.load_backbone(str(source))
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in [*model.expert.parameters(), *model.from_command.parameters()]:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def inputs(model: PretrainedVLA) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two observations; the second instruction is shorter, so it is padded."""
    torch.manual_seed(3)
    words = model.tokenise(["go to the dot", "stay"])
    return torch.rand(2, 1, 3, 48, 48) * 2 - 1, words, torch.randn(2, 1), torch.randn(2, 2)


@torch.inference_mode()
def test_pretrained_weights_are_loaded(source):
    """After `load_backbone` the language model's weights are those of the folder."""
    from transformers import AutoModel

    model = PretrainedVLA(make_config(source))
    model.load_backbone(str(source))
    expected = AutoModel.from_pretrained(source).state_dict()
    for name, tensor in model.vlm.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])


@torch.inference_mode()
def test_cached_prefix_equals_one_joint_pass(model):
    """Attending to the cache gives what attention over [prefix | suffix] computed anew gives.

    Keys are computed again from what entered each attention layer, and rotated, as the suffix's
    query is, by transformers' own function at their true positions.
    """
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    images, words, state, command = inputs(model)
    x, tau = torch.randn(2, 1, 2), torch.rand(2, 1)
    entered: list[Tensor] = []
    layers = model.language_model.layers
    hooks = [
        layer.self_attn.register_forward_pre_hook(
            lambda _module, _args, kwargs: entered.append(kwargs["hidden_states"]),
            with_kwargs=True,
        )
        for layer in layers
    ]
    cached = model(x, tau, model.encode(images, words, state, command))
    for hook in hooks:
        hook.remove()

    tokens = entered[0].shape[1]
    present = torch.ones(2, tokens, dtype=torch.bool)
    present[:, -2 - words.shape[1] : -2] = words != ABSENT
    positions = torch.cat([present.cumsum(1) - 1, present.sum(1, keepdim=True)], 1)  # (b, l+1)
    cos, sin = model.language_model.rotary_emb(entered[0], positions)
    visible = torch.cat([present, torch.ones(2, 1, dtype=torch.bool)], 1)[:, None, None]

    expert = model.expert
    condition = expert.from_tau(fourier_features(tau, 2.0, TAU_OCTAVES))[:, :, None]
    suffix = expert.embed_state(x)[:, :, None]  # (b, 1, 1, w)
    for layer, block, hidden in zip(layers, expert.blocks, entered, strict=True):
        normed, gate = block.attention_norm(suffix, condition)
        q, k, v = (
            part[:, 0].unflatten(-1, (4, 8)).transpose(1, 2)
            for part in block.qkv(normed).chunk(3, -1)
        )  # (b, n, 1, k)
        attention = layer.self_attn
        shared = [
            projection(hidden).unflatten(-1, (2, 8)).transpose(1, 2).repeat_interleave(2, dim=1)
            for projection in (attention.k_proj, attention.v_proj)
        ]
        keys, values = torch.cat([shared[0], k], 2), torch.cat([shared[1], v], 2)
        _, keys = apply_rotary_pos_emb(keys, keys, cos, sin)
        q, _ = apply_rotary_pos_emb(q, q, cos[:, -1:], sin[:, -1:])
        mixed = nn.functional.scaled_dot_product_attention(q, keys, values, attn_mask=visible)
        suffix = suffix + gate * block.out(mixed.transpose(1, 2).flatten(-2)[:, None])
        normed, gate = block.feed_norm(suffix, condition)
        suffix = suffix + gate * block.feed(normed)
    expected = expert.to_step(expert.final_norm(suffix, condition)[0])[:, :, 0]
    torch.testing.assert_close(cached, expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_padding_changes_nothing(model):
    """A short instruction gives the same action alone as padded beside a longer one."""
    images, words, state, command = inputs(model)
    x, tau = torch.randn(2, 1, 2), torch.rand(2, 1)
    together = model(x, tau, model.encode(images, words, state, command))[1:]
    alone = model.encode(images[1:], model.tokenise(["stay"]), state[1:], command[1:])
    torch.testing.assert_close(together, model(x[1:], tau[1:], alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("part", range(4))
@torch.inference_mode()
def test_every_input_reaches_the_action(model, part):
    """Changing images, words, state or command changes the predicted step."""
    given = list(inputs(model))
    x, tau = torch.randn(2, 1, 2), torch.rand(2, 1)
    before = model(x, tau, model.encode(*given))
    given[part] = given[part] * 0.5 if part != 1 else model.tokenise(["move you", "are where"])
    assert not torch.allclose(before, model(x, tau, model.encode(*given)))


@torch.inference_mode()
def test_the_prefix_sees_itself_both_ways(model):
    """The last token (the command) changes what the first image token's keys are in layer two."""
    images, words, state, command = inputs(model)
    one, two = (model.encode(images, words, state, c) for c in (command, command + 1))
    assert torch.equal(one.keys[0][:, :, 0], two.keys[0][:, :, 0])
    assert not torch.allclose(one.keys[1][:, :, 0], two.keys[1][:, :, 0])


@pytest.mark.parametrize("train", ["all", "expert"])
def test_one_setting_trains_it_and_the_checkpoint_stands_alone(source, tmp_path, train):
    """A training with a pretrained backbone takes a step, saves, and loads without the folder."""
    from streamvla.core.clock import VirtualClock
    from streamvla.core.interfaces import FlowStart, Observation
    from streamvla.policy import load_policy
    from streamvla.training.config import PretrainedSize
    from streamvla.training.trainer import Trainer

    size = PretrainedSize(str(source), None, 16, 8, 2)
    config = replace(
        small_config(write_toy_dataset(tmp_path / "toy", 4), tmp_path / "out"),
        model=size,
        train=train,
        autocast=True,
    )
    trainer = Trainer(config, load_dataset(config.dataset), VirtualClock())
    trainer.prepare()
    before = trainer.models["action-flow"].language_model.layers[0].mlp.up_proj.weight.clone()
    trainer.advance()
    trainer.advance()  # the gates open with the first step: only then the backbone has gradients
    after = trainer.models["action-flow"].language_model.layers[0].mlp.up_proj.weight
    assert torch.equal(before, after) == (train == "expert")
    trainer.save()
    again = Trainer(replace(config, resume=True), load_dataset(config.dataset), VirtualClock())
    again.prepare()
    assert again.step == 2
    moved = source.rename(source.with_name("moved"))
    try:
        policy = load_policy(tmp_path / "out" / "policy.safetensors")
    finally:
        moved.rename(source)
    episode = toy_episode("go", 0)
    observation = Observation(
        {"top": episode.images["top"][0]}, episode.state[0], np.zeros(2), "go to the dot", 0
    )
    actions = [
        list(p.generate(p.encode(observation), FlowStart(np.zeros(2))))
        for p in (policy, trainer.policy("action-flow"))
    ]
    np.testing.assert_allclose(actions[0], actions[1], atol=1e-5)


def test_checkpoint_round_trip_with_another_method(source, tmp_path):
    """A chunk-flow model on a pretrained backbone is loaded with the same weights and settings."""
    from streamvla.core.interfaces import PolicySpec
    from streamvla.model.checkpoint import Checkpoint
    from streamvla.model.normalisation import Normalisation

    method, config = ChunkFlowConfig(horizon=5), make_config(source)
    saved = Checkpoint(
        model=config,
        method=method,
        spec=PolicySpec(META.action_space, 5, META.views, META.image_size, 1, 50_000_000, 10),
        normalisation=Normalisation((0.0,), (1.0,), (1.0, 1.0)),
        provenance={},
        weights=PretrainedVLA(config, method).state_dict(),
    )
    save_checkpoint(tmp_path / "vlm.safetensors", saved)
    loaded = load_checkpoint(tmp_path / "vlm.safetensors")
    assert (loaded.model, loaded.method) == (config, method)
    for name, tensor in loaded.build_model().state_dict().items():
        assert torch.equal(tensor, saved.weights[name])


def test_only_the_first_layers_can_be_used(source):
    """With `layers=1` the cache has one layer; asking for more than there are is refused."""
    config = pretrained_config(str(source), 2, 1, 1, layers=1, expert_width=16)
    model = PretrainedVLA(config)
    model.load_backbone(str(source))
    assert len(model.encode(*inputs(model)).keys) == 1
    with pytest.raises(ConfigError, match="has 3; use 1 to 3"):
        pretrained_config(str(source), 2, 1, 1, layers=4)


def test_a_folder_without_a_model_is_refused(tmp_path):
    """A folder that holds no model raises ConfigError saying what it needs."""
    with pytest.raises(ConfigError, match=r"config\.json, tokenizer\.json and weights"):
        pretrained_config(str(tmp_path), 2, 1, 1, layers=None)


def test_a_model_without_an_adapter_is_refused():
    """Another kind of model, or language model, raises ConfigError naming what is expected."""
    with pytest.raises(ConfigError, match="Known: paligemma, smolvlm"):
        PretrainedConfig(2, 1, 1, {"model_type": "bert"}, "{}")
    vlm = {"model_type": "paligemma", "text_config": {"model_type": "gemma2"}}
    with pytest.raises(ConfigError, match="'gemma2'; expected 'gemma'"):
        PretrainedConfig(2, 1, 1, vlm, "{}")


def test_a_memory_learns_on_a_context_that_stays(source):
    """With "memory" it and the expert, with "expert" not even it; a model without one is
    refused."""
    model = PretrainedVLA(make_config(source, memory=MemoryConfig(summaries=2, width=16)))
    for trained, expected in (("memory", {"memory", "expert"}), ("expert", {"expert"})):
        model.requires_grad_(True)
        model.train_only(trained)
        parts = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
        assert parts - {"vlm", "from_state", "from_command"} == expected
        assert (parts == expected) == (trained == "memory")
    with pytest.raises(ConfigError, match="has none"):
        PretrainedVLA(make_config(source)).train_only("memory")


@torch.inference_mode()
def test_its_memory_is_one_pass_and_a_stream_alike(source):
    """On rotated keys and grouped queries: a stream with eviction, of windows of compact tokens and
    of vision, gives what one pass over the history gives, to 1e-5; the prefix stays."""
    sizes = MemoryConfig(summaries=2, window=2, vision_window=1, width=16)
    model = PretrainedVLA(make_config(source, memory=sizes)).eval()
    memory = model.memory
    assert memory is not None
    for parameter in memory.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.3)
    torch.manual_seed(4)
    length, words = 5, model.tokenise(["go to the dot"])
    images, states = torch.rand(length, 1, 3, 32, 32) * 2 - 1, torch.randn(length, 1)
    commands, times = torch.randn(length, 2), torch.ones(length)
    told = words.expand(length, -1)
    whole = model.encode(images, told, states, commands)
    clip = memory.clip(whole, model.moment(told, states, commands, times), length)
    kept = None
    for t in range(length):
        one = slice(t, t + 1)
        prefix = model.encode(images[one], words, states[one], commands[one])
        moment = model.moment(words, states[one], commands[one], times[one])
        kept = memory.begin(prefix, moment) if kept is None else kept
        compact = memory.read(kept, prefix, moment)
        kept.enter(compact, prefix, moment)
        for layer in range(len(clip.keys)):
            torch.testing.assert_close(compact.keys[layer][0], clip.keys[layer][t])
            torch.testing.assert_close(compact.values[layer][0], clip.values[layer][t])
        longer = memory.appended(prefix, compact)
        assert torch.equal(longer.keys[0][:, :, : prefix.tokens], prefix.keys[0])
