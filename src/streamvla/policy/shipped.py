"""The checkpoint that ships with the package."""

from __future__ import annotations

import hashlib
from pathlib import Path

from streamvla.core.errors import CheckpointError
from streamvla.model.checkpoint import load_checkpoint

SHIPPED = Path(__file__).parent / "checkpoints" / "metaworld6.safetensors"


def resolve_checkpoint(path: Path | None) -> Path:
    """`path`, or the shipped checkpoint when None; `CheckpointError` if there is no such file."""
    resolved = SHIPPED if path is None else path
    if not resolved.is_file():
        raise CheckpointError(
            f"no checkpoint at {resolved}. Train one with `streamvla train`, or leave "
            "--checkpoint out to use the one that ships."
        )
    return resolved


def identify(path: Path) -> dict[str, str]:
    """What tells one checkpoint from another in traces: file name and SHA-256 of its content."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"file": path.name, "sha256": digest}


def trained_tasks(path: Path) -> tuple[str, ...]:
    """The tasks the policy in `path` was trained on, as its provenance lists them."""
    provenance = load_checkpoint(path).provenance
    chosen = provenance.get("training", {}).get("tasks")
    tasks = chosen or provenance.get("dataset", {}).get("tasks")
    if not tasks:
        raise CheckpointError(f"{path} does not say which tasks it was trained on; name them")
    return tuple(tasks)
