"""The Perfetto export keeps to the Trace Event Format."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from streamvla.trace import (
    ActionReady,
    Dropped,
    EarlyDecided,
    Ended,
    Failed,
    Finished,
    GenerateRequested,
    ObserveReady,
    ObserveRequested,
    ObserveStarted,
    Rejected,
    Sent,
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
    "i": {"name", "s", "pid", "tid", "ts"},
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


def test_every_run_is_a_process_with_four_named_tracks(exported: list[dict[str, Any]]) -> None:
    """Both runs start at time 0 under their own name, with the same tracks in the same order."""
    for process, label in ((1, "synchronous"), (2, "streaming")):
        named = [e for e in of_kind(exported, "M") if e["pid"] == process]
        assert [e["args"]["name"] for e in named if e["name"] == "process_name"] == [label]
        tracks = [e["args"]["name"] for e in named if e["name"] == "thread_name"]
        assert tracks == ["observe", "generate", "execute", "governor"]
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


def test_slices_on_a_track_never_overlap(exported: list[dict[str, Any]]) -> None:
    """Commands sent a little early end their predecessor's slice instead of crossing it."""
    tracks: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    for event in of_kind(exported, "X"):
        tracks[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for spans in tracks.values():
        assert all(a[1] <= b[0] + 1e-6 for a, b in pairwise(spans))


def test_timestamps_of_a_process_are_in_order(exported: list[dict[str, Any]]) -> None:
    """Within a run the file is sorted by time."""
    for process in (1, 2):
        times = [e["ts"] for e in exported if e["pid"] == process and e["ph"] != "M"]
        assert times == sorted(times)


def test_the_counter_is_the_buffer_depth(exported: list[dict[str, Any]]) -> None:
    """The counter track holds the depth recorded with every command."""
    depths = [e["args"]["actions"] for e in of_kind(exported, "C") if e["pid"] == 1]
    assert depths == [0, 0, 1, 0]


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
