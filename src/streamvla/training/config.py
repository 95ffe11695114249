"""What a training is: its data, its model, its methods, and how it goes."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from streamvla.core.errors import ConfigError
from streamvla.data.demonstrations import DatasetMeta
from streamvla.data.gaze import gaze_of
from streamvla.model.crops import CropConfig
from streamvla.model.focus import FocusConfig
from streamvla.model.interface import ModelConfig, Trained
from streamvla.model.memory import LEAST_LAYERS
from streamvla.model.methods.base import GenerationConfig, Method, require_option
from streamvla.model.methods.registry import default_method
from streamvla.model.past import MemoryConfig
from streamvla.model.pretrained import PretrainedConfig, pretrained_config
from streamvla.model.vla import VLAConfig
from streamvla.training.batches import SamplingConfig
from streamvla.training.optimiser import OptimiserConfig

POLICY_NAME = "policy.safetensors"
STATE_NAME = "training_state.safetensors"
LOG_NAME = "log.jsonl"
CURVES_NAME = "curves.png"
TRACK_NAME = "tensorboard"
BEST_NAME = "best"
KEPT_NAME = "checkpoints"

NormalisationKind = Literal["shared", "unshared"]


class Size(Protocol):
    """A frozen dataclass of what does not follow from the dataset: which model, and how large."""

    @property
    def source(self) -> str | None:
        """Where its backbone has pretrained weights; None: it starts from scratch."""
        ...

    @property
    def memory(self) -> MemoryConfig | None:
        """Of what was seen before."""
        ...

    @property
    def frames(self) -> int:
        """Of how many observations a context is made."""
        ...

    def model_config(self, robot: DatasetMeta, trained: Trained) -> ModelConfig:
        """The model for the robot of a dataset."""
        ...


def _dimensions(robot: DatasetMeta) -> dict[str, int]:
    return {
        "action_dim": robot.action_space.dim,
        "state_dim": len(robot.state_names),
        "views": len(robot.views),
        "places_dim": len(robot.place_names),
    }


@dataclass(frozen=True)
class CropSize:
    """What of `CropConfig` does not follow from the dataset."""

    crop_px: int = 24
    zoomed_px: int = 48
    coarse_px: int = 48
    jitter_px: int = 8
    channels: int = 64
    leash_px: float = 0.0

    def crop_config(self, robot: DatasetMeta) -> CropConfig:
        """For the robot of a dataset; `ConfigError` if its cameras are not known."""
        return CropConfig(gaze_of(robot), **vars(self))


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
    asked_keypoints: int = 32
    places_hidden: int = 256
    places_token: bool = True
    proprioception: bool = True
    focus: FocusConfig = field(default_factory=FocusConfig)
    crops: CropSize | None = None
    pruned_to: float = 1.0
    memory: MemoryConfig | None = None
    frames: int = 1

    @property
    def source(self) -> None:
        return None

    def model_config(self, robot: DatasetMeta, trained: Trained) -> VLAConfig:
        crops = None if self.crops is None else self.crops.crop_config(robot)
        sizes = {**_dimensions(robot), **vars(self), "crops": crops}
        return VLAConfig(image_size=robot.image_size, **sizes)


@dataclass(frozen=True)
class PretrainedSize:
    """A vision-language model to fine-tune, instead of the small one from scratch.

    Attributes:
        source: a folder with config.json, tokenizer.json and weights, or a name on the hub.
        layers: how many of the language model's, from the first; None for all.
    """

    source: str
    layers: int | None = None
    expert_width: int = 384
    condition_width: int = 128
    expansion: int = 4
    proprioception: bool = True
    focus: FocusConfig = field(default_factory=FocusConfig)
    memory: MemoryConfig | None = None

    @property
    def frames(self) -> int:
        return 1

    def model_config(self, robot: DatasetMeta, trained: Trained) -> PretrainedConfig:
        learns = "expert" if trained == "expert" else "all"
        return pretrained_config(**_dimensions(robot), train=learns, **vars(self))


@dataclass(frozen=True)
class TrainConfig:
    """One training.

    Attributes:
        dataset: directory that `streamvla collect` wrote.
        more: further datasets of the same robot (`data.store.load_datasets`).
        out: directory for the results.
        steps: optimiser steps in all; the learning-rate schedule spans them.
        tasks: which tasks of the dataset; None for all.
        model: the small model from scratch, or a pretrained one.
        methods: how actions are made. Several train on the same batches and one encoding of them,
            each with an expert of its own; horizon and action states must agree.
        normalisation: "shared", or the ablation "unshared" (`Normalisation.unshared`).
        all_delta: treat absolute dimensions as deltas, as StreamingVLA does (ablation).
        train: "all"; "expert": what makes the context stays as `init`, or as the pretrained
            vision-language model, has it; "memory": of that context the memory learns, too; or
            "vision": only to tell the places of things, which is cheap and a good start for "all".
        jitter: strength of colour jitter, 0 for none.
        future_weight: of the foreseen states in the loss, 0 for none.
        places_weight: of the places of things in the loss, where the dataset tells them.
        holdout_per_task: episodes per task kept for the held-out action error.
        holdout_frames: frames of them that are measured.
        device: "auto" takes CUDA where there is one.
        autocast: compute in bfloat16 where it helps; weights stay float32.
        threads: of PyTorch; None leaves them as they are.
        save_every: steps between saves.
        keep: how many policies of past saves stay, apart from the newest and the best.
        track: write TensorBoard's scalars, too.
        seeded_keypoints: share of keypoints that start on prototypes (`model.keypoints`);
            None: half of them in a fresh model, none of those of `init`.
        init: a policy to start from: its normalisation, its context's weights, and its expert's
            where the method is the same; or the folder of several trained together; None for a
            fresh start.
        resume: go on from OUT/training_state.safetensors.
    """

    dataset: Path
    out: Path
    steps: int = 30_000
    more: tuple[Path, ...] = ()
    seed: int = 0
    tasks: tuple[str, ...] | None = None
    model: Size = field(default_factory=ModelSize)
    methods: tuple[Method, ...] = field(default_factory=lambda: (default_method(),))
    normalisation: NormalisationKind = "shared"
    train: Trained = "all"
    all_delta: bool = False
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    jitter: float = 0.1
    future_weight: float = 0.5
    places_weight: float = 0.5
    holdout_per_task: int = 6
    holdout_frames: int = 256
    device: str = "auto"
    autocast: bool = True
    threads: int | None = None
    log_every: int = 50
    holdout_every: int = 1000
    save_every: int = 500
    keep: int = 2
    track: bool = False
    seeded_keypoints: float | None = None
    init: Path | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        at_least_one = ("steps", "log_every", "holdout_every", "holdout_per_task", "holdout_frames")
        for name in (*at_least_one, "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training {name} is {getattr(self, name)}; expected at least 1")
        checks = (
            ("seed", self.seed >= 0, "at least 0"),
            ("threads", self.threads is None or self.threads >= 1, "at least 1, or none given"),
            ("future_weight", 0 <= self.future_weight < math.inf, "a finite number ≥ 0"),
            ("places_weight", 0 <= self.places_weight < math.inf, "a finite number ≥ 0"),
            ("seeded_keypoints", 0 <= (self.seeded_keypoints or 0) <= 1, "a share from 0 to 1"),
            ("jitter", 0 <= self.jitter < math.inf, "a finite number ≥ 0"),
            ("keep", self.keep >= 0, "at least 0"),
        )
        for name, holds, expected in checks:
            if not holds:
                raise ConfigError(f"training {name} is {getattr(self, name)}; expected {expected}")
        require_option("normalisation", self.normalisation, NormalisationKind)
        require_option("train", self.train, Trained)
        self._require_past()
        scratch = self.train == "expert" and self.model.source is None
        if self.init is None and (scratch or self.train == "memory"):
            raise ConfigError(
                f"train is {self.train!r} without a policy to start from: the context would stay "
                "random. Name one as init, or train all"
            )
        if self.train == "expert" and self.model.memory is not None and self.init is None:
            raise ConfigError(
                "train is 'expert' with a memory and no policy to start from: the memory would "
                "stay random. Name a policy that has one as init, or train the memory"
            )
        names = [method.name for method in self.methods]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"training methods {names}: expected at least one, each once")
        settings = ("horizon", "state_origin", "aligned", "max_age")
        if len({tuple(getattr(each, name) for name in settings) for each in self.methods}) > 1:
            raise ConfigError(
                f"training methods {', '.join(names)} differ in one of {', '.join(settings)}; "
                "methods trained together learn from the same samples"
            )

    def _require_past(self) -> None:
        """Raise `ConfigError` if what the model remembers does not fit the rest, or itself."""
        memory, frames, clip = self.model.memory, self.model.frames, self.sampling.clip
        if memory is not None and frames > 1:
            raise ConfigError(
                f"a memory, and frames {frames}: expected one of these alone (--memory-window, "
                "--frames)"
            )
        if self.train == "memory" and memory is None:
            raise ConfigError(
                "train is 'memory', and the model has none: give it one (--memory-window)"
            )
        layers = getattr(self.model, "layers", None)
        if memory is not None and layers is not None and layers < LEAST_LAYERS:
            raise ConfigError(
                f"a memory beside {layers} layers; expected at least {LEAST_LAYERS} (model layers)"
            )
        if (memory is not None or frames > 1) and clip < 2:
            raise ConfigError(
                f"a memory, or several frames, with clips of {clip} observation: there would be "
                "nothing to remember in training; draw clips of at least 2 (--clip)"
            )
        if clip > 1 and memory is None and frames == 1:
            raise ConfigError(
                f"clips of {clip} observations, and a model that remembers none; give it a memory "
                "(--memory-window) or several frames (--frames), or draw single observations "
                "(--clip 1)"
            )

    @property
    def generation(self) -> GenerationConfig:
        """What all methods agree on."""
        return self.methods[0]

    def policy_paths(self) -> dict[str, Path]:
        """Method → the file its policy is written to."""
        return {name: self.out / file for name, file in self._policy_names().items()}

    def best_paths(self) -> dict[str, Path]:
        """Method → the file of its policy with the lowest held-out action error."""
        return {name: self.out / BEST_NAME / file for name, file in self._policy_names().items()}

    def kept_paths(self, step: int) -> dict[str, Path]:
        """Method → the file of its policy as it was at the save after a step."""
        folder = self.out / KEPT_NAME / f"step-{step:08d}"
        return {name: folder / file for name, file in self._policy_names().items()}

    def _policy_names(self) -> dict[str, str]:
        if len(self.methods) == 1:
            return {self.methods[0].name: POLICY_NAME}
        return {method.name: f"{method.name}.safetensors" for method in self.methods}

    def recipe(self) -> dict[str, Any]:
        """What decides the result, as JSON: all but where it runs and how often it reports."""
        elsewhere = {
            "init",
            "out",
            "dataset",
            "more",
            "device",
            "threads",
            "resume",
            "save_every",
            "keep",
            "track",
            "log_every",
        }
        methods = [method.to_json() for method in self.methods]
        fields = {**dataclasses.asdict(self), "methods": methods}
        kept = {name: value for name, value in fields.items() if name not in elsewhere}
        return json.loads(json.dumps(kept))
