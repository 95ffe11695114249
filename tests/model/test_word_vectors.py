"""Instructions as frozen pretrained embeddings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from streamvla.core.errors import ConfigError
from streamvla.model import word_vectors
from streamvla.model.checkpoint import load_checkpoint, load_tensors
from streamvla.model.vla import StreamingVLA, VLAConfig
from streamvla.policy import resolve_checkpoint

TINY = VLAConfig(
    action_dim=2, state_dim=3, views=1, image_size=(32, 32), layers=1, width=32, expert_width=32,
    heads=2, head_dim=16, channels=8, words="wordllama",
)  # fmt: skip


def test_files_from_before_the_setting_have_hashed_words():
    """The header of the shipped policy does not name it."""
    path = resolve_checkpoint()
    header, _ = load_tensors(path)
    assert "words" not in header["model"]
    config = load_checkpoint(path).model
    assert isinstance(config, VLAConfig)
    assert config.words == "hashed"


def test_a_missing_package_is_named(monkeypatch):
    """The message says what to install, before any weights are made."""
    monkeypatch.setattr(word_vectors, "find_spec", lambda name: None)
    word_vectors._vectors.cache_clear()
    with pytest.raises(ConfigError, match="leave the setting"):
        StreamingVLA(TINY)
    word_vectors._vectors.cache_clear()


def test_another_kind_of_words_is_refused():
    """The value and the choices are said."""
    with pytest.raises(ConfigError, match="hashed"):
        replace(TINY, words="hashd")  # type: ignore[arg-type]


def test_the_embeddings_are_frozen_and_stay_out_of_the_checkpoint():
    """Only projection and positions learn, and only they are weights."""
    model = StreamingVLA(TINY)
    own = {name for name in model.state_dict() if name.startswith("instruction.")}
    assert own == {"instruction.project.weight", "instruction.project.bias", "instruction.position"}
    words = model.tokenise(["press the red button"])
    tokens, _ = model.instruction(words)
    tokens.sum().backward()
    assert not word_vectors._vectors().requires_grad


def test_absent_tokens_do_not_enter():
    """A shorter instruction gives the same context alone and beside a longer one."""
    model = StreamingVLA(TINY).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 1, 3, 32, 32, generator=generator)
    state, command = torch.zeros(1, 3), torch.zeros(1, 2)
    short = model.tokenise(["stay"])
    longer = model.tokenise(["stay", "press the crimson button, please"])[:1]
    assert longer.shape[1] > short.shape[1]
    alone, beside = (model.encode(images, words, state, command) for words in (short, longer))
    there = beside.bias[0, 0, 0] == 0
    assert torch.allclose(alone.values[-1], beside.values[-1][:, :, there], atol=1e-6)
