"""Trace files: what a disk does to them, and what damage in them is noticed."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamvla.core.errors import TraceError
from streamvla.trace import (
    Ended,
    FileTrace,
    Finished,
    RecordingLost,
    is_complete,
    read_header,
    read_trace,
)
from streamvla.trace import writer as writing
from streamvla.trace.store import trace_lines

EVENTS = [*(Finished(tick) for tick in range(20)), Ended(20, True, "success")]


def written(path: Path) -> Path:
    with FileTrace(path, {"seed": 1, "what": "a « test »"}) as trace:
        for event in EVENTS:
            trace.record(event)
    return path


@pytest.mark.parametrize("background", [False, True])
def test_what_is_recorded_is_read_back(tmp_path, background):
    path = tmp_path / "new" / "trace.jsonl"
    with FileTrace(path, {"seed": 1}, background=background) as trace:
        for event in EVENTS:
            trace.record(event)
            trace.flush()
    back = read_trace(path)
    assert back.events == EVENTS
    assert back.complete
    assert read_header(path)["seed"] == 1
    assert path.read_text().splitlines() == trace_lines({"seed": 1}, EVENTS)


@given(st.data())
def test_any_damaged_byte_is_noticed(tmp_path_factory, data):
    """One byte changed, anywhere: an error that names the file, or a trace that is not complete;
    never other events."""
    path = written(tmp_path_factory.mktemp("trace") / "trace.jsonl")
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    other = data.draw(st.integers(1, 255))
    content[position] ^= other
    path.write_bytes(content)
    assert not is_complete(path)
    try:
        back = read_trace(path)
    except TraceError as raised:
        complaint = str(raised)
    else:
        complaint = f"{path} is not complete"
        assert not back.complete
        assert back.events == EVENTS[: len(back.events)]
    assert str(path) in complaint
    assert "\n" not in complaint


def test_a_cut_off_trace_is_read_to_its_last_whole_line(tmp_path):
    path = written(tmp_path / "trace.jsonl")
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    back = read_trace(path)
    assert (back.events, back.complete) == (EVENTS[:-1], False)


def test_an_older_trace_is_read_with_a_warning(tmp_path, caplog):
    """Lines without checksums, schema 1."""
    path = tmp_path / "old.jsonl"
    header = {"schema": "streamvla-trace/1", "seed": 1}
    path.write_text(json.dumps(header) + '\n{"event":"Finished","t_ns":3}\n')
    with caplog.at_level(logging.WARNING):
        assert read_trace(path).events == [Finished(3)]
    assert "without checksums" in caplog.text


@pytest.mark.parametrize("background", [False, True])
def test_a_place_that_cannot_be_written_is_said_at_once(tmp_path, background):
    """A file where a folder belongs: one line, before anything is driven."""
    (tmp_path / "file").write_text("")
    with pytest.raises(TraceError, match="cannot write trace") as refusal:
        FileTrace(tmp_path / "file" / "trace.jsonl", {}, background=background)
    assert "\n" not in str(refusal.value)


class FullDisk:
    """`os.write` for a disk with room for so many bytes; it takes part of what does not fit."""

    def __init__(self, monkeypatch, room: int) -> None:
        self.room = room
        self._write = os.write
        monkeypatch.setattr(writing.os, "write", self.write)

    def write(self, fd: int, data: bytes) -> int:
        if self.room <= 0:
            raise OSError(28, "No space left on device")
        taken = self._write(fd, bytes(data)[: self.room])
        self.room -= taken
        return taken


def wait_until(condition) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come")


def test_a_full_disk_costs_the_run_nothing(tmp_path, monkeypatch, caplog):
    """The file ends with a whole line; the rest is counted; a warning says why."""
    path = tmp_path / "trace.jsonl"
    trace = FileTrace(path, {}, background=True)
    FullDisk(monkeypatch, 100)
    for event in EVENTS:
        trace.record(event)
        trace.flush()
    trace.close()
    back = read_trace(path)
    assert back.complete
    assert 0 < len(back.events) < len(EVENTS)
    assert back.events == EVENTS[: len(back.events)]
    assert trace.lost == len(EVENTS) - len(back.events)
    assert "No space left on device" in caplog.text


def test_a_disk_with_room_again_loses_nothing(tmp_path, monkeypatch):
    """What waited is written when there is room, in order."""
    path = tmp_path / "trace.jsonl"
    trace = FileTrace(path, {}, background=True)
    disk = FullDisk(monkeypatch, 100)
    for event in EVENTS[:10]:
        trace.record(event)
        trace.flush()
    wait_until(lambda: disk.room <= 0)
    disk.room = 1 << 20
    for event in EVENTS[10:]:
        trace.record(event)
    trace.close()
    assert trace.lost == 0
    assert read_trace(path).events == EVENTS


def test_what_there_was_no_room_to_keep_is_counted_in_the_file(tmp_path, monkeypatch, caplog):
    """Memory is bounded; the gap is an event where it lies."""
    monkeypatch.setattr(writing, "_MOST_WAITING", 300)
    path = tmp_path / "trace.jsonl"
    trace = FileTrace(path, {}, background=True)
    disk = FullDisk(monkeypatch, 0)
    for event in EVENTS[:-1]:
        trace.record(event)
        trace.flush()
    wait_until(lambda: "cannot be written" in caplog.text)
    disk.room = 1 << 20
    wait_until(lambda: any(isinstance(e, RecordingLost) for e in read_trace(path).events))
    trace.record(EVENTS[-1])
    trace.close()
    *kept, lost, last = read_trace(path).events
    assert kept == EVENTS[: len(kept)]
    assert lost == RecordingLost(len(kept), len(EVENTS) - 1 - len(kept), "No space left on device")
    assert last == EVENTS[-1]


def test_a_trace_whose_folder_is_removed_comes_back(tmp_path, caplog):
    """It is written anew from the file that is still open."""
    path = tmp_path / "folder" / "trace.jsonl"
    trace = FileTrace(path, {"seed": 4}, background=True)
    for event in EVENTS[:10]:
        trace.record(event)
    trace.flush()
    wait_until(lambda: len(read_trace(path).events) == 10)
    shutil.rmtree(path.parent)
    for event in EVENTS[10:]:
        trace.record(event)
    trace.close()
    assert read_trace(path).events == EVENTS
    assert "was removed while it was written" in caplog.text
