"""`streamvla train`: demonstrations → policy; resumable, same command on a CPU or a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from streamvla.cli.output import print_json
from streamvla.core.errors import ConfigError, InterruptedRunError


@dataclass(frozen=True)
class Train:
    """Train an action-flow policy; Ctrl-C saves, --resume goes on where it stopped.

    Attributes:
        dataset: folder that `streamvla collect` wrote.
        out: folder for the policy, the training state and the log.
        steps: optimiser steps; the learning-rate schedule spans them.
        batch_size: observations a step.
        samples: (offset, flow time, noise) samples per observation; they share one encoding.
        lr: highest learning rate.
        max_offset: train on images up to this many actions old (0: never).
        tau_sampling: flow times in training.
        k: contraction rate of the flow.
        sigma0: perturbation at the flow's start, in action scales.
        future_weight: how much foreseeing the arm's state counts in the loss.
        start_fraction: share of the draws from the first frames of an episode.
        task_weights: NAME=W …: draw these tasks W times as often as the others.
        tasks: of the dataset; default all.
        seed: of weights, batches and noise.
        device: auto, cpu or cuda.
        threads: PyTorch threads; default as PyTorch chooses.
        seeded_keypoints: share of vision keypoints that start on what stands out in the images.
        init: start from this policy's weights instead of fresh ones (fine-tuning).
        resume: go on from the training state in `out`.
        json: print the result as one JSON object on the last line.
    """

    dataset: Path = Path("datasets/metaworld6")
    out: Path = Path("runs/train")
    steps: int = 30_000
    batch_size: int = 64
    samples: int = 8
    lr: float = 1e-3
    max_offset: int = 6
    tau_sampling: Literal["grid", "uniform", "beta"] = "grid"
    k: float = 4.0
    sigma0: float = 0.16
    future_weight: float = 0.5
    start_fraction: float = 0.3
    task_weights: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    seeded_keypoints: float = 0.5
    init: Path | None = None
    resume: bool = False
    json: bool = False


def train_command(command: Train) -> None:
    """Run the command and print where the policy lies.

    Raises:
        InterruptedRunError: Ctrl-C came before the last step; the figures are printed all the same.
    """
    from streamvla.model.flow import FlowConfig
    from streamvla.training.batches import SamplingConfig
    from streamvla.training.optimiser import OptimiserConfig
    from streamvla.training.trainer import TrainConfig, train

    config = TrainConfig(
        dataset=command.dataset,
        out=command.out,
        steps=command.steps,
        seed=command.seed,
        tasks=command.tasks or None,
        flow=FlowConfig(k=command.k, sigma0=command.sigma0, tau_sampling=command.tau_sampling),
        sampling=SamplingConfig(
            batch_size=command.batch_size,
            samples=command.samples,
            max_offset=command.max_offset,
            start_fraction=command.start_fraction,
            task_weights=dict(_task_weight(text) for text in command.task_weights),
        ),
        future_weight=command.future_weight,
        optimiser=OptimiserConfig(lr=command.lr),
        device=command.device,
        threads=command.threads,
        seeded_keypoints=command.seeded_keypoints,
        init=command.init,
        resume=command.resume,
    )
    result = train(config)
    if result.finished:
        print(f"{result.policy}: step {result.step}, finished")
    if command.json:
        print_json(
            {
                "command": "train",
                "policy": str(result.policy),
                "step": result.step,
                "finished": result.finished,
                "holdout": dict(result.holdout),
            }
        )
    if not result.finished:
        raise InterruptedRunError(_how_to_go_on(command, result.step))


def _task_weight(text: str) -> tuple[str, float]:
    """`push=3` → ("push", 3.0)."""
    task, _, weight = text.partition("=")
    try:
        return task, float(weight)
    except ValueError:
        raise ConfigError(f"task weight {text!r}: expected NAME=NUMBER, as push=3") from None


def _how_to_go_on(command: Train, step: int) -> str:
    if step == 0:
        return "interrupted before the first step; nothing is saved. Run the same command again."
    return (
        f"interrupted at step {step} of {command.steps}; policy and training state are saved in "
        f"{command.out}. Run the same command with --resume to go on."
    )
