"""The report's charts: how long halts were, how full the buffer was; and those of the studies."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamvla.core.clock import NS_PER_MS, NS_PER_S
from streamvla.evaluation.report.svg import (
    LEFT,
    PANEL,
    PLOT,
    RIGHT,
    Scale,
    count_axis,
    document,
    line,
    mark,
    panel_bands,
    rect,
    step_curve,
    text,
    time_axis,
)
from streamvla.evaluation.report.timeline import TimelineRun
from streamvla.trace.events import Sent

_BINS = 40


def halt_histogram_svg(runs: Sequence[tuple[str, Sequence[float]]]) -> str:
    """How often the robot halted for how long: one panel per run, common axes.

    Args:
        runs: (label, halts in ms over all episodes).
    """
    longest = max((value for _, values in runs for value in values), default=0.0)
    scale = Scale(longest * 1.04 or 1.0)
    edges = np.linspace(0, scale.top, _BINS + 1)
    counts = [np.histogram(values, edges)[0] for _, values in runs]
    most = max((int(count.max()) for count in counts), default=0) or 1
    body = time_axis(scale, panel_bands(len(runs)), "ms")
    for number, ((label, values), count) in enumerate(zip(runs, counts, strict=True)):
        top = PANEL * number
        body += [
            text(LEFT, top + 30, label, "name"),
            text(RIGHT, top + 30, _total(values), anchor="end"),
            *count_axis(str(most), top + PANEL, "halts"),
        ]
        for low, high, times in zip(edges, edges[1:], count, strict=False):
            if times:
                height = PLOT * times / most
                title = f"{low:.0f}–{high:.0f} ms: {times} halts"
                y = top + PANEL - height
                body.append(rect(scale(low), scale(high), y, height, "halt", title, gap=1.5))
    label = "Histogram of halts. " + " ".join(f"{name}: {_total(v)}." for name, v in runs)
    return document("halts", PANEL * len(runs) + 24, label, body)


def buffer_depth_svg(runs: Sequence[TimelineRun], window_ns: int, name: str = "depth") -> str:
    """Actions in the buffer behind each command, over the first `window_ns` of each run.

    Args:
        name: see `svg.document`.
    """
    scale = Scale(window_ns / NS_PER_S)
    curves = [_depths(run, window_ns) for run in runs]
    most = max((depth for curve in curves for _, depth in curve), default=0) or 1
    body = time_axis(scale, panel_bands(len(runs)), "s")
    for number, (run, curve) in enumerate(zip(runs, curves, strict=True)):
        base = PANEL * (number + 1)
        body += [text(LEFT, base - PANEL + 30, run.label, "name")]
        body += count_axis(str(most), base, "actions")
        body += step_curve(curve, scale, base, PLOT / most)
    deepest = " ".join(
        f"{run.label}: at most {max((d for _, d in curve), default=0)}."
        for run, curve in zip(runs, curves, strict=True)
    )
    return document(name, PANEL * len(runs) + 24, f"Buffer depth over time. {deepest}", body)


@dataclass(frozen=True)
class GridPoint:
    """One cell of a grid of early observation: halt in ms per observation, success as a share."""

    rule: str
    lead: int
    compensation: str
    halt_ms: float
    success: float
    interval: tuple[float, ...]


_RULE_MARKS = {
    "none": ("other", "circle"),
    "always": ("halt", "square"),
    "random": ("observe", "diamond"),
    "action-norm": ("generate", "triangle"),
    "adaptive": ("execute", "circle"),
    "second-look": ("execute", "square"),
}
_CELL_PANEL, _CELL_PLOT, _CELL_SIZE, _LEGEND = 190, 140, 8, 36


def success_halt_svg(points: Sequence[GridPoint], compensations: Sequence[str]) -> str:
    """Success against halting for every cell: one panel a compensation, the lead in the mark.

    A cell without early observation is drawn in every panel of its policy ("training" in both
    names, or in neither), its success as a dashed line. Thin lines: 95 % intervals of success.
    Marks that would hide each other stand side by side, each on a thread from its halt; a mark's
    title has its figures.
    """
    shown = [name for name in compensations if any(p.compensation == name for p in points)]
    scale = Scale(max((p.halt_ms for p in points), default=0.0) * 1.05 + 1.0)
    least = min((low for p in points for low in p.interval[:1]), default=0.0)
    floor = math.floor(10 * max(0.0, least - 0.02)) / 10
    bands = [
        (_LEGEND + _CELL_PANEL * i + _CELL_PANEL - _CELL_PLOT, _LEGEND + _CELL_PANEL * (i + 1))
        for i in range(len(shown))
    ]
    body = [*_legend(points), *time_axis(scale, bands, "ms halt")]
    for name, (top, base) in zip(shown, bands, strict=True):
        body += _success_axis(name, top, base, floor)
        height = Scale(1.0 - floor, base, top)
        chosen = [p for p in points if p.compensation == name or _is_reference(p, name)]
        for point in chosen:
            if point.rule == "none":
                y = height(point.success - floor)
                body.append(line(LEFT, y, RIGHT, y, "startup"))
        places = _side_by_side(chosen, scale, height, floor)
        for point, x in zip(chosen, places, strict=True):
            y = height(point.success - floor)
            body.append(line(scale(point.halt_ms), y, x, y, "thread"))
        for point, x in zip(chosen, places, strict=True):
            body += _cell_mark(point, x, height, floor)
    label = "Success against halting per observation. " + " ".join(
        f"{p.rule}, lead {p.lead}, {p.compensation}: {100 * p.success:.0f} %, {p.halt_ms:.0f} ms."
        for p in points
    )
    return document("grid", _LEGEND + _CELL_PANEL * len(shown) + 30, label, body)


_GATE_PANEL, _GATE_PLOT, _MOST_POINTS = 330, 270, 1200


def gate_svg(
    views: Sequence[str],
    change: np.ndarray,
    predicted: np.ndarray,
    bound: Sequence[float],
    threshold: Sequence[float],
) -> str:
    """Expected against true change, one panel a camera; what the gate accepts although it is large
    lies at the lower right, and is vermilion.

    Args:
        change, predicted: (p, v) of every pair of frames; evenly thinned out beyond 1200.
        bound: of every view, beyond which a true change is large.
        threshold: of every view; pairs with a larger expected change in any view are refused.
    """
    accepted = np.all(predicted <= np.array(threshold), axis=1)
    large = change > np.array(bound)
    kept = np.linspace(0, len(change) - 1, min(_MOST_POINTS, len(change))).round().astype(int)
    most = float(max(change.max(initial=0.0), predicted.max(initial=0.0))) * 1.02 or 1.0
    scale = Scale(most)
    bases = [_GATE_PANEL * (i + 1) for i in range(len(views))]
    body = time_axis(scale, [(base - _GATE_PLOT, base) for base in bases], "true ‖Δ‖")
    told = []
    for view, (name, base) in enumerate(zip(views, bases, strict=True)):

        def height(value: float, base: float = base) -> float:
            return base - _GATE_PLOT * value / most

        beyond = large[:, view]
        told.append(
            f"camera {name}: {_share(accepted)} accepted, "
            f"{_share(accepted[beyond])} of the large changes"
        )
        body.append(text(LEFT, base - _GATE_PLOT - 14, told[-1], "name"))
        for i in kept:
            kind = "halt" if accepted[i] and beyond[i] else "execute" if accepted[i] else "observe"
            shape = "square" if kind == "halt" else "circle" if kind == "execute" else "diamond"
            body.append(mark(scale(change[i, view]), height(predicted[i, view]), 3, kind, shape))
        x, y = scale(min(bound[view], most)), height(min(threshold[view], most))
        body += [
            line(x, base - _GATE_PLOT, x, base, "end"),
            line(LEFT, y, RIGHT, y, "end"),
            text(RIGHT, y - 6, "refused above", anchor="end"),
            text(x + 6, base - _GATE_PLOT + 14, "large beyond"),
            text(LEFT - 12, base - _GATE_PLOT + 9, f"{most:.0f}", anchor="end"),
            text(LEFT - 12, base - _GATE_PLOT / 2 + 4, "expected", anchor="end"),
        ]
    label = "Expected against true change of the vision tokens. " + ". ".join(told)
    return document("gate", _GATE_PANEL * len(views) + 30, label, body)


def _share(flags: np.ndarray) -> str:
    return f"{100 * flags.mean():.0f} %" if len(flags) else "none"


def _is_reference(point: GridPoint, panel: str) -> bool:
    """Whether a cell without early observation belongs into a panel too."""
    return point.rule == "none" and ("training" in point.compensation) == ("training" in panel)


def _legend(points: Sequence[GridPoint]) -> list[str]:
    parts, x = [], LEFT
    for rule in _RULE_MARKS:
        if any(point.rule == rule for point in points):
            parts += [mark(x + 8, 18, 7, *_RULE_MARKS[rule]), text(x + 22, 23, rule, "name")]
            x += 60 + 9 * len(rule)
    return parts


def _success_axis(name: str, top: float, base: float, floor: float) -> list[str]:
    parts = [text(LEFT, top - 12, name, "name")]
    for share in np.arange(round(10 * floor), 11) / 10:
        y = base - (base - top) * (share - floor) / (1 - floor or 1)
        parts.append(line(LEFT, y, RIGHT, y, "grid"))
        if share in (floor, 1.0) or round(10 * share) % 2 == 0:
            parts.append(text(LEFT - 12, y + 4, f"{100 * share:.0f} %", anchor="end"))
    return parts


def _side_by_side(
    points: Sequence[GridPoint], scale: Scale, height: Scale, floor: float
) -> list[float]:
    """Where to draw each mark: at its halt, or as near to it as hides no mark before it."""
    apart = 2 * _CELL_SIZE + 2
    placed: list[tuple[float, float]] = []
    for point in points:
        y = height(point.success - floor)
        steps = (sign * i * apart for i in itertools.count() for sign in (1, -1))
        candidates = (scale(point.halt_ms) + step for step in steps)
        x = next(
            x
            for x in candidates
            if x >= LEFT
            and all(abs(x - u) >= apart - 0.5 or abs(y - v) >= apart for u, v in placed)
        )
        placed.append((x, y))
    return [x for x, _ in placed]


def _cell_mark(point: GridPoint, x: float, height: Scale, floor: float) -> list[str]:
    y = height(point.success - floor)
    low, high = (height(max(share, floor) - floor) for share in point.interval)
    colour, shape = _RULE_MARKS[point.rule]
    title = (
        f"{point.rule}, lead {point.lead}, {point.compensation}: "
        f"{100 * point.success:.0f} %, {point.halt_ms:.0f} ms"
    )
    number = [text(x, y + 4, str(point.lead), "mark", anchor="middle")] if point.lead else []
    return [
        line(x, low, x, high, "end"),
        mark(x, y, _CELL_SIZE, colour, shape, title),
        *number,
    ]


def _depths(run: TimelineRun, window_ns: int) -> list[tuple[float, int]]:
    """(seconds since the start, actions left in the buffer) at every command in the window."""
    points = [
        ((event.t_ns - run.begin_ns) / NS_PER_S, event.depth)
        for event in run.events
        if isinstance(event, Sent) and event.t_ns - run.begin_ns < window_ns
    ]
    if points:
        points.append((min(window_ns, run.duration_ns) / NS_PER_S, points[-1][1]))
    return points


def _total(values: Sequence[float]) -> str:
    if not values:
        return "no halts"
    noun = "halt" if len(values) == 1 else "halts"
    return f"{len(values)} {noun}, {sum(values) * NS_PER_MS / NS_PER_S:.1f} s in all"
