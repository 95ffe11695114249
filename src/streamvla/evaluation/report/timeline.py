"""Pictures of runs over time: what each stage did, and where the robot stood still."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from streamvla.core.clock import NS_PER_MS, NS_PER_S
from streamvla.evaluation.report.svg import (
    LEFT,
    RIGHT,
    WIDTH,
    Scale,
    document,
    line,
    rect,
    text,
    time_axis,
)
from streamvla.trace.events import Ended, ObserveRequested, Sent, Stopping, TraceEvent
from streamvla.trace.spans import (
    Halt,
    Pacing,
    Span,
    command_spans,
    generate_spans,
    halts,
    observe_spans,
)

_LANES = ("observe", "generate", "execute")
_LANE_HEIGHT, _LANE_STEP = 24, 30
_PANEL = 26 + 3 * _LANE_STEP + 22
_STRIP = 52
_CYCLES_SHOWN = 3
_REASONS = {"observations": "observation limit", "time-limit": "time limit"}
_LONGEST_WINDOW_NS = 3 * NS_PER_S


@dataclass(frozen=True)
class TimelineRun:
    """One episode to draw: its name, events, control period and pacing. Time 0 is its start."""

    label: str
    events: Sequence[TraceEvent]
    period_ns: int
    pacing: Pacing

    @property
    def begin_ns(self) -> int:
        return self.events[0].t_ns if self.events else 0

    @property
    def duration_ns(self) -> int:
        return self.events[-1].t_ns - self.begin_ns if self.events else 0

    @property
    def over_ns(self) -> int:
        """When the episode was over; what follows brings the robot to rest."""
        over = next((e.t_ns for e in self.events if isinstance(e, Stopping)), None)
        return self.begin_ns + self.duration_ns if over is None else over

    def halts(self) -> list[Halt]:
        return halts(self.events, self.period_ns, self.pacing)

    def startup_end_ns(self) -> int:
        """When the first action of the policy went out; the end of the run if none did."""
        policy = (e for e in self.events if isinstance(e, Sent) and e.source == "policy")
        first = next(policy, None)
        return first.t_ns if first else self.begin_ns + self.duration_ns


def timeline_svg(
    runs: Sequence[TimelineRun], window_ns: int | None = None, name: str = "timeline"
) -> str:
    """The first moments of each run on one time axis, one lane per stage.

        synchronous   observe  ███            ███
                      generate    ▌▌▌▌           ▌▌▌▌
                      execute         ████////////////████        / halt
    Args:
        window_ns: how much to show; by default three observation cycles of the slowest run.
        name: see `svg.document`.

    Returns:
        A self-contained SVG document: no script, light and dark.
    """
    window_ns = window_ns or default_window_ns(runs)
    scale = Scale(window_ns / NS_PER_S)
    tops = [34 + number * _PANEL for number in range(len(runs))]
    bands = [(top + 24, top + _PANEL - 16) for top in tops]
    body = [*_legend(runs), *time_axis(scale, bands, "s")]
    for run, top in zip(runs, tops, strict=True):
        body += _panel(run, scale, window_ns, top)
    label = f"Timeline of the first {window_ns / NS_PER_S:.2g} seconds. "
    summary = " ".join(_summary(run, window_ns) for run in runs)
    return document(name, 42 + _PANEL * len(runs), label + summary, body)


def overview_svg(runs: Sequence[TimelineRun], name: str = "overview") -> str:
    """Each whole episode as one strip: moving, or halted; on one time axis.

    Args:
        name: see `svg.document`.
    """
    longest_ns = max((run.duration_ns for run in runs), default=0) or NS_PER_S
    scale = Scale(longest_ns / NS_PER_S)
    tops = [number * _STRIP for number in range(len(runs))]
    body = time_axis(scale, [(top + 20, top + _STRIP - 6) for top in tops], "s")
    for run, top in zip(runs, tops, strict=True):
        body += _strip(run, scale, longest_ns, top)
    summary = " ".join(_summary(run, run.duration_ns) for run in runs)
    return document(name, 22 + _STRIP * len(runs), f"Whole episodes. {summary}", body)


def default_window_ns(runs: Sequence[TimelineRun]) -> int:
    """Until the slowest run asks for its fourth observation, and no longer than three seconds."""
    ends = [0]
    for run in runs:
        requests = (e.t_ns for e in run.events if isinstance(e, ObserveRequested))
        later = next(islice(requests, _CYCLES_SHOWN, None), None)
        ends.append(run.duration_ns if later is None else later - run.begin_ns)
    return min(max(ends), _LONGEST_WINDOW_NS) or NS_PER_S


def _legend(runs: Sequence[TimelineRun]) -> list[str]:
    made = [span.last > span.index for run in runs for span in generate_spans(run.events)]
    step = "one pass = one chunk of actions" if any(made) else "one flow step = one action"
    if any(made) and not all(made):
        step = "one pass of the model"
    entries = [
        ("observe", "observe: images → context"),
        ("generate", f"generate: {step}"),
        ("execute", "execute: the robot moves"),
        ("hatch", "halt: the robot waits"),
    ]
    parts, x = [], LEFT
    for kind, words in entries:
        parts += [rect(x, x + 14, 6, 14, kind), text(x + 20, 18, words)]
        x += 46 + 6.6 * len(words)
    return parts


def _panel(run: TimelineRun, scale: Scale, window_ns: int, top: float) -> list[str]:
    lanes = {name: top + 26 + i * _LANE_STEP for i, name in enumerate(_LANES)}
    parts = [text(LEFT, top + 17, run.label, "name")]
    parts.append(text(RIGHT, top + 17, _halted_words(run, window_ns), anchor="end"))
    for name, y in lanes.items():
        parts.append(text(LEFT - 12, y + 16, name, anchor="end"))
        parts.append(rect(LEFT, RIGHT, y, _LANE_HEIGHT, "track"))
    pen = _Pen(run, scale, window_ns)
    parts += pen.bars(observe_spans(run.events), lanes["observe"])
    parts += pen.bars(generate_spans(run.events), lanes["generate"])
    commands = command_spans(run.events, run.period_ns)
    parts += pen.bars((s for s in commands if s.source == "policy"), lanes["execute"])
    parts += pen.startup(lanes["execute"])
    parts += pen.halts(lanes["execute"])
    return parts


@dataclass(frozen=True)
class _Pen:
    """Draws spans of one run, cut at the window's end."""

    run: TimelineRun
    scale: Scale
    window_ns: int

    def bars(self, spans: Iterable[Span], y: float) -> list[str]:
        parts = []
        for span in spans:
            edges = self.edges(span.start_ns, span.end_ns)
            if edges is not None:
                gap = min(1, (edges[1] - edges[0]) / 4)  # tells neighbours apart
                parts.append(rect(*edges, y, _LANE_HEIGHT, _kind(span), self._title(span), gap))
        return parts

    def halts(self, y: float) -> list[str]:
        parts = []
        for halt in self.run.halts():
            edges = self.edges(halt.start_ns, halt.end_ns)
            if edges is None:
                continue
            words = f"{halt.duration_ns / NS_PER_MS:.4g} ms"
            parts.append(rect(*edges, y, _LANE_HEIGHT, "hatch", f"halt: {words}"))
            if edges[1] - edges[0] > 8 * len(words):
                middle = sum(edges) / 2
                parts.append(text(middle, y + _LANE_HEIGHT + 13, words, "halt-text", "middle"))
        return parts

    def startup(self, y: float) -> list[str]:
        """Before its first action the robot does not halt: it has not begun."""
        edges = self.edges(self.run.begin_ns, self.run.startup_end_ns())
        if edges is None or edges[1] - edges[0] < 2:
            return []
        box = rect(edges[0] + 0.5, edges[1] - 0.5, y + 0.5, _LANE_HEIGHT - 1, "startup")
        fits = edges[1] - edges[0] > 60
        middle = sum(edges) / 2
        return [box, text(middle, y + 16, "start-up", anchor="middle")] if fits else [box]

    def edges(self, start_ns: int, end_ns: int) -> tuple[float, float] | None:
        start = start_ns - self.run.begin_ns
        end = min(end_ns - self.run.begin_ns, self.window_ns)
        return (self.scale(start / NS_PER_S), self.scale(end / NS_PER_S)) if start < end else None

    def _title(self, span: Span) -> str:
        executing = f"executing action {span.index} of generation {span.generation}"
        if span.parents:
            executing += f", merged from {len(span.parents)}"
        what = {
            "observe": f"observation {span.observation}",
            "generate": f"generation {span.generation}, action {span.actions}",
        }.get(span.source, executing)
        start, end = (
            (edge - self.run.begin_ns) / NS_PER_MS for edge in (span.start_ns, span.end_ns)
        )
        return f"{what}: {start:.0f}–{end:.0f} ms ({end - start:.4g} ms)"


def _kind(span: Span) -> str:
    """Actions of every other generation are paler, so that the seams can be seen."""
    if span.source == "policy":
        return "other" if span.generation % 2 else "execute"
    return span.source


def _strip(run: TimelineRun, scale: Scale, longest_ns: int, top: float) -> list[str]:
    y, height = top + 23, 20
    pen = _Pen(run, scale, longest_ns)
    parts = [
        text(LEFT, top + 15, run.label, "name"),
        text(RIGHT, top + 15, _ending(run), anchor="end"),
        rect(LEFT, RIGHT, y, height, "track"),
    ]
    moving = [s for s in command_spans(run.events, run.period_ns) if s.source == "policy"]
    for start_ns, end_ns in _joined(moving):
        edges = pen.edges(start_ns, end_ns)
        if edges:
            parts.append(rect(*edges, y, height, "execute"))
    for halt in run.halts():
        edges = pen.edges(halt.start_ns, halt.end_ns)
        if edges:
            words = f"halt: {halt.duration_ns / NS_PER_MS:.4g} ms"
            parts.append(rect(*edges, y, height, "hatch", words))
    x = min(scale(run.duration_ns / NS_PER_S), WIDTH - 1)
    parts.append(line(x, y - 3, x, y + height + 3, "end"))
    return parts


def _joined(spans: Iterable[Span], slack_ns: int = NS_PER_MS) -> list[tuple[int, int]]:
    """Spans that follow one another within `slack_ns`, as one."""
    joined: list[tuple[int, int]] = []
    for span in spans:
        if joined and span.start_ns - joined[-1][1] <= slack_ns:
            joined[-1] = (joined[-1][0], span.end_ns)
        else:
            joined.append((span.start_ns, span.end_ns))
    return joined


def _ending(run: TimelineRun) -> str:
    ended = next((e for e in reversed(run.events) if isinstance(e, Ended)), None)
    reason = _REASONS.get(ended.reason, ended.reason) if ended else "cut off"
    took_s = (run.over_ns - run.begin_ns) / NS_PER_S
    return f"{reason} at {took_s:.2f} s" if run.events else "no events"


def _halted_ns(run: TimelineRun, window_ns: int) -> int:
    limit_ns = run.begin_ns + window_ns
    return sum(max(0, min(h.end_ns, limit_ns) - h.start_ns) for h in run.halts())


def _halted_words(run: TimelineRun, window_ns: int) -> str:
    """How much of the time from its first action to the window's end the robot stood still."""
    window_ns = min(window_ns, run.over_ns - run.begin_ns)
    moving_ns = window_ns - (run.startup_end_ns() - run.begin_ns)
    if moving_ns <= 0:
        return "never moved"
    return f"halted {100 * _halted_ns(run, window_ns) / moving_ns:.0f} % of the time"


def _summary(run: TimelineRun, window_ns: int) -> str:
    return f"{run.label}: {_halted_words(run, window_ns)}."
