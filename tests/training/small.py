"""A training small enough for tests; run as a module, one process of several."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

from streamvla.model.methods.action_flow import ActionFlowConfig
from streamvla.model.methods.registry import method_named
from streamvla.training import TrainConfig, train
from streamvla.training.batches import SamplingConfig
from streamvla.training.config import ModelSize
from streamvla.training.optimiser import OptimiserConfig

SMALL = ModelSize(
    layers=2,
    width=32,
    expert_width=32,
    heads=2,
    head_dim=16,
    expansion=2,
    channels=8,
    condition_width=16,
    asked_keypoints=4,
)


def small_config(dataset: Path, out: Path) -> TrainConfig:
    """Twelve steps on the toy, in float32 on the CPU, logged at every step."""
    return TrainConfig(
        dataset=dataset,
        out=out,
        steps=12,
        model=SMALL,
        methods=(ActionFlowConfig(horizon=5),),
        sampling=SamplingConfig(batch_size=4, samples=3, max_offset=3),
        optimiser=OptimiserConfig(warmup_steps=4),
        holdout_per_task=2,
        holdout_frames=8,
        device="cpu",
        autocast=False,
        log_every=1,
        holdout_every=6,
    )


def thread_names() -> list[str]:
    """The names of this process's threads, those of C++ too."""
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]


if __name__ == "__main__":
    torch.set_num_threads(1)
    config = small_config(Path(sys.argv[1]), Path(sys.argv[2]))
    methods = tuple(method_named(name)(horizon=5) for name in sys.argv[3:])
    train(replace(config, methods=methods or config.methods))
    names = "\n".join(thread_names())
    (config.out / f"threads-{os.environ['RANK']}.txt").write_text(names, encoding="utf-8")
