"""The command line: figures on the last line, one clear error, nothing lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamvla import __version__
from streamvla.cli.main import execute
from streamvla.core.errors import ConfigError
from streamvla.trace.store import trace_lines


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = execute(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def last_json(out: str) -> dict:
    return json.loads(out.rstrip("\n").split("\n")[-1])


PAPER = ("--observe-ms", "58", "--generate-ms", "18", "--execute-ms", "27", "--horizon", "10")


@pytest.mark.parametrize(
    ("flags", "t_action", "halt"),
    [
        (("--executor", "synchronous"), 50.8, 238.0),
        (("--executor", "synchronous", "--execute-horizon", "5"), 74.6, 238.0),
        (("--executor", "action-flow", "--lead", "0"), 34.6, 76.0),
        (("--executor", "action-flow", "--lead", "2"), 29.2, 22.0),
        (("--executor", "action-flow", "--lead", "3"), 27.0, 0.0),
    ],
)
def test_simulate_gives_the_published_timing(capsys, flags, t_action, halt):
    """`simulate --json` ends in one JSON object with T_action and halt of the closed form."""
    code, out, _ = run(capsys, "simulate", *PAPER, *flags, "--observations", "100", "--json")
    figures = last_json(out)
    assert code == 0
    assert figures["t_action_ms"] == pytest.approx(t_action)
    assert figures["halt_ms_per_observation"] == pytest.approx(halt)
    assert {"starved_ticks", "deadline_misses", "actions"} <= set(figures)


def test_simulate_writes_the_same_trace_twice(capsys, tmp_path):
    """Two runs with one seed and jitter write byte-identical trace files."""
    paths = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for path in paths:
        flags = ("--lead", "2", "--jitter", "0.4", "--seed", "7", "--trace", str(path))
        assert run(capsys, "simulate", *flags)[0] == 0
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("simulate", "--executor", "action-flwo"), "did you mean 'action-flow'"),
        (("simulate", "--profile", "paper-20"), "did you mean 'paper-20hz'"),
        (("simulate", "--execute-ms", "0"), "execute 0 ns must be > 0"),
        (("simulate", "--observe-ms", "nan"), "finite"),
        (("simulate", "--lead", "10"), "below H = 10"),
        (("simulate", "--observations", "0"), "must be ≥ 1"),
        (("run", "--task", "raech"), "did you mean 'reach'"),
        (("run", "--profile", "paper-20zh"), "did you mean 'paper-20hz'"),
        (("run", "--methods", "synchronos"), "did you mean 'synchronous'"),
        (("run", "--methods", "action-flow:x"), "'x' is no whole number"),
        (("run", "--checkpoint", "no-such-file"), "no checkpoint at no-such-file"),
        (("eval", "--tasks", "drawer-opn"), "did you mean 'drawer-open'"),
        (("eval", "--executor", "chunk"), "unknown executor 'chunk'"),
        (
            ("eval", "--method", "regression", "--executor", "action-flow", "--early", "adaptive"),
            "train-saliency",
        ),
        (("eval", "--early", "action-norm"), "--norm"),
        (("eval", "--early", "random", "--rate", "2"), "rate 2.0 must be 0 to 1"),
        (("eval", "--compensation", "state+clok-shift"), "did you mean 'clock-shift'"),
        (("grid", "--leads", "0"), "each ≥ 1"),
        (("ablations", "--names", "unalined"), "did you mean 'unaligned'"),
        (("focus-variants", "--names", "corps"), "did you mean 'crops'"),
        (("export", "--out", "x", "--checkpoint", "no-such-file"), "no checkpoint at"),
        (("train-saliency", "--dataset", "no-such-folder"), "no-such-folder"),
        (("train-skipping", "--dataset", "no-such-folder"), "no-such-folder"),
        (("eval", "--seed", "5"), "evaluation seeds start at 1000000"),
        (("eval", "--suite", "language", "--tasks", "reach"), "expected one of the two"),
        (("collect", "--tasks", "reech"), "did you mean 'reach'"),
        (("collect", "--suite", "all", "--tasks", "reach"), "expected one of the two"),
        (("train", "--dataset", "no-such-folder"), "no-such-folder"),
        (("results", "--make", "tmeline"), "did you mean 'timeline'"),
    ],
)
def test_a_wrong_setting_ends_in_one_line_and_exit_2(
    capsys, monkeypatch, tmp_path, arguments, message
):
    """A wrong name or number: exit code 2, one line on stderr that says the remedy."""
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err


def test_a_truncated_checkpoint_is_refused_by_name(capsys, tmp_path):
    """A checkpoint cut in half: exit code 2 and an error naming the file."""
    from streamvla.policy import resolve_checkpoint

    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(resolve_checkpoint().read_bytes()[:100_000])
    code, _, err = run(capsys, "run", "--checkpoint", str(cut), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "cut.safetensors" in err


def test_a_checkpoint_of_another_robot_is_refused(capsys, tmp_path):
    """The Meta-World policy on the point robot: exit code 2, both action spaces named."""
    out = str(tmp_path / "out")
    code, _, err = run(capsys, "run", "--task", "point", "--checkpoint", "shipped", "--out", out)
    assert code == 2
    assert "another action space" in err


def test_the_version_is_told(capsys):
    """`streamvla --version` prints it and exits 0."""
    code, out, _ = run(capsys, "--version")
    assert (code, out) == (0, f"streamvla {__version__}\n")


@pytest.mark.parametrize("flags", [("--tasks", "--policy"), ("--task", "--checkpoint")])
def test_old_spellings_of_flags_are_understood(capsys, tmp_path, flags):
    """A missing checkpoint is the error under either name, not an unknown flag."""
    task, policy = flags
    arguments = ("run", task, "reach", f"{policy}=missing.safetensors", "--out", str(tmp_path))
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "no checkpoint at missing.safetensors" in err


def test_help_names_every_command(capsys):
    """`streamvla --help` lists all commands and exits 0."""
    with pytest.raises(SystemExit) as exited:
        execute(["--help"])
    assert exited.value.code == 0
    out = capsys.readouterr().out
    for name in (
        *("simulate", "run", "eval", "grid", "collect", "train", "train-saliency", "bench"),
        *("ablations", "focus-variants", "export", "results", "train-skipping"),
    ):
        assert name in out


def test_ctrl_c_in_train_exits_130_and_says_how_to_resume(capsys, monkeypatch, tmp_path):
    """Interrupted, `train` prints its figures, says --resume, exits 130; resumed, it exits 0."""
    from streamvla.training.holdout import HoldoutProbe
    from streamvla.training.trainer import Trainer
    from tests.training.toy import write_toy_dataset

    dataset = write_toy_dataset(tmp_path / "toy")
    flags = ("--dataset", str(dataset), "--out", str(tmp_path / "out"), "--threads", "1")
    command = ("train", *flags, "--steps", "2", "--batch-size", "2", "--samples", "1", "--json")

    def interrupted(self):
        signal.raise_signal(signal.SIGINT)
        return advance(self)

    advance = Trainer.advance
    monkeypatch.setattr(HoldoutProbe, "measure", lambda *_: {"lead_0": 0.0})  # costs most
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", interrupted)
        code, out, err = run(capsys, *command)
    assert code == 130
    assert "interrupted at step 1 of 2" in err
    assert "--resume" in err
    assert last_json(out)["finished"] is False
    code, out, _ = run(capsys, *command, "--resume")
    assert code == 0
    assert last_json(out)["finished"] is True


def interrupt_when(command: list[str], ready: Path, folder: Path) -> int:
    """Start a command in its own process, send Ctrl-C once a file matching exists; exit code."""
    process = subprocess.Popen(
        [sys.executable, "-m", "streamvla", *command],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for _ in range(1200):
        if list(ready.parent.glob(ready.name)) or process.poll() is not None:
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    return process.wait(60)


@pytest.mark.render
def test_ctrl_c_in_run_leaves_readable_traces_and_resume_finishes(capsys, tmp_path):
    """Interrupted in an episode, `run` exits 130; every trace reads, and --resume completes all."""
    from streamvla.trace import is_complete, read_trace

    out = tmp_path / "run"
    command = [
        *("run", "--task", "drawer-close", "--episodes", "1", "--videos", "0"),
        *("--seconds", "6", "--methods", "action-flow:3", "synchronous:2", "--out", str(out)),
    ]
    code = interrupt_when(command, out / "traces" / "synchronous-2" / "*.jsonl", tmp_path)
    assert code == 130
    traces = list(out.rglob("*.jsonl"))
    assert traces
    for trace in traces:
        read_trace(trace)
    assert execute([*command, "--resume"]) == 0
    capsys.readouterr()
    assert all(is_complete(trace) for trace in out.rglob("*.jsonl"))
    assert (out / "report.html").stat().st_size > 10_000


@pytest.mark.render
def test_eval_again_drives_nothing_again(capsys, tmp_path):
    """A finished episode is taken as it is, and the figures say at which commit it was driven."""
    command = [
        *("eval", "--tasks", "drawer-close", "--episodes", "1", "--seconds", "2"),
        *("--workers", "1", "--json", "--out", str(tmp_path)),
    ]
    assert execute(command) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    (trace,) = tmp_path.rglob("*.jsonl")
    written = trace.stat().st_ino, trace.stat().st_mtime_ns
    assert execute(command) == 0
    assert (trace.stat().st_ino, trace.stat().st_mtime_ns) == written
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["tasks"] == first["tasks"]
    text = trace.read_text(encoding="utf-8")
    first_line, _, events = text.partition("\n")
    header = {**json.loads(first_line), "commit": "an earlier one"}
    header.pop("crc")
    (resealed,) = trace_lines({name: header[name] for name in header if name != "schema"}, [])
    trace.write_text(f"{resealed.rstrip()}\n{events}")
    assert execute(command) == 0
    later = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert later["driven_at"] == ["an earlier one"]


@pytest.mark.parametrize(
    ("command", "next_step"),
    [("run", "streamvla.cli.run._driver"), ("eval", "streamvla.studies.episodes.run_missing")],
)
def test_tasks_a_policy_never_saw_are_named(capsys, monkeypatch, command, next_step):
    """In one line before anything is driven, and only those."""

    def not_driven(*_):
        raise ConfigError("not driven")

    monkeypatch.setattr(next_step, not_driven)
    code, _, err = run(capsys, command, "--tasks", "reach", "reach-moved")
    assert code == 2
    assert err.splitlines() == [
        "warning: action-flow was not trained on reach-moved (it was on 47 tasks); expect it to "
        "fail there",
        "error: not driven",
    ]
    assert run(capsys, command, "--tasks", "reach")[2] == "error: not driven\n"


def test_sigterm_in_train_exits_143_and_keeps_the_step(capsys, monkeypatch, tmp_path):
    """A preempted training saves, says how to go on, and exits as shells say of SIGTERM."""
    from streamvla.training.trainer import Trainer
    from tests.training.toy import write_toy_dataset

    dataset = write_toy_dataset(tmp_path / "toy")
    flags = ("--dataset", str(dataset), "--out", str(tmp_path / "out"), "--threads", "1")
    command = ("train", *flags, "--steps", "2", "--batch-size", "2", "--samples", "1")

    def preempted(self):
        signal.raise_signal(signal.SIGTERM)
        return advance(self)

    advance = Trainer.advance
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", preempted)
        code, _, err = run(capsys, *command)
    assert code == 143
    assert "interrupted at step 1 of 2; policy and training state are saved" in err
    assert (tmp_path / "out" / "training_state.safetensors").exists()
