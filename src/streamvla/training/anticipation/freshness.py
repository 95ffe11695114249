"""Whether the episodes to calibrate on are new, to the policy and to what is trained for it: else a
miss rate that is measured on them would not hold on others."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from streamvla.core.errors import ConfigError
from streamvla.data.demonstrations import Demonstrations, Episode
from streamvla.data.fingerprint import seed_ranges

TRAINED_ON = "trained_on"
"""Of a policy's provenance: `seed_ranges` of the episodes that its weights were fitted to."""

Ranges = Mapping[str, Sequence[Sequence[int]]]


def require_fresh(
    path: Path, source: Demonstrations, trained: Sequence[Episode], policy: Mapping[str, Any]
) -> None:
    """Raise `ConfigError` if an episode of a dataset was trained on, by task and seed.

    A policy whose file does not list its episodes, as of earlier versions, is warned of instead if
    the dataset was collected with the seed of its own.

    Args:
        path: of the dataset, for messages.
        trained: episodes that the predictor or the gate is trained on.
        policy: its provenance.
    """
    for who, ranges in [("", seed_ranges(trained)), (" by the policy", _trained_on(policy))]:
        stale = _among(source.episodes, ranges)
        if stale:
            raise ConfigError(
                f"{path}: {stale} of {len(source.episodes)} episodes are among those trained on"
                f"{who}, by task and seed; the miss rate would not hold. Collect others (collect "
                "--seed)."
            )
    dataset: Mapping[str, Any] = policy.get("dataset", {})
    if not _trained_on(policy) and dataset.get("seed") == source.meta.seed:
        logging.getLogger("streamvla").warning(
            "%s was collected with seed %d, as the policy's own dataset was, and its file does not "
            "list its episodes: if it was trained on some of these, the miss rate does not hold; "
            "collect others (collect --seed)",
            path,
            source.meta.seed,
        )


def warn_of_seen(held_out: Sequence[Episode], policy: Mapping[str, Any]) -> None:
    """Warn if some of the episodes that a training of today leaves out are among those that the
    policy itself was trained on: it held out fewer, or others.

    Args:
        policy: its provenance.
    """
    seen = _among(held_out, _trained_on(policy))
    if seen:
        logging.getLogger("streamvla").warning(
            "the policy was trained on %d of the %d episodes that are held out to calibrate on: "
            "the miss rate does not hold; calibrate on others (--calibration), or hold out no more "
            "than the policy did (--holdout-per-task)",
            seen,
            len(held_out),
        )


def _trained_on(provenance: Mapping[str, Any]) -> dict[str, list[Sequence[int]]]:
    """Task → seed ranges of a policy and of those that it began from; empty if none is listed."""
    found: dict[str, list[Sequence[int]]] = {}
    for stage in _stages(provenance):
        for task, ranges in stage.get(TRAINED_ON, {}).items():
            found.setdefault(task, []).extend(ranges)
    return found


def _stages(provenance: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield provenance
    for other in (provenance.get("init"), *provenance.get("averaged_with", ())):
        if other:
            yield from _stages(other)


def _among(episodes: Sequence[Episode], ranges: Ranges) -> int:
    return sum(
        any(first <= each.seed <= last for first, last in ranges.get(each.task, ()))
        for each in episodes
    )
