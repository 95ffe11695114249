"""The pictures of a sweep: a figure against latency, one panel a task; and what stress costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from streamvla.evaluation.report.svg import (
    CURVES,
    Scale,
    curve,
    curve_mark,
    line,
    panel,
    rect,
    text,
)
from streamvla.evaluation.report.sweep import Estimate, Figure, Sweep

_WIDTH, _HEIGHT = 400.0, 236.0
_LEFT, _RIGHT, _TOP, _BASE = 52.0, 388.0, 44.0, 204.0
_APART = 7.0  # between the marks of two ways at one latency, so that no interval hides another


@dataclass(frozen=True)
class Series:
    """One way of driving in a panel: its number in the legend, and a value for every category."""

    number: int
    name: str
    values: Sequence[Estimate | None]


def legend_html(names: Sequence[str]) -> str:
    """Every way of driving with its line and mark; it wraps where the page is narrow."""
    items = "".join(
        '<li><svg class="sv" viewBox="0 0 40 16" width="40" height="16" aria-hidden="true">'
        f"{curve([(2, 8), (38, 8)], i)}{curve_mark(20, 8, i)}</svg>{escape(name)}</li>"
        for i, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'


def task_panels(sweep: Sweep, figure: Figure) -> list[str]:
    """One picture a task that has the figure: it against latency, all on the same axis."""
    top = axis_top(sweep, figure)
    pictures = []
    for task in sweep.tasks:
        series = [
            Series(
                number,
                way,
                [_of(sweep, task, way, latency, figure) for latency in sweep.latencies],
            )
            for number, way in enumerate(sweep.ways)
        ]
        if any(value for each in series for value in each.values):
            pictures.append(latency_panel(task, series, sweep.latencies, figure, top))
    return pictures


def axis_top(sweep: Sweep, figure: Figure) -> float:
    """Where the axis of a figure ends, for all panels alike."""
    found = [cell.figures.get(figure.key) for cell in sweep.cells if not cell.stress]
    ends = [max(each.value, each.high or each.value) for each in found if each is not None]
    return figure.top or 1.05 * max(ends, default=0.0) or 1.0


def latency_panel(
    title: str,
    series: Sequence[Series],
    categories: Sequence[str],
    figure: Figure,
    top: float,
) -> str:
    """Lines through a value for each category, with intervals; every point says its numbers."""
    height = Scale(top, _BASE, _TOP)
    places = _places(len(categories))
    body = [text(_LEFT - 44, 22, title, "name"), *_axis(figure, height)]
    step = max(1, math.ceil(len(categories) * max(map(len, categories), default=1) / 44))
    body += [
        text(x, _BASE + 20, name, anchor="middle")
        for i, (x, name) in enumerate(zip(places, categories, strict=True))
        if i % step == 0
    ]
    drawn = [each for each in series if any(each.values)]
    for order, each in enumerate(drawn):
        shift = _APART * (order - (len(drawn) - 1) / 2)
        body += _line_of(each, [x + shift for x in places], categories, figure, height)
    return panel(_WIDTH, _HEIGHT, _in_words(title, drawn, categories, figure), body)


def _line_of(
    series: Series,
    places: Sequence[float],
    categories: Sequence[str],
    figure: Figure,
    height: Scale,
) -> list[str]:
    number, points, whiskers, marks = series.number, [], [], []
    for x, name, value in zip(places, categories, series.values, strict=True):
        if value is None:
            continue
        y = height(min(value.value, height.top))
        points.append((x, y))
        if value.low is not None and value.high is not None:
            ends = (height(min(max(end, 0.0), height.top)) for end in (value.low, value.high))
            whiskers.append(line(x, next(ends), x, next(ends), f"c{number % CURVES} sv-whisker"))
        interval = figure.interval(value)
        words = f"{series.name}, {name}: {figure.shown(value)}"
        marks.append(curve_mark(x, y, number, f"{words} ({interval})" if interval else words))
    return [*whiskers, *([curve(points, number)] if len(points) > 1 else []), *marks]


def _axis(figure: Figure, height: Scale) -> list[str]:
    shown = Scale(height.top * figure.factor, height.start, height.end)
    parts = []
    for tick in shown.ticks(5):
        y = round(shown(tick), 1)
        parts += [
            line(_LEFT, y, _RIGHT, y, "grid"),
            text(_LEFT - 8, y + 4, f"{tick:g}", anchor="end"),
        ]
    return parts


def _places(count: int) -> list[float]:
    """Middles of equal parts of the axis."""
    part = (_RIGHT - _LEFT) / max(count, 1)
    return [_LEFT + part * (i + 0.5) for i in range(count)]


def _in_words(
    title: str, series: Sequence[Series], categories: Sequence[str], figure: Figure
) -> str:
    told = (
        f"{each.name}: "
        + ", ".join(
            f"{figure.shown(value)} at {name}"
            for name, value in zip(categories, each.values, strict=True)
            if value is not None
        )
        for each in series
    )
    return f"{title}: {figure.title.lower()} by latency. {'. '.join(told)}."


def _of(sweep: Sweep, task: str, way: str, latency: str, figure: Figure) -> Estimate | None:
    cell = sweep.cell(task, way, latency)
    return None if cell is None else cell.figures.get(figure.key)


# --- differences ---------------------------------------------------------------------------------

_ROW = 34.0


def differences_svg(
    rows: Sequence[tuple[str, Estimate | None]], figure: Figure, name: str, number: int
) -> str:
    """One interval a row about a line of no difference: to the right, the second is higher.

    Args:
        rows: (task, difference); `number`: of the second's way in the legend.
    """
    ends = [abs(x) for _, d in rows if d for x in (d.value, d.low, d.high) if x is not None]
    reach = 1.08 * max(ends, default=0.0) or 1.0
    left, right = 190.0, 640.0
    scale = Scale(2 * reach, left, right)
    base = 30 + _ROW * len(rows)
    zero = scale(reach)
    body = [line(zero, 12, zero, base - 12, "seam")]
    for tick in Scale(reach * figure.factor, zero, right).ticks(3):
        offset = tick / figure.factor
        for sign in (1, -1) if tick else (1,):
            x = scale(reach + sign * offset)
            body.append(text(x, base + 8, f"{sign * tick:+g}" if tick else "0", anchor="middle"))
            body.append(line(x, base - 12, x, base - 6, "grid"))
    for i, (task, value) in enumerate(rows):
        y = 30 + _ROW * i
        body.append(text(left - 14, y + 4, task, "name" if i == 0 else "", anchor="end"))
        body.append(line(left, y + _ROW / 2, right, y + _ROW / 2, "grid"))
        if value is None:
            body.append(text(zero + 10, y + 4, "no common episode"))
            continue
        if value.low is not None and value.high is not None:
            kind = f"c{number % CURVES} sv-whisker"
            body.append(line(scale(reach + value.low), y, scale(reach + value.high), y, kind))
        words = f"{task}: {figure.signed(value.value)} {figure.unit}"
        body.append(curve_mark(scale(reach + value.value), y, number, words))
    label = f"Paired differences of {figure.title.lower()}: {name}."
    return panel(660, base + 18, label, body)


# --- stress --------------------------------------------------------------------------------------


def stress_svg(
    factors: Sequence[str], losses: Mapping[str, Sequence[Estimate | None]], figure: Figure
) -> str:
    """What each stress factor costs each way of driving: a radar from three factors on, bars below.

    Args:
        losses: way of driving → loss for every factor, in the figure's measure; None: not driven.
            A gain is drawn as no loss.
    """
    most = max((x.value for values in losses.values() for x in values if x), default=0.0)
    top = max(most, 0.1 * (figure.top or 1.0))
    draw = _radar if len(factors) > 2 else _bars
    told = ". ".join(
        f"{way}: "
        + ", ".join(
            f"{factor} {figure.shown(loss)}" for factor, loss in zip(factors, values, strict=True)
        )
        for way, values in losses.items()
    )
    return draw(factors, losses, figure, top, f"Loss of {figure.title.lower()} by stress. {told}.")


def _radar(
    factors: Sequence[str],
    losses: Mapping[str, Sequence[Estimate | None]],
    figure: Figure,
    top: float,
    label: str,
) -> str:
    x0, y0, radius = 280.0, 220.0, 150.0

    def place(factor: int, loss: float) -> tuple[float, float]:
        angle = 2 * math.pi * factor / len(factors)
        r = radius * min(max(loss, 0.0), top) / top
        return x0 + r * math.sin(angle), y0 - r * math.cos(angle)

    ticks = [t / figure.factor for t in Scale(top * figure.factor).ticks(4)]
    body = []
    for tick in ticks[1:]:
        corners = [place(i, tick) for i in range(len(factors))]
        body += [
            line(*a, *b, "grid") for a, b in zip(corners, corners[1:] + corners[:1], strict=True)
        ]
    for i, factor in enumerate(factors):
        x, y = place(i, top)
        body.append(line(x0, y0, x, y, "grid"))
        across, down = (x - x0) / radius, (y - y0) / radius
        anchor = "middle" if abs(across) < 0.2 else "start" if across > 0 else "end"
        body.append(text(x + 12 * across, y + 5 + 14 * down, factor, "name", anchor=anchor))
    for number, (way, values) in enumerate(losses.items()):
        corners = [place(i, v.value) for i, v in enumerate(values) if v is not None]
        if len(corners) > 2:
            path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners) + "Z"
            body.append(f'<path d="{path}" class="sv-m{number % CURVES} sv-faint"/>')
            body.append(curve([*corners, corners[0]], number))
        for i, value in enumerate(values):
            if value is not None:
                words = f"{way}, {factors[i]}: {figure.shown(value)}"
                body.append(curve_mark(*place(i, value.value), number, words))
    body += [text(x0 + 5, place(0, tick)[1] - 3, f"{figure.factor * tick:g}") for tick in ticks[1:]]
    return panel(560, 430, label, body)


def _bars(
    factors: Sequence[str],
    losses: Mapping[str, Sequence[Estimate | None]],
    figure: Figure,
    top: float,
    label: str,
) -> str:
    left, right, thick = 150.0, 540.0, 18.0
    scale = Scale(top, left, right)
    group = thick * len(losses) + 18
    base = 12 + group * len(factors)
    body = []
    for tick in Scale(top * figure.factor).ticks(5):
        x = scale(tick / figure.factor)
        body += [line(x, 8, x, base, "grid"), text(x, base + 18, f"{tick:g}", anchor="middle")]
    for i, factor in enumerate(factors):
        body.append(text(left - 10, 12 + group * i + group / 2, factor, "name", anchor="end"))
        for number, (way, values) in enumerate(losses.items()):
            y = 12 + group * i + thick * number
            value = values[i]
            if value is None:
                body.append(text(left + 6, y + 13, "not driven"))
                continue
            words = f"{way}, {factor}: {figure.shown(value)}"
            end = scale(max(value.value, 0.0))
            body.append(rect(left, end, y + 2, thick - 4, f"m{number % CURVES}", words))
    return panel(560, base + 28, label, body)
