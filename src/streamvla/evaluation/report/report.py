"""One self-contained HTML page about some runs: figures, pictures, videos, and how to repeat it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from typing import Any

from streamvla.core.action_space import ActionSpace
from streamvla.core.clock import NS_PER_MS, NS_PER_S, wall_date
from streamvla.core.errors import ConfigError
from streamvla.core.files import write_text
from streamvla.evaluation.report.charts import halt_histogram_svg
from streamvla.evaluation.report.episodes import EpisodeRuns, episodes_html, picture
from streamvla.evaluation.report.timeline import TimelineRun
from streamvla.evaluation.report.timing_charts import (
    age_histogram_svg,
    ages_ms,
    lateness_ms,
    lateness_svg,
)
from streamvla.evaluation.results import machine_words
from streamvla.trace import Failed, RecordingLost, TicksSkipped, Trace
from streamvla.trace.spans import Pacing

NONE = "–"


@dataclass(frozen=True)
class ReportRun:
    """One way of driving the robot, over some episodes.

    Attributes:
        label: "synchronous", "action flow, lead 2".
        episodes: their traces, in the same order for every run.
        metrics: `evaluation.metrics.aggregate` over them.
        pacing, period_ns: as driven.
        videos: one mp4 per episode, as far as recorded.
        space: of the robot; with it the report can draw how the robot was told to move.
    """

    label: str
    episodes: Sequence[Trace]
    metrics: Mapping[str, Any]
    pacing: Pacing
    period_ns: int
    videos: Sequence[Path] = ()
    space: ActionSpace | None = None

    @property
    def has_task(self) -> bool:
        """Whether the robot had anything to reach, by the traces; without, nothing is solved."""
        return all(trace.header.get("has_task", True) for trace in self.episodes)

    def timelines(self) -> list[TimelineRun]:
        return [
            TimelineRun(self.label, trace.events, self.period_ns, self.pacing)
            for trace in self.episodes
        ]


@dataclass(frozen=True)
class ReportContext:
    """Under what conditions the runs were made.

    Attributes:
        title: what was done, a few words.
        profile: label of the latency profile; `emulated`: stages were padded up to it.
        command: as typed; with `commit` and `seeds` it repeats the runs.
        machine: see `core.provenance.machine`.
        baseline: label of the run the others are compared with; the first one if not given.
        settings: whatever else was set, for the settings table.
    """

    title: str
    profile: str
    emulated: bool
    command: str
    commit: str
    seeds: Sequence[int]
    machine: Mapping[str, Any]
    baseline: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    date: str = field(default_factory=wall_date)


def write_report(path: Path, runs: Sequence[ReportRun], context: ReportContext) -> None:
    """Write the page. It asks nothing of the network: style, pictures and videos are inside.

    Raises:
        ConfigError: no runs, two of one label, an unknown baseline, or a video that cannot be read.
        FileError: the page cannot be written.
    """
    write_text(path, report_html(runs, context))


def report_html(runs: Sequence[ReportRun], context: ReportContext) -> str:
    """The page as text (see `write_report`)."""
    baseline = _baseline(runs, context.baseline)
    sections = [
        _failures(runs),
        _table(runs, baseline),
        _videos(runs),
        episodes_html(_episodes(runs)),
        _charts(runs),
        _governor(runs),
        _gaps(runs),
        _settings(context),
        _definitions(),
    ]
    body = _header(runs, baseline, context) + "".join(sections)
    return page(context.title, body, f"<script>{_asset('report.js')}</script>")


def page(title: str, body: str, script: str = "") -> str:
    """A page in the reports' style that asks nothing of the network."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)} · streamvla</title>'
        f"<style>{_asset('report.css')}</style></head><body><main>{body}</main>{script}"
        "</body></html>\n"
    )


# --- head ----------------------------------------------------------------------------------------


def headline(run: Mapping[str, Any], baseline: Mapping[str, Any], name: str, other: str) -> str:
    """One sentence: how run `name` compares with the baseline `other` in halting and speed."""
    halt, old_halt = run["halt_ms_per_observation"], baseline["halt_ms_per_observation"]
    pace, old_pace = run["t_action_ms"], baseline["t_action_ms"]
    if None in (halt, old_halt, pace, old_pace):
        return f"{name} and {other} cannot be compared: too few whole observation cycles."
    if halt == 0:
        halts = "never halts" if old_halt > 0 else "never halts, nor does the baseline,"
    else:
        halts = f"halts {_times(old_halt, halt, 'less', 'more')[0]}"
    acts = _times(old_pace, pace, "faster", "slower")[0]
    return f"{name} {halts} and acts {acts} than {other}."


def _header(runs: Sequence[ReportRun], baseline: ReportRun, context: ReportContext) -> str:
    subject = next((run for run in reversed(runs) if run is not baseline), None)
    if subject is None:
        sentence = f"{baseline.label}: {context.title}"
    else:
        sentence = headline(subject.metrics, baseline.metrics, subject.label, baseline.label)
    details = "".join(
        f'<p class="lead">{escape(_details(run))}</p>' for run in (baseline, subject) if run
    )
    kind = ("emulated", "emulated latency") if context.emulated else ("measured", "real latency")
    chips = [
        f'<li class="{kind[0]}">{kind[1]}</li>',
        f"<li>{escape(context.profile)}</li>",
        f"<li>{escape(baseline.pacing)} pacing, {baseline.period_ns / NS_PER_MS:g} ms</li>",
        f"<li>{escape(context.date)}</li>",
    ]
    return (
        f"<header><p>{escape(context.title)}</p><h1>{escape(_capital(sentence))}</h1>"
        f'{details}<ul class="chips">{"".join(chips)}</ul></header>'
    )


def _details(run: ReportRun) -> str:
    figures = run.metrics
    halt, pace = figures["halt_ms_per_observation"], figures["t_action_ms"]
    words = f"waiting {_number(halt)} ms per observation, an action every {_number(pace)} ms"
    if not run.has_task:
        words += ", no task"
    elif figures["success"] is not None:
        words += f", {figures['successes']} of {_episodes_word(figures['judged'])} solved"
    return f"{_capital(run.label)}: {words}."


def _episodes_word(count: int) -> str:
    return "1 episode" if count == 1 else f"{count} episodes"


def _times(old: float, new: float, better: str, worse: str) -> tuple[str, bool]:
    """("2.0× faster", True) for a new value half the old one; smaller is better."""
    if old == 0:
        return f"infinitely {worse}", False
    is_better = new <= old
    ratio = old / new if is_better else new / old
    return f"{ratio:.{0 if ratio >= 10 else 1}f}× {better if is_better else worse}", is_better


def _failures(runs: Sequence[ReportRun]) -> str:
    """What went wrong, in plain sight; empty when nothing did."""
    items = []
    for run in runs:
        if not run.episodes:
            items.append(f"{run.label}: no episode was run.")
        elif not run.metrics["actions"]:
            items.append(f"{run.label}: the policy never sent an action.")
        for number, trace in enumerate(run.episodes, start=1):
            where = f"{run.label}, episode {number}"
            failed = (event for event in trace.events if isinstance(event, Failed))
            items += [f"{where}: {event.stage} failed: {event.message}" for event in failed]
            if not trace.complete:
                items.append(f"{where}: the trace was cut off while being written.")
    if not items:
        return ""
    rows = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f'<section class="alert"><h2>What went wrong</h2><ul>{rows}</ul></section>'


# --- figures -------------------------------------------------------------------------------------

_COLUMNS = (
    ("success", "Episodes that reached the task, with the 95 % Wilson interval."),
    ("T_action, ms", "Length of whole observation cycles / actions in them."),
    ("halt per obs., ms", "Time the robot waited, per observation cycle."),
    ("starved ticks", "Control ticks without an action of the policy."),
    ("misses", "Control instants whose action was not ready."),
    ("longest halt, ms", "The longest uninterrupted wait."),
    ("age p50 / p99, ms", "From capturing an observation to sending an action made from it."),
    ("SPARC", "Spectral arc length of the commanded speed; nearer zero is smoother."),
    ("seam jump", "Mean jump in command from one generation to the next, action units."),
)
_BETWEEN_ACTIONS = ("starved_ticks", "deadline_misses", "longest_halt_ms")


def _table(runs: Sequence[ReportRun], baseline: ReportRun) -> str:
    head = "".join(
        '<th scope="col" role="columnheader">'
        f'<abbr title="{escape(title)}">{escape(name)}</abbr></th>'
        for name, title in _COLUMNS
    )
    rows = "".join(_row(run, baseline) for run in runs)
    return (
        "<section><h2>Figures</h2><p>Steady state, start-up excluded. Small figures: intervals, "
        f"and ratios to {escape(baseline.label)}.</p>"
        '<table role="table"><thead role="rowgroup"><tr role="row">'
        f'<th scope="col" role="columnheader">run</th>{head}</tr></thead>'
        f'<tbody role="rowgroup">{rows}</tbody></table></section>'
    )


def _row(run: ReportRun, baseline: ReportRun) -> str:
    figures, old = run.metrics, baseline.metrics
    is_baseline = run is baseline
    age = figures["action_age_ms"]
    acted = figures["actions"] > 1
    cells = [
        _success(figures) if run.has_task else "<small>no task</small>",
        _compared(figures["t_action_ms"], old["t_action_ms"], "faster", "slower", is_baseline),
        _compared(
            figures["halt_ms_per_observation"],
            old["halt_ms_per_observation"],
            "less",
            "more",
            is_baseline,
        ),
        *(_number(figures[key] if acted else None) for key in _BETWEEN_ACTIONS),
        f"{_number(age['p50'], 0)} / {_number(age['p99'], 0)}",
        _number(figures["smoothness"]["sparc"], 2),
        _seam(figures),
    ]
    tds = "".join(
        f'<td role="cell" data-label="{escape(name)}">{cell}</td>'
        for (name, _), cell in zip(_COLUMNS, cells, strict=True)
    )
    return f'<tr role="row"><th scope="row" role="rowheader">{escape(run.label)}</th>{tds}</tr>'


def _success(figures: Mapping[str, Any]) -> str:
    if figures["success"] is None:
        return NONE
    low, high = figures["success_ci"]
    count = f"{figures['successes']}/{figures['judged']}"
    interval = f"{100 * low:.0f}–{100 * high:.0f} %"
    return f"{100 * figures['success']:.0f} % <small>{count}, {interval}</small>"


def _compared(
    value: float | None, old: float | None, better: str, worse: str, is_baseline: bool
) -> str:
    shown = _number(value)
    if is_baseline or value is None or old is None or value == old:
        return shown
    if value == 0:
        return f'{shown} <small class="better">none</small>'
    words, is_better = _times(old, value, better, worse)
    return f'{shown} <small class="{"better" if is_better else "worse"}">{words}</small>'


def _seam(figures: Mapping[str, Any]) -> str:
    shown, ratio = _number(figures["seam_jump"]["mean"], 3), figures["seam_ratio"]
    return shown if ratio is None else f"{shown} <small>{ratio:.1f}× a step</small>"


def _number(value: float | None, digits: int = 1) -> str:
    if value is None:
        return NONE
    return str(value) if isinstance(value, int) else f"{value:.{digits}f}"


# --- pictures and videos -------------------------------------------------------------------------


def _videos(runs: Sequence[ReportRun]) -> str:
    episodes = list(zip_longest(*(run.videos for run in runs)))
    if not episodes:
        return ""
    groups = "".join(
        f'<div class="videos"{" hidden" if number else ""}>'
        + "".join(_figure(run.label, path, number) for run, path in zip(runs, paths, strict=True))
        + "</div>"
        for number, paths in enumerate(episodes)
    )
    options = "".join(f'<option value="{i}">Episode {i + 1}</option>' for i in range(len(episodes)))
    speeds = "".join(
        f'<option value="{speed}"{" selected" if speed == 1 else ""}>{speed}×</option>'
        for speed in (0.25, 0.5, 1, 2)
    )
    return (
        "<section data-player><h2>The episodes, side by side</h2>"
        "<p>The same episode each way, on one clock.</p>"
        '<div class="controls"><button type="button" data-play>▶ Play</button>'
        '<button type="button" data-restart>↺ Restart</button>'
        f'<select data-speed aria-label="Playback speed">{speeds}</select>'
        f'<select data-episode aria-label="Episode">{options}</select>'
        '<input type="range" data-seek min="0" max="1" step="0.01" value="0" aria-label="Position">'
        f"<output data-clock></output></div>{groups}</section>"
    )


def _figure(label: str, path: Path | None, number: int) -> str:
    caption = f"<figcaption>{escape(label)} <small>episode {number + 1}</small></figcaption>"
    if path is None:
        return f'<figure>{caption}<div class="missing">not recorded</div></figure>'
    try:
        encoded = base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError as error:
        raise ConfigError(f"cannot read video {path}: {error.strerror or error}") from error
    name = escape(f"Video of {label}, episode {number + 1}")
    source = f'src="data:video/mp4;base64,{encoded}"'
    preload = "metadata" if number else "auto"  # only the first episode is in sight
    video = f'<video muted playsinline preload="{preload}" aria-label="{name}" {source}></video>'
    return f"<figure>{caption}{video}</figure>"


def _episodes(runs: Sequence[ReportRun]) -> list[EpisodeRuns]:
    """Every episode with the traces that each run has of it; an empty one where nothing was run."""
    spaces = [run.space for run in runs]
    empty = [TimelineRun(run.label, [], run.period_ns, run.pacing) for run in runs]
    found = []
    for number, traces in enumerate(zip_longest(*(run.episodes for run in runs))):
        header = next((trace.header for trace in traces if trace is not None), {})
        lines = [
            line if trace is None else replace(line, events=trace.events)
            for line, trace in zip(empty, traces, strict=True)
        ]
        found.append(EpisodeRuns(number, header, lines, spaces))
    return found or [EpisodeRuns(0, {}, empty, spaces)]


def _governor(runs: Sequence[ReportRun]) -> str:
    """What the governor did, and how fast the robot went; empty when there is nothing to say."""
    said = ("interventions", "frozen_cameras")
    if not any(run.metrics.get(name) for run in runs for name in said):
        return ""
    rows = "".join(
        f"<dt>{escape(run.label)}</dt><dd>{escape(_tally_words(run.metrics['interventions']))}; "
        f"control ticks by health: {escape(_tally_words(run.metrics['health_ticks']))}; "
        f"frozen cameras: {run.metrics['frozen_cameras']}</dd>"
        for run in runs
    )
    return (
        "<section><h2>Governor</h2><p>Control ticks on which the governor stepped in, by rung of "
        f"its ladder, over all episodes.</p><dl>{rows}</dl></section>"
    )


_MOST_GAPS = 20


def _gaps(runs: Sequence[ReportRun]) -> str:
    """Control ticks that nobody served and events that were lost; empty where there were none."""
    items = []
    for run in runs:
        for number, line in enumerate(run.timelines(), start=1):
            for event in line.events:
                match event:
                    case TicksSkipped(t_ns, _, ticks, cause):
                        noun = "control tick" if ticks == 1 else "control ticks"
                        what = f"{ticks} {noun} skipped: {cause}"
                    case RecordingLost(t_ns, lost, cause):
                        what = f"{lost} events not recorded: {cause}"
                    case _:
                        continue
                seconds = (t_ns - line.begin_ns) / NS_PER_S
                items.append(f"{run.label}, episode {number}, {seconds:.2f} s: {what}")
    if not items:
        return ""
    more = len(items) - _MOST_GAPS
    rows = "".join(f"<li>{escape(item)}</li>" for item in items[:_MOST_GAPS])
    rows += f"<li>and {more} more</li>" if more > 0 else ""
    return (
        "<section><h2>Gaps</h2><p>Control ticks on which no command left, and events that are "
        f"missing in the traces.</p><ul>{rows}</ul></section>"
    )


def _tally_words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _charts(runs: Sequence[ReportRun]) -> str:
    lengths = [
        (run.label, [h.duration_ns / NS_PER_MS for line in run.timelines() for h in line.halts()])
        for run in runs
    ]
    ages = [(run.label, [age for t in run.episodes for age in ages_ms(t.events)]) for run in runs]
    return (
        "<section><h2>Halts</h2><p>How long the robot waited, and how often, over all episodes.</p>"
        f"{picture(halt_histogram_svg(lengths))}</section>"
        "<section><h2>Age of actions</h2><p>From capturing an observation to sending an action "
        "made from it, over all episodes: how long ago the robot saw what it acts on. Dashed: the "
        f"median.</p>{picture(age_histogram_svg(ages))}</section>{_lateness(runs)}"
    )


def _lateness(runs: Sequence[ReportRun]) -> str:
    """How late commands left after their ticks; empty where there are no ticks."""
    on_grid = [run for run in runs if run.pacing == "grid"]
    late = [
        (run.label, [x for t in run.episodes for x in lateness_ms(t.events)]) for run in on_grid
    ]
    if not any(values for _, values in late):
        return ""
    head = "<section><h2>Lateness of commands</h2>"
    if all(value == 0 for _, values in late for value in values):
        return f"{head}<p>Every command left exactly on its tick: time was simulated.</p></section>"
    return (
        f"{head}<p>From a control tick to the command leaving: the share of ticks, over all "
        f"episodes, that were at most so late.</p>{picture(lateness_svg(late))}</section>"
    )


# --- the small print -----------------------------------------------------------------------------


def _settings(context: ReportContext) -> str:
    emulation = "stages are padded up to it" if context.emulated else "nothing is padded"
    rows = {
        "Command": f"<code>{escape(context.command)}</code>",
        "Latency profile": f"{escape(context.profile)}; {emulation}",
        "Seeds": escape(ranges(context.seeds)),
        "Commit": f"<code>{escape(context.commit)}</code>",
        "Machine": escape(machine_words(context.machine)),
        "Date": escape(context.date),
    }
    rows |= {str(key): escape(str(value)) for key, value in context.settings.items()}
    items = "".join(f"<dt>{escape(key)}</dt><dd>{value}</dd>" for key, value in rows.items())
    return f"<section><h2>Settings</h2><dl>{items}</dl></section>"


def _definitions() -> str:
    items = "".join(f"<dt>{escape(n)}</dt><dd>{escape(title)}</dd>" for n, title in _COLUMNS)
    return (
        "<section><details><summary>What the figures mean</summary><p></p><p>T_action and halt are "
        "over the steady state: from the first action of the first generation to the first action "
        "of the last. Ticks, misses and the longest halt are between an episode's first and last "
        f"action, summed over episodes.</p><dl>{items}</dl></details></section>"
    )


def ranges(seeds: Sequence[int]) -> str:
    """`[0, 1, 2, 5]` → "0–2, 5"."""
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}–{r[-1]}" for r in runs) or NONE


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _asset(name: str) -> str:
    return files("streamvla.evaluation.report").joinpath(name).read_text(encoding="utf-8")


def _baseline(runs: Sequence[ReportRun], label: str | None) -> ReportRun:
    labels = [run.label for run in runs]
    if not runs or len(set(labels)) != len(labels):
        raise ConfigError(
            f"report: expected at least one run, each with its own label; got {labels}"
        )
    if label is None:
        return runs[0]
    if label not in labels:
        raise ConfigError(f"report: baseline {label!r} is none of the runs {labels}")
    return runs[labels.index(label)]
