"""The figure of a finished training: losses, held-out action error, learning rate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamvla.core.files import replacing
from streamvla.training.record import read_log

if TYPE_CHECKING:  # it may not be installed
    from matplotlib.axes import Axes

Lines = list[dict[str, Any]]


def draw_curves(log: Path, path: Path) -> bool:
    """Draw what a log says, as PNG.

    Returns:
        False without matplotlib, or where nothing was logged.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    lines = read_log(log)
    metrics = [line for line in lines if "loss" in line]
    if not metrics:
        return False
    figure = Figure(figsize=(10, 8), layout="constrained")
    losses, errors, rates = figure.subplots(3, sharex=True, height_ratios=(3, 2, 1))
    _draw_losses(losses, metrics)
    _draw_errors(errors, [line for line in metrics if line.get("holdout")])
    rates.plot(_steps(metrics), [line["lr"] for line in metrics], color="black")
    rates.set(ylabel="learning rate", xlabel="step")
    for axes in (losses, errors, rates):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
    for line in lines:
        if "schedule" in line:
            _mark_schedule((losses, errors, rates), line["step"], line["schedule"]["steps"])
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=120)
    return True


def _draw_losses(axes: Axes, metrics: Lines) -> None:
    axes.plot(_steps(metrics), [line["loss"] for line in metrics], color="black", label="whole")
    for name in metrics[-1]["losses"]:
        values = [line["losses"].get(name) for line in metrics]
        axes.plot(_steps(metrics), values, linewidth=0.8, label=name)
    axes.set(ylabel="loss", yscale="log")


def _draw_errors(axes: Axes, measured: Lines) -> None:
    for name in measured[-1]["holdout"] if measured else ():
        if name.endswith("lead_0"):
            values = [line["holdout"].get(name) for line in measured]
            label = name.replace("/", ", ").replace("lead_0", "lead 0")
            axes.plot(_steps(measured), values, "o-", markersize=3, label=label)
    axes.set(ylabel="held-out action error")


def _mark_schedule(every: tuple[Axes, ...], step: int, steps: int) -> None:
    """A line through all, and in the first what begins there."""
    for axes in every:
        axes.axvline(step, color="tab:red", linestyle="--", linewidth=0.8)
    where = ("data", "axes fraction")
    every[0].annotate(f" from here: {steps} steps", (step, 0.98), xycoords=where, va="top")


def _steps(lines: Lines) -> list[int]:
    return [line["step"] for line in lines]
