"""Demonstrations on disk: a header and shards of whole episodes.

    DIR/meta.json                        what every shard shares (`DatasetMeta`)
    DIR/reach/shard_00000.safetensors    episodes 0-24 of the task, one after another:

        frame          0 1 2 … 43 | 44 45 … 90 | …          N frames
        episode_start  0            44           …          E + 1 offsets, the last is N
        image.VIEW (N, height, width, 3) u8    state (N, s) f32    action, label (N, d) f32
        seed (E,) i64    success_step (E,) i64    attempts (1,) i64    start (E, d) f64
        place (N, p) f32, where `place_names` are known
        metadata "streamvla": JSON with the checksum of the file (`core.seals`) and, where its
            task has several goals, "instructions", a list for each episode

`action` is what was executed, `label` what the expert wanted at that instant. Shards are written
beside their place and renamed, so a shard that exists is whole. Loading reads a shard once to
compare its checksum, and maps the file: frames come from disk as they are used. Shards and headers
from before there were checksums are read with a warning.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from streamvla.core.errors import ConfigError, DatasetError, did_you_mean
from streamvla.core.files import replacing, unreadable, write_text
from streamvla.core.seals import (
    KEY,
    check_seal,
    open_json,
    seal,
    sealed_json,
    sealed_metadata,
    write_error,
)
from streamvla.data.demonstrations import SCHEMA_VERSION, DatasetMeta, Demonstrations, Episode

META_NAME = "meta.json"
_INSTRUCTIONS = "instructions"
_DTYPES = {
    "U8": np.dtype("u1"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
}


def shard_path(directory: Path, task: str, index: int) -> Path:
    """Where shard `index` of `task` lies."""
    return directory / task / f"shard_{index:05d}.safetensors"


def write_meta(directory: Path, meta: DatasetMeta) -> None:
    """Write `meta.json` atomically."""
    write_text(directory / META_NAME, sealed_json(meta.to_json()))


def read_meta(directory: Path) -> DatasetMeta:
    """Read `meta.json`.

    Raises:
        DatasetError: it is missing, malformed, damaged, or of another schema version.
    """
    path = directory / META_NAME
    if not path.is_file():
        raise DatasetError(
            f"no dataset at {directory}: {META_NAME} is missing. Make one with streamvla collect."
        )
    try:
        fields, sealed = open_json(path.read_bytes())
        if not sealed and fields.get("schema_version") == SCHEMA_VERSION:
            raise ValueError("its checksum is missing")
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise DatasetError(
            f"{path}: damaged ({error}). Delete it and run the same streamvla collect command "
            "again; it writes it anew and keeps the shards."
        ) from error
    try:
        meta = DatasetMeta.from_json(fields)
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from error
    if not sealed:
        _say_unsealed(directory)
    return meta


def write_shard(path: Path, episodes: Iterable[Episode], attempts: int) -> None:
    """Write whole episodes atomically: the path exists only once the shard is complete."""
    episodes = list(episodes)
    tensors = {
        f"image.{view}": np.concatenate([episode.images[view] for episode in episodes])
        for view in episodes[0].images
    }
    for name in ("state", "action", "label"):
        rows = [getattr(episode, name) for episode in episodes]
        tensors[name] = np.concatenate(rows).astype(np.float32)
    places = [episode.places for episode in episodes if episode.places is not None]
    if places:
        tensors["place"] = np.concatenate(places).astype(np.float32)
    lengths = [len(episode) for episode in episodes]
    tensors["episode_start"] = np.cumsum([0, *lengths], dtype=np.int64)
    tensors["seed"] = np.array([episode.seed for episode in episodes], dtype=np.int64)
    tensors["success_step"] = np.array(
        [episode.success_step for episode in episodes], dtype=np.int64
    )
    tensors["attempts"] = np.array([attempts], dtype=np.int64)
    starts = [episode.start for episode in episodes if episode.start is not None]
    if len(starts) == len(episodes):
        tensors["start"] = np.stack(starts).astype(np.float64)
    said = [list(episode.instructions) for episode in episodes]
    metadata = sealed_metadata({_INSTRUCTIONS: said} if any(said) else {})
    with replacing(path) as partial:
        try:
            save_file(tensors, partial, metadata)
        except SafetensorError as error:
            raise write_error(error) from error
        seal(partial)


def read_shard(path: Path, task: str, meta: DatasetMeta) -> tuple[list[Episode], int]:
    """The episodes of one shard, and how many attempts they took.

    Raises:
        DatasetError: the shard is damaged, lacks a tensor, or disagrees with `meta`.
    """
    tensors, said = _map_tensors(path)
    _check_shapes(path, tensors, meta)
    start = tensors["episode_start"]
    said = _instructions(path, said, len(start) - 1)
    episodes = []
    for index, (first, last) in enumerate(itertools.pairwise(start)):
        frames = slice(int(first), int(last))
        episodes.append(
            Episode(
                task=task,
                images={view: tensors[f"image.{view}"][frames] for view in meta.views},
                state=np.array(tensors["state"][frames]),
                action=np.array(tensors["action"][frames]),
                label=np.array(tensors["label"][frames]),
                seed=int(tensors["seed"][index]),
                success_step=int(tensors["success_step"][index]),
                instructions=said[index],
                places=np.array(tensors["place"][frames]) if meta.place_names else None,
                start=np.array(tensors["start"][index]) if "start" in tensors else None,
            )
        )
    return episodes, int(tensors["attempts"][0])


def is_whole(path: Path) -> bool:
    """Whether there is a shard, and every byte of it is as it was written."""
    if not path.exists():
        return False
    try:
        _map_tensors(path)
    except DatasetError:
        return False
    return True


def seeds_in(path: Path) -> list[int]:
    """Of the episodes of a shard; errors as `read_shard`."""
    return [int(seed) for seed in _map_tensors(path)[0].get("seed", ())]


def load_dataset(directory: Path | str, tasks: Iterable[str] | None = None) -> Demonstrations:
    """Load and validate a dataset.

    Args:
        directory: what `collect` wrote.
        tasks: which tasks; None for all.

    Raises:
        ConfigError: a task the dataset does not have.
        DatasetError: anything missing, truncated, or inconsistent; the message names the file.
    """
    directory = Path(directory)
    meta = read_meta(directory)
    episodes: list[Episode] = []
    attempts: dict[str, int] = {}
    for task in meta.tasks if tasks is None else tasks:
        if task not in meta.tasks:
            raise did_you_mean("task", task, meta.tasks)
        paths = sorted((directory / task).glob("shard_*.safetensors"))
        if not paths:
            raise DatasetError(
                f"{directory / task}: no complete shard of task {task!r}. Run the same streamvla "
                "collect command again; it resumes."
            )
        shards = [read_shard(path, task, meta) for path in paths]
        episodes.extend(episode for shard, _ in shards for episode in shard)
        attempts[task] = sum(tried for _, tried in shards)
    return Demonstrations(meta=meta, episodes=tuple(episodes), attempts=attempts)


def load_datasets(
    directories: Sequence[Path | str], tasks: Iterable[str] | None = None
) -> Demonstrations:
    """Several datasets of one robot as one; `tasks` as in `load_dataset`, each in some dataset.

    The first one's episodes come last, so that what training holds out (the last of every task)
    comes from there whatever is added.

    Raises:
        ConfigError: none given, or a task that none has.
        DatasetError: as `load_dataset`; or they differ in robot, action space, state, rate, views,
            image size or places.
    """
    if not directories:
        raise ConfigError("no dataset given: name at least one folder that streamvla collect wrote")
    metas = [read_meta(Path(directory)) for directory in directories]
    known = {task: None for meta in metas for task in meta.tasks}
    wanted = tuple(known if tasks is None else tasks)
    for task in wanted:
        if task not in known:
            raise did_you_mean("task", task, known)
    for directory, meta in zip(directories[1:], metas[1:], strict=True):
        _require_same(Path(directory), meta, Path(directories[0]), metas[0])
    parts = [
        load_dataset(directory, [task for task in wanted if task in meta.tasks])
        for directory, meta in zip(directories, metas, strict=True)
    ]
    tried = [part.attempts for part in parts]
    return Demonstrations(
        meta=replace(metas[0], tasks={t: said for m in metas for t, said in m.tasks.items()}),
        episodes=tuple(episode for part in reversed(parts) for episode in part.episodes),
        attempts={task: sum(each.get(task, 0) for each in tried) for task in wanted},
    )


def _require_same(path: Path, meta: DatasetMeta, first: Path, expected: DatasetMeta) -> None:
    names = ("robot", "action_space", "state_names", "control_period_ns", "views", "image_size")
    for name in (*names, "place_names"):
        found, wanted = getattr(meta, name), getattr(expected, name)
        if found != wanted:
            raise DatasetError(
                f"{path / META_NAME}: {name} is {found}, but {wanted} in {first / META_NAME}. "
                "Train on them apart, or collect them again under the same settings."
            )


def _instructions(path: Path, stored: Any, count: int) -> list[tuple[str, ...]]:
    """Each episode's own instructions; none where the shard has none."""
    if stored is None:
        return [()] * count
    try:
        said = [tuple(str(text) for text in each) for each in stored]
    except TypeError as error:
        raise DatasetError(
            f"{path}: unreadable instructions ({error}); delete it, recollect"
        ) from error
    if len(said) != count:
        raise DatasetError(
            f"{path}: instructions of {len(said)} episodes, expected {count}; delete it, recollect"
        )
    return said


def _map_tensors(path: Path) -> tuple[dict[str, np.ndarray], Any]:
    """Memory-map a safetensors file: 8 bytes header length, JSON header, raw tensors.

    Returns the tensors, and the instructions in the header, if there are any.
    """
    try:
        sealed = check_seal(path)
        size = path.stat().st_size
        with path.open("rb") as file:
            header_size = int.from_bytes(file.read(8), "little")
            if size < 8 or header_size > size - 8:
                raise ValueError(f"{size} bytes are too few for its header")
            header = json.loads(file.read(header_size))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        expected = 8 + header_size + max(entry["data_offsets"][1] for entry in entries.values())
        if size != expected:
            raise ValueError(f"{size} bytes, expected {expected}")
        tensors = {name: _map_one(path, 8 + header_size, each) for name, each in entries.items()}
        stored = _stored_instructions(header.get("__metadata__", {}), sealed)
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{path}: truncated or not a shard ({error}). Delete it and run the same streamvla "
            "collect command again; it makes this shard anew."
        ) from error
    if not sealed:
        _say_unsealed(path.parent.parent)
    return tensors, stored


def _stored_instructions(metadata: Mapping[str, str], sealed: bool) -> Any:
    """Raises `ValueError` if damage made a shard look like one without a checksum."""
    if sealed:
        return json.loads(metadata[KEY]).get(_INSTRUCTIONS)
    if not metadata.keys() <= {_INSTRUCTIONS}:
        raise ValueError("its checksum is missing")
    try:
        return json.loads(metadata[_INSTRUCTIONS]) if metadata else None
    except ValueError as error:
        raise ValueError(f"its instructions are no JSON: {error}") from error


@cache
def _say_unsealed(directory: Path) -> None:
    logging.getLogger("streamvla").warning(
        "dataset %s has files of an earlier version, without checksums: damage may go unnoticed",
        directory,
    )


def _map_one(path: Path, base: int, entry: Mapping[str, Any]) -> np.ndarray:
    dtype = _DTYPES[entry["dtype"]]
    shape = tuple(entry["shape"])
    first, last = entry["data_offsets"]
    if math.prod(shape) * dtype.itemsize != last - first:
        raise ValueError(f"shape {shape} does not fill {last - first} bytes")
    return np.memmap(path, dtype=dtype, mode="r", offset=base + first, shape=shape)


def _check_shapes(path: Path, tensors: Mapping[str, np.ndarray], meta: DatasetMeta) -> None:
    """Every tensor is there and has the shape that the header and `meta` imply."""
    for name in ("episode_start", "seed"):
        if name not in tensors or tensors[name].ndim != 1:
            raise DatasetError(f"{path}: no one-dimensional tensor {name!r}; delete it, recollect")
    start = tensors["episode_start"]
    episodes, frames = len(start) - 1, int(start[-1])
    if start[0] != 0 or (np.diff(start) <= 0).any():
        raise DatasetError(f"{path}: episode_start {start.tolist()} does not grow from 0")
    expected = {f"image.{view}": (frames, *meta.image_size, 3) for view in meta.views}
    expected |= {
        "state": (frames, len(meta.state_names)),
        "action": (frames, meta.action_space.dim),
        "label": (frames, meta.action_space.dim),
        "seed": (episodes,),
        "success_step": (episodes,),
        "attempts": (1,),
    }
    if "start" in tensors:
        expected["start"] = (episodes, meta.action_space.dim)
    if meta.place_names:
        expected["place"] = (frames, len(meta.place_names))
    for name, shape in expected.items():
        if name not in tensors:
            raise DatasetError(
                f"{path}: tensor {name!r} is missing (has {', '.join(sorted(tensors))}). It was "
                f"collected under other settings than {META_NAME}: collect into another directory."
            )
        if tensors[name].shape != shape:
            raise DatasetError(
                f"{path}: tensor {name!r} has shape {tensors[name].shape}, expected {shape}. It "
                f"was collected under other settings than {META_NAME}: collect into another "
                "directory."
            )
