"""Traces as a Chrome JSON trace: open the file at https://ui.perfetto.dev or chrome://tracing.

One process per run, with one track each for the stages and the governor, an arrow from every
observation to its first action and from every generated action to its execution (several where a
command was merged), and a counter:

    observe    [  obs 1   ]─╮
    generate                ╰►[1.0][1.1][1.2]…
    execute                      ╰──►[ 1.0 ][ 1.1 ]…
    governor   [hold][hold]
    depth      ▁▁▁▁▁▂▂▃▃▂▂▁▁

Format: "Trace Event Format" (Google), `ph` X (slice), s/f (flow), C (counter), i (instant),
M (metadata); `ts` and `dur` in microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from streamvla.core.files import write_text
from streamvla.trace.events import (
    CameraFrozen,
    CameraThawed,
    Dropped,
    EarlyDecided,
    Ended,
    Failed,
    FaultInjected,
    HealthChanged,
    Intervened,
    LeadChosen,
    ObserveRequested,
    Rearmed,
    Rejected,
    Sent,
    TraceEvent,
)
from streamvla.trace.spans import Span, command_spans, generate_spans, observe_spans

Fields = dict[str, Any]

_TRACKS = {"observe": 1, "generate": 2, "execute": 3, "governor": 4}


@dataclass(frozen=True)
class PerfettoRun:
    """One run to export: its name, its events, and the control period."""

    label: str
    events: Sequence[TraceEvent]
    period_ns: int


def perfetto_trace(runs: Sequence[PerfettoRun]) -> Fields:
    """The JSON object of a trace of several runs, each on its own time axis starting at 0."""
    flows = count(1)
    events: list[Fields] = []
    for process, run in enumerate(runs, start=1):
        events += _names(process, run.label)
        body = [
            *_slices_and_flows(run, process, flows),
            *_counter(run, process),
            *_instants(run, process),
        ]
        events += sorted(body, key=lambda fields: fields["ts"])
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def write_perfetto(path: Path, runs: Sequence[PerfettoRun]) -> None:
    """Write `perfetto_trace(runs)` to a file; its folder is made.

    Raises:
        FileError: it cannot be written.
    """
    write_text(path, json.dumps(perfetto_trace(runs), separators=(",", ":")))


def _names(process: int, label: str) -> Iterator[Fields]:
    def metadata(kind: str, track: int, **args: Any) -> Fields:
        return {"ph": "M", "name": kind, "pid": process, "tid": track, "args": args}

    yield metadata("process_name", 0, name=label)
    yield metadata("process_sort_index", 0, sort_index=process)
    for name, track in _TRACKS.items():
        yield metadata("thread_name", track, name=name)
        yield metadata("thread_sort_index", track, sort_index=track)


def _slices_and_flows(run: PerfettoRun, process: int, flows: Iterator[int]) -> Iterator[Fields]:
    begin_ns = _begin_ns(run)
    encoded: dict[int, Span] = {}
    for span in observe_spans(run.events):
        encoded[span.observation] = span
        yield _slice(process, "observe", f"observation {span.observation}", span, begin_ns)
    made: dict[tuple[int, int], Span] = {}
    for span in generate_spans(run.events):
        made[span.generation, span.index] = span
        yield _slice(process, "generate", f"{span.generation}.{span.index}", span, begin_ns)
        source = encoded.pop(span.observation, None)  # the first action alone gets the arrow
        if source is not None:
            yield from _arrow(process, next(flows), "observe", source, "generate", span, begin_ns)
    for span in command_spans(run.events, run.period_ns):
        if span.source != "policy":
            yield _slice(process, "governor", span.source, span, begin_ns)
            continue
        actions = [(each.generation, each.index) for each in span.parents] or [
            (span.generation, span.index)
        ]
        name = " + ".join(f"{generation}.{index}" for generation, index in actions)
        yield _slice(process, "execute", name, span, begin_ns)
        for source in (made[action] for action in actions if action in made):
            yield from _arrow(process, next(flows), "generate", source, "execute", span, begin_ns)


def _slice(process: int, track: str, name: str, span: Span, begin_ns: int) -> Fields:
    ids = {"generation": span.generation, "observation": span.observation, "index": span.index}
    return {
        "ph": "X",
        "name": name,
        "cat": track,
        "pid": process,
        "tid": _TRACKS[track],
        "ts": (span.start_ns - begin_ns) / 1000,
        "dur": (span.end_ns - span.start_ns) / 1000,
        "args": {key: value for key, value in ids.items() if value >= 0},
    }


def _arrow(
    process: int,
    number: int,
    from_track: str,
    source: Span,
    to_track: str,
    target: Span,
    begin_ns: int,
) -> Iterator[Fields]:
    """Both ends sit in the middle of their slices: on an edge, two slices would claim them."""
    common = {"name": f"{from_track} → {to_track}", "cat": "flow", "id": number, "pid": process}
    start_us, end_us = (
        ((span.start_ns + span.end_ns) / 2 - begin_ns) / 1000 for span in (source, target)
    )
    yield {**common, "ph": "s", "tid": _TRACKS[from_track], "ts": start_us}
    yield {**common, "ph": "f", "bp": "e", "tid": _TRACKS[to_track], "ts": end_us}


def _counter(run: PerfettoRun, process: int) -> Iterator[Fields]:
    begin_ns = _begin_ns(run)
    for event in run.events:
        if isinstance(event, Sent):
            yield {
                "ph": "C",
                "name": "buffer depth",
                "pid": process,
                "tid": 0,
                "ts": (event.t_ns - begin_ns) / 1000,
                "args": {"actions": event.depth},
            }


def _instants(run: PerfettoRun, process: int) -> Iterator[Fields]:
    begin_ns = _begin_ns(run)
    for event in run.events:
        match event:
            case ObserveRequested(_, observation, pending):
                track, name = "observe", f"capture {observation}, {pending} pending"
            case EarlyDecided(_, _, _, accepted, cause, _, _, _, second_look):
                verdict = "second look" if second_look else "early" if accepted else "not early"
                track, name = "observe", f"{verdict}: {cause}"
            case LeadChosen(_, lead):
                track, name = "observe", f"lead {lead} from now on"
            case Dropped(_, generation, index, reason):
                track, name = "governor", f"dropped {generation}.{index}: {reason}"
            case Rejected(_, generation, index, cause):
                track, name = "governor", f"rejected {generation}.{index}: {cause}"
            case Intervened(_, _, rung, cause):
                track, name = "governor", f"{rung}: {cause}"
            case HealthChanged(_, _, before, after):
                track, name = "governor", f"health: {before} → {after}"
            case CameraFrozen(_, _, view):
                track, name = "governor", f"camera {view} frozen"
            case CameraThawed(_, _, view):
                track, name = "governor", f"camera {view} shows something new"
            case Rearmed():
                track, name = "governor", "rearmed"
            case FaultInjected(_, kind, _):
                track, name = "governor", f"fault injected: {kind}"
            case Failed(_, stage, message):
                track, name = "governor", f"{stage} failed: {message}"
            case Ended(_, _, reason):
                track, name = "governor", f"ended: {reason}"
            case _:
                continue
        yield {
            "ph": "i",
            "s": "t",
            "name": name,
            "pid": process,
            "tid": _TRACKS[track],
            "ts": (event.t_ns - begin_ns) / 1000,
        }


def _begin_ns(run: PerfettoRun) -> int:
    return run.events[0].t_ns if run.events else 0
