"""Train and calibrate the saliency predictor of a policy (`model.saliency`).

    frames      t ─────────────── t + j                      1 ≤ j ≤ longest lead
    frozen vision      tokens_t          tokens_{t+j}
    predictor          tokens_t, motion of actions t … t+j−1  →  Δ
    loss               mean squared error of tokens_t + Δ against tokens_{t+j}

Everything random in step n is drawn from (seed, n), so a resumed training follows the curve of an
uninterrupted one. What the calibration guarantees, and why: docs/decisions/0020.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from streamvla.core.clock import SystemClock
from streamvla.core.errors import CheckpointError, ConfigError, DatasetError
from streamvla.core.files import require_writable
from streamvla.data.demonstrations import Demonstrations, Episode
from streamvla.data.fingerprint import fingerprint
from streamvla.data.store import load_dataset
from streamvla.model.checkpoint import (
    SCHEMA_VERSION,
    load_tensors,
    provenance_of,
    save_tensors,
)
from streamvla.model.saliency import Calibration, SaliencyConfig, SaliencyPredictor
from streamvla.policy.base import ModelPolicy, policy_for, require_single_observations
from streamvla.policy.saliency import (
    SaliencyCheckpoint,
    saliency_path,
    save_saliency,
)
from streamvla.policy.shipped import identify
from streamvla.policy.transforms import to_images
from streamvla.training.anticipation.freshness import require_fresh, warn_of_seen
from streamvla.training.anticipation.gate import (
    PairFigures,
    calibrated,
    every_pair,
    large_bound,
    longest_changes,
    motion_of,
    pixels_of,
    predictor_figures,
    require_fit,
    tokens_of,
)
from streamvla.training.batches import split_holdout
from streamvla.training.interrupts import stop_on_interrupt
from streamvla.training.optimiser import (
    OptimiserConfig,
    learning_rate,
    make_optimiser,
    update_average,
)
from streamvla.training.progress import ProgressReport
from streamvla.training.provenance import provenance
from streamvla.training.trainer import device_named


@dataclass(frozen=True)
class SaliencySize:
    """The sizes of `SaliencyConfig` that do not follow from the policy."""

    width: int = 128
    layers: int = 3
    heads: int = 4
    expansion: int = 4
    condition_width: int = 128


@dataclass(frozen=True)
class SaliencyTraining:
    """One training.

    Attributes:
        checkpoint: the policy whose tokens are predicted; it stays as it is.
        dataset: demonstrations, best the policy's own.
        calibration: demonstrations to calibrate on that neither policy nor predictor has seen;
            None for the last `holdout_per_task` episodes of every task of `dataset`.
        out: the predictor's file; None for beside the policy.
        steps: optimiser steps in all.
        batch_size: frames t a step; `pairs` of them with different j each.
        longest_lead: largest j.
        holdout_per_task: episodes of every task that training leaves out.
        miss_rate, tail: of the calibration (`Calibration`).
        save_every: steps between saves.
        resume: go on from the state beside the predictor's file.
    """

    checkpoint: Path
    dataset: Path
    calibration: Path | None = None
    out: Path | None = None
    steps: int = 4000
    seed: int = 0
    tasks: tuple[str, ...] | None = None
    batch_size: int = 32
    pairs: int = 2
    longest_lead: int = 6
    holdout_per_task: int = 6
    miss_rate: float = 0.1
    tail: float = 0.05
    size: SaliencySize = field(default_factory=SaliencySize)
    optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(lr=1e-3, warmup_steps=200)
    )
    device: str = "auto"
    autocast: bool = True
    threads: int | None = None
    save_every: int = 500
    log_every: int = 50
    resume: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "pairs", "longest_lead", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"saliency {name} is {getattr(self, name)}; expected at least 1")
        for name in ("miss_rate", "tail"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"saliency {name} is {getattr(self, name)}; expected 0 to 1")
        if self.holdout_per_task < 1:
            raise ConfigError(f"holdout_per_task is {self.holdout_per_task}; expected at least 1")

    @property
    def path(self) -> Path:
        """The predictor's file."""
        return self.out or saliency_path(self.checkpoint)

    @property
    def state_path(self) -> Path:
        """What a training is resumed from."""
        return self.path.with_suffix(".state.safetensors")

    def recipe(self) -> dict[str, Any]:
        """What decides the weights, as JSON."""
        names = ("steps", "seed", "tasks", "batch_size", "pairs", "longest_lead")
        more = ("holdout_per_task", "size", "optimiser", "autocast")
        fields = asdict(self)
        return json.loads(json.dumps({name: fields[name] for name in (*names, *more)}))


@dataclass(frozen=True)
class SaliencyResult:
    """What a training came to.

    Attributes:
        finished: false when a signal stopped it; the same command with `resume` goes on.
        calibration: None while unfinished, or if there is too little to calibrate on (`why_not`).
        figures: of the predictor on the calibration episodes.
        stopped_by: the number of the signal that stopped it.
    """

    path: Path
    step: int
    finished: bool
    calibration: Calibration | None
    why_not: str
    figures: Mapping[str, Any]
    stopped_by: int | None = None


def train_saliency(config: SaliencyTraining) -> SaliencyResult:
    """Train until `steps` or a signal, with a state to resume from; then calibrate, and only then
    write the predictor.

    A finished training that is resumed is calibrated again, with the settings given now; if that
    fails, the predictor stays as it was.

    Raises:
        DatasetError: the dataset is missing, damaged, or too small.
        ConfigError: the dataset does not fit the policy, a predictor or a training is in the way,
            settings differ on resuming, or what is to be calibrated on was trained on.
        CheckpointError: policy or state are missing or damaged.
        FileError: a file cannot be written; those of the last save are whole.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    for path in (config.path, config.state_path):
        require_writable(path)  # now, not at the first save
    policy = load_policy_alone(config.checkpoint, config.device)
    demonstrations = load_dataset(config.dataset, config.tasks)
    require_fit(policy, demonstrations)
    trainer = SaliencyTrainer(config, policy, demonstrations)
    trainer.prepare()
    report = ProgressReport("saliency", trainer.step, config.steps, SystemClock())
    with stop_on_interrupt() as stop, report:
        while trainer.step < config.steps and not stop.is_set():
            trainer.advance()
            report.advance(trainer.step, trainer.note)
        trainer.save_state()
    finished = trainer.step >= config.steps
    calibration, why_not, figures = None, "", {}
    if finished:
        calibration, why_not, figures = trainer.calibrate()
        if calibration is not None or not config.path.exists():
            trainer.save(calibration, figures)
        else:
            why_not = f"{why_not}; {config.path} stays as it was"
    stopped_by = None if finished else stop.number
    return SaliencyResult(
        config.path, trainer.step, finished, calibration, why_not, figures, stopped_by
    )


def load_policy_alone(checkpoint: Path, device: str = "auto") -> ModelPolicy:
    """The policy; a predictor that may lie beside it is about to be replaced.

    Raises:
        ConfigError: it remembers.
    """
    from streamvla.model.checkpoint import load_checkpoint

    found = load_checkpoint(checkpoint)
    parts = (found.build_model(), found.spec, found.method, found.normalisation)
    policy = policy_for(*parts, device_named(device))
    require_single_observations(policy, "train-saliency")
    return policy


class SaliencyTrainer:
    """The state of one training: weights, their average, the optimiser, and the step count."""

    def __init__(
        self, config: SaliencyTraining, policy: ModelPolicy, demonstrations: Demonstrations
    ) -> None:
        self.config = config
        self.policy = policy
        self.demonstrations = demonstrations
        self.training: list[Episode]
        self.held_out: list[Episode]
        self.training, self.held_out = split_holdout(demonstrations, config.holdout_per_task)
        self._frames = _eligible(self.training)
        self.policy.model.requires_grad_(False)
        torch.manual_seed(config.seed)
        self.predictor: SaliencyPredictor = SaliencyPredictor(self._size()).to(policy.device)
        self.average: SaliencyPredictor = copy.deepcopy(self.predictor).requires_grad_(False)
        self.optimiser: Final = make_optimiser(self.predictor, config.optimiser)
        self.provenance: dict[str, Any] = dict(provenance())
        self.step: int = 0
        self._losses: list[float] = []
        self._calibrated_on: Mapping[str, Any] = {}

    def _size(self) -> SaliencyConfig:
        with torch.inference_mode():
            seen = tokens_of(self.policy, self.demonstrations, self.training[0], [0])
        views, tokens, width = seen.shape[1:]
        sizes = asdict(self.config.size)
        return SaliencyConfig(views, tokens, width, self.policy.spec.action_space.dim, **sizes)

    def prepare(self) -> None:
        """Check what lies at the predictor's path, and resume if asked to."""
        path = self.config.state_path
        if not self.config.resume:
            if path.exists():
                raise ConfigError(
                    f"{path} holds a training already. Go on with --resume, or delete it."
                )
            if self.config.path.exists():
                raise ConfigError(
                    f"{self.config.path} holds a predictor already. Delete it, or name another "
                    "file with --out."
                )
            return
        header, tensors = load_tensors(path)
        expected = {
            "recipe": self.config.recipe(),
            "policy": identify(self.config.checkpoint)["sha256"],
            "dataset": json.loads(json.dumps(fingerprint(self.demonstrations))),
        }
        for name, value in expected.items():
            if header.get(name) != value:
                raise ConfigError(
                    f"{path} was made with another {name}. Resume with the same one, or delete it."
                )
        self._restore(path, header, tensors)

    def advance(self) -> None:
        """One step; saves when that is due."""
        self._losses = [*self._losses[-self.config.log_every :], self._optimise()]
        self.step += 1
        if self.step % self.config.save_every == 0 and self.step < self.config.steps:
            self.save_state()

    def note(self) -> str:
        """How it stands, over the last `log_every` steps."""
        return f"{np.mean(self._losses):.3f} of the change unexplained"

    def _optimise(self) -> float:
        """Returns the squared error relative to the squared change."""
        before, after, motion = self._batch(self.step)
        self.predictor.train()
        device = self.policy.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.config.autocast):
            predicted = self.predictor(before, motion)
        change = after - before
        loss = (predicted.float() - change).square().mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.predictor.parameters(), self.config.optimiser.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.config.steps, self.config.optimiser)
        self.optimiser.step()
        update_average(
            self.average.parameters(),
            self.predictor.parameters(),
            self.step,
            self.config.optimiser.ema_decay,
        )
        return float(loss.detach() / change.square().mean().clamp(min=1e-12))

    def _batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens now and later (b·m, v, l, w), and motions (b·m, d) at unit scale."""
        config, rng = self.config, np.random.default_rng([self.config.seed, step])
        tasks = list(self._frames)
        images, states, motions, said = [], [], [], []
        for task in rng.choice(len(tasks), config.batch_size):
            frames = self._frames[tasks[task]]
            index, t = (int(number) for number in frames[rng.integers(len(frames))])
            episode = self.training[index]
            longest = min(config.longest_lead, len(episode) - 1 - t)
            leads = rng.integers(1, longest + 1, config.pairs)
            chosen = [t, *(t + leads)]
            images.append(pixels_of(episode, self.policy, chosen))
            states.append(episode.state[chosen])
            phrasings = self.demonstrations.meta.instructions_of(episode)
            said += [phrasings[rng.integers(len(phrasings))]] * (1 + config.pairs)
            motions.append(np.stack([motion_of(self.demonstrations, episode, t, j) for j in leads]))
        with torch.inference_mode():
            pixels = torch.from_numpy(np.concatenate(images)).to(self.policy.device)
            words = self.policy.model.tokenise(said).to(self.policy.device)
            seen = self._look(pixels, np.concatenate(states), words).unflatten(
                0, (config.batch_size, -1)
            )  # (b, 1+m, v, l, w)
        seen = seen.clone()  # out of inference mode
        before = seen[:, :1].expand(-1, config.pairs, -1, -1, -1).flatten(0, 1)
        motion = self.policy.normalisation.normalise_action_state(np.concatenate(motions))
        return before, seen[:, 1:].flatten(0, 1), torch.from_numpy(motion).to(self.policy.device)

    def _look(self, pixels: Tensor, states: np.ndarray, words: Tensor) -> Tensor:
        device = self.policy.device.type
        images = to_images(pixels, states, self.policy.model.crops)
        with torch.autocast(device, torch.bfloat16, enabled=self.config.autocast):
            return self.policy.model.look(images, words).float()

    # --- calibrating ---------------------------------------------------------------------------

    def calibrate(self) -> tuple[Calibration | None, str, dict[str, Any]]:
        """Thresholds from episodes that neither policy nor predictor has seen.

        Returns the calibration or why there is none, and the predictor's figures.
        """
        config = self.config
        held_out, source = self.held_out, self.demonstrations
        policy = provenance_of(config.checkpoint)
        if config.calibration is None:
            warn_of_seen(held_out, policy)
        if config.calibration is not None:
            source = load_dataset(config.calibration, config.tasks)
            require_fit(self.policy, source)
            held_out = list(source.episodes)
            require_fresh(config.calibration, source, self.training, policy)
            self._calibrated_on = fingerprint(source)
        changes = [
            longest_changes(self.policy, self.demonstrations, episode, config.longest_lead)
            for episode in _evenly(self.training, 100)
        ]
        bound = large_bound(np.concatenate(changes), config.tail)
        pairs = self._measure(held_out, source)
        figures = predictor_figures(pairs)
        try:
            calibration = calibrated(
                pairs, bound, config.miss_rate, config.tail, config.longest_lead, figures
            )
        except ConfigError as error:
            return None, str(error), figures
        return calibration, "", figures

    def _measure(
        self, episodes: Sequence[Episode], demonstrations: Demonstrations
    ) -> list[PairFigures]:
        leads = self.config.longest_lead
        return every_pair(self.policy, self.average, demonstrations, episodes, leads)

    # --- files ---------------------------------------------------------------------------------

    def save(self, calibration: Calibration | None, figures: Mapping[str, Any]) -> None:
        """Write the averaged predictor."""
        told = {
            **self.provenance,
            "training": self.config.recipe(),
            "dataset": fingerprint(self.demonstrations),
            "calibrated_on": dict(self._calibrated_on),
            "step": self.step,
            "figures": dict(figures),
        }
        weights = self.average.state_dict()
        save_saliency(
            self.config.path,
            SaliencyCheckpoint(
                self.predictor.config,
                weights,
                identify(self.config.checkpoint),
                self.policy.sight_digest(),
                calibration,
                told,
            ),
        )

    def save_state(self) -> None:
        """Write the state to resume from."""
        header = {
            "schema_version": SCHEMA_VERSION,
            "step": self.step,
            "recipe": self.config.recipe(),
            "policy": identify(self.config.checkpoint)["sha256"],
            "dataset": fingerprint(self.demonstrations),
            "provenance": self.provenance,
        }
        save_tensors(self.config.state_path, dict(self._state()), header)

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        for name, value in self.predictor.state_dict().items():
            yield f"weights.{name}", value
        for name, value in self.average.state_dict().items():
            yield f"average.{name}", value
        for index, moments in self.optimiser.state_dict()["state"].items():
            for name, value in moments.items():
                yield f"optimiser.{index}.{name}", torch.as_tensor(value)

    def _restore(
        self, path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> None:
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "average": {}, "optimiser": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["optimiser"].items():
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = tensor
        try:
            self.predictor.load_state_dict(parts["weights"])
            self.average.load_state_dict(parts["average"])
            optimiser = self.optimiser.state_dict() | {"state": moments}
            self.optimiser.load_state_dict(optimiser)
            self.step = int(header["step"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(f"{path}: not the state of this training ({error})") from error
        again = list(header["provenance"].get("resumed", ()))
        self.provenance = {**header["provenance"], "resumed": [*again, dict(provenance())]}


def _eligible(episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
    """Task → (frames, 2) episode number and frame that has a successor."""
    pairs: dict[str, list[np.ndarray]] = {}
    for number, episode in enumerate(episodes):
        t = np.arange(len(episode) - 1)
        pairs.setdefault(episode.task, []).append(np.stack([np.full_like(t, number), t], axis=1))
    frames = {task: np.concatenate(parts) for task, parts in pairs.items()}
    if not frames or not all(map(len, frames.values())):
        raise DatasetError("the dataset has no episode of two frames; collect some")
    return frames


def _evenly(episodes: Sequence[Episode], most: int) -> list[Episode]:
    chosen = np.linspace(0, len(episodes) - 1, min(most, len(episodes))).round().astype(int)
    return [episodes[index] for index in chosen]
