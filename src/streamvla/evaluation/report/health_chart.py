"""The health of the action stream over an episode, and what happened to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from streamvla.core.clock import NS_PER_MS, NS_PER_S
from streamvla.evaluation.report.svg import (
    LEFT,
    RIGHT,
    Scale,
    document,
    line,
    mark,
    rect,
    text,
    time_axis,
)
from streamvla.evaluation.report.timeline import TimelineRun
from streamvla.trace.events import (
    CameraFrozen,
    Failed,
    FaultInjected,
    HealthChanged,
    InstructionUnclear,
    RecordingLost,
    Sent,
    TicksSkipped,
    TraceEvent,
)

_STRIP, _LEGEND = 62, 30
_KINDS = {"streaming": "execute", "degraded": "generate", "stalled": "hatch", "stopped": "rest"}


def health_svg(runs: Sequence[TimelineRun], name: str = "health") -> str:
    """The state of the action stream over the whole of each run, with marks for what happened.

    Args:
        name: see `svg.document`.
    """
    longest_ns = max((run.duration_ns for run in runs), default=0) or NS_PER_S
    scale = Scale(longest_ns / NS_PER_S)
    tops = [_LEGEND + _STRIP * number for number in range(len(runs))]
    body = [*_legend(), *time_axis(scale, [(top + 20, top + _STRIP - 6) for top in tops], "s")]
    for run, top in zip(runs, tops, strict=True):
        y, height = top + 25, 18
        body += [text(LEFT, top + 16, run.label, "name"), rect(LEFT, RIGHT, y, height, "track")]
        for state, start_ns, end_ns, cause in health_spans(run):
            left, right = (scale((t_ns - run.begin_ns) / NS_PER_S) for t_ns in (start_ns, end_ns))
            words = f"{state} for {(end_ns - start_ns) / NS_PER_MS:.0f} ms"
            title = f"{words}: {cause}" if cause else words
            body.append(rect(left, right, y, height, _KINDS.get(state, "other"), title))
        for t_ns, what in happenings(run.events):
            x = scale((t_ns - run.begin_ns) / NS_PER_S)
            body.append(line(x, y - 3, x, y + height + 3, "end"))
            body.append(mark(x, y + height + 8, 4, "mark-ink", "triangle", what))
    told = " ".join(f"{run.label}: {_told(run)}." for run in runs)
    return document(name, _LEGEND + _STRIP * len(runs) + 18, f"Health over time. {told}", body)


def health_spans(run: TimelineRun) -> Iterator[tuple[str, int, int, str]]:
    """(state, from, until, cause) from the first command of the policy to the episode's end."""
    since_ns, state, cause = run.startup_end_ns(), "streaming", ""
    for event in run.events:
        if event.t_ns > run.over_ns:
            break
        if isinstance(event, HealthChanged):
            if event.t_ns > since_ns:
                yield state, since_ns, event.t_ns, cause
            since_ns, state, cause = max(since_ns, event.t_ns), event.after, event.cause
    if run.over_ns > since_ns and any(isinstance(event, Sent) for event in run.events):
        yield state, since_ns, run.over_ns, cause


def happenings(events: Sequence[TraceEvent]) -> Iterator[tuple[int, str]]:
    """When something went wrong that has an instant, and what."""
    for event in events:
        match event:
            case TicksSkipped(t_ns, _, ticks, cause):
                yield t_ns, f"{ticks} control ticks skipped: {cause}"
            case RecordingLost(t_ns, lost, cause):
                yield t_ns, f"{lost} events lost: {cause}"
            case FaultInjected(t_ns, kind, _):
                yield t_ns, f"fault put in on purpose: {kind}"
            case CameraFrozen(t_ns, _, view):
                yield t_ns, f"camera {view} frozen"
            case InstructionUnclear(t_ns, _, instruction, _):
                yield t_ns, f"instruction unclear: {instruction}"
            case Failed(t_ns, stage, message):
                yield t_ns, f"{stage} failed: {message}"
            case _:
                continue


def _legend() -> list[str]:
    parts, x = [], LEFT
    for state, kind in _KINDS.items():
        parts += [rect(x, x + 14, 6, 14, kind), text(x + 20, 18, state)]
        x += 46 + 7 * len(state)
    parts.append(mark(x + 5, 14, 4, "mark-ink", "triangle"))
    return [*parts, text(x + 16, 18, "something happened")]


def _told(run: TimelineRun) -> str:
    shares: dict[str, int] = {}
    for state, start_ns, end_ns, _ in health_spans(run):
        shares[state] = shares.get(state, 0) + end_ns - start_ns
    whole = sum(shares.values()) or 1
    words = [f"{state} {100 * share / whole:.0f} %" for state, share in shares.items()]
    return ", ".join([*words, *(what for _, what in happenings(run.events))]) or "no commands"
