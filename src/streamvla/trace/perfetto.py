"""Traces as a Chrome JSON trace: open the file at https://ui.perfetto.dev or chrome://tracing.

One process per episode. Tracks for the stages, the governor, the health of the action stream and
incidents; an arrow from every observation to its first action and from every generated action to
its execution (several where a command was merged); counters:

    observe      [  obs 1   ]─╮
    generate                  ╰►[1.0][1.1][1.2]…
    execute                        ╰──►[ 1.0 ][ 1.1 ]…
    governor     [hold][hold]
    health       [ streaming            ][ degraded  ]
    incidents                         [ fault: …  ]
    depth        ▁▁▁▁▁▂▂▃▃▂▂▁▁

Viewers drop a slice that overlaps another of its track without lying inside it. Work that overlaps
therefore has a track of its own: "generate", "generate 2", … (`spans.lanes`).

Format: "Trace Event Format" (Google), `ph` X (slice), s/f (flow), C (counter), i (instant),
M (metadata); `ts` and `dur` in microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

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
    InstructionRephrased,
    InstructionUnclear,
    Intervened,
    LeadChosen,
    ObserveRequested,
    Rearmed,
    RecordingLost,
    Rejected,
    Sent,
    Stimulus,
    Stopping,
    TicksSkipped,
    TraceEvent,
)
from streamvla.trace.spans import (
    Span,
    command_spans,
    generate_spans,
    lanes,
    observe_spans,
    usual_period_ns,
)
from streamvla.trace.store import Trace

Fields = dict[str, Any]

_TRACKS = ("observe", "generate", "execute", "governor", "health", "incidents")
_ALWAYS = _TRACKS[:4]
"""Tracks that are there even when nothing is on them."""


@dataclass(frozen=True)
class PerfettoRun:
    """One episode to export: its name, its events, and the control period."""

    label: str
    events: Sequence[TraceEvent]
    period_ns: int


def perfetto_run(
    trace: Trace, label: str | None = None, period_ns: int | None = None
) -> PerfettoRun:
    """A trace as it was read back, ready to export.

    Args:
        label: default what its header says: executor, task and seed.
        period_ns: default what its commands say (`spans.usual_period_ns`).
    """
    return PerfettoRun(
        label or episode_name(trace.header) or "episode",
        trace.events,
        usual_period_ns(trace.events) if period_ns is None else period_ns,
    )


def episode_name(header: Mapping[str, Any]) -> str:
    """Executor, task or robot, and seed of an episode, as far as the header of its trace has them.

    >>> episode_name({"method": "synchronous, 10 of 10", "task": "push", "seed": 7})
    'synchronous, 10 of 10: push, seed 7'
    """
    config = header.get("config")
    driven = config.get("executor") if isinstance(config, dict) else None
    executor = header.get("method") or header.get("executor") or driven
    if isinstance(executor, list):  # what the control loop's process was granted
        executor = None
    seed = f"seed {header['seed']}" if "seed" in header else None
    where = ", ".join(
        str(each) for each in (header.get("task") or header.get("robot"), seed) if each
    )
    return ": ".join(str(each) for each in (executor, where) if each)


def perfetto_trace(runs: Sequence[PerfettoRun]) -> Fields:
    """The JSON object of a trace of several episodes, each on its own time axis starting at 0."""
    flows = count(1)
    events: list[Fields] = []
    for process, run in enumerate(runs, start=1):
        drawn = _Process(process, run, flows)
        body = [*drawn.stages(), *drawn.incidents(), *drawn.counters(), *drawn.instants()]
        events += drawn.names()
        events += sorted(body, key=lambda fields: fields["ts"])
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def write_perfetto(path: Path, runs: Sequence[PerfettoRun]) -> None:
    """Write `perfetto_trace(runs)` to a file; its folder is made.

    Raises:
        FileError: it cannot be written.
    """
    write_text(path, json.dumps(perfetto_trace(runs), separators=(",", ":")))


class _Slice(NamedTuple):
    """A span, where it is drawn, and what is said of it."""

    name: str
    span: Span
    tid: int
    args: Mapping[str, Any]


@dataclass
class _Process:
    """The events of one episode. `tracks`: (name, lane) → thread, in the order they came up."""

    number: int
    run: PerfettoRun
    flows: Iterator[int]
    tracks: dict[tuple[str, int], int] = field(init=False)

    def __post_init__(self) -> None:
        self.tracks = {(name, 0): tid for tid, name in enumerate(_ALWAYS, start=1)}

    @property
    def begin_ns(self) -> int:
        return self.run.events[0].t_ns if self.run.events else 0

    @property
    def end_ns(self) -> int:
        return self.run.events[-1].t_ns if self.run.events else 0

    def names(self) -> Iterator[Fields]:
        """To be asked last: by then every track is known."""

        def metadata(kind: str, track: int, **args: Any) -> Fields:
            return {"ph": "M", "name": kind, "pid": self.number, "tid": track, "args": args}

        yield metadata("process_name", 0, name=self.run.label)
        yield metadata("process_sort_index", 0, sort_index=self.number)
        for (name, lane), tid in self.tracks.items():
            shown = f"{name} {lane + 1}" if lane else name
            yield metadata("thread_name", tid, name=shown)
            order = 100 * _TRACKS.index(name) + lane
            yield metadata("thread_sort_index", tid, sort_index=order)

    # --- slices --------------------------------------------------------------------------------

    def stages(self) -> Iterator[Fields]:
        """What the accelerator and the robot did, and the arrows between."""
        encoded: dict[int, _Slice] = {}
        for drawn in self._placed("observe", observe_spans(self.run.events)):
            encoded[drawn.span.observation] = drawn
            yield self._slice(drawn)
        made: dict[tuple[int, int], _Slice] = {}
        for drawn in self._placed("generate", generate_spans(self.run.events)):
            span = drawn.span
            indices = range(span.index, max(span.index, span.last) + 1)
            made |= {(span.generation, index): drawn for index in indices}
            yield self._slice(drawn)
            source = encoded.pop(span.observation, None)  # the first action alone gets the arrow
            if source is not None:
                yield from self._arrow("observe → generate", source, drawn)
        commands = list(command_spans(self.run.events, self.run.period_ns))
        policy = (span for span in commands if span.source == "policy")
        for drawn in self._placed("execute", policy):
            yield self._slice(drawn)
            for source in (made[action] for action in _actions(drawn.span) if action in made):
                yield from self._arrow("generate → execute", source, drawn)
        governed = (span for span in commands if span.source != "policy")
        for drawn in self._placed("governor", governed):
            yield self._slice(drawn)

    def incidents(self) -> Iterator[Fields]:
        """What lasted: states of health, faults put in, ticks without a command, the final stop."""
        told: dict[str, list[tuple[Span, Fields]]] = {"health": [], "incidents": []}
        since_ns, cause, state = self.begin_ns, "", ""
        for event in self.run.events:
            match event:
                case HealthChanged(t_ns, _, before, after, why):
                    told["health"].append(_lasting(before, since_ns, t_ns, cause=cause))
                    since_ns, cause, state = t_ns, why, after
                case FaultInjected(t_ns, kind, until_ns):
                    end_ns = self.end_ns if until_ns < 0 else until_ns
                    told["incidents"].append(_lasting(f"fault: {kind}", t_ns, end_ns))
                case TicksSkipped(t_ns, tick, ticks, why):
                    start_ns = max(self.begin_ns, t_ns - ticks * self.run.period_ns)
                    words = f"{ticks} ticks skipped"
                    drawn = _lasting(words, start_ns, t_ns, cause=why, before_tick=tick)
                    told["incidents"].append(drawn)
                case Stopping(t_ns, reason):
                    drawn = _lasting("coming to rest", t_ns, self.end_ns, cause=reason)
                    told["incidents"].append(drawn)
                case _:
                    continue
        if state:
            told["health"].append(_lasting(state, since_ns, self.end_ns, cause=cause))
        for track, lasting in told.items():
            said = dict(lasting)
            for lane, span in lanes(said):
                yield self._slice(_Slice(span.source, span, self._tid(track, lane), said[span]))

    def _placed(self, track: str, spans: Iterable[Span]) -> Iterator[_Slice]:
        for lane, span in lanes(spans):
            ids = {"generation": span.generation, "observation": span.observation}
            ids |= {"index": span.index, "last": span.last}
            args = {key: value for key, value in ids.items() if value >= 0}
            yield _Slice(_name(span), span, self._tid(track, lane), args)

    def _tid(self, track: str, lane: int = 0) -> int:
        return self.tracks.setdefault((track, lane), len(self.tracks) + 1)

    def _slice(self, drawn: _Slice) -> Fields:
        track = next(name for (name, _), tid in self.tracks.items() if tid == drawn.tid)
        return {
            "ph": "X",
            "name": drawn.name,
            "cat": track,
            "pid": self.number,
            "tid": drawn.tid,
            "ts": self._us(drawn.span.start_ns),
            "dur": (drawn.span.end_ns - drawn.span.start_ns) / 1000,
            "args": dict(drawn.args),
        }

    def _arrow(self, name: str, source: _Slice, target: _Slice) -> Iterator[Fields]:
        """Both ends sit in the middle of their slices: on an edge, two slices would claim them."""
        common = {"name": name, "cat": "flow", "id": next(self.flows), "pid": self.number}
        start_us, end_us = (
            self._us((each.span.start_ns + each.span.end_ns) / 2) for each in (source, target)
        )
        yield {**common, "ph": "s", "tid": source.tid, "ts": start_us}
        yield {**common, "ph": "f", "bp": "e", "tid": target.tid, "ts": end_us}

    # --- counters and marks --------------------------------------------------------------------

    def counters(self) -> Iterator[Fields]:
        """With every command: what waits behind it, and how late it left."""
        for event in self.run.events:
            if isinstance(event, Sent):
                late_ms = (event.t_ns - event.due_ns) / 1_000_000
                yield self._counter("buffer depth", event.t_ns, actions=event.depth)
                yield self._counter("lateness", event.t_ns, ms=late_ms)

    def _counter(self, name: str, t_ns: int, **values: float) -> Fields:
        at = {"pid": self.number, "tid": 0, "ts": self._us(t_ns)}
        return {"ph": "C", "name": name, **at, "args": values}

    def instants(self) -> Iterator[Fields]:
        for event in self.run.events:
            marked = _mark(event)
            if marked is None:
                continue
            track, name, args = marked
            yield {
                "ph": "i",
                "s": "t",
                "name": name,
                "pid": self.number,
                "tid": self._tid(track),
                "ts": self._us(event.t_ns),
                "args": args,
            }

    def _us(self, t_ns: float) -> float:
        return (t_ns - self.begin_ns) / 1000


def _mark(event: TraceEvent) -> tuple[str, str, Fields] | None:
    """Track, name and details of an event that is an instant; None for the others."""
    match event:
        case ObserveRequested(_, observation, pending):
            return "observe", f"capture {observation}, {pending} pending", {}
        case EarlyDecided(_, _, _, accepted, cause, _, _, _, second_look):
            verdict = "second look" if second_look else "early" if accepted else "not early"
            return "observe", f"{verdict}: {cause}", {"cause": cause}
        case LeadChosen(_, lead):
            return "observe", f"lead {lead} from now on", {}
        case Dropped(_, generation, index, reason):
            return "governor", f"dropped {generation}.{index}: {reason}", {"cause": reason}
        case Rejected(_, generation, index, cause):
            return "governor", f"rejected {generation}.{index}: {cause}", {"cause": cause}
        case Intervened(_, _, rung, cause, ticks):
            return "governor", f"{rung}: {cause}", {"cause": cause, "ticks": ticks}
        case Rearmed():
            return "governor", "rearmed", {}
        case HealthChanged(_, _, before, after, cause):
            return "health", f"health: {before} → {after}", {"cause": cause}
        case CameraFrozen(_, _, view):
            return "health", f"camera {view} frozen", {}
        case CameraThawed(_, _, view):
            return "health", f"camera {view} shows something new", {}
        case InstructionUnclear(_, _, instruction, clarity):
            return "incidents", f"instruction unclear: {instruction}", {"clarity": clarity}
        case InstructionRephrased(_, _, instruction, phrase, similarity):
            said = {"instruction": instruction, "similarity": similarity}
            return "incidents", f"instruction read as: {phrase}", said
        case TicksSkipped(_, _, ticks, cause):
            return "incidents", f"{ticks} ticks skipped: {cause}", {"cause": cause, "ticks": ticks}
        case RecordingLost(_, events, cause):
            return "incidents", f"{events} events lost: {cause}", {"cause": cause, "events": events}
        case FaultInjected(_, kind, _):
            return "incidents", f"fault injected: {kind}", {"cause": kind}
        case Stimulus(_, what):
            return "incidents", f"stimulus: {what}", {"cause": what}
        case Failed(_, stage, message):
            return "incidents", f"{stage} failed: {message}", {"cause": message}
        case Stopping(_, reason):
            return "incidents", f"stopping: {reason}", {"cause": reason}
        case Ended(_, _, reason):
            return "incidents", f"ended: {reason}", {"cause": reason}
        case _:
            return None


def _lasting(what: str, start_ns: int, end_ns: int, **args: Any) -> tuple[Span, Fields]:
    said = {key: value for key, value in args.items() if value != ""}
    return Span(start_ns, max(start_ns, end_ns), what, -1, -1, -1), said


def _actions(span: Span) -> list[tuple[int, int]]:
    """(generation, index) of every action behind a policy command."""
    merged = [(each.generation, each.index) for each in span.parents]
    return merged or [(span.generation, span.index)]


def _name(span: Span) -> str:
    if span.source == "observe":
        return f"observation {span.observation}"
    if span.source == "generate":
        return f"{span.generation}.{span.actions}"
    if span.source == "policy":
        return " + ".join(f"{generation}.{index}" for generation, index in _actions(span))
    return span.source
