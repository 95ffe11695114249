"""A policy as it ships: half the size, and nothing of the machine it was trained on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from streamvla.cli.export import Export, export
from streamvla.core.errors import CheckpointError
from streamvla.model.checkpoint import load_checkpoint, save_checkpoint
from streamvla.policy import resolve_checkpoint


def test_an_exported_policy_has_the_weights_to_eleven_bits_and_no_folders(tmp_path):
    """Also of the policies that it was started from."""
    trained = replace(
        load_checkpoint(resolve_checkpoint()),
        provenance={"command": "train --out /some/a/runs/b", "init": {"command": "/opt/x/y/z -b"}},
    )
    name, tensor = next(iter(trained.weights.items()))
    ramp = torch.linspace(-1, 1, tensor.numel()).view(tensor.shape)
    trained = replace(trained, weights={**trained.weights, name: ramp})
    source, out = tmp_path / "policy.safetensors", tmp_path / "small.safetensors"
    save_checkpoint(source, trained)
    export(Export(out=out, checkpoint=source))
    shipped = load_checkpoint(out)
    assert out.stat().st_size < 0.6 * source.stat().st_size
    assert shipped.provenance["command"] == "train --out runs/b"
    assert shipped.provenance["init"] == {"command": "y/z -b"}
    error = (shipped.weights[name] - ramp).abs().max()
    assert 0 < error <= 2**-11


def test_stages_of_one_training_are_averaged(tmp_path):
    """Every weight is the mean, and the header tells of both; another horizon is refused."""
    first = load_checkpoint(resolve_checkpoint())
    moved = {k: v + 0.5 if v.is_floating_point() else v for k, v in first.weights.items()}
    second = replace(first, weights=moved, provenance={"command": "train --out /opt/x/later"})
    other = replace(first, spec=replace(first.spec, horizon=first.spec.horizon - 1))
    paths = [tmp_path / f"{name}.safetensors" for name in ("first", "second", "other")]
    for path, checkpoint in zip(paths, (first, second, other), strict=True):
        save_checkpoint(path, checkpoint)
    out = tmp_path / "mean.safetensors"
    export(Export(out=out, checkpoint=paths[0], average=(paths[1],)))
    mean = load_checkpoint(out)
    for name, tensor in first.weights.items():
        shift = 0.25 if tensor.is_floating_point() else 0
        assert torch.allclose(mean.weights[name].float(), tensor.float() + shift, rtol=2**-10)
    assert mean.provenance["averaged_with"] == [{"command": "train --out x/later"}]
    with pytest.raises(CheckpointError, match="differ in their spec"):
        export(Export(out=tmp_path / "no.safetensors", checkpoint=paths[0], average=(paths[2],)))
