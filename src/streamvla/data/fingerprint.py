"""What tells one dataset from another, so that a training goes on with the data it began with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from streamvla.data.demonstrations import Demonstrations, Episode


def fingerprint(demonstrations: Demonstrations) -> dict[str, Any]:
    """A dataset's settings, its size, and a digest of its episodes, as JSON.

    The settings are those of `meta.json` but for the commit, and of the tasks only those that were
    loaded: a dataset that has grown by a task is still the same to a training on the others.
    """
    fields = demonstrations.meta.to_json()
    present = {episode.task for episode in demonstrations.episodes}
    fields["tasks"] = {task: said for task, said in fields["tasks"].items() if task in present}
    del fields["commit"], fields["schema_version"]
    for name in ("place_names", "pilot"):  # as before there were any
        if not fields[name]:
            del fields[name]
    fields["episodes"] = len(demonstrations.episodes)
    fields["frames"] = demonstrations.frame_count
    fields["content"] = _digest(demonstrations.episodes)
    return json.loads(json.dumps(fields))


def seed_ranges(episodes: Iterable[Episode]) -> dict[str, list[list[int]]]:
    """Task → [first, last] of the seeds that follow each other, in order; for a few bytes.

    With seeds 3, 4, 5 and 9 of one task: {"reach": [[3, 5], [9, 9]]}.
    """
    ranges: dict[str, list[list[int]]] = {}
    for task, seed in sorted({(episode.task, episode.seed) for episode in episodes}):
        own = ranges.setdefault(task, [])
        if own and own[-1][1] == seed - 1:
            own[-1][1] = seed
        else:
            own.append([seed, seed])
    return ranges


def _digest(episodes: Iterable[Episode]) -> str:
    """SHA-256 over the episodes in loading order; of their images the first of every view."""
    digest = hashlib.sha256()
    for episode in episodes:
        identity = [episode.task, episode.seed, len(episode), episode.success_step]
        digest.update(json.dumps(identity).encode())
        told = [array for array in (episode.places, episode.start) if array is not None]
        for array in (episode.state, episode.action, episode.label, *told):
            digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
        for view in sorted(episode.images):
            digest.update(episode.images[view][0].tobytes())
    return digest.hexdigest()
