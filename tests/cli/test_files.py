"""Files that cannot be written: one line, nothing half-written, and a report after a failed run."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from streamvla.cli.main import execute
from streamvla.model.checkpoint import load_tensors
from streamvla.robots.point import SPEC
from streamvla.testing import ScriptedPolicy
from streamvla.trace import read_trace
from tests.cli.test_options import POINT, ROBOT
from tests.training.toy import write_toy_dataset

FAILING = "tests.cli.test_files:failing"
TIMES = ("--observe-ms", "5", "--generate-ms", "1")
RUN = ("run", "--robot", ROBOT, *TIMES, "--episodes", "2", "--videos", "0", "--seconds", "0.5")
EVAL = ("eval", "--robot", ROBOT, "--policy", POINT, *TIMES, "--episodes", "1", "--workers", "1")
TRAIN = ("--steps", "2", "--batch-size", "2", "--samples", "1")
_CALLS_BEFORE_IT_FAILS = 60


def failing() -> ScriptedPolicy:
    """A policy whose model dies after a while."""
    calls = 0

    def script(observation, start, index) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls > _CALLS_BEFORE_IT_FAILS:
            raise RuntimeError("out of memory")
        return np.zeros(3)

    return ScriptedPolicy(SPEC.action_space, 6, SPEC.control_period_ns, script, robot=SPEC)


def one_line(capsys, *named: object) -> str:
    """The only error there is, which names all of these."""
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    for each in named:
        assert str(each) in lines[0]
    return lines[0]


def commands(folder: Path) -> dict[str, list[str]]:
    """Every command that writes, and one of its outputs in `folder`."""
    dataset = folder.parent / "toy"
    return {
        "run": [*RUN, "--policy", POINT, "--out", f"{folder}/run"],
        "eval": [*EVAL, "--out", f"{folder}/eval"],
        "eval measured": [
            *("eval", "--robot", ROBOT, "--policy", POINT, "--profile", "measured"),
            *("--episodes", "1", "--workers", "1", "--out", f"{folder}/eval"),
        ],
        "grid": ["grid", "--tasks", "reach", "--out", f"{folder}/grid"],
        "grid figure": [
            *("grid", "--tasks", "reach", "--out", f"{folder.parent}/grid"),
            *("--figure", f"{folder}/grid.svg"),
        ],
        "simulate": ["simulate", "--trace", f"{folder}/trace.jsonl"],
        "collect": ["collect", "--suite", "point", "--workers", "1", "--out", f"{folder}/set"],
        "train": ["train", "--dataset", f"{dataset}", *TRAIN, "--out", f"{folder}/train"],
        "train-saliency": ["train-saliency", "--out", f"{folder}/p.safetensors"],
        "train-saliency figure": [
            *("train-saliency", "--test", f"{dataset}", "--figure", f"{folder}/gate.svg"),
        ],
        "train-skipping": ["train-skipping", "--out", f"{folder}/p.safetensors"],
        "export": ["export", "--out", f"{folder}/policy.safetensors"],
        "ablations": ["ablations", "--out", f"{folder}/ablations"],
        "focus-variants": ["focus-variants", "--out", f"{folder}/variants"],
        "results": ["results", "--make", "timeline", "--root", f"{folder}"],
    }


@pytest.mark.parametrize("name", commands(Path("x/y")))
def test_a_file_where_a_folder_belongs_is_one_line(capsys, tmp_path, name):
    """The output's folder is a file: exit code 2, one line with path, reason and remedy, at once;
    the file stays."""
    write_toy_dataset(tmp_path / "toy")
    in_the_way = tmp_path / "file"
    in_the_way.write_text("mine")
    assert execute(commands(in_the_way)[name]) == 2
    line = one_line(capsys, in_the_way, "a file is where a folder belongs")
    assert "move it, or choose another place" in line
    assert in_the_way.read_text() == "mine"


@pytest.mark.parametrize("name", ["simulate", "export", "train", "collect", "eval", "run"])
def test_a_read_only_file_system_is_one_line(capsys, tmp_path, monkeypatch, name):
    """The system refuses to make files: exit code 2 and one line, before anything is driven."""
    write_toy_dataset(tmp_path / "toy")
    folder = tmp_path / "out"

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(30, os.strerror(30), str(path))

    opened = os.open

    def open_if_old(path, flags, *rest, **named):
        if flags & os.O_CREAT and str(path).startswith(str(folder)):
            refuse(path)
        return opened(path, flags, *rest, **named)

    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr(os, "open", open_if_old)
    assert execute(commands(folder)[name]) == 2
    one_line(capsys, folder, "Read-only file system; choose a place you may write to")
    assert not [path for path in folder.rglob("*") if path.is_file()]


@contextmanager
def small_disk():
    """Inside, files cannot grow beyond 16 kB, in this process and those it starts. No longer than
    needed: what the tests print may go to a file, too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["simulate", "export", "collect", "eval"])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(capsys, tmp_path, name):
    """A write that fails in the middle: exit code 2, one line that names the file and says to make
    room; there is no file of that name."""
    folder = tmp_path / "out"
    seconds = ("--seconds", "60") if name == "eval" else ()
    with small_disk():
        assert execute([*commands(folder)[name], *seconds]) == 2
    one_line(capsys, folder, "make room, or choose another place")
    whole = {path.name for path in folder.rglob("*") if path.is_file() and path.suffix[:1] == "."}
    assert whole <= {"meta.json", "1000000.partial"}


def test_a_full_disk_while_training_keeps_the_last_save(capsys, tmp_path, monkeypatch):
    """The state of the last save is whole, its log has whole lines only, and --resume goes on."""
    from streamvla.training.holdout import HoldoutProbe

    monkeypatch.setattr(HoldoutProbe, "measure", lambda *_: {"lead_0": 0.0})  # costs most
    write_toy_dataset(tmp_path / "toy")
    out = tmp_path / "out"
    command = [*commands(out)["train"], "--out", str(out)]
    assert execute(command) == 0
    state = out / "training_state.safetensors"
    before = state.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, limits[1]))
    other = tmp_path / "other"
    try:
        assert execute([*commands(other)["train"], "--out", str(other)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    one_line(capsys, other / "training_state.safetensors", "make room")
    assert [path.name for path in other.iterdir()] == ["log.jsonl"]
    assert state.read_bytes() == before
    assert load_tensors(state)[0]["step"] == 2
    with (out / "log.jsonl").open("a") as log:
        log.write('{"step": 2, "lo')  # as an older version left it
    assert execute([*command, "--resume"]) == 0
    assert all(json.loads(line) for line in (out / "log.jsonl").read_text().splitlines())


def test_a_report_that_does_not_fit_keeps_the_traces(capsys, tmp_path):
    """The report is too large for the disk: one line; the traces are there, and no half report."""
    out = tmp_path / "out"
    with small_disk():
        assert execute([*RUN, "--policy", POINT, "--out", str(out)]) == 2
    one_line(capsys, out / "report.html", "make room")
    traces = list(out.rglob("*.jsonl"))
    assert len(traces) == 6
    assert all(read_trace(path).complete for path in traces)
    assert not (out / "report.html").exists()


def test_a_video_that_does_not_fit_is_one_line(tmp_path):
    """The encoder's disk is full: the error names the video, and there is none."""
    from streamvla.core.errors import FileError
    from streamvla.evaluation.report.video import write_video

    frames = list(np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8))
    full = pytest.raises(FileError, match=r"cannot write .*film\.mp4: .*make room")
    with small_disk(), full as said:
        write_video(tmp_path / "film.mp4", frames, 20)
    assert "\n" not in str(said.value)
    assert not list(tmp_path.iterdir())


def test_no_place_for_temporary_files_is_one_line(capsys, tmp_path, monkeypatch):
    """`bench faults` keeps its traces in the system's folder for such files, which is not there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert execute(["bench", "faults", "--faults", "1"]) == 2
    one_line(capsys, tmp_path / "none", "No such file or directory")


def test_a_full_standard_output_is_one_line(tmp_path):
    """`--json > /dev/full`: exit code 2, one line on stderr."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "streamvla", "simulate", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert done.stderr == ("error: No space left on device; make room, or choose another place\n")


def test_a_device_is_no_trace(capsys):
    """`simulate --trace /dev/full` is refused, and the device not read to its end."""
    assert execute(["simulate", "--trace", "/dev/full"]) == 2
    one_line(capsys, "/dev/full was not written by this command")


# --- a report after a failed run -------------------------------------------------------------


def test_a_failed_run_has_a_report_of_the_episodes_there_are(capsys, tmp_path):
    """The model dies in an episode: exit code 3, and report and Perfetto trace show what was driven
    until then, the failed episode with it."""
    out = tmp_path / "out"
    flags = ("--executors", "action-flow:0", "synchronous")
    assert execute([*RUN, "--policy", FAILING, *flags, "--out", str(out)]) == 3
    one_line(capsys, "out of memory")
    traces = list(out.rglob("*.jsonl"))
    assert 0 < len(traces) < 4
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "ended early" in page
    assert "out of memory" in page
    assert json.loads((out / "perfetto.json").read_text())["traceEvents"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_has_a_report(tmp_path, number):
    """Ctrl-C and SIGTERM in an episode: the exit code of the signal, a report and a trace."""
    out = tmp_path / "out"
    command = [*RUN, "--policy", POINT, "--seconds", "60", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "streamvla", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = 600
    while deadline and not any(path.stat().st_size > 4000 for path in out.rglob("*.jsonl")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
        deadline -= 1
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "traces are in" in err
    assert "Traceback" not in err
    assert "interrupted" in (out / "report.html").read_text(encoding="utf-8")
    assert json.loads((out / "perfetto.json").read_text())["traceEvents"]
