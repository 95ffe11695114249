"""`streamvla train-skipping`: the gate that says when a policy need not encode an observation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from streamvla.cli.beside import BesidePolicy
from streamvla.studies.tables import figure, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class TrainSkipping(BesidePolicy):
    """Train the gate by which a policy skips encodings, and calibrate it on held-out episodes.

    `eval --skip-gate` uses it.

    Attributes:
        observations: frames of training episodes, of two samples each.
        calibration_observations: of every calibration episode, and with test of every one.
        steps: optimiser steps.
        cycle: control periods between observations at run time.
        longest_age: kept frames are up to so many control periods old.
        longest_lead: up to so many actions are pending at a capture.
        miss_rates: of the observations that are harmful to skip, the shares that may be skipped, in
            expectation; each gives a threshold.
        tail: an action error is harmful beyond all but this share of those of contexts one control
            period old.
    """

    observations: int = 3000
    calibration_observations: int = 12
    steps: int = 1500
    cycle: int = 10
    longest_age: int = 23
    longest_lead: int = 6
    miss_rates: tuple[float, ...] = (0.1, 0.2, 0.3)
    tail: float = 0.05


def train_skipping_command(command: TrainSkipping) -> None:
    """Run the command and print what the gate would skip."""
    from streamvla.policy import resolve_checkpoint
    from streamvla.training.anticipation.skipping import (
        SkipTraining,
        examine_skipping,
        train_skipping,
    )

    checkpoint = resolve_checkpoint(command.checkpoint)
    if command.test is not None:
        figures = examine_skipping(
            checkpoint,
            command.test,
            command.out,
            command.device,
            command.tasks or None,
            command.calibration_observations,
            command.cycle,
            command.seed,
        )
        _print_figures(figures)
        if command.json:
            print_json({"command": "train-skipping", "test": str(command.test), **figures})
        return
    result = train_skipping(SkipTraining(**command.training(checkpoint)))
    calibration = result.calibration
    _print_figures(calibration.measured)
    print(
        f"{result.path}: an action error beyond {calibration.bound:.3g} of the action scale is "
        f"harmful; calibrated on {calibration.episodes} episodes that have some"
    )
    if command.json:
        print_json(
            {
                "command": "train-skipping",
                "gate": str(result.path),
                "calibration": asdict(calibration),
            }
        )


def _print_figures(figures: Mapping[str, Any]) -> None:
    """Per miss rate: what the gate skips, and what that costs."""

    def share(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.0f} %"

    rows = [
        (
            rate,
            share(found["skipped"]),
            share(found["miss_rate"]),
            " – ".join(map(share, found["miss_rate_ci"] or (None,))),
            figure(found["error_of_skipped"], 3),
        )
        for rate, found in figures["rates"].items()
    ]
    heads = ("miss rate", "skipped", "harmful ones skipped", "95 % interval", "error of skipped")
    print_table("gate, by miss rate", heads, rows)
    print(f"rank correlation of expected and true error: {figure(figures['rank_correlation'], 2)}")
