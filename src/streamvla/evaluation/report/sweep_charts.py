"""The pictures of a sweep: a figure against latency, one panel a task; and what stress costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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

_WIDTH, _HEIGHT = 400.0, 246.0
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
            pictures.append(latency_panel(task, series, sweep.latencies_of, figure, top))
    return pictures


def axis_top(sweep: Sweep, figure: Figure) -> float:
    """Where the axis of a figure ends, for all panels alike."""
    found = [cell.figures.get(figure.key) for cell in sweep.cells if cell.stress == sweep.base]
    ends = [max(each.value, each.high or each.value) for each in found if each is not None]
    return figure.top or 1.05 * max(ends, default=0.0) or 1.0


def latency_panel(
    title: str,
    series: Sequence[Series],
    groups: Mapping[str, Sequence[str]],
    figure: Figure,
    top: float,
) -> str:
    """Lines through a value for each category, with intervals; every point says its numbers.

    Args:
        groups: profile → its latencies; lines end where a profile does.
    """
    height = Scale(top, _BASE, _TOP)
    categories = [name for names in groups.values() for name in names]
    places = _places(len(categories))
    body = [text(_LEFT - 44, 22, title, "name"), *_axis(figure, height)]
    drawn = [each for each in series if any(each.values)]
    apart = min(_APART, 0.8 * (places[1] - places[0]) / len(drawn)) if len(places) > 1 else _APART
    first = 0
    for profile, names in groups.items():
        part = slice(first, first + len(names))
        first += len(names)
        body += _ticks(profile if len(groups) > 1 else "", names, places[part])
        for order, each in enumerate(drawn):
            shift = apart * (order - (len(drawn) - 1) / 2)
            group = replace(each, values=each.values[part])
            body += _line_of(group, [x + shift for x in places[part]], names, figure, height)
    return panel(_WIDTH, _HEIGHT, _in_words(title, drawn, categories, figure), body)


def _ticks(profile: str, names: Sequence[str], places: Sequence[float]) -> list[str]:
    """The scales below the axis, and below them the profile."""
    step = max(1, math.ceil(6 * len(names) / (places[-1] - places[0] + 42) * 7))
    shown = (name.removeprefix(profile).strip() for name in names)
    marks = [
        text(x, _BASE + 18, name, anchor="middle")
        for i, (x, name) in enumerate(zip(places, shown, strict=True))
        if i % step == 0
    ]
    middle = (places[0] + places[-1]) / 2
    return [*marks, text(middle, _BASE + 35, profile, anchor="middle")] if profile else marks


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
    cell = sweep.cell(task, way, latency, sweep.base)
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
    left, right = 176.0, 470.0
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
    return panel(484, base + 18, label, body)


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
    x0, y0, radius = 250.0, 178.0, 130.0

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
        lines = _lines(factor)
        up = 16 * (len(lines) - 1) * (1 - down) / 2  # above the axis a second line pushes up
        body += [
            text(x + 14 * across, y + 5 + 20 * down - up + 16 * n, words, "name", anchor=anchor)
            for n, words in enumerate(lines)
        ]
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
    return panel(500, 350, label, body)


def _lines(name: str) -> list[str]:
    """A long name in two lines, broken where it has a mark.

    >>> _lines("light"), _lines("camera-dropout:0.5")
    (['light'], ['camera-', 'dropout:0.5'])
    """
    if len(name) <= 12:
        return [name]
    breaks = [i + 1 for i, letter in enumerate(name[:-1]) if letter in "-:=, "]
    middle = min(breaks, key=lambda i: abs(i - len(name) / 2), default=None)
    return [name] if middle is None else [name[:middle], name[middle:]]


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
