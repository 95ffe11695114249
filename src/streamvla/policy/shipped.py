"""Which checkpoint: the one given, or the one that ships for a method."""

from __future__ import annotations

from pathlib import Path

from streamvla.core.errors import CheckpointError
from streamvla.model.checkpoint import load_checkpoint, method_of, require_undamaged
from streamvla.model.defaults import sha256_of
from streamvla.model.methods.registry import DEFAULT, method_named

SHIPPED = Path(__file__).parent / "checkpoints"


def resolve_checkpoint(path: Path | None = None, method: str | None = None) -> Path:
    """The file of the policy to use.

    Args:
        path: a policy file, or a folder that holds some (a training's); None for those that ship.
        method: which of a folder's policies; None for the only one, of those that ship for action
            flow matching. A file must hold this method.

    Raises:
        ConfigError: there is no such method.
        CheckpointError: there is no such file, or none or several of the method.
    """
    if method is not None:
        method_named(method)
    if path is None:
        return _in_folder(SHIPPED, method or DEFAULT)
    if path.is_dir():
        return _in_folder(path, method)
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint at {path}. Train one with `streamvla train`, or leave "
            "it out to use the one that ships."
        )
    if method is not None and method_of(path) != method:
        require_undamaged(path)  # the name of the method may be what is damaged
        raise CheckpointError(
            f"{path} holds {method_of(path) or 'no policy'}, not {method}; leave the method out, "
            "or give a checkpoint of it"
        )
    return path


def _in_folder(folder: Path, method: str | None) -> Path:
    policies: dict[Path, str | None] = {}
    damage: list[CheckpointError] = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            policies[path] = method_of(path)
        except CheckpointError as error:  # counts if no other file is the one
            damage.append(error)
    found = [path for path, name in policies.items() if name and method in (None, name)]
    if len(found) == 1:
        return found[0]
    for path in policies:
        require_undamaged(path)
    if damage and not found:
        raise damage[0]
    held = ", ".join(f"{path.name} ({name})" for path, name in policies.items() if name)
    wanted = "of one method" if method is None else f"for {method}"
    raise CheckpointError(
        f"{folder} holds {'several' if found else 'no'} policies {wanted} "
        f"(has {held or 'none'}). Name the file, or the method; `streamvla train --method …` "
        "makes one."
    )


def identify(path: Path) -> dict[str, str]:
    """What tells one checkpoint from another in traces: file name and SHA-256 of its content."""
    return {"file": path.name, "sha256": sha256_of(path)}


def known_tasks(path: Path) -> tuple[str, ...]:
    """The tasks the policy in `path` was trained on, as its provenance lists them, if it does."""
    provenance = load_checkpoint(path).provenance
    chosen = provenance.get("training", {}).get("tasks")
    return tuple(chosen or provenance.get("dataset", {}).get("tasks") or ())
