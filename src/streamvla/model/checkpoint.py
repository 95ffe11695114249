"""A policy in one file: safetensors weights, and in the header all that is needed to use them.

The header's metadata holds one JSON string under "streamvla": model and method, what robot it fits
(`PolicySpec`), normalisation statistics, how it was trained, and the checksum of the whole file
(`core.seals`), which loading compares. A file from before there were checksums is compared with
`checksums.json` beside it, if that lists it, and is else read with a warning. No pickle.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from streamvla.core.action_space import ActionSpace
from streamvla.core.budget import BudgetTable
from streamvla.core.errors import CheckpointError, ConfigError, StreamVLAError
from streamvla.core.files import replacing, unreadable
from streamvla.core.interfaces import PolicySpec
from streamvla.core.seals import (
    KEY,
    check_seal,
    has_seal,
    looks_sealed,
    seal,
    sealed_metadata,
    unsealed,
    write_error,
)
from streamvla.model.clarity import Clarity
from streamvla.model.defaults import DEFAULTS_NAME, Defaults, read_defaults, sha256_of
from streamvla.model.interface import Model, ModelConfig
from streamvla.model.methods.base import Method
from streamvla.model.methods.registry import DEFAULT, method_from_json
from streamvla.model.models import model_config_from_json
from streamvla.model.normalisation import Normalisation
from streamvla.model.phrases import Phrases

SCHEMA_VERSION = 3
_READABLE = (2, SCHEMA_VERSION)  # 2: action flow only, under "flow" instead of "method"

CHECKSUMS_NAME = "checksums.json"
"""File name → SHA-256, of files beside it that have no checksum of their own."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything a policy is.

    Attributes:
        provenance: how it came to be: data recipe, seed, commit, training command, step count.
        weights: state dict of the model.
        vocabulary: the words that training said, sorted; None where the model keeps its own
            (a pretrained tokeniser), or in a file from before it was stored.
        clarity: how it tells clear instructions from unclear ones; None: it does not.
        phrases: the phrasings of its training by goal; None: they are not known.
        budget: what its observations cost with which settings, as measured; None: it was not.
    """

    model: ModelConfig
    method: Method
    spec: PolicySpec
    normalisation: Normalisation
    provenance: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    vocabulary: tuple[str, ...] | None = None
    clarity: Clarity | None = None
    phrases: Phrases | None = None
    budget: BudgetTable | None = None

    def build_model(self) -> Model:
        """The model with these weights and words, in evaluation mode, on the CPU."""
        model = self.model.build(self.method)
        model.load_state_dict(dict(self.weights))
        if self.vocabulary is not None:
            model.list_words(self.vocabulary)
        return model.eval()


def save_checkpoint(path: Path | str, checkpoint: Checkpoint, *, half: bool = False) -> None:
    """Write atomically: `path` is either the old file or the whole new one.

    Args:
        half: store weights as float16, half the size; they are float32 again when loaded.

    Raises:
        CheckpointError: a weight is beyond the range of float16.
    """
    weights = checkpoint.weights
    if half:
        weights = {name: _halved(name, tensor) for name, tensor in weights.items()}
    save_tensors(Path(path), weights, _header_of(checkpoint))


def write_budget(source: Path, path: Path, budget: BudgetTable) -> None:
    """Write the policy of one file with a table of what its observations cost to another, or to the
    same one, atomically; weights as they are stored, to the last bit.

    What `defaults.json` says of the source goes into the header, where what this version does not
    know stays as it is.

    Raises:
        CheckpointError: `source` is missing, damaged, or not a streamvla checkpoint.
    """
    checkpoint = load_checkpoint(source)
    header, stored = load_tensors(source)
    header |= _header_of(replace(checkpoint, budget=budget))
    header.pop("flow", None)  # of schema 2, which has the method now
    save_tensors(path, {**checkpoint.weights, **stored}, header)


def budget_of(path: Path) -> BudgetTable | None:
    """The table in a policy file, without its weights; None: it has none.

    Raises:
        CheckpointError: missing, truncated, or not ours, or the table is damaged.
    """
    header = _read_header(path)
    try:
        return _budget_from_header(header)
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise CheckpointError(
            f"{path}: its budget table is garbled ({type(error).__name__}: {error}). Measure it "
            "again with `streamvla bench budget --policy` and the file that it was made from."
        ) from error


def _header_of(checkpoint: Checkpoint) -> dict[str, Any]:
    header = {
        "schema_version": SCHEMA_VERSION,
        "model": asdict(cast(Any, checkpoint.model)),
        "method": checkpoint.method.to_json(),
        "spec": _spec_to_json(checkpoint.spec),
        "normalisation": checkpoint.normalisation.to_json(),
        "provenance": dict(checkpoint.provenance),
        "vocabulary": checkpoint.vocabulary,
    }
    if checkpoint.clarity is not None:
        header["clarity"] = checkpoint.clarity.to_json()
    if checkpoint.phrases is not None:
        header["phrases"] = checkpoint.phrases.to_json()
    if checkpoint.budget is not None:
        header["budget"] = checkpoint.budget.to_json()
    return header


def load_checkpoint(path: Path | str, action_space: ActionSpace | None = None) -> Checkpoint:
    """Read a checkpoint and check that its weights fit its configuration.

    Settings and words that `defaults.json` beside it has for this very file take the place of those
    in its header (`model/defaults.py`).

    Args:
        action_space: of the robot it shall drive; None to accept any.

    Raises:
        CheckpointError: missing, truncated, not ours, another schema version, other shapes.
        SpecMismatchError: made for another action space.
    """
    path = Path(path)
    header, weights = load_tensors(path)
    try:
        checkpoint = Checkpoint(
            model=model_config_from_json(header["model"]),
            method=_method_from_header(header),
            spec=_spec_from_json(header["spec"]),
            normalisation=Normalisation.from_json(header["normalisation"]),
            provenance=header["provenance"],
            weights={name: _restored(tensor) for name, tensor in weights.items()},
            vocabulary=_words_from_header(header),
            clarity=Clarity.from_json(header["clarity"]) if "clarity" in header else None,
            phrases=Phrases.from_json(header["phrases"]) if "phrases" in header else None,
            budget=_budget_from_header(header),
        )
        checkpoint = replace(checkpoint, weights=checkpoint.model.completed(checkpoint.weights))
    except (KeyError, TypeError, ValueError, StreamVLAError) as error:
        raise CheckpointError(
            f"{path}: header lacks or garbles a field ({type(error).__name__}: {error}). "
            "Restore the file or train again."
        ) from error
    checkpoint = _with_defaults(path, checkpoint, read_defaults(path))
    _check_shapes(path, checkpoint)
    if action_space is not None:
        action_space.require(checkpoint.spec.action_space, f"checkpoint {path}")
    return checkpoint


def mean_checkpoint(checkpoints: Mapping[str, Checkpoint]) -> Checkpoint:
    """One policy whose weights are the mean of several of one kind.

    Only sensible for stages of one training, whose weights lie near each other. Its provenance and
    the settings that need no training are the first one's; the provenance of the others stands in
    it as `averaged_with`. What was measured of one of them, the table of costs, is left out.

    Args:
        checkpoints: by the name an error shall use; one is returned as it is.

    Raises:
        CheckpointError: they differ in more than weights and provenance.
    """
    (first_name, first), *others = checkpoints.items()
    for name, other in others:
        for part in ("model", "method", "spec", "normalisation", "vocabulary"):
            if not _alike(first, other, part):
                raise CheckpointError(
                    f"{name} and {first_name} differ in their {part}; only stages of one training "
                    "can be averaged"
                )
    if not others:
        return first
    every = [each.weights for each in checkpoints.values()]
    weights = {name: _mean(name, [each[name] for each in every]) for name in first.weights}
    averaged_with = [dict(other.provenance) for _, other in others]
    provenance = {**first.provenance, "averaged_with": averaged_with}
    words = next((each.vocabulary for each in checkpoints.values() if each.vocabulary), None)
    return replace(first, weights=weights, provenance=provenance, vocabulary=words, budget=None)


def _alike(first: Checkpoint, other: Checkpoint, part: str) -> bool:
    """Whether two stages agree in a part, but for settings that need no training and for words
    that one of them, from before they were stored, does not list."""
    one, two = getattr(first, part), getattr(other, part)
    if part == "vocabulary":
        return one == two or None in (one, two)
    if part == "method" and type(one) is type(two):
        return one == replace(two, **{name: getattr(one, name) for name in one.tunable})
    if part == "spec":
        return one == replace(two, chunk_passes=one.chunk_passes)
    return one == two


def _mean(name: str, tensors: list[Tensor]) -> Tensor:
    if tensors[0].is_floating_point():
        return torch.stack(tensors).mean(0)
    if not all(torch.equal(tensor, tensors[0]) for tensor in tensors):
        raise CheckpointError(f"the policies differ in {name}, which has no mean")
    return tensors[0]


def save_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write named tensors and a JSON header to one safetensors file, atomically and durably."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path, durable=True) as partial:
        try:
            save_file(plain, partial, metadata=sealed_metadata(header))
        except SafetensorError as error:
            raise write_error(error) from error
        seal(partial)


def method_of(path: Path) -> str | None:
    """The name of the method in a policy file; None for other tensors, a training state's say.

    Raises:
        CheckpointError: missing, truncated, or not ours.
    """
    header = _read_header(path)
    if "spec" not in header:
        return None
    method = header.get("method", {"name": DEFAULT})
    return str(method["name"]) if isinstance(method, dict) and "name" in method else None


def provenance_of(path: Path) -> Mapping[str, Any]:
    """Where the policy in a file comes from, without its weights; empty if it does not say.

    Raises:
        CheckpointError: missing, truncated, or not ours.
    """
    provenance = _read_header(path).get("provenance")
    return provenance if isinstance(provenance, dict) else {}


def load_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a file that `save_tensors` wrote.

    Raises:
        CheckpointError: missing, damaged, not ours, or of another schema version.
    """
    require_undamaged(path)
    header = _read_header(path)
    version = header.get("schema_version")
    if version not in _READABLE:
        raise CheckpointError(
            f"{path}: schema version {version!r}, expected {SCHEMA_VERSION}. Use the streamvla "
            "version that wrote it, or train again."
        )
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise _corrupt(path, error) from error
    return header, tensors


def require_undamaged(path: Path) -> None:
    """Compare a file with its checksum.

    Raises:
        CheckpointError: missing, or damaged.
    """
    _require_file(path)
    try:
        if check_seal(path):
            return
        listed = _listed_checksum(path)
        if listed not in (None, sha256_of(path)):
            raise ValueError(f"its SHA-256 is not the one in {CHECKSUMS_NAME}")
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise _corrupt(path, error) from error
    if listed is None:
        _read_header(path)  # somebody else's, or damaged, is said instead
        _say_unsealed(path)


def _listed_checksum(path: Path) -> str | None:
    beside = path.parent / CHECKSUMS_NAME
    if not beside.is_file():
        return None
    try:
        listed = json.loads(beside.read_text(encoding="utf-8"))
        found = listed.get(path.name)
    except (ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{beside} is damaged ({error}). Restore it, or remove it to go without."
        ) from error
    return None if found is None else str(found)


@cache
def _say_unsealed(path: Path) -> None:
    logging.getLogger("streamvla").warning(
        "%s is of an earlier version, without a checksum: damage may go unnoticed", path
    )


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint at {path}. Train one with `streamvla train`, or check the path."
        )


def _read_header(path: Path) -> dict[str, Any]:
    """Of a file whose bytes were not compared with its checksum, but for its marks."""
    _require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        header = json.loads(metadata[KEY]) if KEY in metadata else None
        if isinstance(header, dict) and looks_sealed(header) and not has_seal(path):
            raise ValueError("its checksum is missing")
    except (SafetensorError, OSError, ValueError) as error:
        raise _corrupt(path, error) from error
    if not isinstance(header, dict):
        raise CheckpointError(
            f"{path}: a safetensors file, but damaged, or not written by streamvla (no {KEY!r} "
            "header). Use a checkpoint made by `streamvla train`."
        )
    return unsealed(header)


def _corrupt(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path}: truncated or corrupt ({error}). Copy it again, or train again."
    )


def _halved(name: str, tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32:
        return tensor
    half = tensor.half()
    if not torch.isfinite(half).all():
        raise CheckpointError(
            f"tensor {name!r} has values that float16 cannot hold (largest "
            f"{float(tensor.abs().max()):.3g}); keep the policy in full precision"
        )
    return half


def _restored(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def _with_defaults(path: Path, checkpoint: Checkpoint, defaults: Defaults) -> Checkpoint:
    """Vocabulary, clarity and phrases of the policy's own header are kept; settings take the place
    of the header's."""
    for name in defaults.method:
        if name not in checkpoint.method.tunable:
            known = ", ".join(checkpoint.method.tunable) or "none"
            raise CheckpointError(
                f"{path.parent / DEFAULTS_NAME}: {name!r} of {path.name} is no setting that "
                f"{checkpoint.method.name} can change without training (it has {known}); remove it"
            )
    try:
        method = replace(checkpoint.method, **defaults.method)
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{path.parent / DEFAULTS_NAME}: {path.name}: {error}") from error
    spec = replace(checkpoint.spec, chunk_passes=method.chunk_passes)
    words = defaults.vocabulary if checkpoint.vocabulary is None else checkpoint.vocabulary
    clarity = checkpoint.clarity or defaults.clarity
    return replace(
        checkpoint,
        method=method,
        spec=spec,
        vocabulary=words,
        clarity=clarity,
        phrases=checkpoint.phrases or defaults.phrases,
    )


def _budget_from_header(header: Mapping[str, Any]) -> BudgetTable | None:
    return BudgetTable.from_json(header["budget"]) if "budget" in header else None


def _words_from_header(header: Mapping[str, Any]) -> tuple[str, ...] | None:
    words = header.get("vocabulary")
    if words is None:
        return None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise CheckpointError("vocabulary is not a list of words")
    return tuple(words)


def _check_shapes(path: Path, checkpoint: Checkpoint) -> None:
    with torch.device("meta"):  # shapes without memory
        model = checkpoint.model.build(checkpoint.method)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in checkpoint.weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise CheckpointError(
                f"{path}: tensor {name!r} has shape {found.get(name, 'none')}, expected "
                f"{expected.get(name, 'none')}. The file does not match its own configuration; "
                "train again."
            )


def _method_from_header(header: Mapping[str, Any]) -> Method:
    """Of schema 2, from before there was a choice of methods, the flow under "flow"."""
    if "flow" in header:
        return method_from_json({"name": DEFAULT, **header["flow"]})
    return method_from_json(header["method"])


def _spec_to_json(spec: PolicySpec) -> dict[str, Any]:
    return {**vars(spec), "action_space": spec.action_space.to_json()}


def _spec_from_json(fields: Mapping[str, Any]) -> PolicySpec:
    height, width = fields["image_size"]
    return PolicySpec(
        action_space=ActionSpace.from_json(fields["action_space"]),
        horizon=int(fields["horizon"]),
        views=tuple(fields["views"]),
        image_size=(int(height), int(width)),
        state_dim=int(fields["state_dim"]),
        control_period_ns=int(fields["control_period_ns"]),
        chunk_passes=int(fields.get("chunk_passes", 0)),
    )
