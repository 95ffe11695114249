"""The Perfetto export keeps to the Trace Event Format."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.runtime import test_early, test_faults, test_merging
from tests.runtime.scenario import Scenario

from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.executors.async_chunks import AsyncChunks
from streamvla.trace import (
    ActionReady,
    Dropped,
    EarlyDecided,
    Ended,
    Failed,
    FaultInjected,
    Finished,
    GenerateRequested,
    HealthChanged,
    ObserveReady,
    ObserveRequested,
    ObserveStarted,
    RecordingLost,
    Rejected,
    Sent,
    Stopping,
    TicksSkipped,
    TraceEvent,
)
from streamvla.trace.perfetto import PerfettoRun, perfetto_trace, write_perfetto

MS = 1_000_000
REQUIRED = {
    "M": {"name", "pid", "tid", "args"},
    "X": {"name", "cat", "pid", "tid", "ts", "dur", "args"},
    "s": {"name", "cat", "id", "pid", "tid", "ts"},
    "f": {"name", "cat", "id", "bp", "pid", "tid", "ts"},
    "C": {"name", "pid", "tid", "ts", "args"},
    "i": {"name", "s", "pid", "tid", "ts", "args"},
}


def sent(t_ms: float, source: str, index: int, depth: int = 0) -> Sent:
    ids = (0, 0, index, 0) if source == "policy" else (-1, -1, -1, -1)
    return Sent(round(t_ms * MS), round(t_ms * MS), 0, source, *ids, depth, (0.0,))


START = 7_000 * MS
EVENTS: list[TraceEvent] = [
    ObserveRequested(0, 0, 0),
    ObserveStarted(0, 0),
    sent(0, "hold", -1),
    ObserveReady(40 * MS, 0, 0),
    GenerateRequested(40 * MS, 0, 0, 0, 0),
    sent(50, "hold", -1),
    ActionReady(60 * MS, 40 * MS, 0, 0, 0),
    ActionReady(80 * MS, 60 * MS, 0, 0, 1),
    sent(100, "policy", 0, depth=1),
    Rejected(110 * MS, 0, 2, "not finite"),
    sent(149.8, "policy", 1),
    Dropped(150 * MS, 0, 3, "cancelled"),
    Failed(160 * MS, "generate", "boom"),
    Finished(170 * MS),
    Ended(200 * MS, False, "failed"),
]


def shifted(event: TraceEvent, by_ns: int) -> TraceEvent:
    moved = {key: value + by_ns for key, value in event._asdict().items() if key.endswith("_ns")}
    return event._replace(**moved)


@pytest.fixture
def exported() -> list[dict[str, Any]]:
    late = [shifted(event, START) for event in EVENTS]
    runs = [PerfettoRun("synchronous", EVENTS, 50 * MS), PerfettoRun("streaming", late, 50 * MS)]
    return perfetto_trace(runs)["traceEvents"]


def of_kind(exported: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [event for event in exported if event["ph"] in kinds]


def test_every_event_has_exactly_the_fields_of_its_phase(exported: list[dict[str, Any]]) -> None:
    """Each phase carries the fields the format asks for, with numbers where it asks for numbers."""
    for event in exported:
        assert event.keys() - {"ph"} == REQUIRED[event["ph"]]
        if event["ph"] != "M":
            assert isinstance(event["ts"], float)
            assert event["ts"] >= 0
        assert event.get("dur", 0) >= 0


def test_every_run_is_a_process_with_named_tracks(exported: list[dict[str, Any]]) -> None:
    """Both runs start at time 0 under their own name, with the same tracks in the same order."""
    for process, label in ((1, "synchronous"), (2, "streaming")):
        named = [e for e in of_kind(exported, "M") if e["pid"] == process]
        assert [e["args"]["name"] for e in named if e["name"] == "process_name"] == [label]
        tracks = [e["args"]["name"] for e in named if e["name"] == "thread_name"]
        assert tracks == ["observe", "generate", "execute", "governor", "incidents"]
        assert min(e["ts"] for e in exported if e["pid"] == process and e["ph"] != "M") == 0


def test_flow_arrows_join_slices_and_never_share_an_id(exported: list[dict[str, Any]]) -> None:
    """Each arrow has one start and one later end, both inside a slice of their track."""
    ends: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for event in of_kind(exported, "s", "f"):
        ends[event["id"]].append(event)
    assert sorted(ends) == list(range(1, 7))  # per run: observe → generate, 2 × generate → execute
    for start, finish in ends.values():
        assert (start["ph"], finish["ph"], finish["bp"]) == ("s", "f", "e")
        assert start["ts"] < finish["ts"]
        for event in (start, finish):
            slices = [
                s
                for s in of_kind(exported, "X")
                if (s["pid"], s["tid"]) == (event["pid"], event["tid"])
                and s["ts"] < event["ts"] < s["ts"] + s["dur"]
            ]
            assert len(slices) == 1


def overlapping(exported: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Pairs of slices of one track that a viewer cannot draw: neither apart nor nested."""
    tracks: dict[tuple[int, int], list[tuple[int, int, str]]] = defaultdict(list)
    for event in of_kind(exported, "X"):
        begin, length = (round(1000 * event[key]) for key in ("ts", "dur"))
        tracks[event["pid"], event["tid"]].append((begin, begin + length, event["name"]))
    found = []
    for slices in tracks.values():
        slices.sort(key=lambda each: (each[0], -each[1]))
        around: list[tuple[int, int, str]] = []
        for each in slices:
            while around and around[-1][1] <= each[0]:
                around.pop()
            if around and each[1] > around[-1][1]:
                found.append((around[-1][2], each[2]))
            around.append(each)
    return found


def handled_late(events: list[TraceEvent]) -> list[TraceEvent]:
    """As in real time: the results of the model are handled some milliseconds after they are made,
    while its next step is under way."""
    return [
        e._replace(t_ns=e.t_ns + 1 + 2 * MS * (e.index % 4)) if isinstance(e, ActionReady) else e
        for e in events
    ]


def driven(**settings: Any) -> list[TraceEvent]:
    return Scenario(pacing="grid", observations=8, **settings).run().events


EPISODES: dict[str, Callable[[], list[TraceEvent]]] = {
    "action flow": lambda: driven(executor=ActionFlow(3)),
    "action flow, two accelerators": lambda: driven(
        executor=ActionFlow(5, shared_accelerator=False), serial=False
    ),
    "asynchronous chunks": lambda: driven(executor=AsyncChunks(0.5), chunk_passes=2),
    "merged": lambda: test_merging.drive().events,
    "early": lambda: test_early.foreseeing(test_early.gate(1.0)).run().events,
    "refused early": lambda: test_early.foreseeing(test_early.gate(0.0)).run().events,
    "second looks": lambda: test_early.looking_again(1.0).run().events,
    "replanning": lambda: driven(
        executor=test_early.replanning(shared_accelerator=False), serial=False
    ),
    "stall": lambda: test_faults.run("model-stall:800ms@2s").events,
    "frozen camera": lambda: test_faults.run("frozen-camera:800ms@2s").events,
}


@pytest.mark.parametrize("name", EPISODES)
def test_slices_of_a_track_are_apart_or_nested(name: str) -> None:
    """Viewers drop a slice that overlaps another of its track in part: there is none, and no action
    that was executed is without its slice and arrow."""
    for events in (EPISODES[name](), handled_late(EPISODES[name]())):
        exported = perfetto_trace([PerfettoRun(name, events, 27 * MS)])["traceEvents"]
        assert overlapping(exported) == []
        sources = sum(len(e.sources) for e in events if isinstance(e, Sent))
        arrows = [e for e in of_kind(exported, "s") if e["name"] == "generate → execute"]
        assert len(arrows) == sources > 0
        observed = sum(isinstance(e, ObserveReady) for e in events)
        slices = [e for e in of_kind(exported, "X") if e["cat"] == "observe"]
        assert len(slices) >= observed


def test_overlapping_work_has_tracks_of_its_own() -> None:
    """Two generations at once stand on "generate" and "generate 2", the second right below."""
    events: list[TraceEvent] = [
        ActionReady(40 * MS, 0, 0, 0, 0),
        ActionReady(60 * MS, 20 * MS, 1, 1, 0),
        ActionReady(90 * MS, 60 * MS, 1, 1, 1),
    ]
    exported = perfetto_trace([PerfettoRun("two", events, 50 * MS)])["traceEvents"]
    tracks = {e["tid"]: e["args"]["name"] for e in exported if e["name"] == "thread_name"}
    drawn = [(e["name"], tracks[e["tid"]]) for e in of_kind(exported, "X")]
    assert drawn == [("0.0", "generate"), ("1.0", "generate 2"), ("1.1", "generate")]
    order = {
        e["tid"]: e["args"]["sort_index"] for e in exported if e["name"].endswith("sort_index")
    }
    by_order = sorted(tracks, key=lambda tid: order[tid])
    assert [tracks[tid] for tid in by_order][1:3] == ["generate", "generate 2"]


def test_actions_of_one_pass_are_one_slice() -> None:
    """A chunk is one slice, not one per action, and every command has its arrow from it."""
    made: list[TraceEvent] = [ActionReady(40 * MS + i, 0, 3, 2, i) for i in range(8)]
    commands: list[TraceEvent] = [
        Sent(t * MS, t * MS, t // 50, "policy", 3, 2, i, 0, 0, (0.0,))
        for i, t in enumerate((50, 100))
    ]
    exported = perfetto_trace([PerfettoRun("chunk", made + commands, 50 * MS)])["traceEvents"]
    (chunk,) = (e for e in of_kind(exported, "X") if e["cat"] == "generate")
    assert (chunk["name"], chunk["args"]["last"]) == ("3.0–7", 7)
    assert len(of_kind(exported, "s")) == 2


def test_what_went_wrong_is_shown_with_its_cause() -> None:
    """Skipped ticks, lost recordings, health, faults, the end: marks, and bars where they last."""
    events: list[TraceEvent] = [
        sent(0, "policy", 0),
        FaultInjected(10 * MS, "process-stop", 60 * MS),
        TicksSkipped(250 * MS, 5, 4, "the loop slept"),
        HealthChanged(250 * MS, 5, "streaming", "stalled", "4 ticks skipped: the loop slept"),
        RecordingLost(260 * MS, 12, "No space left on device"),
        Stopping(300 * MS, "time-limit"),
        sent(310, "stop", -1),
        Ended(360 * MS, False, "time-limit"),
    ]
    exported = perfetto_trace([PerfettoRun("bad", events, 50 * MS)])["traceEvents"]
    marks = {e["name"]: e["args"].get("cause") for e in of_kind(exported, "i")}
    assert marks == {
        "fault injected: process-stop": "process-stop",
        "4 ticks skipped: the loop slept": "the loop slept",
        "health: streaming → stalled": "4 ticks skipped: the loop slept",
        "12 events lost: No space left on device": "No space left on device",
        "stopping: time-limit": "time-limit",
        "ended: time-limit": "time-limit",
    }
    bars = {
        e["name"]: (e["ts"], e["dur"], e["args"].get("cause"))
        for e in of_kind(exported, "X")
        if e["cat"] in ("health", "incidents")
    }
    assert bars == {
        "streaming": (0, 250_000, None),
        "stalled": (250_000, 110_000, "4 ticks skipped: the loop slept"),
        "fault: process-stop": (10_000, 50_000, None),
        "4 ticks skipped": (50_000, 200_000, "the loop slept"),
        "coming to rest": (300_000, 60_000, "time-limit"),
    }
    assert overlapping(exported) == []


def test_timestamps_of_a_process_are_in_order(exported: list[dict[str, Any]]) -> None:
    """Within a run the file is sorted by time."""
    for process in (1, 2):
        times = [e["ts"] for e in exported if e["pid"] == process and e["ph"] != "M"]
        assert times == sorted(times)


def test_the_counter_is_the_buffer_depth(exported: list[dict[str, Any]]) -> None:
    """The counter track holds the depth recorded with every command."""
    counted = [e for e in of_kind(exported, "C") if e["pid"] == 1 and e["name"] == "buffer depth"]
    assert [e["args"]["actions"] for e in counted] == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("accepted", "second_look", "told"),
    [
        (True, False, "early: calm"),
        (False, False, "not early: calm"),
        (False, True, "second look: calm"),
    ],
)
def test_a_decision_on_early_observation_says_what_and_why(accepted, second_look, told):
    """One mark on the track of observations."""
    decided = EarlyDecided(5, 0, 3, accepted, "calm", 3, (), (), second_look)
    exported = perfetto_trace([PerfettoRun("run", [*EVENTS[:1], decided], 50 * MS)])
    (mark,) = (e for e in exported["traceEvents"] if "calm" in e["name"])
    assert (mark["ph"], mark["name"], mark["tid"]) == ("i", told, 1)


def test_the_written_file_is_the_exported_object(tmp_path: Path) -> None:
    """The file is plain JSON, also for a run without a single event."""
    runs = [PerfettoRun("empty", [], 50 * MS), PerfettoRun("full", EVENTS, 50 * MS)]
    path = tmp_path / "deep" / "trace.json"
    write_perfetto(path, runs)
    assert json.loads(path.read_text(encoding="utf-8")) == perfetto_trace(runs)
