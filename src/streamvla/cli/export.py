"""`streamvla export`: a policy file of half the size, to ship."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from streamvla.core.errors import ConfigError
from streamvla.core.provenance import without_folders


@dataclass(frozen=True)
class Export:
    """Write a policy with its weights in float16, half the size; every command takes it as is.

    What its header says of where it comes from keeps no folders of this machine.

    A saliency predictor belongs to what a policy sees with: train it on the exported one.

    Attributes:
        checkpoint: the policy, or a folder with one of `method`; default what ships.
        method: of the policy, where the folder holds several.
        out: the file to write.
        average: other stages of the same training, files or folders as `policy`; the weights
            are the mean of all (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").
    """

    out: Path
    checkpoint: Annotated[Path | None, tyro.conf.arg(name="policy")] = None
    method: str | None = None
    average: tuple[Path, ...] = ()


def export(command: Export) -> None:
    """Run the command.

    Raises:
        ConfigError: `out` exists.
        CheckpointError: no policy there, policies of different kinds to average, or a weight
            that float16 cannot hold.
    """
    from streamvla.model.checkpoint import load_checkpoint, mean_checkpoint, save_checkpoint
    from streamvla.policy import resolve_checkpoint

    if command.out.exists():
        raise ConfigError(f"{command.out} exists; name another file, or remove it")
    sources = [
        resolve_checkpoint(each, command.method) for each in (command.checkpoint, *command.average)
    ]
    policy = mean_checkpoint({str(source): load_checkpoint(source) for source in sources})
    policy = replace(policy, provenance=without_folders(dict(policy.provenance)))
    save_checkpoint(command.out, policy, half=True)
    print(f"{command.out}: {command.out.stat().st_size / 1e6:.1f} MB")
