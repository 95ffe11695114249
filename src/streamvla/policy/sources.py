"""Where a policy comes from: one text, of which the part before the colon says how to read it.

    runs/train/policy.safetensors     a file of ours, or a folder that holds one
    shipped, shipped:chunk-flow       one that ships with this package
    expert:TASK, expert-chunks:TASK   the scripted expert of a task, which sees the true state
    expert:TASK:look=0.9:context=0.5  the same, its observations cheaper (`data.experts`)
    my_package.module:make            what `make()` gives: any object that is a `Policy`
    SCHEME:REST, SCHEME://REST        a scheme of another package

A package adds a scheme by an entry point, a function from REST to a `FoundPolicy`:

    [project.entry-points."streamvla.policies"]
    follow = "my_package.policies:find"
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamvla.core.errors import CheckpointError, ConfigError
from streamvla.core.interfaces import Policy, PolicySpec
from streamvla.core.registry import Registry, import_beside, is_import

Settings = Mapping[str, float]


@dataclass(frozen=True)
class FoundPolicy:
    """A policy before it is loaded.

    Attributes:
        name: short, for folders and tables.
        identity: what tells it from every other policy, for the header of a trace.
        load: makes it, with these of its method's settings changed (`PolicySpec.settings`). Raises
            `ConfigError` for one it does not have, `CheckpointError` if a file was replaced since.
        tasks: what it was trained on; empty where that is not known.
        method: how it makes actions, for tables; None where that is not known.
        predictor: what tells its saliency predictor from others; None: it has none.
        file: of a policy of ours; None: it is of another kind.
    """

    name: str
    identity: Mapping[str, str]
    load: Callable[[Settings], Policy]
    tasks: tuple[str, ...] = ()
    method: str | None = None
    predictor: str | None = None
    file: Path | None = None


SCHEMES = Registry(
    "policy source",
    "streamvla.policies",
    {
        "shipped": "streamvla.policy.sources:find_shipped",
        "expert": "streamvla.data.experts:find_expert",
        "expert-chunks": "streamvla.data.experts:find_chunk_expert",
        "expert-timed-chunks": "streamvla.data.experts:find_timed_expert",
        "expert-long-chunks": "streamvla.data.experts:find_long_expert",
    },
)
"""Each entry is a function from what follows the scheme to a `FoundPolicy`."""

_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*)(?::(?://)?(?P<rest>.*))?")


def find_policy(source: str, method: str | None = None) -> FoundPolicy:
    """The policy that a text names.

    Args:
        method: which of a folder's policies; a file must hold this one.

    Raises:
        ConfigError: nothing is named so, or what is named gives no policies by that method.
        CheckpointError: there is no such file, or none or several policies in a folder.
    """
    if not Path(source).exists() and (found := _SCHEME.fullmatch(source)):
        if found["scheme"] in SCHEMES:
            return _checked(SCHEMES.load(found["scheme"])(found["rest"] or method or ""), method)
        if is_import(source):
            return _checked(find_made(source), method)
    if os.sep not in source and not source.endswith(".safetensors") and not Path(source).exists():
        raise CheckpointError(
            f"no checkpoint at {source}. Expected a checkpoint file or folder, "
            f"package.module:make, or one of the sources {', '.join(SCHEMES.names())}"
        )
    return find_file(Path(source), method)


def find_file(path: Path, method: str | None = None) -> FoundPolicy:
    """The policy in a file, or the only one (by a method) in a folder; errors as `find_policy`."""
    from streamvla.model.checkpoint import method_of
    from streamvla.policy.load import load_policy
    from streamvla.policy.shipped import identify, known_tasks, resolve_checkpoint

    file = resolve_checkpoint(path, method)
    identity, predictor = identify(file), _predictor_beside(file)

    def load(settings: Settings) -> Policy:
        policy = load_policy(file, settings=settings)
        if (identify(file), _predictor_beside(file)) != (identity, predictor):
            raise CheckpointError(
                f"{file}, or the predictor beside it, was replaced before it was loaded: run the "
                "command again"
            )
        return policy

    return FoundPolicy(
        name=file.stem,
        identity=identity,
        load=load,
        tasks=known_tasks(file),
        method=method_of(file),
        predictor=predictor,
        file=file,
    )


def _predictor_beside(file: Path) -> str | None:
    """SHA-256 of the saliency predictor of a policy file; None: it has none."""
    from streamvla.policy.saliency import saliency_path
    from streamvla.policy.shipped import identify

    beside = saliency_path(file)
    return identify(beside)["sha256"] if beside.is_file() else None


def find_shipped(method: str) -> FoundPolicy:
    """The policy that ships for a method, by default for action flow matching."""
    from streamvla.policy.shipped import resolve_checkpoint

    return find_file(resolve_checkpoint(None, method or None))


def find_made(source: str) -> FoundPolicy:
    """What a function "package.module:make" gives when it is called without arguments."""

    def load(settings: Settings) -> Policy:
        if settings:
            raise ConfigError(
                f"{', '.join(settings)}: {source} is called without settings; leave them out"
            )
        made = import_beside(source, "policy")()
        if not isinstance(getattr(made, "spec", None), PolicySpec):
            raise ConfigError(
                f"policy {source} gave {type(made).__name__} without a `spec`: expected a Policy "
                "(streamvla.core.interfaces)"
            )
        return made

    return FoundPolicy(source.replace(":", "-"), {"source": source}, load)


def identity_of(found: FoundPolicy, spec: PolicySpec) -> dict[str, Any]:
    """What tells a loaded policy from every other one: `FoundPolicy.identity`, and what may differ
    between two policies from one source: settings, and the words it knows."""
    words = " ".join(sorted(spec.vocabulary or ()))
    digest = hashlib.sha256(words.encode()).hexdigest()[:16]
    return {**found.identity, **spec.settings, "vocabulary": digest if words else None}


def _checked(found: FoundPolicy, method: str | None) -> FoundPolicy:
    if method not in (None, found.method):
        raise ConfigError(
            f"{found.name} is a policy by {found.method or 'a method of its own'}, not {method}: "
            "leave the method out, or name a checkpoint of it"
        )
    return found
