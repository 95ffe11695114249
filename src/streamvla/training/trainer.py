"""Train policies from demonstrations: any method or several at once, one process or several.

    OUT/policy.safetensors            the policy (averaged weights), ready to run
    OUT/METHOD.safetensors            instead, where several methods are trained together
    OUT/training_state.safetensors    weights, average, optimiser, and what the data were: to resume
    OUT/log.jsonl                     one line of metrics every `log_every` steps

Everything random in step n is drawn from (seed, n), so a resumed training follows the curve of an
uninterrupted one. Files are replaced atomically.
"""

from __future__ import annotations

import copy
import json
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
from streamvla.core.files import append_line, require_writable, write_text
from streamvla.core.interfaces import PolicySpec
from streamvla.data.fingerprint import fingerprint
from streamvla.data.store import Demonstrations, Episode, load_datasets
from streamvla.model.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_tensors,
    save_checkpoint,
    save_tensors,
)
from streamvla.model.interface import Model, ModelConfig
from streamvla.model.methods.base import Method
from streamvla.model.models import make_models
from streamvla.model.normalisation import Normalisation
from streamvla.model.vla import parameter_count
from streamvla.policy.base import ModelPolicy
from streamvla.policy.transforms import pixels_to_float
from streamvla.training.batches import BatchSampler, split_holdout
from streamvla.training.config import LOG_NAME, STATE_NAME, TrainConfig
from streamvla.training.distributed import Share, joined_processes
from streamvla.training.holdout import HoldoutProbe
from streamvla.training.initial import start_from
from streamvla.training.interrupts import progress_bar, stop_on_interrupt
from streamvla.training.losses import Objective
from streamvla.training.optimiser import (
    learning_rate,
    make_optimiser,
    update_average,
)
from streamvla.training.provenance import provenance
from streamvla.training.state import StateHeader


@dataclass(frozen=True)
class TrainResult:
    """What a training came to.

    Attributes:
        policies: method → its policy.
        step: optimiser steps taken; 0 when it was stopped before the first, and nothing saved.
        finished: false when Ctrl-C stopped it; the same command with `resume` goes on.
        holdout: the last held-out action errors (`HoldoutProbe.measure`); of several methods each
            under "METHOD/…".
    """

    policies: Mapping[str, Path]
    step: int
    finished: bool
    holdout: Mapping[str, float]

    @property
    def policy(self) -> Path:
        """The policy of the first method."""
        return next(iter(self.policies.values()))


def train(config: TrainConfig, clock: Clock | None = None) -> TrainResult:
    """Train until `steps` or Ctrl-C; either way the policy and the training state are saved.

    Under `torchrun` every process calls this; they share each batch, and the first one saves.
    A resumed training that was finished already leaves its files as they are.

    Raises:
        DatasetError: the dataset is missing, damaged, or too small.
        ConfigError: `out` holds another training, or settings or data differ on resuming.
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
    with stop_on_interrupt() as stop, progress_bar(shown=share.is_main) as progress:
        bar = progress.add_task("train", total=config.steps, completed=trainer.step, note="")
        while trainer.step < config.steps and not share.any(stop.is_set()):
            metrics = trainer.advance()
            progress.update(bar, completed=trainer.step)
            if metrics is not None:
                progress.update(bar, note=_note(metrics))
    if trainer.step > trainer.saved_step:
        trainer.save()
    return TrainResult(
        config.policy_paths(), trainer.step, trainer.step >= config.steps, trainer.holdout
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
        )
        for path, start in starts.items():
            start_from(self.models, start, f"init {path}")
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
            places_alone=config.train == "vision",
        )
        self.objective: nn.Module = self.share.wrap(objective)
        self.step: int = 0
        self.saved_step: int = 0
        self.holdout: dict[str, float] = {}
        self._saved_ns = self._logged_ns = clock.now_ns()
        self._losses: list[dict[str, torch.Tensor]] = []

    @property
    def _first(self) -> Model:
        """The model of the first method; its context is that of all."""
        return next(iter(self.models.values()))

    def policy(self, name: str) -> ModelPolicy:
        """The averaged weights of a method as they stand, as a policy."""
        method = self.methods[name]
        return ModelPolicy(
            self.averages[name], self._spec(method), method, self.normalisation, self.device
        )

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
        if self.config.train == "expert":
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
        images = pixels_to_float(torch.cat([batch.pixels for batch in batches]))
        generator = torch.Generator().manual_seed(self.config.seed)
        self._first.seed_keypoints(images.to(self.device), share, generator)

    def prepare(self) -> None:
        """Resume if asked; otherwise claim the output directory."""
        state = self.config.out / STATE_NAME
        if self.config.resume:
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
        _keep_log_until(self.config.out / LOG_NAME, self.step)

    def _require_nothing_lost(self) -> None:
        """Raise `ConfigError` for a file that a first save would overwrite, such as a policy that
        was copied there."""
        log = self.config.out / LOG_NAME
        foreign = [path for path in self.config.policy_paths().values() if path.exists()]
        if log.exists() and not _is_log(log):
            foreign.append(log)
        if foreign:
            raise ConfigError(
                f"{foreign[0]} is there, and no training beside it that wrote it: move it, or "
                "choose another out"
            )

    def advance(self) -> dict[str, Any] | None:
        """One step; metrics when they are due, else None. Saves when that is due."""
        self._losses.append(self._optimise())
        self.step += 1
        last = self.step == self.config.steps
        metrics = None
        if self._holdout_due():
            self.holdout = self._measure_holdout()
        if last or self.step % self.config.log_every == 0:
            metrics = self._log()
        if self.clock.now_ns() - self._saved_ns > self.config.save_every_s * NS_PER_S:
            self.save()
        return metrics

    def _holdout_due(self) -> bool:
        """Whether this process measures the held-out error after the present step."""
        last = self.step == self.config.steps
        return self.share.is_main and (last or self.step % self.config.holdout_every == 0)

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

    def _log(self) -> dict[str, Any]:
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
            "steps_per_s": len(self._losses) / elapsed_s,
        }
        if self._holdout_due():
            metrics["holdout"] = self.holdout
        if self.share.is_main:
            append_line(self.config.out / LOG_NAME, json.dumps(metrics))
        self._losses, self._logged_ns = [], now
        return metrics

    def save(self) -> None:
        """Write the policies and the training state; the main process only."""
        self.saved_step = self.step
        self._saved_ns = self.clock.now_ns()
        if not self.share.is_main:
            return
        for name, path in self.config.policy_paths().items():
            save_checkpoint(path, self.checkpoint(name))
        header = StateHeader(
            step=self.step,
            recipe=self.config.recipe(),
            dataset=self.fingerprint,
            normalisation=self.normalisation,
            provenance=self.provenance,
            holdout=self.holdout,
            vocabulary=self._vocabulary(),
        )
        save_tensors(self.config.out / STATE_NAME, self._state_tensors(), header.to_json())

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
        self._restore_header(header)

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
                "training": self.config.recipe(),
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

    def _restore_header(self, header: StateHeader) -> None:
        self.step = self.saved_step = header.step
        self.holdout = dict(header.holdout)
        self.normalisation = header.normalisation
        self.sampler.normalisation = header.normalisation
        resumptions = [*header.provenance.get("resumed", ()), self.provenance]
        self.provenance = {**header.provenance, "resumed": resumptions}

    @torch.no_grad()
    def _restore_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for prefix, module in (("model.", self._weights), ("average.", self._average)):
            for name, parameter in module.named_parameters():
                parameter.copy_(_of_shape(parameter, tensors[prefix + name]))
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
        if source is not None and not self.config.resume and self.config.init is None:
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


def _is_log(path: Path) -> bool:
    """Whether a file is empty or a log of ours, to its first line."""
    with path.open(encoding="utf-8", errors="replace") as file:
        first = file.readline()
    try:
        return not first or "step" in json.loads(first)
    except (ValueError, TypeError):
        return False


def _keep_log_until(path: Path, step: int) -> None:
    """Drop log lines after `step`, which a resumed training writes again, and one cut short."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line for line in lines if _step_of(line) <= step]
    write_text(path, "".join(f"{line}\n" for line in kept))


def _step_of(line: str) -> float:
    """Of a line of the log; infinite for one that is none."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _note(metrics: Mapping[str, Any]) -> str:
    note = f"loss {metrics['loss']:.4f}  {metrics['steps_per_s']:.2f} steps/s"
    for name, error in metrics.get("holdout", {}).items():
        if name.endswith("lead_0"):
            note += f"  held-out error {name.removesuffix('lead_0')}{error:.4f}"
    return note
