"""Train an action-flow policy from demonstrations.

    OUT/policy.safetensors            the policy (averaged weights), ready to run
    OUT/training_state.safetensors    weights, average, optimiser, and what the data were: to resume
    OUT/log.jsonl                     one line of metrics every `log_every` steps

Everything random in step n is drawn from (seed, n), so a resumed training follows the curve of an
uninterrupted one. Files are replaced atomically.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from streamvla.core.clock import NS_PER_S, Clock, SystemClock
from streamvla.core.errors import CheckpointError, ConfigError
from streamvla.core.interfaces import PolicySpec
from streamvla.data.fingerprint import fingerprint
from streamvla.data.store import Demonstrations, Episode, load_dataset
from streamvla.model.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_tensors,
    save_checkpoint,
    save_tensors,
)
from streamvla.model.flow import FlowConfig
from streamvla.model.normalisation import Normalisation
from streamvla.model.vla import StreamingVLA, VLAConfig, parameter_count
from streamvla.policy.action_flow import ActionFlowPolicy
from streamvla.policy.transforms import pixels_to_float
from streamvla.training.batches import BatchSampler, SamplingConfig, split_holdout
from streamvla.training.holdout import HoldoutProbe
from streamvla.training.keypoints import seed_keypoints
from streamvla.training.losses import action_flow_loss
from streamvla.training.optimiser import (
    OptimiserConfig,
    learning_rate,
    make_optimiser,
    update_average,
)
from streamvla.training.provenance import provenance
from streamvla.training.state import StateHeader

POLICY_NAME = "policy.safetensors"
STATE_NAME = "training_state.safetensors"
LOG_NAME = "log.jsonl"


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


@dataclass(frozen=True)
class TrainConfig:
    """One training.

    Attributes:
        dataset: directory that `streamvla collect` wrote.
        out: directory for the results.
        steps: optimiser steps in all; the learning-rate schedule spans them.
        tasks: which tasks of the dataset; None for all.
        jitter: strength of colour jitter, 0 for none.
        future_weight: of the foreseen states in the loss, 0 for none.
        holdout_per_task: episodes per task kept for the held-out action error.
        holdout_frames: frames of them that are measured.
        device: "auto" takes CUDA where there is one.
        autocast: compute in bfloat16 where it helps; weights stay float32.
        threads: of PyTorch; None leaves them as they are.
        save_every_s: seconds between saves.
        seeded_keypoints: share of keypoints that start on prototypes (`training.keypoints`).
        init: a policy to start from: its weights and its normalisation; None for a fresh one.
        resume: go on from OUT/training_state.safetensors.
    """

    dataset: Path
    out: Path
    steps: int = 30_000
    seed: int = 0
    tasks: tuple[str, ...] | None = None
    model: ModelSize = field(default_factory=ModelSize)
    flow: FlowConfig = field(default_factory=FlowConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    jitter: float = 0.1
    future_weight: float = 0.5
    holdout_per_task: int = 6
    holdout_frames: int = 256
    device: str = "auto"
    autocast: bool = True
    threads: int | None = None
    log_every: int = 50
    holdout_every: int = 1000
    save_every_s: float = 300.0
    seeded_keypoints: float = 0.5
    init: Path | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "holdout_every", "holdout_per_task", "holdout_frames"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training {name} is {getattr(self, name)}; expected at least 1")
        checks = (
            ("seed", self.seed >= 0, "at least 0"),
            ("threads", self.threads is None or self.threads >= 1, "at least 1, or none given"),
            ("future_weight", 0 <= self.future_weight < math.inf, "a finite number ≥ 0"),
            ("seeded_keypoints", 0 <= self.seeded_keypoints <= 1, "a share from 0 to 1"),
            ("jitter", 0 <= self.jitter < math.inf, "a finite number ≥ 0"),
            ("save_every_s", self.save_every_s >= 0, "at least 0 seconds"),
        )
        for name, holds, expected in checks:
            if not holds:
                raise ConfigError(f"training {name} is {getattr(self, name)}; expected {expected}")

    def recipe(self) -> dict[str, Any]:
        """What decides the result, as JSON: all but where it runs and how often it reports."""
        elsewhere = {
            "init",
            "out",
            "dataset",
            "device",
            "threads",
            "resume",
            "save_every_s",
            "log_every",
        }
        fields = dataclasses.asdict(self)
        kept = {name: value for name, value in fields.items() if name not in elsewhere}
        return json.loads(json.dumps(kept))


@dataclass(frozen=True)
class TrainResult:
    """What a training came to.

    Attributes:
        step: optimiser steps taken; 0 when it was stopped before the first, and nothing saved.
        finished: false when Ctrl-C stopped it; the same command with `resume` goes on.
        holdout: the last held-out action errors (`HoldoutProbe.measure`).
    """

    policy: Path
    step: int
    finished: bool
    holdout: Mapping[str, float]


def train(config: TrainConfig, clock: Clock | None = None) -> TrainResult:
    """Train until `steps` or Ctrl-C; either way the policy and the training state are saved.

    A resumed training that was finished already leaves its files as they are.

    Raises:
        DatasetError: the dataset is missing, damaged, or too small.
        ConfigError: `out` holds another training, or settings or data differ on resuming.
        CheckpointError: the state to resume from is missing or damaged.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    demonstrations = load_dataset(config.dataset, config.tasks)
    trainer = Trainer(config, demonstrations, clock or SystemClock())
    trainer.prepare()
    with _stop_on_interrupt() as stop, _progress() as progress:
        bar = progress.add_task("train", total=config.steps, completed=trainer.step, note="")
        while trainer.step < config.steps and not stop.is_set():
            metrics = trainer.advance()
            progress.update(bar, completed=trainer.step)
            if metrics is not None:
                progress.update(bar, note=_note(metrics))
    if trainer.step > trainer.saved_step:
        trainer.save()
    return TrainResult(
        config.out / POLICY_NAME, trainer.step, trainer.step >= config.steps, trainer.holdout
    )


class Trainer:
    """The state of one training: weights, their average, the optimiser, and the step count."""

    def __init__(self, config: TrainConfig, demonstrations: Demonstrations, clock: Clock) -> None:
        self.config = config
        self.demonstrations = demonstrations
        self.fingerprint = fingerprint(demonstrations)
        self.provenance: dict[str, Any] = dict(provenance())
        self.clock = clock
        self.device = _device(config.device)
        training, held_out = split_holdout(demonstrations, config.holdout_per_task)
        start = None
        if config.init is not None:
            start = load_checkpoint(config.init, demonstrations.meta.action_space)
            self.provenance["init"] = dict(start.provenance)
        self.normalisation = start.normalisation if start else _fit_normalisation(training)
        self.model_config = self._model_config()
        self.sampler = BatchSampler(
            demonstrations,
            training,
            self.normalisation,
            config.flow,
            config.sampling,
            config.seed,
            self.model_config.future_steps,
        )
        self.probe = HoldoutProbe(
            demonstrations, held_out, config.flow.horizon, config.holdout_frames
        )
        torch.manual_seed(config.seed)
        self.model = StreamingVLA(self.model_config).to(self.device)
        if start is not None:
            _start_from(self.model, start, config.init)
        self._seed_keypoints()
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimiser = make_optimiser(self.model, config.optimiser)
        is_delta = demonstrations.meta.action_space.is_delta()
        self.is_delta = torch.tensor(is_delta, device=self.device)
        self.policy = ActionFlowPolicy(
            self.average, self._spec(), config.flow, self.normalisation, self.device
        )
        self.step = self.saved_step = 0
        self.holdout: dict[str, float] = {}
        self._saved_ns = self._logged_ns = clock.now_ns()
        self._losses: list[torch.Tensor] = []

    def _seed_keypoints(self) -> None:
        """From four batches of images, drawn from the steps after the last one."""
        batches = [self.sampler.batch(self.config.steps + i) for i in range(4)]
        images = pixels_to_float(torch.cat([batch.pixels for batch in batches]))
        generator = torch.Generator().manual_seed(self.config.seed)
        share = self.config.seeded_keypoints
        seed_keypoints(self.model.vision, images.to(self.device), share, generator)

    def prepare(self) -> None:
        """Resume if asked; otherwise claim the output directory."""
        state = self.config.out / STATE_NAME
        if self.config.resume:
            self.restore()
        elif state.exists():
            raise ConfigError(
                f"{self.config.out} already holds a training. Resume it, or choose another out."
            )
        self.config.out.mkdir(parents=True, exist_ok=True)
        _keep_log_until(self.config.out / LOG_NAME, self.step)

    def advance(self) -> dict[str, Any] | None:
        """One step; metrics when they are due, else None. Saves when that is due."""
        self._losses.append(self._optimise())
        self.step += 1
        last = self.step == self.config.steps
        metrics = None
        if last or self.step % self.config.holdout_every == 0:
            self.holdout = self.probe.measure(self.policy)
        if last or self.step % self.config.log_every == 0:
            metrics = self._log()
        if self.clock.now_ns() - self._saved_ns > self.config.save_every_s * NS_PER_S:
            self.save()
        return metrics

    def _optimise(self) -> torch.Tensor:
        """One optimiser step; returns its loss, detached."""
        config = self.config
        batch = self.sampler.batch(self.step).to(self.device)
        generator = torch.Generator().manual_seed(_seed(config.seed, self.step))
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.autocast):
            loss = action_flow_loss(
                self.model,
                batch,
                self.is_delta,
                config.flow,
                generator,
                config.jitter,
                config.future_weight,
            )
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
            "loss": float(torch.stack(self._losses).mean()),
            "lr": learning_rate(self.step - 1, self.config.steps, self.config.optimiser),
            "steps_per_s": len(self._losses) / elapsed_s,
        }
        if self.step % self.config.holdout_every == 0 or self.step == self.config.steps:
            metrics["holdout"] = self.holdout
        with (self.config.out / LOG_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
        self._losses, self._logged_ns = [], now
        return metrics

    def save(self) -> None:
        """Write the policy and the training state."""
        save_checkpoint(self.config.out / POLICY_NAME, self.checkpoint())
        header = StateHeader(
            step=self.step,
            recipe=self.config.recipe(),
            dataset=self.fingerprint,
            normalisation=self.normalisation,
            provenance=self.provenance,
            holdout=self.holdout,
        )
        save_tensors(self.config.out / STATE_NAME, self._state_tensors(), header.to_json())
        self.saved_step = self.step
        self._saved_ns = self.clock.now_ns()

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
        self._restore_header(header)

    def checkpoint(self) -> Checkpoint:
        """The policy as it stands: averaged weights and where they come from."""
        meta = self.demonstrations.meta
        return Checkpoint(
            model=self.model_config,
            flow=self.config.flow,
            spec=self.policy.spec,
            normalisation=self.normalisation,
            provenance={
                **self.provenance,
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
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimiser.state[parameter].items():
                tensors[f"{key}.{name}"] = value
        return tensors

    def _restore_header(self, header: StateHeader) -> None:
        self.step = self.saved_step = header.step
        self.holdout = dict(header.holdout)
        self.normalisation = header.normalisation
        self.sampler.normalisation = self.policy.normalisation = header.normalisation
        resumptions = [*header.provenance.get("resumed", ()), self.provenance]
        self.provenance = {**header.provenance, "resumed": resumptions}

    def _restore_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for prefix, module in (("model.", self.model), ("average.", self.average)):
            module.load_state_dict({name: tensors[prefix + name] for name in module.state_dict()})
        for name, parameter in self.model.named_parameters():
            self.optimiser.state[parameter] = {
                "step": tensors[f"step.{name}"],
                "exp_avg": torch.empty_like(parameter).copy_(tensors[f"exp_avg.{name}"]),
                "exp_avg_sq": torch.empty_like(parameter).copy_(tensors[f"exp_avg_sq.{name}"]),
            }

    def _model_config(self) -> VLAConfig:
        meta = self.demonstrations.meta
        return VLAConfig(
            action_dim=meta.action_space.dim,
            state_dim=len(meta.state_names),
            views=len(meta.views),
            image_size=meta.image_size,
            **vars(self.config.model),
        )

    def _spec(self) -> PolicySpec:
        meta = self.demonstrations.meta
        return PolicySpec(
            action_space=meta.action_space,
            horizon=self.config.flow.horizon,
            views=meta.views,
            image_size=meta.image_size,
            state_dim=len(meta.state_names),
            control_period_ns=meta.control_period_ns,
        )


def _fit_normalisation(training: Sequence[Episode]) -> Normalisation:
    return Normalisation.fit(
        np.concatenate([episode.state for episode in training]),
        np.concatenate([episode.label for episode in training]),
    )


def _start_from(model: StreamingVLA, start: Checkpoint, path: Path | None) -> None:
    """Take another policy's weights.

    Raises:
        ConfigError: it has another size.
    """
    if start.model != model.config:
        raise ConfigError(
            f"init {path} has sizes {start.model}, this training {model.config}; start from a "
            "policy of the same size and robot"
        )
    model.load_state_dict(dict(start.weights))


def _device(name: str) -> torch.device:
    present = torch.cuda.is_available()
    if name == "cuda" and not present:
        raise ConfigError("device is 'cuda', but PyTorch finds no CUDA device; use auto or cpu")
    return torch.device(name if name != "auto" else "cuda" if present else "cpu")


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


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )


def _note(metrics: Mapping[str, Any]) -> str:
    note = f"loss {metrics['loss']:.4f}  {metrics['steps_per_s']:.2f} steps/s"
    if "holdout" in metrics:
        note += f"  held-out error {metrics['holdout']['lead_0']:.4f}"
    return note
