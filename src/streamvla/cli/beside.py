"""What `train-saliency` and `train-skipping` share: both train something that lies beside a policy
and is calibrated on held-out demonstrations."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro


@dataclass(frozen=True)
class BesidePolicy:
    """The options of both.

    Attributes:
        checkpoint: the policy; default the one that ships. It stays as it is; what is trained goes
            into a file beside it, and does not overwrite one that lies there.
        dataset: demonstrations that fit the policy, best its own.
        calibration: other demonstrations to calibrate on, which neither has seen: episodes that
            either was trained on are refused, by task and seed. Default the last `holdout_per_task`
            episodes of every task of the dataset.
        test: train nothing; say what the calibrated gate does on this dataset.
        out: the file, if not beside the policy; with `train-skipping --test`, where it lies.
        holdout_per_task: episodes of every task that training leaves out.
        tasks: of the dataset; default all.
        seed: of weights and samples.
        device: auto, cpu or cuda.
        threads: PyTorch threads; default as PyTorch chooses.
        json: print the result as one JSON object on the last line.
    """

    checkpoint: Annotated[Path | None, tyro.conf.arg(name="policy")] = None
    dataset: Path = Path("datasets/metaworld6")
    calibration: Path | None = None
    test: Path | None = None
    out: Path | None = None
    holdout_per_task: int = 6
    tasks: tuple[str, ...] = ()
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    json: bool = False

    def training(self, checkpoint: Path) -> dict[str, Any]:
        """The fields of the training, which has the same names, of this policy file."""
        left_out = {"checkpoint", "test", "figure", "json", "tasks"}
        stated = {each.name: getattr(self, each.name) for each in fields(self)}
        kept = {name: value for name, value in stated.items() if name not in left_out}
        return {**kept, "checkpoint": checkpoint, "tasks": self.tasks or None}
