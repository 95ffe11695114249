"""Which checkpoint is used: named, in a folder, or shipped."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import CheckpointError, ConfigError
from streamvla.core.interfaces import PolicySpec
from streamvla.model.checkpoint import CHECKSUMS_NAME, Checkpoint, save_checkpoint, save_tensors
from streamvla.model.defaults import sha256_of
from streamvla.model.methods.action_flow import ActionFlowConfig
from streamvla.model.methods.chunk_flow import ChunkFlowConfig
from streamvla.model.methods.registry import Method
from streamvla.model.normalisation import Normalisation
from streamvla.policy import find_policy, load_policy, resolve_checkpoint
from streamvla.policy.shipped import SHIPPED
from tests.model.tiny import TINY, tiny_model

SPACE = ActionSpace(("x", "y", "grip"), ("delta", "delta", "absolute"), (-1.0,) * 3, (1.0,) * 3)


def write_policy(path: Path, method: Method) -> Path:
    views, period_ns = ("side", "front"), 50_000_000
    save_checkpoint(
        path,
        Checkpoint(
            model=TINY,
            method=method,
            spec=PolicySpec(SPACE, 5, views, (32, 32), 2, period_ns, method.chunk_passes),
            normalisation=Normalisation((0.0,) * 2, (1.0,) * 2, (1.0,) * 3),
            provenance={},
            weights=tiny_model(method=method).state_dict(),
        ),
    )
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two policies and a training state."""
    write_policy(tmp_path / "one.safetensors", ActionFlowConfig(horizon=5))
    write_policy(tmp_path / "two.safetensors", ChunkFlowConfig(horizon=5))
    state = {"schema_version": 3, "step": 1}
    save_tensors(tmp_path / "training_state.safetensors", {"x": torch.zeros(1)}, state)
    return tmp_path


def test_the_policy_that_ships_streams():
    """Without a path or a method the shipped file is one of action flow matching, and loads."""
    assert resolve_checkpoint() == resolve_checkpoint(None, "action-flow")
    assert load_policy(resolve_checkpoint()).method.name == "action-flow"


def test_a_folder_is_searched_by_method(folder):
    """Of a training's folder the policy of the method is taken, whatever it is called."""
    assert resolve_checkpoint(folder, "chunk-flow").name == "two.safetensors"
    assert resolve_checkpoint(folder, "action-flow").name == "one.safetensors"
    (folder / "two.safetensors").unlink()
    assert resolve_checkpoint(folder).name == "one.safetensors"


def test_what_is_not_clear_is_refused(folder):
    """No policy of the method, several to choose from, and a file of another method raise."""
    with pytest.raises(CheckpointError, match=r"no policies for regression \(has one.safetensors"):
        resolve_checkpoint(folder, "regression")
    with pytest.raises(CheckpointError, match="several policies of one method"):
        resolve_checkpoint(folder)
    with pytest.raises(CheckpointError, match="holds action-flow, not chunk-flow"):
        resolve_checkpoint(folder / "one.safetensors", "chunk-flow")
    with pytest.raises(CheckpointError, match="holds no policy"):
        resolve_checkpoint(folder / "training_state.safetensors", "chunk-flow")
    with pytest.raises(ConfigError, match="did you mean 'chunk-flow'"):
        resolve_checkpoint(folder, "chunk-flo")


def test_a_damaged_file_beside_it_costs_nothing(folder):
    """The other policies of a folder are found; the damaged one is named when it may be meant."""
    damaged = folder / "two.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:500])
    assert resolve_checkpoint(folder, "action-flow").name == "one.safetensors"
    with pytest.raises(CheckpointError, match=r"two\.safetensors: truncated or corrupt"):
        resolve_checkpoint(folder, "chunk-flow")


def test_a_damaged_method_is_damage(folder):
    """A flipped byte in the name of the method is no other method."""
    path = folder / "two.safetensors"
    path.write_bytes(path.read_bytes().replace(b"chunk-flow", b"chunk-flov", 1))
    with pytest.raises(CheckpointError, match=r"two\.safetensors: truncated or corrupt"):
        resolve_checkpoint(folder, "chunk-flow")
    with pytest.raises(CheckpointError, match=r"two\.safetensors: truncated or corrupt"):
        resolve_checkpoint(path, "chunk-flow")


def test_what_ships_is_listed_and_loads_without_a_warning(caplog):
    """Every shipped file has its SHA-256 in `checksums.json`, and is read without a warning."""
    shipped = sorted(SHIPPED.glob("*.safetensors"))
    listed = json.loads((SHIPPED / CHECKSUMS_NAME).read_text())
    assert listed == {path.name: sha256_of(path) for path in shipped}
    with caplog.at_level(logging.WARNING, "streamvla"):
        load_policy(resolve_checkpoint())
    assert not caplog.records


def test_a_file_that_is_replaced_before_it_is_loaded_is_refused(tmp_path):
    """What was found and what is loaded have the same SHA-256, or it is an error."""
    file = tmp_path / "policy.safetensors"
    file.write_bytes((SHIPPED / "action-flow.safetensors").read_bytes())
    found = find_policy(str(file))
    file.write_bytes((SHIPPED / "regression.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="was replaced before it was loaded"):
        found.load({})
