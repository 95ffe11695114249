"""How old actions were when they were sent, and how late commands left."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from streamvla.core.clock import NS_PER_MS
from streamvla.evaluation.report.svg import (
    LEFT,
    PANEL,
    PLOT,
    RIGHT,
    Scale,
    count_axis,
    curve,
    document,
    line,
    panel_bands,
    rect,
    text,
    time_axis,
)
from streamvla.trace.events import Sent, Stopping, TraceEvent

_BINS = 40
_CDF_PLOT, _CDF_TOP = 190, 30
_LEAST_MS = 0.01
"""The axis of lateness begins no earlier; what left sooner stands at its begin."""
_MOST_POINTS = 400

Samples = Sequence[tuple[str, Sequence[float]]]
"""(label, figures in ms) of each run."""


def ages_ms(events: Sequence[TraceEvent]) -> list[float]:
    """Of every policy command of an episode: from the capture of the oldest observation behind it
    to its sending."""
    return [
        (event.t_ns - event.sources[0].captured_ns) / NS_PER_MS
        for event in _commands(events)
        if event.sources
    ]


def lateness_ms(events: Sequence[TraceEvent]) -> list[float]:
    """Of every command of an episode on the grid: from its due instant to its sending."""
    return [(event.t_ns - event.due_ns) / NS_PER_MS for event in _commands(events)]


def age_histogram_svg(runs: Samples) -> str:
    """How old the observations behind the actions were: one panel per run, common axes; dashed:
    the median."""
    oldest = max((value for _, values in runs for value in values), default=0.0)
    scale = Scale(oldest * 1.04 or 1.0)
    edges = np.linspace(0, scale.top, _BINS + 1)
    counts = [np.histogram(values, edges)[0] for _, values in runs]
    most = max((int(count.max()) for count in counts), default=0) or 1
    body = time_axis(scale, panel_bands(len(runs)), "ms")
    for number, ((label, values), count) in enumerate(zip(runs, counts, strict=True)):
        base = PANEL * (number + 1)
        body += [
            text(LEFT, base - PANEL + 30, label, "name"),
            text(RIGHT, base - PANEL + 30, _ages(values), anchor="end"),
            *count_axis(str(most), base, "actions"),
        ]
        for low, high, times in zip(edges, edges[1:], count, strict=False):
            if times:
                height = PLOT * times / most
                title = f"{low:.0f}–{high:.0f} ms: {times} actions"
                body.append(rect(scale(low), scale(high), base - height, height, "bar", title, 1.5))
        if values:
            x = scale(float(np.median(values)))
            body.append(line(x, base - PLOT - 6, x, base, "pointer"))
    label = "Age of actions. " + " ".join(f"{name}: {_ages(values)}." for name, values in runs)
    return document("ages", PANEL * len(runs) + 24, label, body)


def lateness_svg(runs: Samples) -> str:
    """The share of commands that left at most so late after their tick, on a logarithmic axis."""
    everything = np.array([value for _, values in runs for value in values] or [1.0])
    low = math.floor(math.log10(max(np.percentile(everything, 1), _LEAST_MS)))
    high = max(low + 1, math.ceil(math.log10(max(everything.max(), _LEAST_MS))))
    scale = Scale(high - low)
    base = _CDF_TOP + 20 * len(runs) + _CDF_PLOT
    body = []
    for number, (name, values) in enumerate(runs):
        y = 20 + 20 * number
        body.append(curve([(LEFT, y - 4), (LEFT + 30, y - 4)], number))
        body.append(text(LEFT + 40, y, f"{name}: {_lateness(values)}"))
    for decade in range(low, high + 1):
        x = scale(decade - low)
        body.append(line(x, base - _CDF_PLOT, x, base, "grid"))
        body.append(text(x, base + 17, f"{10.0**decade:g}", anchor="middle"))
    for share in (0.0, 0.5, 0.9, 1.0):
        y = base - _CDF_PLOT * share
        body.append(line(LEFT, y, RIGHT, y, "grid"))
        body.append(text(LEFT - 12, y + 4, f"{100 * share:.0f} %", anchor="end"))
    body.append(text(LEFT - 30, base + 17, "ms", anchor="end"))
    for number, (_, values) in enumerate(runs):
        if values:
            body.append(curve(_cumulative(values, scale, low, base), number))
    label = "Lateness of commands. " + " ".join(f"{n}: {_lateness(v)}." for n, v in runs)
    return document("lateness", base + 26, label, body)


def _cumulative(
    values: Sequence[float], scale: Scale, low: int, base: float
) -> list[tuple[float, float]]:
    ordered = np.sort(values)
    kept = np.linspace(0, len(ordered) - 1, min(_MOST_POINTS, len(ordered))).round().astype(int)
    points = [(LEFT, base)]
    for i in kept:
        x = scale(max(0.0, math.log10(max(ordered[i], _LEAST_MS)) - low))
        points += [(x, points[-1][1]), (x, base - _CDF_PLOT * (i + 1) / len(ordered))]
    return [*points, (RIGHT, points[-1][1])]


def _commands(events: Sequence[TraceEvent]) -> list[Sent]:
    """Until the episode is over; what then brings the robot to rest is no part of it."""
    commands = []
    for event in events:
        if isinstance(event, Stopping):
            break
        if isinstance(event, Sent):
            commands.append(event)
    return commands


def _ages(values: Sequence[float]) -> str:
    if not values:
        return "no action was sent"
    return f"p50 {np.median(values):.0f} ms, p99 {np.percentile(values, 99):.0f} ms"


def _lateness(values: Sequence[float]) -> str:
    if not values:
        return "no command was sent"
    p50, p99 = np.percentile(values, [50, 99])
    return f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, at most {max(values):.2f} ms"
