"""What the gate of early observation does on recorded episodes, and its calibration.

    frames      t ─────────────── t + j                      1 ≤ j ≤ longest lead
    true        ‖tokens_{t+j} − tokens_t‖ > B                a large change
    expected    ‖predictor(tokens_t, motion of t … t+j−1)‖ ≤ η      no objection

What the calibration guarantees, and why: docs/decisions/0020.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from streamvla.core.errors import ConfigError, DatasetError
from streamvla.data.demonstrations import Demonstrations, Episode
from streamvla.data.store import load_dataset
from streamvla.model.saliency import Calibration, SaliencyPredictor, saliency_of
from streamvla.policy.base import ModelPolicy
from streamvla.policy.load import load_policy
from streamvla.policy.saliency import load_saliency, saliency_path
from streamvla.policy.transforms import to_images
from streamvla.training.anticipation.conformal import least_episodes, risk_controlled_threshold
from streamvla.training.trainer import device_named

MOVED_M = 0.01
"""A thing that moved farther counts as moved: the arm is in contact, or it moves by itself."""

_ENCODED_AT_ONCE = 64


# --- pairs of frames -------------------------------------------------------------------------


@dataclass(frozen=True)
class PairFigures:
    """What happened, and what was expected, between all pairs of frames of one episode.

    Attributes:
        lead: (p,) how many actions apart.
        change, predicted, error: (p, v) ‖true Δ‖, ‖expected Δ‖, and ‖true Δ − expected Δ‖.
        moved: (p,) metres that things (not the arm) moved meanwhile, where the dataset tells their
            places; else None.
    """

    lead: np.ndarray
    change: np.ndarray
    predicted: np.ndarray
    error: np.ndarray
    moved: np.ndarray | None = None


def every_pair(
    policy: ModelPolicy,
    predictor: SaliencyPredictor,
    demonstrations: Demonstrations,
    episodes: Sequence[Episode],
    longest_lead: int,
) -> list[PairFigures]:
    """`measure_pairs` of every episode that has two frames.

    Raises:
        DatasetError: there is none.
    """
    pairs = [
        measure_pairs(policy, predictor, demonstrations, episode, longest_lead)
        for episode in episodes
        if len(episode) > 1
    ]
    if not pairs:
        raise DatasetError(f"none of {len(episodes)} episodes has two frames; collect some")
    return pairs


def measure_pairs(
    policy: ModelPolicy,
    predictor: SaliencyPredictor,
    demonstrations: Demonstrations,
    episode: Episode,
    longest_lead: int,
) -> PairFigures:
    """All pairs of frames 1 to `longest_lead` actions apart."""
    rows: list[tuple[np.ndarray, ...]] = []
    with torch.inference_mode():
        seen = tokens_of(policy, demonstrations, episode, range(len(episode)))  # (t, v, l, w)
        for lead in range(1, min(longest_lead, len(episode) - 1) + 1):
            before, after = seen[:-lead], seen[lead:]
            motions = np.stack(
                [motion_of(demonstrations, episode, t, lead) for t in range(len(before))]
            )
            motion = torch.from_numpy(policy.normalisation.normalise_action_state(motions))
            expected = predictor(before, motion.to(policy.device))
            change = after - before
            measured = (change, expected, change - expected)
            norms = (saliency_of(each).double().cpu().numpy() for each in measured)
            rows.append((np.full(len(before), lead), *norms, *_moved(episode, lead)))
    return PairFigures(*(np.concatenate(column) for column in zip(*rows, strict=True)))


def _moved(episode: Episode, lead: int) -> tuple[np.ndarray, ...]:
    """How far things moved within `lead` actions, at every frame; nothing if nobody knows."""
    if episode.places is None:
        return ()
    return (np.linalg.norm(episode.places[lead:] - episode.places[:-lead], axis=1),)


def tokens_of(
    policy: ModelPolicy,
    demonstrations: Demonstrations,
    episode: Episode,
    frames: Sequence[int],
) -> Tensor:
    """(t, v, l, w) vision tokens of frames of an episode, told the first of its instructions."""
    parts = []
    words = policy.model.tokenise(demonstrations.meta.instructions_of(episode)[:1])
    for first in range(0, len(frames), _ENCODED_AT_ONCE):
        chosen = list(frames[first : first + _ENCODED_AT_ONCE])
        pixels = torch.from_numpy(pixels_of(episode, policy, chosen)).to(policy.device)
        images = to_images(pixels, episode.state[chosen], policy.model.crops)
        told = words.to(policy.device).expand(len(images), -1)
        parts.append(policy.model.look(images, told))
    return torch.cat(parts)


def motion_of(demonstrations: Demonstrations, episode: Episode, t: int, lead: int) -> np.ndarray:
    """(d,) what the actions t … t + lead − 1 did: their sum, or the last where absolute."""
    actions = episode.action[t : t + lead].astype(np.float64)
    is_delta = demonstrations.meta.action_space.is_delta()
    return np.where(is_delta, actions.sum(axis=0), actions[-1])


def pixels_of(episode: Episode, policy: ModelPolicy, frames: list[int]) -> np.ndarray:
    """(t, v, y, x, 3) uint8."""
    return np.stack([np.asarray(episode.images[view][frames]) for view in policy.spec.views], 1)


# --- the gate --------------------------------------------------------------------------------


def longest_changes(
    policy: ModelPolicy, demonstrations: Demonstrations, episode: Episode, longest_lead: int
) -> np.ndarray:
    """(p, v) the changes between frames `longest_lead` actions apart; p = 0 in a short episode."""
    with torch.inference_mode():
        seen = tokens_of(policy, demonstrations, episode, range(len(episode)))
        return saliency_of(seen[longest_lead:] - seen[:-longest_lead]).double().cpu().numpy()


def large_bound(changes: np.ndarray, tail: float) -> tuple[float, ...]:
    """B of every view: all but the `tail` of (p, v) changes lie below it.

    Raises:
        ConfigError: there is none.
    """
    if not len(changes):
        raise ConfigError("no episode is longer than the longest lead: collect longer ones")
    return tuple(np.quantile(changes, 1 - tail, axis=0).tolist())


def calibrated(
    pairs: Sequence[PairFigures],
    bound: tuple[float, ...],
    miss_rate: float,
    tail: float,
    longest_lead: int,
    figures: Mapping[str, Any],
) -> Calibration:
    """η of every view from the episodes that have a change beyond B there.

    Raises:
        ConfigError: too few such episodes.
    """
    threshold, counts = [], []
    for view, limit in enumerate(bound):
        scores = [each.predicted[each.change[:, view] > limit, view] for each in pairs]
        scores = [each for each in scores if len(each)]
        needed = least_episodes(miss_rate)
        if len(scores) < needed:
            raise ConfigError(
                f"only {len(scores)} of {len(pairs)} calibration episodes have a change of view "
                f"{view} beyond {limit:.3g}, and {needed} are needed for a miss rate of "
                f"{miss_rate:g}: calibrate on more episodes (--calibration, "
                "--holdout-per-task), or raise --tail or --miss-rate"
            )
        threshold.append(risk_controlled_threshold(scores, miss_rate))
        counts.append(len(scores))
    gate = gate_figures(pairs, tuple(threshold), bound)
    return Calibration(
        tuple(threshold),
        bound,
        miss_rate,
        tail,
        longest_lead,
        tuple(counts),
        {**figures, **gate},
    )


def gate_figures(
    pairs: Sequence[PairFigures], threshold: tuple[float, ...], bound: tuple[float, ...]
) -> dict[str, Any]:
    """What a gate does on some episodes.

    Keys: "accept_rate" by lead; where places are known, "accept_rate_moved" and
    "accept_rate_still", of pairs between which a thing moved by more than `MOVED_M` or nothing
    did; of every view "miss_rate": the mean over episodes of the share of large changes that were
    accepted, "miss_rate_ci": its 95 % interval (normal, over episodes), "large_changes": how many
    there were; "episodes": of how many; "large_when_accepted": the share of accepted
    pairs with a large change in any view.
    """
    lead = np.concatenate([each.lead for each in pairs])
    accepted = [np.all(each.predicted <= np.array(threshold), axis=1) for each in pairs]
    large = [np.asarray(each.change > np.array(bound)) for each in pairs]
    everywhere, beyond = np.concatenate(accepted), np.concatenate(large)
    missed: list[float] = []
    intervals: list[tuple[float, float]] = []
    for view in range(len(bound)):
        shares = [
            each[beyond_each[:, view]].mean()
            for each, beyond_each in zip(accepted, large, strict=True)
            if beyond_each[:, view].any()
        ]
        mean = float(np.mean(shares)) if shares else math.nan
        half = 1.96 * float(np.std(shares, ddof=1)) / math.sqrt(len(shares)) if shares[1:] else 1.0
        missed.append(mean)
        intervals.append((max(0.0, mean - half), min(1.0, mean + half)))
    return {
        "accept_rate": _rates(everywhere, lead),
        **_contact_rates(pairs, everywhere, lead),
        "episodes": len(pairs),
        "miss_rate": missed,
        "miss_rate_ci": intervals,
        "large_changes": beyond.sum(axis=0).tolist(),
        "large_when_accepted": float(beyond[everywhere].any(axis=1).mean())
        if everywhere.any()
        else math.nan,
    }


def _rates(accepted: np.ndarray, lead: np.ndarray) -> dict[str, float]:
    return {str(n): float(accepted[lead == n].mean()) for n in np.unique(lead)}


def _contact_rates(
    pairs: Sequence[PairFigures], accepted: np.ndarray, lead: np.ndarray
) -> dict[str, dict[str, float]]:
    known = [each.moved for each in pairs if each.moved is not None]
    if len(known) < len(pairs):
        return {}
    moved = np.concatenate(known) > MOVED_M
    return {
        f"accept_rate_{name}": _rates(accepted[rows], lead[rows])
        for name, rows in (("moved", moved), ("still", ~moved))
    }


def predictor_figures(pairs: Sequence[PairFigures]) -> dict[str, Any]:
    """How good the predictor is: by lead, of every view.

    Keys: "explained": 1 − Σ error² / Σ change²; "median_change", "median_error".
    """
    lead = np.concatenate([each.lead for each in pairs])
    change = np.concatenate([each.change for each in pairs])
    error = np.concatenate([each.error for each in pairs])
    figures: dict[str, Any] = {"explained": {}, "median_change": {}, "median_error": {}}
    for n in np.unique(lead):
        rows = lead == n
        total = np.square(change[rows]).sum(axis=0)
        left = np.square(error[rows]).sum(axis=0) / np.maximum(total, 1e-12)
        figures["explained"][str(n)] = (1 - left).tolist()
        figures["median_change"][str(n)] = np.median(change[rows], axis=0).tolist()
        figures["median_error"][str(n)] = np.median(error[rows], axis=0).tolist()
    return figures


@dataclass(frozen=True)
class Examination:
    """What a calibrated gate did on a dataset."""

    pairs: list[PairFigures]
    calibration: Calibration
    views: tuple[str, ...]
    seed: int

    def figures(self) -> dict[str, Any]:
        """Predictor and gate figures."""
        gate = gate_figures(self.pairs, self.calibration.threshold, self.calibration.bound)
        return predictor_figures(self.pairs) | gate


def examine_gate(
    checkpoint: Path, dataset: Path, device: str = "auto", tasks: Sequence[str] | None = None
) -> Examination:
    """Put a calibrated gate to every pair of frames of another dataset, or of some of its tasks.

    Raises:
        ConfigError: the policy has no calibrated predictor, or the dataset does not fit it.
        DatasetError: the dataset is missing, damaged or empty.
    """
    policy = load_policy(checkpoint, device=device_named(device))
    if policy.predictor is None or not policy.spec.thresholds:
        raise ConfigError(f"{checkpoint} has no calibrated saliency predictor beside it")
    found = load_saliency(saliency_path(checkpoint), policy).calibration
    assert found is not None  # its thresholds are attached
    demonstrations = load_dataset(dataset, tasks)
    require_fit(policy, demonstrations)
    pairs = every_pair(
        policy, policy.predictor, demonstrations, demonstrations.episodes, found.longest_lead
    )
    return Examination(pairs, found, policy.spec.views, demonstrations.meta.seed)


def require_fit(policy: ModelPolicy, demonstrations: Demonstrations) -> None:
    """Raise `ConfigError` unless the dataset shows what the policy was made for."""
    meta, spec = demonstrations.meta, policy.spec
    pairs = (
        ("action space", spec.action_space, meta.action_space),
        ("views", spec.views, tuple(meta.views)),
        ("image size", spec.image_size, tuple(meta.image_size)),
    )
    for what, expected, found in pairs:
        if expected != found:
            raise ConfigError(f"the policy has {what} {expected}, the dataset {found}")
