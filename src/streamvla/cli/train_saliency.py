"""`streamvla train-saliency`: the predictor that lets a policy observe early, and its gate."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamvla.cli.beside import BesidePolicy
from streamvla.core.clock import NS_PER_MS, SystemClock
from streamvla.core.errors import InterruptedRunError
from streamvla.core.files import require_writable, write_text
from streamvla.evaluation.report.charts import gate_svg
from streamvla.studies.tables import print_json, print_table

if TYPE_CHECKING:
    from streamvla.training.anticipation.gate import Examination


@dataclass(frozen=True)
class TrainSaliency(BesidePolicy):
    """Train the saliency predictor of a policy, and calibrate its gate; Ctrl-C and SIGTERM save.

    Whoever loads the policy takes the predictor beside it along.

    Attributes:
        figure: with test, draw saliency against true change here (SVG).
        steps: optimiser steps.
        batch_size: frames a step.
        longest_lead: pairs of frames 1 to so many actions apart.
        miss_rate: what share of large changes the gate may accept, in expectation.
        tail: changes are large beyond all but this share of those over the longest lead.
        resume: go on from the state beside the predictor; a finished one is calibrated anew.
    """

    figure: Path | None = None
    steps: int = 4000
    batch_size: int = 32
    longest_lead: int = 6
    miss_rate: float = 0.1
    tail: float = 0.05
    resume: bool = False


def train_saliency_command(command: TrainSaliency) -> None:
    """Run the command and print what the predictor explains and what the gate lets through.

    Raises:
        InterruptedRunError: a signal came before the last step.
    """
    from streamvla.policy import resolve_checkpoint
    from streamvla.training.anticipation.gate import examine_gate
    from streamvla.training.anticipation.saliency import SaliencyTraining, train_saliency

    checkpoint = resolve_checkpoint(command.checkpoint)
    if command.test is not None:
        if command.figure is not None:
            require_writable(command.figure)
        found = examine_gate(checkpoint, command.test, command.device, command.tasks or None)
        figures = found.figures()
        _print_figures(figures)
        if command.figure is not None:
            _write_figure(command.figure, found)
        if command.json:
            told = {"command": "train-saliency", "test": str(command.test), "seed": found.seed}
            print_json({**told, **figures})
        return
    config = SaliencyTraining(**command.training(checkpoint))
    result = train_saliency(config)
    if not result.finished:
        raise InterruptedRunError(
            f"stopped at step {result.step} of {config.steps}; go on with the same command and "
            "--resume",
            result.stopped_by,
        )
    call_ms = _call_ms(checkpoint, result.path)
    gate = result.calibration.measured if result.calibration else {}
    _print_figures({**result.figures, **gate})
    print(f"{result.path}: step {result.step}; one call takes {call_ms:.1f} ms here")
    if result.calibration is None:
        print(f"not calibrated: {result.why_not}")
    else:
        eta = ", ".join(f"{value:.4g}" for value in result.calibration.threshold)
        print(f"thresholds: {eta}, at a miss rate of at most {result.calibration.miss_rate:g}")
    if command.json:
        print_json(
            {
                "command": "train-saliency",
                "predictor": str(result.path),
                "step": result.step,
                "call_ms": call_ms,
                "calibration": asdict(result.calibration) if result.calibration else None,
                "why_not_calibrated": result.why_not,
                "figures": dict(result.figures),
            }
        )


def _print_figures(figures: dict[str, Any]) -> None:
    """Per lead: the share of the change that is foreseen, and how often the gate accepts."""

    def shares(values: list[float]) -> str:
        return " / ".join(f"{100 * value:.0f} %" for value in values)

    kinds = {
        "accept_rate": "accepted",
        "accept_rate_still": "while nothing moves",
        "accept_rate_moved": "while a thing moves",
    }
    kinds = {name: title for name, title in kinds.items() if name in figures}
    rows = [
        (lead, shares(explained), *(shares([figures[name].get(lead, nan)]) for name in kinds))
        for lead, explained in figures["explained"].items()
    ]
    heads = ("lead", "change foreseen, by view", *kinds.values())
    print_table("predictor, by lead", heads, rows)
    if "miss_rate" in figures:
        print(f"large changes accepted, by view: {shares(figures['miss_rate'])}")


def _write_figure(path: Path, found: Examination) -> None:
    """Of the longest lead, where the gate has the most to refuse."""
    import numpy as np

    lead = np.concatenate([each.lead for each in found.pairs])
    rows = lead == found.calibration.longest_lead
    change = np.concatenate([each.change for each in found.pairs])[rows]
    predicted = np.concatenate([each.predicted for each in found.pairs])[rows]
    svg = gate_svg(
        found.views, change, predicted, found.calibration.bound, found.calibration.threshold
    )
    write_text(path, svg)
    print(f"Figure: {path}")


def _call_ms(checkpoint: Path, path: Path, calls: int = 30) -> float:
    """Median time of one call for all views, on one thread as `run` has it."""
    import numpy as np
    import torch

    from streamvla.policy import load_policy
    from streamvla.policy.saliency import load_saliency

    predictor = load_saliency(path, load_policy(checkpoint)).build()
    c = predictor.config
    seen, motion = torch.randn(1, c.views, c.tokens, c.token_width), torch.zeros(1, c.action_dim)
    threads, clock, times = torch.get_num_threads(), SystemClock(), []
    torch.set_num_threads(1)
    with torch.inference_mode():
        for _ in range(calls):
            begun_ns = clock.now_ns()
            predictor(seen, motion)
            times.append(clock.now_ns() - begun_ns)
    torch.set_num_threads(threads)
    return float(np.median(times)) / NS_PER_MS
