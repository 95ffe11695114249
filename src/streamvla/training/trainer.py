"""Train a policy from demonstrations: any method, one process or several.

    OUT/policy.safetensors            the policy (averaged weights), ready to run
    OUT/training_state.safetensors    weights, average, optimiser: to resume
    OUT/log.jsonl                     one line of metrics every `log_every` steps

Everything random in step n is drawn from (seed, n), so a resumed training follows the curve of an
uninterrupted one. Files are replaced atomically.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from streamvla.core.clock import NS_PER_S, Clock, SystemClock
from streamvla.core.errors import CheckpointError, ConfigError
from streamvla.core.interfaces import PolicySpec
from streamvla.data.store import Demonstrations, Episode, load_dataset
from streamvla.model.checkpoint import Checkpoint, load_tensors, save_checkpoint, save_tensors
from streamvla.model.flow import ActionFlowConfig
from streamvla.model.generation import require_option
from streamvla.model.methods import Method, method_from_json, method_to_json
from streamvla.model.models import Model, ModelConfig, make_model
from streamvla.model.normalisation import Normalisation
from streamvla.model.pretrained import PretrainedVLA, pretrained_config
from streamvla.model.vla import VLAConfig, parameter_count
from streamvla.policy.base import ModelPolicy
from streamvla.policy.load import make_policy
from streamvla.training.batches import BatchSampler, SamplingConfig, split_holdout
from streamvla.training.distributed import Share, joined_processes
from streamvla.training.holdout import HoldoutProbe
from streamvla.training.losses import Objective
from streamvla.training.optimiser import (
    OptimiserConfig,
    learning_rate,
    make_optimiser,
    update_average,
)
from streamvla.training.provenance import provenance

POLICY_NAME = "policy.safetensors"
STATE_NAME = "training_state.safetensors"
LOG_NAME = "log.jsonl"

NormalisationKind = Literal["shared", "unshared"]


@dataclass(frozen=True)
class ModelSize:
    """The sizes of `VLAConfig` that do not follow from the dataset."""

    layers: int = 4
    width: int = 256
    expert_width: int = 192
    heads: int = 4
    head_dim: int = 64
    expansion: int = 4
    channels: int = 64
    condition_width: int = 128
    proprioception: bool = True


@dataclass(frozen=True)
class PretrainedSize:
    """A vision-language model to fine-tune, instead of the small one from scratch.

    Attributes:
        source: a folder with config.json, tokenizer.json and weights, or a name on the hub.
        layers: how many of the language model's, from the first; None for all.
        train: "all", or "expert" to leave the vision-language model as it is.
    """

    source: str
    layers: int | None = None
    expert_width: int = 384
    condition_width: int = 128
    expansion: int = 4
    train: Literal["all", "expert"] = "all"
    proprioception: bool = True


@dataclass(frozen=True)
class TrainConfig:
    """One training.

    Attributes:
        dataset: directory that `streamvla collect` wrote.
        out: directory for the results.
        steps: optimiser steps in all; the learning-rate schedule spans them.
        tasks: which tasks of the dataset; None for all.
        model: the small model from scratch, or a pretrained one.
        method: how actions are made; data, backbone and (within 1 %) size are the same for all.
        normalisation: "shared", or the ablation "unshared" (`Normalisation.unshared`).
        all_delta: treat absolute dimensions as deltas, as StreamingVLA does (ablation).
        jitter: strength of colour jitter, 0 for none.
        holdout_per_task: episodes per task kept for the held-out action error.
        holdout_frames: frames of them that are measured.
        device: "auto" takes CUDA where there is one.
        autocast: compute in bfloat16 where it helps; weights stay float32.
        threads: of PyTorch; None leaves them as they are.
        save_every_s: seconds between saves.
        resume: go on from OUT/training_state.safetensors.
    """

    dataset: Path
    out: Path
    steps: int = 30_000
    seed: int = 0
    tasks: tuple[str, ...] | None = None
    model: ModelSize | PretrainedSize = field(default_factory=ModelSize)
    method: Method = field(default_factory=ActionFlowConfig)
    normalisation: NormalisationKind = "shared"
    all_delta: bool = False
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    jitter: float = 0.1
    holdout_per_task: int = 6
    holdout_frames: int = 256
    device: str = "auto"
    autocast: bool = True
    threads: int | None = None
    log_every: int = 50
    holdout_every: int = 1000
    save_every_s: float = 300.0
    resume: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "holdout_every", "holdout_per_task", "holdout_frames"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training {name} is {getattr(self, name)}; expected at least 1")
        require_option("normalisation", self.normalisation, NormalisationKind)

    def recipe(self) -> dict[str, Any]:
        """What decides the result, as JSON: all but where it runs and how often it reports."""
        elsewhere = {"out", "dataset", "device", "threads", "resume", "save_every_s", "log_every"}
        fields = {**dataclasses.asdict(self), "method": method_to_json(self.method)}
        kept = {name: value for name, value in fields.items() if name not in elsewhere}
        return json.loads(json.dumps(kept))


@dataclass(frozen=True)
class TrainResult:
    """What a training came to.

    Attributes:
        finished: false when Ctrl-C stopped it; the same command with `resume` goes on.
        holdout: the last held-out action errors (`HoldoutProbe.measure`).
    """

    policy: Path
    step: int
    finished: bool
    holdout: Mapping[str, float]


def train(config: TrainConfig, clock: Clock | None = None) -> TrainResult:
    """Train until `steps` or Ctrl-C; either way the policy and the training state are saved.

    Under `torchrun` every process calls this; they share each batch, and the first one saves.

    Raises:
        DatasetError: the dataset is missing, damaged, or too small.
        ConfigError: `out` holds another training, or settings differ on resuming.
        CheckpointError: the state to resume from is missing or damaged.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    demonstrations = load_dataset(config.dataset, config.tasks)
    with joined_processes() as share:
        trainer = Trainer(config, demonstrations, clock or SystemClock(), share)
        trainer.prepare()
        with _stop_on_interrupt() as stop, _progress(shown=share.is_main) as progress:
            bar = progress.add_task("train", total=config.steps, completed=trainer.step, note="")
            while trainer.step < config.steps and not share.any(stop.is_set()):
                metrics = trainer.advance()
                progress.update(bar, completed=trainer.step)
                if metrics is not None:
                    progress.update(bar, note=_note(metrics))
        trainer.save()
    return TrainResult(
        config.out / POLICY_NAME, trainer.step, trainer.step >= config.steps, trainer.holdout
    )


class Trainer:
    """The state of one training: weights, their average, the optimiser, and the step count."""

    def __init__(
        self,
        config: TrainConfig,
        demonstrations: Demonstrations,
        clock: Clock,
        share: Share | None = None,
    ) -> None:
        if config.all_delta:
            demonstrations = demonstrations.as_deltas()
        self.config = config
        self.demonstrations = demonstrations
        self.clock = clock
        self.share = share or Share()
        self.device = _device(config.device)
        training, held_out = split_holdout(demonstrations, config.holdout_per_task)
        self.normalisation = self._fit_normalisation(training)
        self.probe = HoldoutProbe(
            demonstrations, held_out, config.method.horizon, config.holdout_frames
        )
        self.model_config = self._model_config()
        torch.manual_seed(config.seed)
        self.model = self._new_model().to(self.device)
        self.sampler = BatchSampler(
            demonstrations,
            training,
            self.normalisation,
            config.method,
            config.sampling,
            config.seed,
            self.share,
            self.model.tokenise,
        )
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimiser = make_optimiser(self.model, config.optimiser)
        is_delta = torch.tensor(demonstrations.meta.action_space.is_delta(), device=self.device)
        self.objective = self.share.wrap(
            Objective(self.model, config.method, is_delta, config.jitter, self.share)
        )
        self.step = 0
        self.holdout: dict[str, float] = {}
        self._saved_ns = self._logged_ns = clock.now_ns()
        self._losses: list[torch.Tensor] = []

    @property
    def policy(self) -> ModelPolicy:
        """The averaged weights as they stand, as a policy."""
        return make_policy(
            self.average, self._spec(), self.config.method, self.normalisation, self.device
        )

    def prepare(self) -> None:
        """Resume if asked; otherwise claim the output directory."""
        state = self.config.out / STATE_NAME
        if self.config.resume:
            self.restore()
        elif state.exists():
            raise ConfigError(
                f"{self.config.out} already holds a training. Resume it, or choose another out."
            )
        if not self.share.is_main:
            return
        self.config.out.mkdir(parents=True, exist_ok=True)
        _keep_log_until(self.config.out / LOG_NAME, self.step)

    def advance(self) -> dict[str, Any] | None:
        """One step; metrics when they are due, else None. Saves when that is due."""
        self._losses.append(self._optimise())
        self.step += 1
        last = self.step == self.config.steps
        metrics = None
        if self._holdout_due():
            self.holdout = self.probe.measure(self.policy)
        if last or self.step % self.config.log_every == 0:
            metrics = self._log()
        if self.clock.now_ns() - self._saved_ns > self.config.save_every_s * NS_PER_S:
            self.save()
        return metrics

    def _holdout_due(self) -> bool:
        """Whether this process measures the held-out error after the present step."""
        last = self.step == self.config.steps
        return self.share.is_main and (last or self.step % self.config.holdout_every == 0)

    def _optimise(self) -> torch.Tensor:
        """One optimiser step; returns its loss, detached."""
        config = self.config
        batch = self.sampler.batch(self.step).to(self.device)
        generator = torch.Generator().manual_seed(_seed(config.seed, self.step))
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.autocast):
            loss = self.objective(batch, generator)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.optimiser.clip, foreach=True)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, config.steps, config.optimiser)
        self.optimiser.step()
        update_average(
            self.average.parameters(),
            self.model.parameters(),
            self.step,
            config.optimiser.ema_decay,
        )
        return loss.detach()

    def _log(self) -> dict[str, Any]:
        now = self.clock.now_ns()
        elapsed_s = max(1, now - self._logged_ns) / NS_PER_S
        metrics: dict[str, Any] = {
            "step": self.step,
            "loss": float(self.share.mean(torch.stack(self._losses).mean())),
            "lr": learning_rate(self.step - 1, self.config.steps, self.config.optimiser),
            "steps_per_s": len(self._losses) / elapsed_s,
        }
        if self._holdout_due():
            metrics["holdout"] = self.holdout
        if self.share.is_main:
            with (self.config.out / LOG_NAME).open("a", encoding="utf-8") as file:
                file.write(json.dumps(metrics) + "\n")
        self._losses, self._logged_ns = [], now
        return metrics

    def save(self) -> None:
        """Write the policy and the training state; the main process only."""
        self._saved_ns = self.clock.now_ns()
        if not self.share.is_main:
            return
        save_checkpoint(self.config.out / POLICY_NAME, self.checkpoint())
        header = {"schema_version": 1, "step": self.step, "recipe": self.config.recipe()}
        save_tensors(self.config.out / STATE_NAME, self._state_tensors(), header)

    def restore(self) -> None:
        """Continue from the saved training state.

        Raises:
            CheckpointError: it is missing or damaged.
            ConfigError: it was made with other settings.
        """
        path = self.config.out / STATE_NAME
        header, tensors = load_tensors(path)
        recipe, saved = self.config.recipe(), _complete(header["recipe"])
        differing = [name for name in recipe if saved.get(name) != recipe[name]]
        if differing:
            raise ConfigError(
                f"{path} was made with other settings: {', '.join(differing)}. Resume with the "
                "same ones, or start anew in another out."
            )
        try:
            self._restore_tensors(tensors)
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"{path}: does not fit this model ({error}). Start anew in another out."
            ) from error
        self.step = int(header["step"])

    def checkpoint(self) -> Checkpoint:
        """The policy as it stands: averaged weights and where they come from."""
        meta = self.demonstrations.meta
        return Checkpoint(
            model=self.model_config,
            method=self.config.method,
            spec=self._spec(),
            normalisation=self.normalisation,
            provenance={
                **provenance(),
                "step": self.step,
                "training": self.config.recipe(),
                "parameters": parameter_count(self.model),
                "holdout": self.holdout,
                "dataset": {
                    **{name: value for name, value in meta.to_json().items() if name != "robot"},
                    "robot": meta.robot,
                    "episodes": len(self.demonstrations.episodes),
                    "frames": self.demonstrations.frame_count,
                },
            },
            weights=self.average.state_dict(),
        )

    def _state_tensors(self) -> dict[str, torch.Tensor]:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for name, parameter in self._trained_parameters():
            for key, value in self.optimiser.state[parameter].items():
                tensors[f"{key}.{name}"] = value
        return tensors

    def _trained_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        named = self.model.named_parameters()
        return ((name, parameter) for name, parameter in named if parameter.requires_grad)

    def _restore_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for prefix, module in (("model.", self.model), ("average.", self.average)):
            module.load_state_dict({name: tensors[prefix + name] for name in module.state_dict()})
        for name, parameter in self._trained_parameters():
            self.optimiser.state[parameter] = {
                "step": tensors[f"step.{name}"],
                "exp_avg": torch.empty_like(parameter).copy_(tensors[f"exp_avg.{name}"]),
                "exp_avg_sq": torch.empty_like(parameter).copy_(tensors[f"exp_avg_sq.{name}"]),
            }

    def _fit_normalisation(self, episodes: Sequence[Episode]) -> Normalisation:
        actions = np.concatenate([episode.label for episode in episodes])
        shared = Normalisation.fit(np.concatenate([each.state for each in episodes]), actions)
        if self.config.normalisation == "shared":
            return shared
        sums = [self.demonstrations.action_states(episode) for episode in episodes]
        is_delta = self.demonstrations.meta.action_space.is_delta()
        return shared.unshared(actions, np.concatenate(sums), is_delta)

    def _model_config(self) -> ModelConfig:
        meta, size = self.demonstrations.meta, self.config.model
        robot = {
            "action_dim": meta.action_space.dim,
            "state_dim": len(meta.state_names),
            "views": len(meta.views),
        }
        if isinstance(size, PretrainedSize):
            return pretrained_config(**robot, **vars(size))
        return VLAConfig(image_size=meta.image_size, **robot, **vars(size))

    def _new_model(self) -> Model:
        """The model as training starts: random, or with pretrained weights in its backbone."""
        model, size = make_model(self.model_config, self.config.method), self.config.model
        if not isinstance(model, PretrainedVLA) or not isinstance(size, PretrainedSize):
            return model
        if not self.config.resume:
            model.load_backbone(size.source)
        return model

    def _spec(self) -> PolicySpec:
        meta = self.demonstrations.meta
        return PolicySpec(
            action_space=meta.action_space,
            horizon=self.config.method.horizon,
            views=meta.views,
            image_size=meta.image_size,
            state_dim=len(meta.state_names),
            control_period_ns=meta.control_period_ns,
            chunk_passes=self.config.method.chunk_passes,
        )


def _device(name: str) -> torch.device:
    """ "auto" takes CUDA where there is some; of several processes each has its own device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(name)


def _complete(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A saved recipe with what was not yet a setting when it was written at its default."""
    complete = {"normalisation": "shared", "all_delta": False, **recipe}
    if "source" not in recipe["model"]:
        complete["model"] = {**vars(ModelSize()), **recipe["model"]}
    if "flow" in recipe:
        method = method_from_json({"name": ActionFlowConfig.name, **recipe["flow"]})
        complete["method"] = method_to_json(method)
    return complete


def _seed(seed: int, step: int) -> int:
    """A 63-bit seed for one step, unlike that of the batch sampler."""
    return int(np.random.SeedSequence([seed, step, 1]).generate_state(1, np.uint64)[0] >> 1)


def _keep_log_until(path: Path, step: int) -> None:
    """Drop log lines after `step`: a resumed training writes them again."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


@contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, so that a training stops between two steps; twice kills."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = signal.getsignal(signal.SIGINT)

    def request_stop(_signal: int, _frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, request_stop)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)


def _progress(*, shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        disable=not shown,
    )


def _note(metrics: Mapping[str, Any]) -> str:
    note = f"loss {metrics['loss']:.4f}  {metrics['steps_per_s']:.2f} steps/s"
    if "holdout" in metrics:
        note += f"  held-out error {metrics['holdout']['lead_0']:.4f}"
    return note
