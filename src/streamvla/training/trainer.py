"""Train policies from demonstrations: any method or several at once, one process or several.

    OUT/policy.safetensors            the policy (averaged weights), ready to run
    OUT/METHOD.safetensors            instead, where several methods are trained together
    OUT/best, OUT/checkpoints         of earlier steps (`training/keeping.py`)
    OUT/training_state.safetensors    weights, average, optimiser, and what the data were: to resume
    OUT/log.jsonl                     one line of metrics every `log_every` steps
    OUT/curves.png                    the log as a figure, when it has finished

Everything random in step n is drawn from (seed, n), so a resumed training follows the curve of an
uninterrupted one. Files are replaced atomically: a kill at any instant leaves a training that goes
on from its last save, to the same weights.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from streamvla.core.clock import NS_PER_S, Clock, SystemClock
from streamvla.core.errors import CheckpointError, ConfigError
from streamvla.core.files import require_writable
from streamvla.core.interfaces import PolicySpec
from streamvla.data.fingerprint import fingerprint, seed_ranges
from streamvla.data.store import Demonstrations, Episode, load_datasets
from streamvla.model.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_tensors,
    save_tensors,
)
from streamvla.model.crops import cut
from streamvla.model.interface import Model, ModelConfig
from streamvla.model.methods.base import Method
from streamvla.model.models import make_models
from streamvla.model.normalisation import Normalisation
from streamvla.model.vla import parameter_count
from streamvla.policy.base import ModelPolicy, policy_for
from streamvla.policy.transforms import pixels_to_float
from streamvla.training.anticipation.freshness import TRAINED_ON
from streamvla.training.batches import BatchSampler, split_holdout
from streamvla.training.config import (
    CURVES_NAME,
    LOG_NAME,
    STATE_NAME,
    TRACK_NAME,
    TrainConfig,
)
from streamvla.training.curves import draw_curves
from streamvla.training.distributed import Share, joined_processes
from streamvla.training.holdout import HoldoutProbe
from streamvla.training.initial import start_from
from streamvla.training.interrupts import stop_on_interrupt
from streamvla.training.keeping import write_policies
from streamvla.training.losses import Objective
from streamvla.training.optimiser import (
    learning_rate,
    make_optimiser,
    update_average,
)
from streamvla.training.progress import ProgressReport
from streamvla.training.provenance import provenance
from streamvla.training.record import Log, is_log, require_tensorboard
from streamvla.training.schedule import Schedules
from streamvla.training.state import StateHeader


@dataclass(frozen=True)
class TrainResult:
    """What a training came to.

    Attributes:
        policies: method → its policy.
        step: optimiser steps taken; 0 when it was stopped before the first, and nothing saved.
        finished: false when a signal stopped it; the same command with `resume` goes on.
        holdout: the last held-out action errors (`HoldoutProbe.measure`); of several methods each
            under "METHOD/…".
        best: method → file, step and held-out action error (lead 0) of its best policy.
        stopped_by: the number of the signal that stopped it.
        curves: the figure, if it could be drawn.
    """

    policies: Mapping[str, Path]
    step: int
    finished: bool
    holdout: Mapping[str, float]
    best: Mapping[str, tuple[Path, int, float]]
    stopped_by: int | None = None
    curves: Path | None = None

    @property
    def policy(self) -> Path:
        """The policy of the first method."""
        return next(iter(self.policies.values()))


def train(config: TrainConfig, clock: Clock | None = None) -> TrainResult:
    """Train until `steps` or until a signal asks to end (`training/interrupts.py`); either way the
    policy and the training state are saved.

    Under `torchrun` every process calls this; they share each batch, and the first one saves.
    A resumed training that was finished already leaves its files as they are.

    Raises:
        DatasetError: the dataset is missing, damaged, or too small.
        ConfigError: `out` holds another training, settings or data differ on resuming, or
            TensorBoard is wanted and not installed.
        FileError: a file cannot be written; those of the last save are whole.
        CheckpointError: the state to resume from is missing or damaged.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    demonstrations = load_datasets([config.dataset, *config.more], config.tasks)
    with joined_processes() as share:
        return _train(config, demonstrations, clock or SystemClock(), share)


def _train(
    config: TrainConfig, demonstrations: Demonstrations, clock: Clock, share: Share
) -> TrainResult:
    """`train`, within the processes that share it; the trainer is gone before they part."""
    trainer = Trainer(config, demonstrations, clock, share)
    trainer.prepare()
    drawn_before = (config.out / CURVES_NAME).exists() and trainer.step >= config.steps
    report = ProgressReport("train", trainer.step, config.steps, clock, shown=share.is_main)
    with stop_on_interrupt(shared=share.world > 1) as stop, report:
        while trainer.step < config.steps and not share.any(stop.is_set()):
            trainer.advance()
            report.advance(trainer.step, trainer.note)
        if trainer.step > trainer.saved_step:
            trainer.save()
    trainer.close()
    finished = trainer.step >= config.steps
    curves = config.out / CURVES_NAME
    if finished and share.is_main and not drawn_before:
        drawn_before = draw_curves(config.out / LOG_NAME, curves)
    best = {name: (config.best_paths()[name], *found) for name, found in trainer.best.items()}
    return TrainResult(
        config.policy_paths(),
        trainer.step,
        finished,
        trainer.holdout,
        best,
        stopped_by=None if finished else stop.number,
        curves=curves if drawn_before else None,
    )


class Trainer:
    """The state of one training: weights, their average, the optimiser, and the step count.

    Attributes:
        models, averages: method → model; of each, all but the experts are the same modules.
    """

    def __init__(
        self,
        config: TrainConfig,
        demonstrations: Demonstrations,
        clock: Clock,
        share: Share | None = None,
    ) -> None:
        recorded_space = demonstrations.meta.action_space
        if config.all_delta:
            demonstrations = demonstrations.as_deltas()
        self.config = config
        self.demonstrations = demonstrations
        self.fingerprint: Final = fingerprint(demonstrations)
        self.provenance: dict[str, Any] = dict(provenance())
        self.clock = clock
        self.share: Share = share or Share()
        self.device: Final = device_named(config.device)
        self.methods: dict[str, Method] = {method.name: method for method in config.methods}
        training, held_out = split_holdout(demonstrations, config.holdout_per_task)
        self.trained_on: Final = seed_ranges(training)
        starts = {path: load_checkpoint(path, recorded_space) for path in self._init_paths()}
        for start in starts.values():
            self.provenance["init"] = dict(start.provenance)
        self.normalisation: Normalisation = self._fit_normalisation(
            training, next(iter(starts.values()), None)
        )
        self.probe: Final = HoldoutProbe(
            demonstrations, held_out, config.generation.horizon, config.holdout_frames
        )
        self.model_config: ModelConfig = config.model.model_config(
            demonstrations.meta, config.train
        )
        torch.manual_seed(config.seed)
        self.models: dict[str, Model] = self._new_models()
        self.sampler: Final = BatchSampler(
            demonstrations,
            training,
            self.normalisation,
            config.generation,
            config.sampling,
            config.seed,
            self.model_config.future_steps,
            self.share,
            self._first.tokenise,
            self._first.crops,
            window=0 if config.model.memory is None else config.model.memory.window,
        )
        for path, start in starts.items():
            start_from(self.models, start, f"init {path}", config.train)
        self._hear()
        self._seed_keypoints()
        for model in self.models.values():
            model.train_only(config.train)
        self.averages: dict[str, Model] = copy.deepcopy(self.models)
        self._weights, self._average = nn.ModuleDict(self.models), nn.ModuleDict(self.averages)
        self._average.requires_grad_(False)
        self.optimiser: Final = make_optimiser(self._weights, config.optimiser)
        is_delta = demonstrations.meta.action_space.is_delta()
        objective = Objective(
            self.models,
            self.methods,
            torch.tensor(is_delta, device=self.device),
            config.sampling.chunk_samples,
            config.jitter,
            config.future_weight,
            config.places_weight,
            self.share,
            clip=config.sampling.clip,
            places_alone=config.train == "vision",
        )
        self.objective: nn.Module = self.share.wrap(objective)
        self.step: int = 0
        self.saved_step: int = 0
        self.holdout: dict[str, float] = {}
        self.schedules: Schedules = Schedules(((0, config.steps),))
        self.best: dict[str, tuple[int, float]] = {}
        self._log: Log | None = None
        self._loss = math.nan
        self._logged_ns = clock.now_ns()
        self._timed_from = 0
        self._losses: list[dict[str, torch.Tensor]] = []

    @property
    def _first(self) -> Model:
        """The model of the first method; its context is that of all."""
        return next(iter(self.models.values()))

    def policy(self, name: str) -> ModelPolicy:
        """The averaged weights of a method as they stand, as a policy."""
        method = self.methods[name]
        model = self.averages[name]
        return policy_for(model, self._spec(method), method, self.normalisation, self.device)

    def _init_paths(self) -> list[Path]:
        """The policies to start from: the one named, or in a folder those of these methods."""
        init = self.config.init
        if init is None or not init.is_dir():
            return [] if init is None else [init]
        found = [path for name in self.methods if (path := init / f"{name}.safetensors").is_file()]
        if not found:
            raise ConfigError(
                f"init {init}: the folder has no policy of {', '.join(self.methods)}; name a "
                "policy file, or the folder of a training of several methods"
            )
        return found

    def _hear(self) -> None:
        """Let a context that learns pass over words the dataset never says."""
        demonstrations = self.demonstrations
        if self.config.train in ("expert", "memory"):
            return
        said = {
            *chain.from_iterable(map(demonstrations.meta.instructions_of, demonstrations.episodes))
        }
        self._first.hear_only(sorted(said))

    def _vocabulary(self) -> tuple[str, ...] | None:
        words = self._first.vocabulary
        return None if words is None else tuple(sorted(words))

    def _seed_keypoints(self) -> None:
        """From four batches of images, drawn from the steps after the last one."""
        share = self.config.seeded_keypoints
        if share is None:
            share = 0.5 if self.config.init is None else 0.0
        if share == 0:
            return
        batches = [self.sampler.batch(self.config.steps + i) for i in range(4)]
        images = pixels_to_float(torch.cat([batch.pixels for batch in batches])).to(self.device)
        generator, crops = torch.Generator().manual_seed(self.config.seed), self._first.crops
        if crops is not None:
            corners = torch.cat([batch.corners for batch in batches]).to(self.device)
            self._first.seed_keypoints(cut(images, corners, crops), share, generator)
            return
        self._first.seed_keypoints(images, share, generator)

    def prepare(self) -> None:
        """Resume if asked; otherwise claim the output directory.

        A training that was killed before its first save has left its log alone: resumed, it starts
        from the beginning.
        """
        if self.config.track:
            require_tensorboard()
        state, log = self.config.out / STATE_NAME, self.config.out / LOG_NAME
        if self.config.resume and (state.exists() or not (log.exists() and is_log(log))):
            self.restore()
        elif state.exists():
            raise ConfigError(
                f"{self.config.out} already holds a training. Resume it, or choose another out."
            )
        else:
            self._require_nothing_lost()
        if not self.share.is_main:
            return
        for path in (state, *self.config.policy_paths().values()):
            require_writable(path)  # now, not at the first save
        track = self.config.out / TRACK_NAME if self.config.track else None
        self._log = Log(log, self.schedules, self.step, track)
        if self.step:
            write_policies(self.config, self.step, self.best, self.checkpoint)

    def _require_nothing_lost(self) -> None:
        """Raise `ConfigError` for a file that a first save would overwrite, such as a policy that
        was copied there."""
        log = self.config.out / LOG_NAME
        ours = (*self.config.policy_paths().values(), *self.config.best_paths().values())
        foreign = [path for path in ours if path.exists()]
        if log.exists() and not is_log(log):
            foreign.append(log)
        if foreign:
            raise ConfigError(
                f"{foreign[0]} is there, and no training beside it that wrote it: move it, or "
                "choose another out"
            )

    def advance(self) -> None:
        """One step; logs, measures and saves when that is due."""
        self._losses.append(self._optimise())
        self.step += 1
        if self._due(self.config.holdout_every) and self.share.is_main:
            self.holdout = self._measure_holdout()
            self._compare_with_best()
        if self._due(self.config.log_every) or self._due(self.config.holdout_every):
            self._add_to_log()
        if self._due(self.config.save_every) or self._due(self.config.holdout_every):
            self.save()

    def _due(self, every: int) -> bool:
        """In all processes alike, so that they can do it together."""
        return self.step == self.config.steps or self.step % every == 0

    def _compare_with_best(self) -> None:
        """Not of vision alone: no action comes of it."""
        if self.config.train == "vision":
            return
        for name in self.methods:
            error = self.holdout[f"{self._prefix(name)}lead_0"]
            if math.isfinite(error) and (name not in self.best or error < self.best[name][1]):
                self.best[name] = (self.step, error)

    def note(self) -> str:
        """How it stands: loss since the last line of the log, and held-out errors."""
        loss = self._loss
        if self._losses:
            loss = float(torch.stack([each["loss"] for each in self._losses]).mean())
        note = f"loss {loss:.4f}"
        for name, error in self.holdout.items():
            if name.endswith("lead_0"):
                note += f"  held-out error {name.removesuffix('lead_0')}{error:.4f}"
        return note

    def _measure_holdout(self) -> dict[str, float]:
        return {
            self._prefix(name) + key: error
            for name in self.methods
            for key, error in self.probe.measure(self.policy(name)).items()
        }

    def _prefix(self, method: str) -> str:
        """What tells a method's held-out errors from those of the others."""
        return f"{method}/" if len(self.methods) > 1 else ""

    def _optimise(self) -> dict[str, torch.Tensor]:
        """One optimiser step; returns its loss and the loss's parts, detached."""
        config = self.config
        batch = self.sampler.batch(self.step).to(self.device)
        generator = torch.Generator().manual_seed(_seed(config.seed, self.step))
        self._weights.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.autocast):
            loss, parts = self.objective(batch, generator)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        trained = [parameter for _, parameter in self._trained_parameters()]
        torch.nn.utils.clip_grad_norm_(trained, config.optimiser.clip, foreach=True)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, config.steps, config.optimiser)
        self.optimiser.step()
        update_average(
            self._average.parameters(),
            self._weights.parameters(),
            self.step,
            config.optimiser.ema_decay,
        )
        return {"loss": loss.detach(), **parts}

    def _add_to_log(self) -> None:
        now = self.clock.now_ns()
        elapsed_s = max(1, now - self._logged_ns) / NS_PER_S
        means = {
            name: float(self.share.mean(torch.stack([each[name] for each in self._losses]).mean()))
            for name in self._losses[0]
        }
        metrics: dict[str, Any] = {
            "step": self.step,
            "loss": means.pop("loss"),
            "losses": means,
            "lr": learning_rate(self.step - 1, self.config.steps, self.config.optimiser),
            "steps_per_s": (self.step - self._timed_from) / elapsed_s,
        }
        if self._due(self.config.holdout_every):
            metrics["holdout"] = self.holdout
        if self._log is not None:
            self._log.add(metrics)
        self._loss = metrics["loss"]
        self._losses, self._logged_ns, self._timed_from = [], now, self.step

    def save(self) -> None:
        """Write the training state, then the policies; every process must ask, the first writes."""
        self.saved_step = self.step
        losses = self._pending_losses()
        if not self.share.is_main:
            return
        if self._log is not None:
            self._log.sync()
        header = StateHeader(
            step=self.step,
            recipe=self.config.recipe(),
            dataset=self.fingerprint,
            normalisation=self.normalisation,
            provenance=self.provenance,
            holdout=self.holdout,
            schedules=self.schedules,
            best=self.best,
            vocabulary=self._vocabulary(),
        )
        tensors = {**self._state_tensors(), **losses}
        save_tensors(self.config.out / STATE_NAME, tensors, header.to_json())
        write_policies(self.config, self.step, self.best, self.checkpoint)

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    def _pending_losses(self) -> dict[str, torch.Tensor]:
        """(steps since the last line of the log,) of the loss and its parts: for its next line."""
        if not self._losses:
            return {}
        return {
            f"loss.{name}": self.share.mean(torch.stack([each[name] for each in self._losses]))
            for name in self._losses[0]
        }

    def restore(self) -> None:
        """Continue from the saved training state.

        Raises:
            CheckpointError: it is missing or damaged.
            ConfigError: it was made with other settings or other data.
        """
        path = self.config.out / STATE_NAME
        fields, tensors = load_tensors(path)
        header = StateHeader.from_json(path, fields)
        header.require_recipe(path, self.config.recipe())
        header.require_dataset(path, self.config.dataset, self.fingerprint)
        try:
            self._restore_tensors(tensors)
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"{path}: does not fit this model ({error}). Start anew in another out."
            ) from error
        for model in (*self.models.values(), *self.averages.values()):
            if header.vocabulary is not None:
                model.know(header.vocabulary)
        self._restore_header(path, header)

    def checkpoint(self, name: str) -> Checkpoint:
        """A method's policy as it stands: averaged weights and where they come from."""
        meta, prefix = self.demonstrations.meta, self._prefix(name)
        own = {key: error for key, error in self.holdout.items() if key.startswith(prefix)}
        return Checkpoint(
            model=self.model_config,
            method=self.methods[name],
            spec=self._spec(self.methods[name]),
            normalisation=self.normalisation,
            vocabulary=self._vocabulary(),
            provenance={
                **self.provenance,
                "step": self.step,
                "schedules": self.schedules.to_json(),
                "training": self.config.recipe(),
                TRAINED_ON: self.trained_on,
                "parameters": parameter_count(self.models[name]),
                "holdout": {key.removeprefix(prefix): error for key, error in own.items()},
                "dataset": {
                    **{name: value for name, value in meta.to_json().items() if name != "robot"},
                    "robot": meta.robot,
                    "episodes": len(self.demonstrations.episodes),
                    "frames": self.demonstrations.frame_count,
                },
            },
            weights=self.averages[name].state_dict(),
        )

    def _state_tensors(self) -> dict[str, torch.Tensor]:
        """What methods share is named, and kept, once: under the first of them."""
        tensors: dict[str, torch.Tensor] = {}
        tensors |= {f"model.{name}": value for name, value in self._weights.named_parameters()}
        tensors |= {f"average.{name}": value for name, value in self._average.named_parameters()}
        for name, parameter in self._trained_parameters():
            for key, value in self.optimiser.state[parameter].items():
                tensors[f"{key}.{name}"] = value
        return tensors

    def _trained_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        named = self._weights.named_parameters()
        return ((name, parameter) for name, parameter in named if parameter.requires_grad)

    def _restore_header(self, path: Path, header: StateHeader) -> None:
        self.step = self.saved_step = self._timed_from = header.step
        self.holdout, self.best = dict(header.holdout), dict(header.best)
        self.schedules = header.schedules.prolonged(str(path), self.step, self.config.steps)
        self.normalisation = header.normalisation
        self.sampler.normalisation = header.normalisation
        resumptions = [*header.provenance.get("resumed", ()), self.provenance]
        self.provenance = {**header.provenance, "resumed": resumptions}

    @torch.no_grad()
    def _restore_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for prefix, module in (("model.", self._weights), ("average.", self._average)):
            for name, parameter in module.named_parameters():
                parameter.copy_(_of_shape(parameter, tensors[prefix + name]))
        losses = {
            name.removeprefix("loss."): values.to(self.device)
            for name, values in tensors.items()
            if name.startswith("loss.")
        }
        count = len(next(iter(losses.values()), ()))
        self._losses = [{name: losses[name][i] for name in losses} for i in range(count)]
        for name, parameter in self._trained_parameters():
            self.optimiser.state[parameter] = {
                "step": tensors[f"step.{name}"],
                "exp_avg": torch.empty_like(parameter).copy_(tensors[f"exp_avg.{name}"]),
                "exp_avg_sq": torch.empty_like(parameter).copy_(tensors[f"exp_avg_sq.{name}"]),
            }

    def _fit_normalisation(
        self, episodes: Sequence[Episode], start: Checkpoint | None
    ) -> Normalisation:
        actions = np.concatenate([episode.label for episode in episodes])
        if start is not None:
            shared = start.normalisation
        else:
            shared = Normalisation.fit(np.concatenate([each.state for each in episodes]), actions)
        if self.config.normalisation == "shared":
            return shared
        sums = [self.demonstrations.action_states(episode) for episode in episodes]
        is_delta = self.demonstrations.meta.action_space.is_delta()
        return shared.unshared(actions, np.concatenate(sums), is_delta)

    def _new_models(self) -> dict[str, Model]:
        """As training starts: random, or with pretrained weights in the backbone."""
        models = make_models(self.model_config, self.config.methods)
        source = self.config.model.source
        resumed = self.config.resume and (self.config.out / STATE_NAME).exists()
        if source is not None and not resumed and self.config.init is None:
            models[0].load_backbone(source)
        return {
            name: model.to(self.device) for name, model in zip(self.methods, models, strict=True)
        }

    def _spec(self, method: Method) -> PolicySpec:
        meta = self.demonstrations.meta
        return PolicySpec(
            action_space=meta.action_space,
            horizon=method.horizon,
            views=meta.views,
            image_size=meta.image_size,
            state_dim=len(meta.state_names),
            control_period_ns=meta.control_period_ns,
            chunk_passes=method.chunk_passes,
        )


def _of_shape(parameter: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    if found.shape != parameter.shape:
        raise RuntimeError(f"shape {tuple(found.shape)}, expected {tuple(parameter.shape)}")
    return found


def device_named(name: str) -> torch.device:
    """ "auto" takes CUDA where there is some; of several processes each has its own device."""
    present = torch.cuda.is_available()
    if name == "cuda" and not present:
        raise ConfigError("device is 'cuda', but PyTorch finds no CUDA device; use auto or cpu")
    if name == "cuda" or (name == "auto" and present):
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu" if name == "auto" else name)


def _seed(seed: int, step: int) -> int:
    """A 63-bit seed for one step, unlike that of the batch sampler."""
    return int(np.random.SeedSequence([seed, step, 1]).generate_state(1, np.uint64)[0] >> 1)
