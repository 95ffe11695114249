"""Checkpoints: whole, or refused with a remedy."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import CheckpointError, SpecMismatchError
from streamvla.core.interfaces import PolicySpec
from streamvla.model.checkpoint import (
    CHECKSUMS_NAME,
    SCHEMA_VERSION,
    Checkpoint,
    load_checkpoint,
    load_tensors,
    save_checkpoint,
    save_tensors,
)
from streamvla.model.defaults import sha256_of
from streamvla.model.methods.action_flow import ActionFlowConfig
from streamvla.model.methods.chunk_flow import ChunkFlowConfig
from streamvla.model.methods.regression import RegressionConfig
from streamvla.model.normalisation import Normalisation
from streamvla.model.vla import StreamingVLA
from tests.model.tiny import TINY, tiny_model

SPACE = ActionSpace(("x", "y", "grip"), ("delta", "delta", "absolute"), (-1,) * 3, (1,) * 3)
OTHER = replace(SPACE, kinds=("delta", "delta", "delta"))


@pytest.fixture
def checkpoint() -> Checkpoint:
    return Checkpoint(
        model=TINY,
        method=ActionFlowConfig(horizon=5, k=5.0),
        spec=PolicySpec(SPACE, 5, ("side", "front"), (32, 32), 2, 50_000_000),
        normalisation=Normalisation((0.5, 1.0), (2.0, 3.0), (0.3, 0.4, 1.0)),
        provenance={"seed": 3, "commit": "abc", "step": 7},
        weights=tiny_model().state_dict(),
    )


@pytest.fixture
def path(tmp_path: Path, checkpoint: Checkpoint) -> Path:
    save_checkpoint(tmp_path / "policy.safetensors", checkpoint)
    return tmp_path / "policy.safetensors"


def test_round_trip(path, checkpoint):
    """What is loaded equals what was saved: settings, statistics, provenance and weights."""
    loaded = load_checkpoint(path, SPACE)
    for name in ("model", "method", "spec", "normalisation", "provenance"):
        assert getattr(loaded, name) == getattr(checkpoint, name)
    for name, tensor in loaded.build_model().state_dict().items():
        torch.testing.assert_close(tensor, checkpoint.weights[name], rtol=0, atol=0)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_half_precision_halves_the_file_and_loads_as_float32(path, checkpoint):
    """Exported weights are within half a unit in the last place of float16, and float32 again."""
    half = path.with_name("half.safetensors")
    save_checkpoint(half, checkpoint, half=True)
    floats = (each for each in checkpoint.weights.values() if each.is_floating_point())
    data = sum(4 * tensor.numel() for tensor in floats)
    assert path.stat().st_size - half.stat().st_size == pytest.approx(data / 2, abs=64)
    loaded = load_checkpoint(half, SPACE)
    assert loaded.provenance == checkpoint.provenance
    for name, tensor in loaded.weights.items():
        assert tensor.dtype == checkpoint.weights[name].dtype
        torch.testing.assert_close(tensor, checkpoint.weights[name], rtol=2**-11, atol=2**-24)


def test_a_weight_beyond_half_precision_is_refused(path, checkpoint):
    """1e6 would become infinity: CheckpointError names the tensor, and no file is written."""
    name, tensor = next(iter(checkpoint.weights.items()))
    large = replace(checkpoint, weights={**checkpoint.weights, name: tensor + 1e6})
    half = path.with_name("half.safetensors")
    with pytest.raises(CheckpointError, match=f"'{name}'.*float16 cannot hold"):
        save_checkpoint(half, large, half=True)
    assert not half.exists()


def test_a_file_from_before_there_were_methods(path, checkpoint):
    """A header with a "flow" and no method loads as action flow matching with those settings; it
    hears every word."""
    model = replace(TINY, places_dim=0, asked_keypoints=0)
    weights = StreamingVLA(model, checkpoint.method).state_dict()
    save_checkpoint(path, replace(checkpoint, model=model, weights=weights))
    header, tensors = load_tensors(path)
    flow = header.pop("method")
    for name in ("name", "aligned"):
        del flow[name]
    del header["spec"]["chunk_passes"], header["model"]["proprioception"]
    del header["model"]["places_dim"], header["model"]["asked_keypoints"]
    header["schema_version"] = 2
    del header["normalisation"]["action_offset"], header["normalisation"]["action_state_scale"]
    del tensors["instruction.heard"]
    save_tensors(path, tensors, {**header, "flow": flow})
    loaded = load_checkpoint(path, SPACE)
    assert loaded.method == checkpoint.method
    assert loaded.spec == checkpoint.spec
    assert loaded.normalisation == checkpoint.normalisation
    assert loaded.build_model().instruction.heard.all()


@pytest.mark.parametrize("method", [ChunkFlowConfig(horizon=5), RegressionConfig(horizon=5)])
def test_other_methods_round_trip(tmp_path, checkpoint, method):
    """A chunk method is loaded with its own expert and settings."""
    spec = replace(checkpoint.spec, chunk_passes=method.chunk_passes)
    weights = tiny_model(method=method).state_dict()
    saved = replace(checkpoint, method=method, spec=spec, weights=weights)
    save_checkpoint(tmp_path / "chunk.safetensors", saved)
    loaded = load_checkpoint(tmp_path / "chunk.safetensors", SPACE)
    assert (loaded.method, loaded.spec) == (method, spec)
    assert loaded.build_model().state_dict().keys() == weights.keys()


def test_weights_of_another_method_are_refused(path, checkpoint):
    """Action-flow weights under a chunk-flow header are refused, naming the tensor."""
    header, tensors = load_tensors(path)
    method = {"name": "chunk-flow", "horizon": 5}
    save_tensors(path, tensors, {**header, "method": method})
    with pytest.raises(CheckpointError, match=r"expert\.from_action\.bias.*none"):
        load_checkpoint(path)


def test_missing_file(tmp_path):
    """A path without a file says so and how to get one."""
    with pytest.raises(CheckpointError, match="streamvla train"):
        load_checkpoint(tmp_path / "none.safetensors")


@pytest.mark.parametrize("kept", [0, 7, 100, 5000])
def test_truncated_file(path, kept):
    """A file cut short anywhere is refused as truncated."""
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="truncated or corrupt"):
        load_checkpoint(path)


def test_somebody_elses_file(tmp_path):
    """A safetensors file of another program is refused."""
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not written by streamvla"):
        load_checkpoint(tmp_path / "other.safetensors")


def test_other_schema_version(path):
    """A checkpoint of another schema version is refused, naming both versions."""
    header, tensors = load_tensors(path)
    save_tensors(path, tensors, {**header, "schema_version": 99})
    with pytest.raises(CheckpointError, match=f"99, expected {SCHEMA_VERSION}"):
        load_checkpoint(path)


def test_weights_that_do_not_fit_their_settings(path):
    """A tensor of another shape than the header implies is refused by name."""
    header, tensors = load_tensors(path)
    tensors["expert.to_step.weight"] = torch.zeros(4, 16)
    save_tensors(path, tensors, header)
    with pytest.raises(CheckpointError, match=r"expert\.to_step\.weight.*\(4, 16\).*\(3, 16\)"):
        load_checkpoint(path)


def test_garbled_header(path):
    """A header without a needed field is refused."""
    header, tensors = load_tensors(path)
    del header["normalisation"]
    save_tensors(path, tensors, json.loads(json.dumps(header)))
    with pytest.raises(CheckpointError, match="normalisation"):
        load_checkpoint(path)


def test_other_action_space(path):
    """A checkpoint for another action space is refused before anything moves."""
    with pytest.raises(SpecMismatchError, match="action space"):
        load_checkpoint(path, OTHER)


@pytest.fixture(scope="module")
def state(tmp_path_factory) -> Path:
    """A training state, small enough to damage often."""
    path = tmp_path_factory.mktemp("state") / "training_state.safetensors"
    header = {"schema_version": SCHEMA_VERSION, "step": 3, "recipe": {"lr": 1e-3}}
    save_tensors(path, {"a": torch.arange(40.0), "b": torch.zeros(3)}, header)
    return path


@given(position=st.integers(0, 1 << 40), mask=st.integers(1, 255))
def test_any_flipped_byte_is_noticed(state, position, mask):
    """Wherever one byte of a file differs, header or tensors, loading refuses it by name."""
    content = state.read_bytes()
    at = position % len(content)
    try:
        state.write_bytes(content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :])
        with pytest.raises(CheckpointError, match=r"training_state\.safetensors") as said:
            load_tensors(state)
        assert "\n" not in str(said.value)
    finally:
        state.write_bytes(content)


def test_the_header_comes_back_as_it_was_given(state):
    """The checksum is no field of the header."""
    assert set(load_tensors(state)[0]) == {"schema_version", "step", "recipe"}


def unsealed_file(path: Path, checkpoint: Checkpoint) -> Path:
    """As it was written before there were checksums."""
    save_checkpoint(path, checkpoint)
    header, tensors = load_tensors(path)
    save_file(tensors, path, metadata={"streamvla": json.dumps(header)})
    return path


def test_a_file_of_before_checksums_loads_with_one_warning(tmp_path, checkpoint, caplog):
    """It loads as before, and the log says once that damage may go unnoticed."""
    path = unsealed_file(tmp_path / "old.safetensors", checkpoint)
    with caplog.at_level(logging.WARNING, "streamvla"):
        load_checkpoint(path)
        load_checkpoint(path)
    assert [record.message.count("without a checksum") for record in caplog.records] == [1]


def test_a_listed_checksum_is_compared(tmp_path, checkpoint, caplog):
    """`checksums.json` beside an older file: no warning while it fits, an error when not."""
    path = unsealed_file(tmp_path / "old.safetensors", checkpoint)
    listed = {path.name: sha256_of(path)}
    (tmp_path / CHECKSUMS_NAME).write_text(json.dumps(listed))
    with caplog.at_level(logging.WARNING, "streamvla"):
        load_checkpoint(path)
    assert not caplog.records
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"old\.safetensors.*not the one in checksums\.json"):
        load_checkpoint(path)
