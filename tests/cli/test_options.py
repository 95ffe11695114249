"""Options that change nothing are refused before anything starts; every help has examples that
work; a command removes only what it wrote."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import pytest

from streamvla.cli import main
from streamvla.cli.bench import _BENCHES
from streamvla.cli.examples import EXAMPLES
from streamvla.cli.main import execute
from streamvla.robots.point import PointRobot
from streamvla.studies.tables import WIDTH, print_table
from streamvla.trace import read_header
from tests.cli.test_drivers import PointPolicy

POINT = "tests.cli.test_options:policy"
ROBOT = "tests.cli.test_options:robot"


def policy() -> PointPolicy:
    return PointPolicy()


def robot() -> PointRobot:
    return PointRobot()


def chunks() -> PointPolicy:
    """As `policy`, in whole chunks of two passes."""
    from dataclasses import replace

    made = PointPolicy()
    made.spec = replace(made.spec, chunk_passes=2)
    return made


@pytest.fixture(autouse=True)
def _nothing_starts(monkeypatch, request):
    """Fails a refusal that comes after a worker or a control loop was started."""
    if "refus" in request.node.name:

        def started(*_, **__):
            raise AssertionError("started before the settings were refused")

        monkeypatch.setattr("streamvla.core.engine.LocalEngine.map_unordered", started)
        monkeypatch.setattr("streamvla.studies.sessions.ThreadRunner.measure", started)
        monkeypatch.setattr("streamvla.studies.sessions.ProcessDriver", started)


def refused(capsys, command: str) -> str:
    """The one line of a command that ends with exit code 2."""
    assert execute(shlex.split(command)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train --clip 4", "--clip 4 changes nothing here: it needs --memory-window or --frames"),
        ("train --memory-window 0 --clip 4 --batch-size 8", "nothing would be remembered"),
        ("eval --rate 0.5", "--rate 0.5 changes nothing here: it needs --early random"),
        ("eval --norm 1 --early always", "needs --early action-norm"),
        ("run --eta 1 2", "needs --early adaptive"),
        ("run --refused second-look", "needs --early adaptive"),
        ("eval --compensation None", "leave it out"),
        ("eval --executors synchronous --concurrent", "an executor that streams"),
        ("run --priority 50", "needs --driver process"),
        ("run --priority None", "needs --driver process"),
        ("run --governor ladder --fallback hold", "needs --governor basic"),
        ("run --faults model-stall:800ms@1s --fallback=hold", "needs --governor basic"),
        ("grid --rules none --leads 2", "--rules that look early"),
        ("grid --rules none always --rate 0.4", "--rules random or action-norm"),
        ("grid --holdout-frames 4", "--dataset"),
        ("collect --most-lead 0", "needs a --policy"),
        ("train --chunk-samples 3", "--method chunk-flow or regression"),
        ("train --backbone vlm --seeded-keypoints 0.5", "--backbone small"),
        ("ablations --executors synchronous action-flow", "expected one"),
        ("train-saliency --test x --steps 3", "a training, and --test is none"),
        ("train-saliency --figure x.svg", "needs --test"),
        ("train-skipping --test x --observations 3", "a training, and --test is none"),
        ("bench faults --priority 50", "needs --wall-clock"),
        ("simulate --seed 3", "needs --jitter"),
        ("simulate --executors async-chunks --concurrent", "an executor that streams"),
        ("eval --method chunk-flow --early adaptive --tasks reach", "changes nothing"),
        ("eval --method chunk-flow --concurrent --tasks reach", "changes nothing"),
        ("eval --executors action-flow:0 --early always --tasks reach", "changes nothing"),
        ("eval --executors synchronous --compensation state --tasks reach", "changes nothing"),
        ("eval --euler-steps 3 --tasks reach", "a policy by action-flow has no such setting"),
        ("eval --method regression --noise-scale 0 --tasks reach", "has no such setting"),
        ("eval --asked swapped --tasks reach", "cannot be swapped"),
        ("eval --tasks point --policy shipped", "another action space"),
        ("run --tasks point --policy shipped", "another action space"),
        ("eval --executors synchronous action-flow", "expected one"),
        ("run --profile paper-20hz --observe-ms 3", "expected one of the two"),
        ("grid --profile measured --observe-ms 3 --generate-ms 1", "expected one of the two"),
        ("eval --generate-ms 3", "expected --observe-ms with --generate-ms"),
        ("run --observe-ms 3 --generate-ms 2 --chunk-ms 3", "or with --chunk-ms"),
        ("eval --observe-ms -3 --generate-ms 2", "--observe-ms -3: expected at least 0 ms"),
        ("eval --observe-ms 3 --generate-ms nan", "--generate-ms nan"),
        ("eval --observe-ms inf --generate-ms 3", "finite"),
        ("eval --observe-ms 3 --chunk-ms 3 --tasks reach", "this policy streams its actions"),
        (
            "eval --observe-ms 3 --generate-ms 3 --tasks reach --method regression",
            "this policy gives whole chunks",
        ),
        ("run --observe-ms 3 --chunk-ms 3 --tasks reach", "this policy streams its actions"),
        (f"run --robot {ROBOT}", "name one with --policy"),
        (f"run --robot {ROBOT} --tasks reach", "expected one of the two"),
        (f"eval --robot os:getcwd --policy {POINT}", "without a `spec`"),
        (f"eval --robot no.such:make --policy {POINT}", "cannot import no.such:make"),
    ],
)
def test_what_changes_nothing_or_cannot_be_is_refused_in_one_line(
    capsys, monkeypatch, tmp_path, command, message
):
    """Exit code 2 and one line, before any worker, control loop or measurement is started."""
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, command)


# --- help ------------------------------------------------------------------------------------


def help_of(capsys, monkeypatch, name: str) -> str:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as exited:
        execute([*name.split(), "--help"])
    assert exited.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_every_help_has_examples_that_parse(capsys, monkeypatch, name):
    """Each command, with those of bench, shows its examples whole; they are commands of that name,
    and they parse."""
    out = help_of(capsys, monkeypatch, name)
    examples = re.findall(r"^  (streamvla .*)$", out, re.MULTILINE)
    assert examples[: len(EXAMPLES[name])] == list(EXAMPLES[name])
    for example in examples:
        assert example.startswith(f"streamvla {name}".rstrip())
        arguments = shlex.split(example)[1:]
        if "--help" not in arguments:
            parsed = main._parse(main._spelled(arguments))
            main.require_use(arguments, getattr(parsed, "what", parsed))


def test_every_command_has_an_example():
    """None is left out."""
    parts = [name.removeprefix("bench ") for name in EXAMPLES if name.startswith("bench ")]
    assert set(EXAMPLES) >= set(main._COMMANDS)
    assert parts == [kind.__name__.removeprefix("Bench").lower() for kind in _BENCHES]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("eval --checkpoint missing/x", "policy"),
        ("eval --task no-such-task", "task"),
        ("eval --executor no-such", "executor"),
        ("simulate --executor no-such", "executor"),
        ("grid --checkpoint missing/x", "checkpoint"),
        ("collect --task no-such-task", "task"),
        ("export --out x --checkpoint missing/x", "checkpoint"),
        ("train-saliency --checkpoint missing/x", "checkpoint"),
    ],
)
def test_old_spellings_are_understood_everywhere(capsys, monkeypatch, tmp_path, command, name):
    """What is wrong is the value, so the flag was understood."""
    monkeypatch.chdir(tmp_path)
    line = refused(capsys, command)
    assert re.search("missing/x|no-such", line)


# --- tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [2, 5, 11, 30])
def test_a_table_is_never_wider_than_100_columns(capsys, columns):
    """With wide values: every line fits, no word is cut, and every cell is there."""
    heads = [f"figure {i} (ms)" for i in range(columns)]
    rows = [[f"row-{j}, lead auto, adaptive-early-{i}" for i in range(columns)] for j in range(3)]
    print_table("a title of many words " * 12, heads, rows)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= WIDTH
    words = set(re.findall(r"[^\s┃│]+", out))
    assert {word for row in rows for cell in row for word in cell.split()} <= words


def test_the_table_of_run_fits_with_many_methods(capsys):
    """Eight methods with the longest names, every figure large."""
    from types import SimpleNamespace

    from streamvla.cli.run import _print_rows
    from streamvla.runtime.timing.latency import PROFILES

    big = 123456.7
    row = {
        "success": 1.0,
        "t_action_ms": big,
        "halt_ms_per_observation": big,
        "longest_halt_ms": big,
        "starved_ticks": 123456,
        "deadline_misses": 123456,
        "action_age_ms": {"p50": big},
        "smoothness": {"sparc": -big},
        "t_action_ratio": big,
        "halt_ratio": big,
    }
    name = "action flow, lead auto, adaptive early, second looks, compensated: state+clock-shift"
    rows = [{"run": f"{name} {i}", **row} for i in range(8)]
    _print_rows(rows, PROFILES["paper-20hz"], SimpleNamespace(pacing="grid", episodes=100))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= WIDTH
    assert out.count("123456.70×") == 16
    assert out.count("-123456.70") == 8


# --- stage times and robots ------------------------------------------------------------------


def evaluated(capsys, tmp_path: Path, *flags: str) -> dict:
    """A short evaluation of the point robot."""
    common = ("--policy", POINT, "--episodes", "1", "--seconds", "1", "--workers", "1")
    out = ("--out", str(tmp_path), "--json")
    assert execute(["eval", "--robot", ROBOT, *common, *flags, *out]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_stated_times_are_in_label_folder_and_header(capsys, tmp_path):
    """Two statements, two folders; both are the times the episodes are driven with."""
    fast = evaluated(capsys, tmp_path, "--observe-ms", "16.5", "--generate-ms", "2")
    slow = evaluated(capsys, tmp_path, "--observe-ms", "163", "--generate-ms", "29")
    assert "stated-16.5+2ms (emulated: observe 16.5 ms, generate 2 ms" in fast["profile"]
    assert fast["halt_ms_per_observation"] < slow["halt_ms_per_observation"]
    traces = sorted(tmp_path.rglob("*.jsonl"))
    assert len(traces) == 2
    assert {read_header(trace)["config"]["times"]["observe_ms"] for trace in traces} == {16.5, 163}
    written = [trace.stat().st_mtime_ns for trace in traces]
    evaluated(capsys, tmp_path, "--observe-ms", "163", "--generate-ms", "29")
    assert [trace.stat().st_mtime_ns for trace in sorted(tmp_path.rglob("*.jsonl"))] == written


def test_a_chunk_takes_its_time_whatever_its_passes(capsys, tmp_path):
    """A chunk of two passes stated at 90 ms: the robot halts observe + 90 ms under synchronous."""
    flags = ("--policy", "tests.cli.test_options:chunks", "--executors", "synchronous")
    times = ("--observe-ms", "30", "--chunk-ms", "90", "--pacing", "event")
    found = evaluated(capsys, tmp_path, *flags, *times)
    assert found["halt_ms_per_observation"] == pytest.approx(120)
    assert "stated-30+chunk90ms (emulated: observe 30 ms, generate 45 ms" in found["profile"]


def test_measured_times_are_kept_with_the_results(capsys, tmp_path, monkeypatch):
    """Measured once, before any worker; the second command takes the same times and drives nothing
    again."""
    first = evaluated(capsys, tmp_path, "--profile", "measured")
    assert "(measured: observe" in first["profile"]
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json*")}
    monkeypatch.setattr("streamvla.studies.stage_times._measure", None)
    again = evaluated(capsys, tmp_path, "--profile", "measured")
    assert again["profile"] == first["profile"]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json*")} == written


def test_a_run_that_is_resumed_keeps_the_first_times(capsys, tmp_path):
    """`run --profile measured --resume` measures nothing anew and drives nothing again; without
    --resume it does both."""
    robot = ("run", "--robot", ROBOT, "--policy", POINT, "--profile", "measured")
    short = ("--episodes", "1", "--videos", "0", "--seconds", "0.5", "--executors", "action-flow:0")
    command = [*robot, *short, "--out", str(tmp_path), "--json"]
    profiles = []
    stamps = []
    for flags in ([], ["--resume"], []):
        assert execute([*command, *flags]) == 0
        profiles.append(json.loads(capsys.readouterr().out.splitlines()[-1])["profile"])
        (trace,) = tmp_path.rglob("*.jsonl")
        stamps.append(trace.stat().st_mtime_ns)
    assert profiles[0] == profiles[1]
    assert stamps[0] == stamps[1] != stamps[2]


# --- files -----------------------------------------------------------------------------------


def driven(tmp_path: Path, *flags: str) -> int:
    """A short run of the point robot with stated times."""
    times = ("--observe-ms", "5", "--generate-ms", "1", "--executors", "action-flow:0")
    short = ("--episodes", "1", "--videos", "0", "--seconds", "0.3", "--out", str(tmp_path))
    return execute(["run", "--robot", ROBOT, "--policy", POINT, *times, *short, *flags])


def test_run_removes_its_own_traces_and_nothing_else(tmp_path):
    """Files of others in `traces/`, one of them a trace of another command, stay as they are."""
    assert driven(tmp_path, "--executors", "action-flow:0", "synchronous") == 0
    simulated = tmp_path / "traces" / "sim.jsonl"
    assert execute(["simulate", "--trace", str(simulated)]) == 0
    mine = tmp_path / "traces" / "synchronous" / "notes.txt"
    mine.write_text("mine")
    assert driven(tmp_path) == 0
    assert mine.read_text() == "mine"
    assert read_header(simulated)["command"] == "simulate"
    assert not list((tmp_path / "traces" / "synchronous").glob("*.jsonl"))


@pytest.mark.parametrize(
    "name",
    [
        "report.html",
        "perfetto.json",
        "measured.json",
        f"traces/action-flow-0/000-{ROBOT.replace(':', '-')}.jsonl",
        f"traces/action-flow-0/000-{ROBOT.replace(':', '-')}.mp4",
    ],
)
def test_a_foreign_file_in_the_way_is_refused_and_stays(capsys, tmp_path, name):
    """One line that names it; nothing is removed."""
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("somebody else's")
    assert driven(tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert os.fspath(path) in line
    assert path.read_text() == "somebody else's"


def test_other_commands_refuse_foreign_files_too(capsys, tmp_path):
    """`simulate --trace` on a text, `grid` on a page of somebody else, `export` on any file."""
    path = tmp_path / "report.html"
    path.write_text("somebody else's")
    for command in (
        f"simulate --trace {path}",
        f"grid --tasks reach --out {tmp_path}",
        f"export --out {path}",
    ):
        assert "report.html" in refused(capsys, command)
    assert path.read_text() == "somebody else's"


def test_train_overwrites_no_policy_that_it_did_not_write(capsys, tmp_path):
    """A policy, or a log of something else, in a folder without a training's state."""
    from tests.training.toy import write_toy_dataset

    dataset = write_toy_dataset(tmp_path / "toy")
    for name in ("policy.safetensors", "log.jsonl"):
        out = tmp_path / name.partition(".")[0]
        out.mkdir()
        (out / name).write_text("precious")
        line = refused(capsys, f"train --dataset {dataset} --out {out} --steps 1 --threads 1")
        assert name in line
        assert (out / name).read_text() == "precious"
