"""Train and calibrate the learned gate of skipping (`model.skip_gate`).

    frame       t−a ───────── t ──── t+n … t+n+H−1       a the age, n actions pending at t
    kept        seen                 actions, told that they start from frames a + n old
    fresh                     seen   actions, told n
    error                            mean |kept − fresh| / action scale, over H actions

The expert's executed actions lead from t−a to t+n, and stand for what is pending; action states are
summed up from where the episode began (`Demonstrations.action_states`). An error beyond B is
*harmful*; B is the level that all but a share `tail` of the errors at age 1 stay below: what the
policy's own choice varies by from one frame to the next. What the calibration guarantees, and why,
is docs/decisions/0020, with harmful observations for large changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from streamvla.core.errors import ConfigError, DatasetError
from streamvla.core.files import require_writable
from streamvla.core.interfaces import Observation
from streamvla.data.demonstrations import Demonstrations, Episode
from streamvla.data.fingerprint import fingerprint
from streamvla.data.store import load_dataset
from streamvla.model.checkpoint import load_checkpoint, provenance_of
from streamvla.model.skip_gate import SkipCalibration, SkipGate, SkipGateConfig, summary_of
from streamvla.policy.base import ModelPolicy, policy_for, require_single_observations
from streamvla.policy.shipped import identify
from streamvla.policy.skip_gate import (
    SkipGateCheckpoint,
    features_of,
    load_skip_gate,
    save_skip_gate,
    skip_gate_path,
)
from streamvla.training.anticipation.conformal import least_episodes, risk_controlled_threshold
from streamvla.training.anticipation.freshness import require_fresh, warn_of_seen
from streamvla.training.anticipation.gate import motion_of, require_fit
from streamvla.training.batches import split_holdout
from streamvla.training.provenance import provenance
from streamvla.training.trainer import device_named

_FLOOR = 1e-3
"""Added to errors before their logarithm, in units of the action scale."""
_ENCODED_AT_ONCE = 16


@dataclass(frozen=True)
class SkipTraining:
    """One training.

    Attributes:
        checkpoint: the policy; it stays as it is.
        dataset: demonstrations that the policy fits, best its own.
        calibration: demonstrations that neither policy nor gate has seen; None for the last
            `holdout_per_task` episodes of every task of `dataset`.
        out: the gate's file; None for beside the policy.
        observations: frames t of training episodes; each gives two samples, of age 1 and of more.
        calibration_observations: of every calibration episode.
        steps: optimiser steps.
        cycle: control periods between observations at run time; ages are mostly one or two cycles.
        longest_age, longest_lead: largest a and n.
        miss_rates: α, each with a threshold of its own.
        tail: see `SkipCalibration`.
        size: what does not follow from the policy; the first two numbers are ignored.
    """

    checkpoint: Path
    dataset: Path
    calibration: Path | None = None
    out: Path | None = None
    tasks: tuple[str, ...] | None = None
    observations: int = 3000
    calibration_observations: int = 12
    steps: int = 1500
    batch_size: int = 256
    cycle: int = 10
    longest_age: int = 23
    longest_lead: int = 6
    holdout_per_task: int = 6
    miss_rates: tuple[float, ...] = (0.1, 0.2, 0.3)
    tail: float = 0.05
    components: int = 24
    width: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.05
    seed: int = 0
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        names = ("observations", "calibration_observations", "steps", "batch_size", "cycle")
        for name in (*names, "holdout_per_task"):
            if getattr(self, name) < 1:
                raise ConfigError(f"skip gate {name} is {getattr(self, name)}; expected at least 1")
        if self.longest_age < 2 or self.longest_lead < 0:
            raise ConfigError(
                f"skip gate longest_age {self.longest_age}, longest_lead {self.longest_lead}; "
                "expected at least 2 and 0"
            )
        if not self.miss_rates or not all(0 < each < 1 for each in (*self.miss_rates, self.tail)):
            raise ConfigError(
                f"skip gate miss_rates {self.miss_rates}, tail {self.tail}; expected numbers "
                "between 0 and 1, and one rate at least"
            )

    @property
    def path(self) -> Path:
        """The gate's file."""
        return self.out or skip_gate_path(self.checkpoint)

    @property
    def draws(self) -> Draws:
        return Draws(self.cycle, self.longest_age, self.longest_lead)


@dataclass(frozen=True)
class Draws:
    """How samples are drawn, as of `SkipTraining`."""

    cycle: int
    longest_age: int
    longest_lead: int

    def draw(self, rng: np.random.Generator, last: int) -> tuple[int, int, int]:
        """Age from 2 on, lead, and frame t from the age to `last`: one cycle and two are drawn in
        two cases of three, where they are not longer than the episode."""
        longest = min(self.longest_age, last)
        cycles = [age for age in (self.cycle, 2 * self.cycle) if 2 <= age <= longest]
        usual = cycles and rng.random() < 2 / 3
        age = int(rng.choice(cycles) if usual else rng.integers(2, longest + 1))
        return age, int(rng.integers(0, self.longest_lead + 1)), int(rng.integers(age, last + 1))


@dataclass(frozen=True)
class SkipSamples:
    """What skipping an observation would have done, n samples.

    Attributes:
        features: (n, f) of `features_of`; summary: (n, w) of the kept context.
        error: (n,) mean |kept − fresh| in units of the action scale.
        excess: (n,) mean |kept − expert| less mean |fresh − expert|, in the same units.
        age: (n,) control periods.
        episode: (n,) which of the episodes.
    """

    features: np.ndarray
    summary: np.ndarray
    error: np.ndarray
    excess: np.ndarray
    age: np.ndarray
    episode: np.ndarray

    def only(self, rows: np.ndarray) -> SkipSamples:
        """Those rows."""
        return SkipSamples(*(each[rows] for each in vars(self).values()))


def skip_samples(
    policy: ModelPolicy,
    demonstrations: Demonstrations,
    episodes: Sequence[Episode],
    observations: Sequence[int],
    draws: Draws,
    seed: int,
) -> SkipSamples:
    """Samples at frames drawn evenly from episodes, up to where their task was reached.

    Args:
        observations: so many frames t of each episode; too short ones give none.

    Raises:
        DatasetError: no episode is long enough.
    """
    rng = np.random.default_rng(seed)
    groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for number, (episode, count) in enumerate(zip(episodes, observations, strict=True)):
        last = min(episode.success_step, len(episode) - 1) - draws.longest_lead
        for _ in range(count if last >= 2 else 0):
            age, lead, t = draws.draw(rng, last)
            groups.setdefault((age, lead), []).append((number, t))
    if not groups:
        raise DatasetError(
            f"no episode has {draws.longest_lead + 3} frames before its task is reached; collect "
            "longer ones, or choose a smaller --longest-lead"
        )
    probe = _Probe(policy, demonstrations, episodes)
    return _joined(
        probe.samples(frames[begin : begin + _ENCODED_AT_ONCE], lead, age)
        for (age, lead), frames in sorted(groups.items())
        for begin in range(0, len(frames), _ENCODED_AT_ONCE)
    )


@dataclass(frozen=True)
class _Probe:
    policy: ModelPolicy
    demonstrations: Demonstrations
    episodes: Sequence[Episode]
    kept_states: dict[int, np.ndarray] = field(default_factory=dict[int, np.ndarray])

    def samples(self, frames: Sequence[tuple[int, int]], lead: int, age: int) -> SkipSamples:
        """Of frames (episode, t), at age 1 and this."""
        start = np.stack([self._states(number)[t + lead] for number, t in frames])
        fresh, _ = self._actions(frames, start, 0, lead)
        return _joined(self._aged(frames, start, fresh, lead, age) for age in (1, age))

    def _aged(
        self,
        frames: Sequence[tuple[int, int]],
        start: np.ndarray,
        fresh: np.ndarray,
        lead: int,
        age: int,
    ) -> SkipSamples:
        policy = self.policy
        kept, summary = self._actions(frames, start, age, lead)
        scale = np.array(policy.normalisation.action_scale)
        error = (np.abs(kept - fresh) / scale).mean(axis=(1, 2))
        excess = np.zeros(len(frames))
        states: list[list[np.ndarray]] = [[], [], [], [], []]
        for row, (number, t) in enumerate(frames):
            episode, commands = self.episodes[number], self._states(number)
            label = episode.label[t + lead : t + lead + policy.spec.horizon]
            off = [np.abs(made[row, : len(label)] - label) / scale for made in (kept, fresh)]
            excess[row] = off[0].mean() - off[1].mean()
            pending = self._pending(number, t, lead)
            found = (episode.state[t - age], episode.state[t], commands[t - age], commands[t])
            for column, value in zip(states, (*found, pending), strict=True):
                column.append(value)
        then, now, told_then, told_now, pending = (np.stack(column) for column in states)
        many = np.full(len(frames), age)
        features = features_of(
            policy.spec,
            policy.normalisation,
            many,
            (then, now),
            (told_then, told_now),
            pending,
        )
        numbers = np.array([number for number, _ in frames])
        return SkipSamples(features, summary, error, excess, many, numbers)

    def _pending(self, number: int, t: int, lead: int) -> np.ndarray:
        space, states = self.policy.spec.action_space, self._states(number)
        if not lead:
            return np.zeros(space.dim)
        motion = motion_of(self.demonstrations, self.episodes[number], t, lead)
        return np.where(space.is_delta(), motion, motion - states[t])

    def _actions(
        self, frames: Sequence[tuple[int, int]], start: np.ndarray, age: int, lead: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """(b, h, d) from frames `age` before t, and (b, w) the summary of their contexts."""
        policy = self.policy
        observations = [self._observation(number, t - age) for number, t in frames]
        context = policy.encode_batch(observations)
        with torch.inference_mode():
            summary = summary_of(context.prefix).cpu().numpy()
        generation = policy.generate_batch(context, start, age=age + lead)
        made = np.stack(list(islice(generation, policy.spec.horizon)), axis=1)
        return made, summary

    def _states(self, number: int) -> np.ndarray:
        if number not in self.kept_states:
            self.kept_states[number] = self.demonstrations.action_states(self.episodes[number])
        return self.kept_states[number]

    def _observation(self, number: int, t: int) -> Observation:
        meta, episode = self.demonstrations.meta, self.episodes[number]
        return Observation(
            images={view: np.asarray(episode.images[view][t]) for view in meta.views},
            state=episode.state[t],
            action_state=self._states(number)[t],
            instruction=meta.instructions_of(episode)[0],
            captured_ns=t * meta.control_period_ns,
        )


def _joined(parts: Iterator[SkipSamples]) -> SkipSamples:
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return SkipSamples(*(np.concatenate(column) for column in columns))


# --- the gate --------------------------------------------------------------------------------


def fit_gate(samples: SkipSamples, config: SkipTraining) -> SkipGate:
    """A gate that expects the log error of these samples: squared loss, cosine schedule."""
    torch.manual_seed(config.seed)
    size = SkipGateConfig(
        samples.features.shape[1], samples.summary.shape[1], config.components, config.width
    )
    gate = SkipGate(size)
    features, summary = torch.from_numpy(samples.features), torch.from_numpy(samples.summary)
    target = torch.from_numpy(np.log(samples.error + _FLOOR).astype(np.float32))
    gate.fit_scales(features, summary)
    optimiser = torch.optim.AdamW(gate.parameters(), config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    rng = np.random.default_rng(config.seed)
    gate.train()
    for _ in range(config.steps):
        rows = torch.from_numpy(rng.integers(0, len(target), config.batch_size))
        loss = (gate(features[rows], summary[rows]) - target[rows]).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return gate.eval()


def expected_errors(gate: SkipGate, samples: SkipSamples) -> np.ndarray:
    """(n,) expected log errors."""
    with torch.inference_mode():
        features, summary = torch.from_numpy(samples.features), torch.from_numpy(samples.summary)
        return gate(features, summary).double().numpy()


def harm_bound(samples: SkipSamples, tail: float) -> float:
    """B: all but the `tail` of the errors at age 1 lie below it."""
    return float(np.quantile(samples.error[samples.age == 1], 1 - tail))


def harmful_scores(samples: SkipSamples, expected: np.ndarray, bound: float) -> list[np.ndarray]:
    """Of every episode that has some, the expected errors of its harmful samples beyond age 1."""
    harmful = (samples.error > bound) & (samples.age > 1)
    return [
        expected[harmful & (samples.episode == number)]
        for number in np.unique(samples.episode[harmful])
    ]


def thresholds_of(scores: Sequence[np.ndarray], miss_rates: Sequence[float]) -> dict[float, float]:
    """η by miss rate.

    Raises:
        ConfigError: too few episodes for the smallest of them.
    """
    needed = least_episodes(min(miss_rates))
    if len(scores) < needed:
        raise ConfigError(
            f"only {len(scores)} calibration episodes have an observation that is harmful to skip, "
            f"and {needed} are needed for a miss rate of {min(miss_rates):g}: calibrate on more "
            "episodes (--calibration, --holdout-per-task), or raise --miss-rates"
        )
    return {rate: risk_controlled_threshold(scores, rate) for rate in miss_rates}


def gate_figures(
    samples: SkipSamples, expected: np.ndarray, bound: float, thresholds: Mapping[float, float]
) -> dict[str, Any]:
    """What a gate does on some episodes, of samples beyond age 1.

    Keys: "samples"; "episodes" with a harmful one; "harmful", their share by age; "rank
    correlation" of expected and true error; by miss rate: "skipped", the share; "miss_rate", the
    mean over episodes of the share of their harmful samples that is skipped, and "miss_rate_ci",
    its 95 % interval (normal, over episodes); "error_of_skipped", "excess_of_skipped": means.
    None: of nothing, as where the gate skips nothing or no episode has a harmful sample.
    """
    beyond = samples.age > 1
    samples, expected = samples.only(beyond), expected[beyond]
    harmful = samples.error > bound
    scores = harmful_scores(samples, expected, bound)
    figures: dict[str, Any] = {
        "samples": len(expected),
        "episodes": len(scores),
        "harmful": {
            str(age): float(harmful[samples.age == age].mean()) for age in np.unique(samples.age)
        },
        "rank_correlation": _rank_correlation(expected, samples.error),
        "rates": {},
    }
    for rate, eta in thresholds.items():
        skipped = expected <= eta
        shares = np.array([(each <= eta).mean() for each in scores])
        figures["rates"][str(rate)] = {
            "skipped": float(skipped.mean()),
            "miss_rate": _mean(shares),
            "miss_rate_ci": _mean_interval(shares),
            "harmful_when_skipped": _mean(harmful[skipped]),
            "error_of_skipped": _mean(samples.error[skipped]),
            "excess_of_skipped": _mean(samples.excess[skipped]),
        }
    return figures


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def _mean_interval(shares: np.ndarray) -> tuple[float, float] | None:
    """95 %, normal; of a single share everything from 0 to 1."""
    if shares.size < 2:
        return (0.0, 1.0) if shares.size else None
    mean, half = float(shares.mean()), 1.96 * float(shares.std(ddof=1)) / math.sqrt(shares.size)
    return max(0.0, mean - half), min(1.0, mean + half)


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """Spearman's, ties by order; None of fewer than two."""
    if len(one) < 2:
        return None
    ranks = np.stack([each.argsort().argsort() for each in (one, other)]).astype(float)
    return float(np.corrcoef(ranks)[0, 1])


# --- the command's two ways ------------------------------------------------------------------


@dataclass(frozen=True)
class SkipTrained:
    """What a training came to."""

    path: Path
    calibration: SkipCalibration


def train_skipping(config: SkipTraining) -> SkipTrained:
    """Make samples, train, calibrate, and write the gate; minutes, mostly for the samples.

    Raises:
        DatasetError: the dataset is missing, damaged, or too small.
        ConfigError: the dataset does not fit the policy, the policy knows no ages, a gate is in the
            way, too few calibration episodes, or some that were trained on.
        CheckpointError: the policy is missing or damaged.
        FileError: the file cannot be written.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    require_writable(config.path)
    if config.path.exists():
        raise ConfigError(
            f"{config.path} holds a gate already. Delete it, or name another file with --out."
        )
    policy = _policy_alone(config.checkpoint, config.device)
    demonstrations = load_dataset(config.dataset, config.tasks)
    require_fit(policy, demonstrations)
    training, held_out = split_holdout(demonstrations, config.holdout_per_task)
    source = demonstrations
    if config.calibration is not None:
        source = load_dataset(config.calibration, config.tasks)
        require_fit(policy, source)
        held_out = list(source.episodes)
        require_fresh(config.calibration, source, training, provenance_of(config.checkpoint))
    else:
        warn_of_seen(held_out, provenance_of(config.checkpoint))
    counts = _spread(config.observations, len(training), config.seed)
    samples = skip_samples(policy, demonstrations, training, counts, config.draws, config.seed)
    gate = fit_gate(samples, config)
    bound = harm_bound(samples, config.tail)
    counts = [config.calibration_observations] * len(held_out)
    fresh = skip_samples(policy, source, held_out, counts, config.draws, config.seed + 1)
    expected = expected_errors(gate, fresh)
    thresholds = thresholds_of(harmful_scores(fresh, expected, bound), config.miss_rates)
    figures = gate_figures(fresh, expected, bound, thresholds)
    calibration = SkipCalibration(
        bound,
        config.tail,
        thresholds,
        config.longest_age,
        config.longest_lead,
        figures["episodes"],
        figures,
    )
    _save(config, policy, gate, calibration, demonstrations, source)
    return SkipTrained(config.path, calibration)


def examine_skipping(
    checkpoint: Path,
    dataset: Path,
    gate: Path | None = None,
    device: str = "auto",
    tasks: Sequence[str] | None = None,
    observations: int = 12,
    cycle: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """Put a calibrated gate to another dataset, or to some of its tasks: `gate_figures`.

    Raises:
        ConfigError: no observations, or the dataset does not fit the policy.
        CheckpointError: the gate is missing, damaged, or another policy's.
        DatasetError: the dataset is missing, damaged, or its episodes are too short.
    """
    if observations < 1:
        raise ConfigError(
            f"skip gate calibration_observations is {observations}; expected at least 1"
        )
    policy = _policy_alone(checkpoint, device)
    found = load_skip_gate(gate or skip_gate_path(checkpoint), policy)
    demonstrations = load_dataset(dataset, tasks)
    require_fit(policy, demonstrations)
    given = found.calibration
    draws = Draws(cycle, given.longest_age, given.longest_lead)
    episodes = demonstrations.episodes
    counts = [observations] * len(episodes)
    samples = skip_samples(policy, demonstrations, episodes, counts, draws, seed)
    expected = expected_errors(found.build(), samples)
    return gate_figures(samples, expected, given.bound, given.thresholds)


def _policy_alone(checkpoint: Path, device: str) -> ModelPolicy:
    """The policy without what may lie beside it.

    Raises:
        ConfigError: it knows no ages, or remembers.
    """
    found = load_checkpoint(checkpoint)
    parts = (found.build_model(), found.spec, found.method, found.normalisation)
    policy = policy_for(*parts, device_named(device))
    require_single_observations(policy, "train-skipping")
    if not policy.spec.max_age:
        raise ConfigError(
            f"{checkpoint} does not know how old an observation is (max_age 0), so none can be "
            "skipped; use a policy that was trained with max_offset above 0"
        )
    return policy


def _spread(total: int, episodes: int, seed: int) -> list[int]:
    """`total` frames over so many episodes, as evenly as it goes; who gets more is drawn."""
    counts = np.full(episodes, total // episodes)
    rng = np.random.default_rng(seed)
    counts[rng.permutation(episodes)[: total % episodes]] += 1
    return counts.tolist()


def _save(
    config: SkipTraining,
    policy: ModelPolicy,
    gate: SkipGate,
    calibration: SkipCalibration,
    demonstrations: Demonstrations,
    calibrated_on: Demonstrations,
) -> None:
    told = {name: value for name, value in asdict(config).items() if not isinstance(value, Path)}
    weights: dict[str, Tensor] = gate.state_dict()
    checkpoint = SkipGateCheckpoint(
        gate.config,
        weights,
        identify(config.checkpoint),
        policy.digest(),
        calibration,
        {
            **provenance(),
            "training": told,
            "dataset": fingerprint(demonstrations),
            "calibrated_on": fingerprint(calibrated_on),
        },
    )
    save_skip_gate(config.path, checkpoint)
