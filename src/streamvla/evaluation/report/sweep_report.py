"""One self-contained page about a sweep: ways of driving beside each other, task by task."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from streamvla.core.errors import ConfigError
from streamvla.core.files import write_text
from streamvla.core.stress import NOMINAL
from streamvla.evaluation.report.report import NONE, page, ranges
from streamvla.evaluation.report.svg import STYLE
from streamvla.evaluation.report.sweep import (
    SCORE,
    SUCCESS,
    Cell,
    Estimate,
    Figure,
    Sweep,
    common,
    difference,
    overall,
)
from streamvla.evaluation.report.sweep_charts import (
    differences_svg,
    legend_html,
    stress_svg,
    task_panels,
)
from streamvla.evaluation.results import machine_words

MOST_WORST = 2
"""Videos a task."""


@dataclass(frozen=True)
class Filmed:
    """One episode as video: of which cell, its seed, and an mp4 file."""

    cell: Cell
    seed: int
    video: Path


@dataclass(frozen=True)
class Side:
    """One of two that are compared: a way of driving within a sweep at a latency and under a stress
    (empty: none), with a label."""

    label: str
    sweep: Sweep
    way: str
    latency: str
    stress: str = ""

    @property
    def number(self) -> int:
        return self.sweep.ways.index(self.way)


def write_sweep_report(path: Path, sweep: Sweep, films: Sequence[Filmed] = ()) -> None:
    """Write the page. It asks nothing of the network.

    Raises:
        ConfigError: no cell, or a video that cannot be read.
        FileError: the page cannot be written.
    """
    write_text(path, sweep_html(sweep, films))


def sweep_html(sweep: Sweep, films: Sequence[Filmed] = ()) -> str:
    """The page as text (see `write_sweep_report`)."""
    _require_cells(sweep)
    sections = [
        _header(sweep),
        _headline(sweep),
        *_charts(sweep),
        _stress(sweep),
        _sides(sweep),
        _worst(sweep, films),
        _every_cell(sweep),
        _settings([sweep]),
        _definitions(sweep),
    ]
    return page(sweep.title, f"<style>{STYLE}</style>{''.join(sections)}")


def two_files_html(first: Sweep, second: Sweep, names: tuple[str, str]) -> str:
    """A page that compares two result files: what drives in both, on the episodes of both.

    Raises:
        ConfigError: a file without cells, or nothing drives in both.
    """
    for sweep in (first, second):
        _require_cells(sweep)
    one, two = _driven(first, second), _driven(second, first)
    both = [key for key in one if key in two]
    if not both:
        raise ConfigError(
            f"{names[0]} has {', '.join(first.ways)} and {names[1]} {', '.join(second.ways)}: "
            "expected one policy and executor that both have"
        )
    latencies = [pair for pair in first.conditions if pair in second.conditions]
    if not latencies:
        raise ConfigError(
            f"{names[0]} and {names[1]} have no latency in common ({_names(first)}; "
            f"{_names(second)}): measure both under one profile and scale"
        )
    latency = min(latencies, key=lambda pair: first.conditions[pair] != first.reference)
    stress = _common_stress(first, second, names)

    def side(sweep: Sweep, way: str, name: str) -> Side:
        return Side(_label(sweep, way, name), sweep, way, sweep.conditions[latency], stress)

    pairs = [(side(first, one[key], names[0]), side(second, two[key], names[1])) for key in both]
    title, shown = f"{names[0]} and {names[1]}", f"{latency[0]} ×{latency[1]:g}"
    head = (
        f"<header><p>Two result files</p><h1>{escape(title)}</h1>"
        f'<p class="lead">The same episodes, at {escape(shown)}, {escape(_under(stress))}; the '
        "difference is the second file to the first.</p></header>"
    )
    body = _pairs(pairs, shown, "What drives in both files")
    return page(title, f"<style>{STYLE}</style>{head}{body}{_settings([first, second])}")


def _driven(sweep: Sweep, other: Sweep) -> dict[tuple[str, str, int], str]:
    """What drives → its name in this sweep; the policy counts where one of the two has several."""
    named = max(len(sweep.policies), len(other.policies)) > 1
    return {
        (cell.policy if named else "", cell.executor, cell.accelerators): sweep.way(cell)
        for cell in sweep.cells
    }


def _common_stress(first: Sweep, second: Sweep, names: tuple[str, str]) -> str:
    """Empty where both have episodes without stress, else the first stress that both have."""
    one, two = (
        sweep.stresses if sweep.base else ["", *sweep.stresses] for sweep in (first, second)
    )
    for stress in one:
        if stress in two:
            return stress
    said = "; ".join(", ".join(name or NOMINAL for name in stresses) for stresses in (one, two))
    raise ConfigError(
        f"{names[0]} and {names[1]} have no stress in common ({said}): drive both under one, or "
        f"with --stress {NOMINAL}"
    )


def _under(stress: str) -> str:
    return f"under stress {stress}" if stress else "without stress"


def _label(sweep: Sweep, way: str, name: str) -> str:
    """With the policy, which may differ between files."""
    policy = f"{sweep.policies[0]}/" if len(sweep.policies) == 1 else ""
    return f"{policy}{way} ({name})"


def _names(sweep: Sweep) -> str:
    return ", ".join(f"{profile} ×{scale:g}" for profile, scale in sweep.conditions)


def worst_episodes(sweep: Sweep, per_task: int = MOST_WORST) -> list[tuple[Cell, int]]:
    """Of every task the failures that reached the least, as (cell, seed), at the reference latency
    and under the sweep's base stress; of another way of driving each as long as there is one. Of
    equal ones the lowest seed."""
    chosen: list[tuple[Cell, int]] = []
    for task in sweep.tasks:
        every = (sweep.cell(task, way, sweep.reference, sweep.base) for way in sweep.ways)
        cells = [cell for cell in every if cell is not None]
        judged = sorted(
            (value, seed, number)
            for number, cell in enumerate(cells)
            for seed, outcome in cell.outcomes.items()
            if (value := sweep.goal.of(outcome)) is not None and not outcome.solved
        )
        found: list[tuple[Cell, int]] = []
        for repeated in (False, True):
            for _, seed, number in judged:
                pick, ways = (cells[number], seed), {sweep.way(cell) for cell, _ in found}
                known = pick in found or (not repeated and sweep.way(cells[number]) in ways)
                if len(found) < per_task and not known:
                    found.append(pick)
        chosen += found
    return chosen


# --- head ----------------------------------------------------------------------------------------


def _header(sweep: Sweep) -> str:
    names = sweep.latencies
    latency = f"latency {', '.join(names)}" if len(names) < 5 else f"{len(names)} latencies"
    chips = [latency, _count(len(sweep.tasks), "task")]
    chips += [f"policy {sweep.policies[0]}"] if len(sweep.policies) == 1 else []
    chips += [_count(len(sweep.stresses), "stress")] if sweep.stresses else []
    chips += [sweep.date] if sweep.date else []
    items = "".join(f"<li>{escape(chip)}</li>" for chip in chips)
    lead = " ".join(filter(None, (*_sentences(sweep), _no_nominal(sweep))))
    return (
        f"<header><p>{escape(sweep.title)}</p><h1>{escape(_varied(sweep))}</h1>"
        f'<p class="lead">{escape(lead)}</p><ul class="chips">{items}</ul></header>'
    )


def _varied(sweep: Sweep) -> str:
    """What was varied: "Score by executor and latency (×0.5 to ×2), 8 tasks"."""
    names = sweep.latencies
    counted = {
        "policy": len(sweep.policies),
        "executor": len({cell.executor for cell in sweep.cells}),
        "number of accelerators": len({cell.accelerators for cell in sweep.cells}),
        f"latency ({names[0]} to {names[-1]})": len(names),
        "stress": len({cell.stress for cell in sweep.cells}),
    }
    *most, last = [name for name, count in counted.items() if count > 1] or [""]
    varied = f"{', '.join(most)} and {last}" if most else last
    by = f"by {varied}" if varied else f"of {sweep.ways[0]}"
    where = _count(len(sweep.tasks), "task") if len(sweep.tasks) > 1 else sweep.tasks[0]
    return f"{sweep.goal.title} {by}, {where}"


def _no_nominal(sweep: Sweep) -> str:
    """Said where everything was driven under stress."""
    if not sweep.base:
        return ""
    first = f"{sweep.base}, the first of them" if len(sweep.stresses) > 1 else sweep.base
    return (
        "No episode was driven without stress, so there is no nominal condition to compare with; "
        f"executors and latencies are compared under {first}."
    )


def _sentences(sweep: Sweep) -> tuple[str, str]:
    """The best way of driving beside the first, at the reference latency; and their difference."""
    figure, latency, first, base = sweep.goal, sweep.reference, sweep.ways[0], sweep.base
    at = f"latency {latency} under {base}" if base else f"latency {latency}"
    reached = {way: overall(sweep.condition(way, latency, base), figure) for way in sweep.ways}
    known = {way: estimate for way, estimate in reached.items() if estimate is not None}
    goal = figure.title.lower()
    if first not in known:
        return f"{first} has no {goal} at {at}.", ""
    best = max(known, key=lambda way: (known[way].value, way == first))
    if len(known) == 1:
        return f"{first}: {goal} {figure.shown(known[first])} at {at}.", ""
    if best == first:
        others = ", ".join(f"{way} {figure.shown(known[way])}" for way in known if way != first)
        words = f"At {at} nothing exceeds {first}: {figure.shown(known[first])}"
        return f"{words}; {others}.", ""
    paired, episodes = difference(
        sweep.condition(first, latency, base), sweep.condition(best, latency, base), figure
    )
    words = (
        f"At {at}, {best} reaches {figure.shown(known[best])}, "
        f"{first} {figure.shown(known[first])}."
    )
    if paired is None:
        return words, ""
    return words, f"Difference on the same {episodes} episodes: {_signed(figure, paired)}."


def _headline(sweep: Sweep) -> str:
    """Rows: ways of driving; columns: latencies; over all tasks; a table for every profile."""
    figure, other = sweep.goal, _second_goal(sweep)
    tables = ""
    for profile, latencies in sweep.latencies_of.items():
        scales = (name.removeprefix(profile).strip() for name in latencies)
        heads = [(f"{figure.title.lower()} at {scale}", "") for scale in scales]
        rows = [
            (way, [_reached(sweep, way, name, figure, other) for name in latencies])
            for way in sweep.ways
        ]
        title = f"<h4>{escape(profile)}</h4>" if len(sweep.latencies_of) > 1 else ""
        tables += title + _table("driven by", heads, rows)
    small = "the 95 % interval" + (", and success" if other else "")
    return (
        f"<section><h2>{figure.title} over all tasks</h2><p>{escape(figure.meaning)} "
        f"{_stress_words(sweep)}In small figures: {small}.</p>{tables}</section>"
    )


def _second_goal(sweep: Sweep) -> Figure | None:
    """Success beside the score."""
    return SUCCESS if sweep.goal is SCORE and SUCCESS in sweep.figures else None


def _reached(
    sweep: Sweep,
    way: str,
    latency: str,
    figure: Figure,
    other: Figure | None,
    stress: str | None = None,
) -> str:
    """Over all tasks, under a stress; None for the one that the page compares under."""
    cells = sweep.condition(way, latency, sweep.base if stress is None else stress)
    estimate = overall(cells, figure)
    if estimate is None:
        return NONE
    small = [f"{interval} {figure.unit}"] if (interval := figure.interval(estimate)) else []
    second = overall(cells, other) if other else None
    small += [f"{other.shown(second)} solved"] if other and second else []
    if len(cells) < len(sweep.tasks):
        small.append(f"{len(cells)} of {len(sweep.tasks)} tasks")
    return f"{escape(figure.shown(estimate))}{''.join(f'<small>{each}</small>' for each in small)}"


# --- charts --------------------------------------------------------------------------------------


def _charts(sweep: Sweep) -> list[str]:
    """Score and success in sight, every other figure to unfold; halting is open."""
    parts = []
    for number, figure in enumerate(sweep.figures):
        pictures = task_panels(sweep, figure)
        if not pictures:
            continue
        unit = f", {figure.unit}" if figure.unit else ""
        several = len(sweep.latencies) > 1
        grows = "Latency grows to the right; the" if several else "The"
        panels = "".join(f"<div>{picture}</div>" for picture in pictures)
        inner = (
            f"<p>{escape(figure.meaning)} {_stress_words(sweep)}{grows} axes of all tasks are the "
            "same.</p>"
            f"{legend_html(sweep.ways)}"
            f'<div class="panels">{panels}</div>'
        )
        title = f"{figure.title}{unit}, {'against latency' if several else 'task by task'}"
        if figure in (SCORE, SUCCESS):
            parts.append(f"<section><h2>{title}</h2>{inner}</section>")
        else:
            is_open = " open" if number < 3 else ""
            parts.append(
                f"<section><details{is_open}><summary>{title}</summary>{inner}</details></section>"
            )
    return parts


def _stress_words(sweep: Sweep) -> str:
    """As HTML; empty where the page compares without stress."""
    return f"Under stress {escape(sweep.base)}. " if sweep.base else ""


def _stress(sweep: Sweep) -> str:
    """What each stress costs, at one latency; empty where none was put in."""
    if not sweep.stresses:
        return ""
    if sweep.base:
        return _without_nominal(sweep)
    figure, latency = sweep.goal, sweep.reference
    losses = {way: [_loss(sweep, way, name) for name in sweep.stresses] for way in sweep.ways}
    heads = [(name, "") for name in sweep.stresses]
    rows = [(way, [_lost(figure, loss) for loss in values]) for way, values in losses.items()]
    picture = stress_svg(sweep.stresses, losses, figure)
    return (
        f"<section><h2>What stress costs</h2><p>{figure.title} without stress minus "
        f"{figure.title.lower()} with it, {figure.unit}, on the same episodes of all tasks, at "
        f"latency {escape(latency)}. Further from the origin is worse; a gain is drawn as no "
        f"loss.</p>{legend_html(sweep.ways)}"
        f'<div class="figure">{picture}</div>{_table("driven by", heads, rows)}</section>'
    )


def _without_nominal(sweep: Sweep) -> str:
    """What is reached under each stress, where nothing was driven without: no losses."""
    figure, other = sweep.goal, _second_goal(sweep)
    heads = [(name, "") for name in sweep.stresses]
    rows = [
        (
            way,
            [_reached(sweep, way, sweep.reference, figure, other, name) for name in sweep.stresses],
        )
        for way in sweep.ways
    ]
    return (
        f"<section><h2>{figure.title} under each stress</h2><p>Over all tasks, at latency "
        f"{escape(sweep.reference)}. Nothing was driven without stress, so what a stress costs is "
        f"not known: add <code>{NOMINAL}</code> to <code>--stress</code>.</p>"
        f"{_table('driven by', heads, rows)}</section>"
    )


def _loss(sweep: Sweep, way: str, stress: str) -> Estimate | None:
    calm = sweep.condition(way, sweep.reference)
    stressed = sweep.condition(way, sweep.reference, stress)
    paired, _ = difference(stressed, calm, sweep.goal)
    if paired is not None:
        return paired
    tasks = {cell.task for cell in stressed}
    before = overall([cell for cell in calm if cell.task in tasks], sweep.goal)
    after = overall(stressed, sweep.goal)
    return Estimate(before.value - after.value) if before and after else None


def _lost(figure: Figure, loss: Estimate | None) -> str:
    if loss is None:
        return NONE
    interval = figure.interval(loss).replace("–", " to ")
    small = f"<small>{interval}</small>" if interval else ""
    return f"{figure.number(loss.value)}{small}"


# --- two beside each other -----------------------------------------------------------------------


def _sides(sweep: Sweep) -> str:
    """The first way of driving against each other one; empty where there is only one."""
    first, *others = (Side(way, sweep, way, sweep.reference, sweep.base) for way in sweep.ways)
    pairs = [(first, other) for other in others]
    return _pairs(pairs, sweep.reference, "Two beside each other") if pairs else ""


def _pairs(pairs: Sequence[tuple[Side, Side]], latency: str, title: str) -> str:
    panels = "".join(
        f"<details{'' if number else ' open'}><summary>{escape(second.label)} against "
        f"{escape(first.label)}</summary>{_pair(first, second)}</details>"
        for number, (first, second) in enumerate(pairs)
    )
    return (
        f"<section><h2>{title}</h2><p>At latency {escape(latency)}, "
        f"{escape(_under(pairs[0][0].stress))}, over the "
        "episodes (task and seed) that both have. Differences are of the second to the first, with "
        f"the interval of pairs.</p>{panels}</section>"
    )


def _pair(first: Side, second: Side) -> str:
    figures = [figure for figure in (SCORE, SUCCESS) if figure in first.sweep.figures]
    one, two = (
        side.sweep.condition(side.way, side.latency, side.stress) for side in (first, second)
    )
    tasks = [cell.task for cell in one if any(cell.task == other.task for other in two)]
    groups = [
        (task, *([c for c in cells if c.task == task] for cells in (one, two))) for task in tasks
    ]
    everywhere = [[c for c in cells if c.task in tasks] for cells in (one, two)]
    groups = [("all tasks", *everywhere), *groups] if len(groups) > 1 else groups
    goal = first.sweep.goal
    rows = [
        (name, [cell for figure in figures for cell in _beside(a, b, figure)])
        for name, a, b in groups
    ]
    heads = [
        (f"{figure.title.lower()}, {what}", "")
        for figure in figures
        for what in ("first", "second", "difference")
    ]
    drawn = [(name, difference(a, b, goal)[0]) for name, a, b in groups]
    picture = differences_svg(drawn, goal, f"{second.label} minus {first.label}", second.number)
    unit = f", {goal.unit}" if goal.unit else ""
    return (
        f"<p>First: {escape(first.label)}. Second: {escape(second.label)}.</p>"
        f"{_table('task', heads, rows)}<h4>Difference of {goal.title.lower()}{unit}</h4>"
        f'<div class="figure">{picture}</div>{_other_figures(first.sweep, one, two)}'
    )


def _beside(one: Sequence[Cell], two: Sequence[Cell], figure: Figure) -> tuple[str, str, str]:
    """First, second and difference, each over the episodes that both have."""
    one, two = common(one, two)
    paired, episodes = difference(one, two, figure)
    shown = [escape(figure.shown(overall(cells, figure))) for cells in (one, two)]
    if paired is None:
        return shown[0], shown[1], NONE
    ends, low, high = _ends(figure, paired), paired.low or 0.0, paired.high or 0.0
    small = f"<small{_kind(low, high)}>{ends}</small>" if ends else ""
    pairs = f"<small>{_count(episodes, 'pair')}</small>"
    return shown[0], shown[1], f"{figure.signed(paired.value)}{small}{pairs}"


def _kind(low: float, high: float) -> str:
    """A class that colours an interval without zero; more of a goal is better."""
    return ' class="better"' if low > 0 else ' class="worse"' if high < 0 else ""


def _other_figures(sweep: Sweep, one: Sequence[Cell], two: Sequence[Cell]) -> str:
    """Means over tasks of what is not paired: halting, misses, forces …"""
    figures = [figure for figure in sweep.figures if figure not in (SCORE, SUCCESS)]
    if not figures:
        return ""
    heads = [("first", ""), ("second", "")]
    rows = [
        (
            figure.title.lower(),
            [escape(figure.shown(overall(cells, figure))) for cells in (one, two)],
        )
        for figure in figures
    ]
    return f"<h4>Other figures, mean over tasks</h4>{_table('figure', heads, rows)}"


# --- episodes and small print --------------------------------------------------------------------


def _worst(sweep: Sweep, films: Sequence[Filmed]) -> str:
    if not films:
        return ""
    figures = "".join(_video(sweep, film) for film in films)
    return (
        "<section><h2>Worst episodes</h2><p>Of every task the failures that reached the least, "
        "driven again with the same seed. Green strip: the robot moves by the policy's actions; "
        f'vermilion: it waits.</p><div class="videos films">{figures}</div></section>'
    )


def _video(sweep: Sweep, film: Filmed) -> str:
    try:
        encoded = base64.b64encode(film.video.read_bytes()).decode("ascii")
    except OSError as error:
        raise ConfigError(f"cannot read video {film.video}: {error.strerror or error}") from error
    cell, outcome = film.cell, film.cell.outcomes.get(film.seed)
    reached = sweep.goal.of(outcome) if outcome else None
    goal = NONE if reached is None else sweep.goal.shown(Estimate(reached))
    if reached is not None and sweep.goal is SUCCESS:
        goal = "solved" if reached else "not solved"
    parts = [sweep.way(cell), sweep.latency(cell), cell.stress, f"seed {film.seed}", goal]
    words = ", ".join(part for part in parts if part)
    name = escape(f"Video of {cell.task}, {words}")
    return (
        f"<figure><figcaption>{escape(cell.task)} <small>{escape(words)}</small></figcaption>"
        f'<video controls muted playsinline preload="metadata" aria-label="{name}" '
        f'src="data:video/mp4;base64,{encoded}"></video></figure>'
    )


def _every_cell(sweep: Sweep) -> str:
    figures = sweep.figures
    heads = [("episodes", "")]
    heads += [(_with_unit(figure), figure.meaning) for figure in figures]
    rows = []
    for cell in sweep.cells:
        name = ", ".join(
            part for part in (cell.task, sweep.way(cell), sweep.latency(cell), cell.stress) if part
        )
        rows.append((name, [str(cell.episodes), *(_measured(cell, each) for each in figures)]))
    return (
        f"<section><details><summary>Every cell ({len(rows)})</summary>"
        f'<div class="wide" tabindex="0" role="group">{_table("cell", heads, rows)}</div>'
        "</details></section>"
    )


def _measured(cell: Cell, figure: Figure) -> str:
    estimate = cell.figures.get(figure.key)
    if estimate is None:
        return NONE
    interval = figure.interval(estimate)
    return figure.number(estimate.value) + (f"<small>{interval}</small>" if interval else "")


def _settings(sweeps: Sequence[Sweep]) -> str:
    items = ""
    for sweep in sweeps:
        rows = {
            "Command": f"<code>{escape(sweep.command)}</code>" if sweep.command else NONE,
            "Seeds": escape(ranges(sweep.seeds)),
            "Commit": f"<code>{escape(sweep.commit)}</code>" if sweep.commit else NONE,
            "Machine": escape(machine_words(sweep.machine)) or NONE,
            "Date": escape(sweep.date) or NONE,
        }
        rows |= {escape(name): escape(words) for name, words in sweep.settings.items()}
        items += "".join(f"<dt>{name}</dt><dd>{words}</dd>" for name, words in rows.items())
    return f"<section><h2>Settings</h2><dl>{items}</dl></section>"


def _definitions(sweep: Sweep) -> str:
    items = "".join(
        f"<dt>{_with_unit(figure)}</dt><dd>{escape(figure.meaning)}</dd>"
        for figure in sweep.figures
    )
    return (
        "<section><details><summary>What the figures mean</summary><p></p>"
        f"<dl>{items}</dl></details></section>"
    )


def _table(
    corner: str, heads: Sequence[tuple[str, str]], rows: Sequence[tuple[str, Sequence[str]]]
) -> str:
    """Cells are HTML; names and heads are escaped here. Head: (name, what it means)."""
    tops = "".join(
        '<th scope="col" role="columnheader">'
        + (f'<abbr title="{escape(means)}">{escape(name)}</abbr>' if means else escape(name))
        + "</th>"
        for name, means in heads
    )
    body = "".join(
        f'<tr role="row"><th scope="row" role="rowheader">{escape(name)}</th>'
        + "".join(
            f'<td role="cell" data-label="{escape(head)}">{cell}</td>'
            for (head, _), cell in zip(heads, cells, strict=True)
        )
        + "</tr>"
        for name, cells in rows
    )
    return (
        '<table role="table"><thead role="rowgroup"><tr role="row">'
        f'<th scope="col" role="columnheader">{escape(corner)}</th>{tops}</tr></thead>'
        f'<tbody role="rowgroup">{body}</tbody></table>'
    )


def _with_unit(figure: Figure) -> str:
    return f"{figure.title.lower()}, {figure.unit}" if figure.unit else figure.title.lower()


def _signed(figure: Figure, estimate: Estimate) -> str:
    ends = _ends(figure, estimate)
    return figure.signed(estimate.value) + (f" ({ends})" if ends else "")


def _ends(figure: Figure, estimate: Estimate) -> str:
    """ "-0.4 to +1.2", or nothing."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{figure.signed(estimate.low)} to {figure.signed(estimate.high)}"


def _count(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def _require_cells(sweep: Sweep) -> None:
    if not sweep.cells:
        raise ConfigError(f"{sweep.title}: no cell; drive at least one episode first")
