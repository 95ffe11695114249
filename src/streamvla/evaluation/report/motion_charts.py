"""How the robot was told to move: its commanded path with every seam, and its speed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.clock import NS_PER_MS, NS_PER_S
from streamvla.evaluation.report.svg import (
    CURVES,
    LEFT,
    PANEL,
    PLOT,
    RIGHT,
    Scale,
    count_axis,
    curve,
    curve_legend,
    document,
    line,
    panel_bands,
    rect,
    step_curve,
    text,
    time_axis,
)
from streamvla.evaluation.report.timeline import TimelineRun
from streamvla.evaluation.smoothness import motion_dims
from streamvla.trace.events import FaultInjected, Sent

_PATH_PANEL, _PATH_PLOT, _LEGEND = 196, 150, 30
_LEAST_RANGE = 1e-6

MovingRun = tuple[TimelineRun, ActionSpace]


def path_svg(runs: Sequence[MovingRun], name: str = "path") -> str:
    """Where the commands of each run put the robot, over its whole length; halts are shaded.

    Absolute dimensions: the commands themselves. Delta dimensions, which alone count where there
    are any (`smoothness.motion_dims`): the sum of the steps. A dashed line with a tick marks a
    seam, where the actions of a new generation begin.

    At most six dimensions are drawn, those that moved farthest.

    Args:
        name: see `svg.document`.
    """
    longest_ns = max((run.duration_ns for run, _ in runs), default=0) or NS_PER_S
    scale = Scale(longest_ns / NS_PER_S)
    paths = [_path(run, space) for run, space in runs]
    dims = _farthest(paths)
    names = [runs[0][1].names[motion_dims(runs[0][1])[dim]] for dim in dims] if runs else []
    drawn = [path[:, dims] for _, path in paths]
    values = np.concatenate(drawn) if drawn else np.zeros((0, 0))
    low, high = _range(values)
    tops = [
        _LEGEND + _PATH_PANEL * number + _PATH_PANEL - _PATH_PLOT for number in range(len(runs))
    ]
    body = [*curve_legend(names, 16), *time_axis(scale, [(y, y + _PATH_PLOT) for y in tops], "s")]
    for (run, _), (seconds, _), path, top in zip(runs, paths, drawn, tops, strict=True):
        body += _path_panel(run, seconds, path, (low, high), scale, top)
    told = " ".join(
        f"{run.label}: {_count(len(_seams(run)), 'seam')}, {_count(len(run.halts()), 'halt')}."
        for run, _ in runs
    )
    label = f"Commanded path of {', '.join(names) or 'nothing'} over time. {told}"
    return document(name, _LEGEND + _PATH_PANEL * len(runs) + 26, label, body)


def _path_panel(
    run: TimelineRun,
    seconds: np.ndarray,
    path: np.ndarray,
    limits: tuple[float, float],
    scale: Scale,
    top: float,
) -> list[str]:
    low, high = limits
    base = top + _PATH_PLOT
    height = Scale(high - low, base, top)
    seams = _seams(run)
    parts = [
        text(LEFT, top - 14, run.label, "name"),
        text(RIGHT, top - 14, _count(len(seams), "seam"), anchor="end"),
        text(LEFT - 12, top + 9, f"{high:.3g}", anchor="end"),
        text(LEFT - 12, base - 1, f"{low:.3g}", anchor="end"),
    ]
    for halt in run.halts():
        left, right = (scale((t_ns - run.begin_ns) / NS_PER_S) for t_ns in halt)
        title = f"halt: {halt.duration_ns / NS_PER_MS:.4g} ms"
        parts.append(rect(left, right, top, _PATH_PLOT, "pale", title))
        parts.append(rect(left, right, base - 9, 9, "hatch", title))
    for seam_ns in seams:
        x = scale((seam_ns - run.begin_ns) / NS_PER_S)
        parts += [line(x, top, x, base, "seam"), line(x, top - 5, x, top + 3, "end")]
    for number, column in enumerate(path.T):
        points = [(scale(s), height(v - low)) for s, v in zip(seconds, column, strict=True)]
        if points:
            parts.append(curve(points, number))
    if not len(seconds):
        parts.append(text((LEFT + RIGHT) / 2, top + 80, "no command was sent", anchor="middle"))
    return parts


def speed_svg(runs: Sequence[MovingRun], name: str = "speed") -> str:
    """The commanded speed of each run over its whole length, injected faults shaded.

    Speed: the length of the commanded step over the motion dimensions, action units per period.
    The axis leaves out the policy's first command: absolute commands begin with a step to where
    the policy wants the robot.

    Args:
        name: see `svg.document`.
    """
    longest_ns = max((run.duration_ns for run, _ in runs), default=0) or NS_PER_S
    scale = Scale(longest_ns / NS_PER_S)
    curves = [_speeds(run, space) for run, space in runs]
    later = [
        speed
        for (run, _), points in zip(runs, curves, strict=True)
        for seconds, speed in points
        if seconds > (run.startup_end_ns() - run.begin_ns) / NS_PER_S
    ]
    top = max(later, default=0.0) or 1.0
    body = time_axis(scale, panel_bands(len(runs)), "s")
    for number, ((run, _), points) in enumerate(zip(runs, curves, strict=True)):
        base = PANEL * (number + 1)
        body += [text(LEFT, base - PANEL + 30, run.label, "name")]
        body += _fault_bands(run, scale, base)
        body += count_axis(f"{top:.2g}", base, "speed")
        clipped = [(seconds, min(speed, top)) for seconds, speed in points]
        body += step_curve(clipped, scale, base, PLOT / top)
    label = "Commanded speed over time. " + " ".join(f"{run.label}." for run, _ in runs)
    return document(name, PANEL * len(runs) + 24, label, body)


def _path(run: TimelineRun, space: ActionSpace) -> tuple[np.ndarray, np.ndarray]:
    """Seconds since the start (n,) and the commanded path (n, m) over the motion dimensions.

    A step acts for one period: the path of deltas reaches its value a period after the command.
    """
    dims = motion_dims(space)
    delta = bool(space.is_delta()[dims].all())
    sent = [event for event in run.events if isinstance(event, Sent)]
    values = np.array([[event.values[dim] for dim in dims] for event in sent])
    values = values.reshape(len(sent), dims.size)
    seconds = np.array([(event.t_ns - run.begin_ns) / NS_PER_S for event in sent])
    if not delta:
        return seconds, values
    travelled = np.cumsum(values, axis=0)
    ends = np.append(seconds[1:], np.inf)
    ends = np.minimum(seconds + run.period_ns / NS_PER_S, ends)
    ends = np.minimum(ends, max(run.duration_ns / NS_PER_S, seconds[-1] if sent else 0.0))
    knots = np.stack([seconds, ends], axis=1).ravel()
    path = np.stack([travelled - values, travelled], axis=1).reshape(-1, dims.size)
    return knots, path


def _farthest(paths: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[int]:
    """The motion dimensions that moved farthest, at most as many as there are kinds of curve."""
    moved = [np.ptp(path, axis=0) for _, path in paths if len(path)]
    if not moved:
        return []
    farthest = np.argsort(-np.max(moved, axis=0), kind="stable")[:CURVES]
    return sorted(farthest.tolist())


def _range(values: np.ndarray) -> tuple[float, float]:
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    margin = max(0.04 * (high - low), _LEAST_RANGE)
    return low - margin, high + margin


def _seams(run: TimelineRun) -> list[int]:
    """When the first action of each later generation was sent."""
    found, newest = [], None
    for event in run.events:
        if isinstance(event, Sent) and event.source == "policy":
            if newest is not None and event.generation != newest:
                found.append(event.t_ns)
            newest = event.generation
    return found


def _speeds(run: TimelineRun, space: ActionSpace) -> list[tuple[float, float]]:
    """(seconds since the start, length of the commanded step) at every command."""
    dims = motion_dims(space)
    delta = space.is_delta()[dims]
    points, before = [], None
    for event in run.events:
        if isinstance(event, Sent):
            values = np.asarray(event.values)[dims]
            step = np.where(delta, values, 0.0 if before is None else values - before)
            before = values
            seconds = (event.t_ns - run.begin_ns) / NS_PER_S
            points.append((seconds, float(np.linalg.norm(step))))
    return points


def _fault_bands(run: TimelineRun, scale: Scale, base: float) -> list[str]:
    parts = []
    for event in run.events:
        if isinstance(event, FaultInjected):
            start_ns = event.t_ns - run.begin_ns
            until_ns = run.duration_ns if event.until_ns < 0 else event.until_ns - run.begin_ns
            end_ns = min(max(until_ns, start_ns), run.duration_ns)
            left, right = (scale(edge / NS_PER_S) for edge in (start_ns, end_ns))
            parts.append(rect(left, right, base - PLOT, PLOT, "hatch", event.kind))
            parts.append(text(left, base - PLOT - 4, event.kind, "halt-text"))
    return parts


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
