"""A policy as it ships: half the size, and nothing of the machine it was trained on."""

from __future__ import annotations

from dataclasses import replace

import torch

from streamvla.cli.export import Export, export
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
