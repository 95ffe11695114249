"""`streamvla trace`: any trace, or a folder of them, shown and exported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from streamvla.cli.main import execute
from tests.trace.test_perfetto import overlapping


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two traces, a file that is none beside them, and one in a deeper folder."""
    runs = tmp_path / "runs"
    for name, executor in (
        ("a", "synchronous"),
        ("b", "action-flow:3"),
        ("deep/c", "async-chunks"),
    ):
        flags = ["--executor", executor, "--trace", str(runs / f"{name}.jsonl"), "--pacing", "grid"]
        assert execute(["simulate", "--profile", "paper-20hz", "--observations", "4", *flags]) == 0
    (runs / "notes.jsonl").write_text('{"a": 1}\n')
    return runs


def processes(path: Path) -> list[str]:
    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    assert overlapping(events) == []
    return [event["args"]["name"] for event in events if event["name"] == "process_name"]


def test_every_trace_of_a_folder_is_exported(capsys, folder: Path, tmp_path: Path) -> None:
    """Each under its name, in deeper folders too; what is no trace is passed over; the file may be
    written again."""
    out = tmp_path / "perfetto.json"
    for _ in range(2):
        assert execute(["trace", "export", str(folder), "--out", str(out)]) == 0
        assert processes(out) == [
            "synchronous: seed 0",
            "action-flow:3: seed 0",
            "async-chunks: seed 0",
        ]
    assert "3 episodes" in capsys.readouterr().out


def test_traces_of_one_name_are_told_apart_by_their_files(folder: Path, tmp_path: Path) -> None:
    """A copy of a trace has its path in its name, and so has the original."""
    copy, out = folder / "copy.jsonl", tmp_path / "perfetto.json"
    copy.write_bytes((folder / "a.jsonl").read_bytes())
    both = [str(folder / "a.jsonl"), str(copy)]
    assert execute(["trace", "export", *both, "--out", str(out)]) == 0
    assert processes(out) == [f"synchronous: seed 0: {path}" for path in both]


def test_a_trace_that_was_cut_off_is_exported_as_far_as_it_goes(capsys, folder, tmp_path) -> None:
    """And said to be cut off."""
    cut = folder / "a.jsonl"
    cut.write_bytes(cut.read_bytes()[:-20])
    assert execute(["trace", "export", str(cut), "--out", str(tmp_path / "out.json")]) == 0
    assert "a.jsonl was cut off" in capsys.readouterr().err


def test_a_trace_is_shown_in_two_lines(capsys, folder: Path) -> None:
    """Its name, and how it went."""
    capsys.readouterr()
    assert execute(["trace", "show", str(folder / "a.jsonl")]) == 0
    name, figures = capsys.readouterr().out.splitlines()
    assert name == "synchronous: seed 0"
    assert "halt 450.0 ms per observation" in figures


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "notes.jsonl"], "notes.jsonl is not a trace"),
        (["export", "missing.jsonl"], "cannot read trace missing.jsonl: No such file"),
        (["export", "empty"], "empty holds no trace"),
        (["show", "empty"], "empty holds no trace"),
        (["export"], "no trace named"),
        (["export", "a.jsonl", "--out", "notes.jsonl"], "was not written by this command"),
    ],
)
def test_what_is_no_trace_is_said_in_one_line(capsys, monkeypatch, folder, arguments, message):
    """Exit code 2, one line, and nothing written."""
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir()
    capsys.readouterr()
    assert execute(["trace", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (folder / "perfetto.json").exists()
