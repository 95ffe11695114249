"""`train-saliency` and `train-skipping`: their options become their trainings."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from streamvla.cli.train_saliency import TrainSaliency
from streamvla.cli.train_skipping import TrainSkipping
from streamvla.training.anticipation.saliency import SaliencyTraining
from streamvla.training.anticipation.skipping import SkipTraining

ELSEWHERE = {"checkpoint", "test", "figure", "json"}
"""What is no field of the training, or is resolved before."""


@pytest.mark.parametrize(
    ("command", "training"), [(TrainSaliency, SaliencyTraining), (TrainSkipping, SkipTraining)]
)
def test_every_option_reaches_the_training(command, training):
    """Under its own name, each with another value than its default; without tasks all are taken."""
    others = {"device": "cpu", "tasks": ("reach",), "miss_rates": (0.4,), "threads": 1}
    others |= {name: Path(f"{name}.file") for name in ("dataset", "calibration", "out")}
    others |= {"tail": 0.2, "miss_rate": 0.3, "resume": True}
    names = {each.name for each in fields(command)} - ELSEWHERE
    changed = {n: others[n] if n in others else getattr(command(), n) + 1 for n in names}
    made = training(**replace(command(), **changed).training(Path("policy.file")))
    assert {name: getattr(made, name) for name in names} == changed
    assert made.checkpoint == Path("policy.file")
    assert training(**command().training(Path("policy.file"))).tasks is None
