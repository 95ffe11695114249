"""`defaults.json` beside a policy: settings and words decided after its file was written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from streamvla.core.errors import CheckpointError, ConfigError
from streamvla.model.checkpoint import load_checkpoint, mean_checkpoint, save_checkpoint
from streamvla.model.defaults import DEFAULTS_NAME, sha256_of
from streamvla.model.instruction import unknown_words
from streamvla.model.methods.chunk_flow import ChunkFlowConfig
from streamvla.policy import load_policy
from tests.policy.test_shipped import write_policy


@pytest.fixture
def path(tmp_path) -> Path:
    return write_policy(tmp_path / "chunk.safetensors", ChunkFlowConfig(horizon=5))


def write_defaults(path: Path, **entry) -> None:
    entry = {"sha256": sha256_of(path)} | entry
    fields = {"policies": {path.name: entry}, "vocabulary": ["push", "the", "puck"]}
    (path.parent / DEFAULTS_NAME).write_text(json.dumps(fields))


def test_its_settings_and_words_take_the_place_of_the_headers(path):
    """The policy integrates in so many steps, says so to the drivers, and knows those words."""
    assert load_policy(path).spec.chunk_passes == 10
    write_defaults(path, method={"euler_steps": 2, "noise_scale": 0.0})
    policy = load_policy(path)
    assert (policy.spec.chunk_passes, policy.spec.settings) == (
        2,
        {"noise_scale": 0, "euler_steps": 2},
    )
    assert unknown_words("Push the old puck!", policy.spec.vocabulary) == ["old"]


def test_they_are_for_one_file_only(path):
    """Once the policy file is another, its own header counts again."""
    write_defaults(path, method={"euler_steps": 2})
    checkpoint = load_checkpoint(path)
    save_checkpoint(path, replace(checkpoint, method=ChunkFlowConfig(horizon=5, euler_steps=3)))
    assert load_checkpoint(path).method == ChunkFlowConfig(horizon=5, euler_steps=3)


def test_a_policy_written_again_keeps_them(path, tmp_path):
    """What was loaded with defaults is saved with them, into a folder that has none."""
    write_defaults(path, method={"euler_steps": 2})
    again = tmp_path / "other" / "chunk.safetensors"
    again.parent.mkdir()
    save_checkpoint(again, load_checkpoint(path))
    assert load_checkpoint(again).method == ChunkFlowConfig(horizon=5, euler_steps=2)
    assert load_checkpoint(again).vocabulary == ("push", "the", "puck")


def test_a_policy_with_defaults_averages_with_one_without(path, tmp_path):
    """Settings that need no training, and words that an old file does not list, are no obstacle."""
    bare = write_policy(tmp_path / "bare.safetensors", ChunkFlowConfig(horizon=5))
    write_defaults(path, method={"euler_steps": 2})
    mean = mean_checkpoint({"bare": load_checkpoint(bare), "one": load_checkpoint(path)})
    assert mean.method == ChunkFlowConfig(horizon=5)
    assert mean.vocabulary == ("push", "the", "puck")


@pytest.mark.parametrize("text", ["{", "[]", '{"policies": {"chunk.safetensors": {}}}'])
def test_a_damaged_file_is_named(path, text):
    """It is not passed over: the policy would silently drive with other settings."""
    (path.parent / DEFAULTS_NAME).write_text(text)
    with pytest.raises(CheckpointError, match=r"^\S*defaults\.json is damaged"):
        load_policy(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"aligned": False}, ".aligned. of chunk.safetensors is no setting"),
        ({"euler_steps": 2.5}, "euler_steps is 2.5; expected a whole number"),
        ({"noise_scale": -1}, "noise_scale is -1; expected a finite number"),
    ],
)
def test_a_wrong_setting_is_said_of_the_defaults_not_of_the_policy(path, settings, message):
    """Only settings that need no training, within their range; the message names the file."""
    write_defaults(path, method=settings)
    with pytest.raises(CheckpointError, match=rf"^\S*defaults\.json: .*{message}"):
        load_policy(path)


def test_words_in_a_header_are_kept(path):
    """The list in `defaults.json` is for policies from before the words were stored."""
    save_checkpoint(path, replace(load_checkpoint(path), vocabulary=("lift", "it")))
    write_defaults(path)
    assert load_checkpoint(path).vocabulary == ("lift", "it")


def test_a_setting_asked_for_has_the_last_word(path):
    """`settings` change what defaults and header say; unknown and impossible ones are refused."""
    write_defaults(path, method={"euler_steps": 2, "noise_scale": 0.0})
    policy = load_policy(path, settings={"euler_steps": 5})
    assert policy.spec.settings == {"noise_scale": 0.0, "euler_steps": 5}
    with pytest.raises(ConfigError, match=r"sigma0 0.1: a policy by chunk-flow has no such"):
        load_policy(path, settings={"sigma0": 0.1})
    with pytest.raises(ConfigError, match="noise_scale is -1"):
        load_policy(path, settings={"noise_scale": -1.0})
