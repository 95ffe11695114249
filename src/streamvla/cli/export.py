"""`streamvla export`: a policy file of half the size, to ship."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from streamvla.core.errors import ConfigError
from streamvla.core.provenance import without_folders


@dataclass(frozen=True)
class Export:
    """Write a policy with its weights in float16, half the size; every command takes it as is.

    What its header says of where it comes from keeps no folders of this machine.

    A saliency predictor belongs to one policy file: train it on the exported one.

    Attributes:
        checkpoint: the policy, or a folder with one of `method`; default what ships.
        method: of the policy, where the folder holds several.
        out: the file to write.
    """

    out: Path
    checkpoint: Path | None = None
    method: str | None = None


def export(command: Export) -> None:
    """Run the command.

    Raises:
        ConfigError: `out` exists.
        CheckpointError: no policy there, or a weight that float16 cannot hold.
    """
    from streamvla.model.checkpoint import load_checkpoint, save_checkpoint
    from streamvla.policy import resolve_checkpoint

    if command.out.exists():
        raise ConfigError(f"{command.out} exists; name another file, or remove it")
    source = resolve_checkpoint(command.checkpoint, command.method)
    policy = load_checkpoint(source)
    policy = replace(policy, provenance=without_folders(dict(policy.provenance)))
    save_checkpoint(command.out, policy, half=True)
    print(f"{command.out}: {command.out.stat().st_size / 1e6:.1f} MB")
