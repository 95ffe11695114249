"""A training as a command states it, and the configuration that comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from streamvla.core.errors import ConfigError

if TYPE_CHECKING:  # it needs torch
    from streamvla.training import TrainConfig
    from streamvla.training.config import Size


@dataclass(frozen=True)
class Train:
    """Train a policy; Ctrl-C, SIGTERM and SIGHUP save, --resume goes on where it stopped.

    Several processes: torchrun --nproc-per-node N -m streamvla train … (same curve as one).

    Attributes:
        dataset: folder that `streamvla collect` wrote.
        more: further datasets of the same robot; what is held out comes from `dataset`.
        out: folder for the policy, the training state and the log.
        method: action-flow streams one action per expert pass; chunk-flow makes H of them in ten
            passes (π0); regression in one. Several train together, on one encoding of each image.
        backbone: small, trained from scratch; or a vision-language model to fine-tune: a folder
            with config.json, tokenizer.json and weights, or a name on the hub (extra `vlm`).
        attention: of the expert: mixed, one softmax over vision, words and actions; or cascaded,
            one for each, which may start from a policy with mixed attention (--init).
        patch_k: share of the vision tokens that each layer of the expert attends to, the best ones.
        gate: what vision gives the expert is scaled by one factor a token (scalar), a head or an
            element.
        pruned_to: share of the vision tokens that enter the backbone, chosen by instruction and
            state; 1 for all.
        crops: look at every view at half its size, and at what is around the gripper at twice its
            size; for robots whose cameras are known (RobotSpec.gaze).
        crop_channels: of the crops' encoder; 64 like the other one, fewer cost less.
        crop_jitter_px: move the crops by up to this many pixels each way in training.
        crop_leash_px: how far what the instruction asks for may pull a crop from the gripper.
        memory_window: remember so many observations back, behind an --init without memory too;
            default none. Needs --clip.
        memory_vision: of how many of them all vision tokens are kept.
        memory_summaries: tokens an observation is remembered by, beside its state and command.
        memory_recurrent: let the tokens of an observation start from those of the one before.
        frames: give a context the vision tokens of so many observations; needs --clip.
        clip: draw so many observations of an episode together, in order; --batch-size is a multiple
            of it.
        clip_stride: least and most control periods between them.
        horizon: H, actions per observation.
        ablation: one change by name, such as unaligned or no-perturbation.
        steps: optimiser steps; the learning-rate schedule spans them. May grow with --resume.
        batch_size: observations a step, over all processes.
        samples: (offset, flow time, noise) samples per observation; they share one encoding.
        chunk_samples: how many of them chunk-flow and regression use, which make H tokens of each.
        lr: highest learning rate.
        max_offset: train on images up to this many actions old (0: never).
        shift_px: augmentation: each view is moved by up to this many pixels each way. A pixel is
            about a centimetre of table, so a shift costs the sight of small distances.
        state_origin: where delta sums are zero: at the observation, or at the episode's start.
        tau_sampling: flow times in training (action-flow; default grid).
        k: contraction rate of the flow (action-flow; default 4).
        sigma0: perturbation at the flow's start, in action scales (action-flow; default 0.16).
        future_weight: how much foreseeing the arm's state counts in the loss.
        places_weight: how much reading out the places of things counts, if the dataset has them.
        word_dropout: share of an instruction's words left out, for phrasings that are not here.
        start_fraction: share of the draws from the first frames of an episode.
        task_weights: NAME=W …: draw these tasks W times as often as the others.
        tasks: of the dataset; default all.
        seed: of weights, batches and noise.
        device: auto, cpu or cuda.
        threads: PyTorch threads; default as PyTorch chooses.
        seeded_keypoints: share of vision keypoints that start on what stands out in the images;
            default 0.5, and 0 with --init.
        train: all; the expert alone on the context of --init or of a pretrained backbone; the
            memory and the expert on such a context; or only vision, to tell the places of things:
            cheap, and a good --init for all.
        init: start from this policy's weights (of another method: all but the expert's), or from
            those in the folder of a training of several methods; `shipped`: from what ships.
        save_every: steps between saves; a kill loses at most these.
        keep: how many policies of past saves stay, apart from the newest and the best.
        track: write TensorBoard's scalars to the folder tensorboard in `out` (extra `track`).
        resume: go on from the training state in `out`; other settings are refused.
        json: print the result as one JSON object on the last line.
    """

    dataset: Path = Path("datasets/metaworld6")
    more: tuple[Path, ...] = ()
    out: Path = Path("runs/train")
    method: tuple[str, ...] = ("action-flow",)
    backbone: str = "small"
    attention: Literal["mixed", "cascaded"] = "mixed"
    patch_k: float = 1.0
    gate: Literal["none", "scalar", "head", "element"] = "none"
    pruned_to: float = 1.0
    crops: bool = False
    crop_channels: int = 64
    crop_jitter_px: int = 8
    crop_leash_px: float = 0.0
    memory_window: int | None = None
    memory_vision: int = 0
    memory_summaries: int = 4
    memory_recurrent: bool = False
    frames: int = 1
    clip: int = 1
    clip_stride: tuple[int, int] = (8, 12)
    horizon: int = 10
    ablation: str | None = None
    steps: int = 30_000
    batch_size: int = 64
    samples: int = 8
    chunk_samples: int = 2
    lr: float = 1e-3
    max_offset: int = 6
    shift_px: int = 0
    state_origin: Literal["observation", "episode"] = "observation"
    tau_sampling: Literal["grid", "uniform", "beta"] | None = None
    k: float | None = None
    sigma0: float | None = None
    future_weight: float = 0.5
    places_weight: float = 0.5
    start_fraction: float = 0.3
    word_dropout: float = 0.0
    task_weights: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    seeded_keypoints: float | None = None
    train: Literal["all", "expert", "vision", "memory"] = "all"
    init: Path | None = None
    save_every: int = 500
    keep: int = 2
    track: bool = False
    resume: bool = False
    json: bool = False


def train_config(command: Train) -> TrainConfig:
    """What the flags come to.

    Raises:
        ConfigError: an unknown ablation, or a setting that the method does not have.
    """
    from streamvla.model.methods.registry import method_named
    from streamvla.training.ablations import ablate, with_flow_settings
    from streamvla.training.batches import SamplingConfig
    from streamvla.training.config import TrainConfig
    from streamvla.training.optimiser import OptimiserConfig

    config = TrainConfig(
        dataset=command.dataset,
        more=command.more,
        out=command.out,
        steps=command.steps,
        seed=command.seed,
        tasks=command.tasks or None,
        model=_size(command),
        methods=tuple(
            method_named(name)(
                horizon=command.horizon,
                state_origin=command.state_origin,
                max_age=command.max_offset,
            )
            for name in command.method
        ),
        sampling=SamplingConfig(
            batch_size=command.batch_size,
            samples=command.samples,
            chunk_samples=command.chunk_samples,
            max_offset=command.max_offset,
            shift_px=command.shift_px,
            start_fraction=command.start_fraction,
            word_dropout=command.word_dropout,
            clip=command.clip,
            clip_stride=command.clip_stride,
            task_weights=dict(_task_weight(text) for text in command.task_weights),
        ),
        future_weight=command.future_weight,
        places_weight=command.places_weight,
        optimiser=OptimiserConfig(lr=command.lr),
        device=command.device,
        threads=command.threads,
        seeded_keypoints=command.seeded_keypoints,
        train=command.train,
        init=_initial(command.init),
        save_every=command.save_every,
        keep=command.keep,
        track=command.track,
        resume=command.resume,
    )
    config = with_flow_settings(
        config, k=command.k, sigma0=command.sigma0, tau_sampling=command.tau_sampling
    )
    return config if command.ablation is None else ablate(config, command.ablation)


def _initial(init: Path | None) -> Path | None:
    """`shipped` is the folder of the policies that ship, unless there is a file of that name."""
    from streamvla.policy.shipped import SHIPPED

    if init is None or init != Path("shipped") or init.exists():
        return init
    return SHIPPED


def _size(command: Train) -> Size:
    from streamvla.model.focus import FocusConfig
    from streamvla.model.past import MemoryConfig
    from streamvla.training.config import CropSize, ModelSize, PretrainedSize

    focus = FocusConfig(command.attention, command.patch_k, command.gate)
    memory = None
    if command.memory_window is not None:
        sizes = (command.memory_summaries, command.memory_window, command.memory_vision)
        memory = MemoryConfig(*sizes, recurrent=command.memory_recurrent)
        if command.memory_window == 0 and not command.memory_recurrent:
            raise ConfigError(
                "memory_window is 0 and the memory not recurrent: nothing would be remembered but "
                "how the episode began; expected at least 1, or --memory-recurrent"
            )
    if command.backbone == "small":
        crops = CropSize(
            channels=command.crop_channels,
            jitter_px=command.crop_jitter_px,
            leash_px=command.crop_leash_px,
        )
        return ModelSize(
            focus=focus,
            crops=crops if command.crops else None,
            pruned_to=command.pruned_to,
            memory=memory,
            frames=command.frames,
        )
    if command.frames > 1:
        raise ConfigError(
            f"frames {command.frames} with backbone {command.backbone}: a pretrained model has one "
            "observation a context; give it a memory (memory-window), or train the small one"
        )
    if command.pruned_to < 1:
        raise ConfigError(
            f"pruned_to {command.pruned_to:g} with backbone {command.backbone}: a pretrained model "
            "reads all vision tokens; leave it at 1, or train the small one"
        )
    if command.crops:
        raise ConfigError(
            f"crops with backbone {command.backbone}: a pretrained model looks at whole views; "
            "leave crops out, or train the small one"
        )
    return PretrainedSize(command.backbone, focus=focus, memory=memory)


def _task_weight(text: str) -> tuple[str, float]:
    """`push=3` → ("push", 3.0)."""
    task, _, weight = text.partition("=")
    try:
        return task, float(weight)
    except ValueError:
        raise ConfigError(f"task weight {text!r}: expected NAME=NUMBER, as push=3") from None
