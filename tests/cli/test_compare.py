"""`streamvla compare`: one result, whoever was killed on the way."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from streamvla.cli.main import execute
from streamvla.core.errors import CheckpointError
from streamvla.evaluation.comparison import comparison_schema, read_comparison
from streamvla.model.defaults import sha256_of
from streamvla.policy.shipped import SHIPPED
from streamvla.studies import episodes
from streamvla.studies.compare import Compare, entries_of, plan_of, trials_of
from streamvla.studies.episode_store import EpisodeStore
from streamvla.studies.episodes import Eval, episode_jobs, traced
from streamvla.trace import is_complete, read_header
from tests.evaluation.json_schema import violations

SWEEP = (
    "compare --tasks point point-moved --episodes 12 --profiles paper-20hz paper-20hz@0.5 "
    "--executors expert/synchronous expert/action-flow:auto expert-chunks/async-chunks"
)
EPISODES = 2 * 12 * 2 * 3


def sweep(out: Path, more: str = "") -> dict[str, Any]:
    """The result of the sweep in this folder, but for when and where it ran."""
    assert execute([*shlex.split(f"{SWEEP} {more}"), "--out", str(out)]) == 0
    return timeless(out)


def timeless(out: Path) -> dict[str, Any]:
    result = read_comparison(out / "result.json")
    return {name: value for name, value in result.items() if name != "run"}


def driven_now(out: Path) -> int:
    return read_comparison(out / "result.json")["run"]["driven_now"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    sweep(out, "--workers 1 --csv")
    return out


def start(out: Path, workers: int) -> subprocess.Popen[str]:
    """The sweep as a process of its own."""
    command = [sys.executable, "-m", "streamvla", *shlex.split(SWEEP)]
    return subprocess.Popen(
        [*command, "--workers", str(workers), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_lines(path: Path, lines: int) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def workers_of(process: int) -> list[int]:
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    commands = {int(each): Path(f"/proc/{each}/cmdline").read_bytes() for each in children}
    return [child for child, command in commands.items() if b"spawn_main" in command]


def test_the_result_does_not_depend_on_the_number_of_workers(undisturbed, tmp_path):
    """Two processes give the result of one, to the last digit."""
    assert sweep(tmp_path, "--workers 2") == timeless(undisturbed)


def test_a_killed_worker_costs_nothing(undisturbed, tmp_path):
    """SIGKILL of a worker in the middle: the command goes on, and the result is the same."""
    with start(tmp_path, 2) as process:
        wait_for_lines(tmp_path / "episodes.jsonl", 5)
        os.kill(workers_of(process.pid)[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert timeless(tmp_path) == timeless(undisturbed)


def test_a_killed_driver_resumes_to_the_same_result(undisturbed, tmp_path):
    """SIGKILL of the command in the middle, twice: what is done is kept, its workers end, and the
    third run drives the rest only."""
    for lines in (5, 40):
        with start(tmp_path, 2) as process:
            wait_for_lines(tmp_path / "episodes.jsonl", lines)
            workers = workers_of(process.pid)
            process.kill()
        assert not (tmp_path / "result.json").exists()
        for worker in workers:
            gone(worker)
    kept = (tmp_path / "episodes.jsonl").read_bytes().count(b"\n") - 1
    assert 39 <= kept < EPISODES
    assert sweep(tmp_path) == timeless(undisturbed)
    assert driven_now(tmp_path) >= EPISODES - kept


def gone(process: int) -> None:
    """Returns once there is no such process."""
    deadline = time.monotonic() + 10
    while Path(f"/proc/{process}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_ctrl_c_keeps_finished_episodes(tmp_path):
    """SIGINT: exit code 130, one line how to go on, and the lines are whole."""
    with start(tmp_path, 1) as process:
        wait_for_lines(tmp_path / "episodes.jsonl", 5)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted; finished episodes are kept" in errors
    assert "Traceback" not in errors
    assert (tmp_path / "episodes.jsonl").read_bytes().endswith(b"}\n")


@pytest.mark.parametrize(
    ("damage", "again"),
    [
        (lambda lines: [*lines[:-1], lines[-1][:-9]], 1),  # torn
        (lambda lines: [*lines[:5], lines[5].replace(b'"success":true', b'"success":null')], 137),
        (lambda lines: [*lines[:6], *lines[1:]], 0),  # five lines twice
        (lambda lines: [lines[0], *reversed(lines[1:])], 0),
        (lambda lines: [lines[0][:-3] + b'0"}', *lines[1:]], 0),  # the header's checksum
    ],
)
def test_a_damaged_file_of_episodes_is_mended(undisturbed, tmp_path, damage, again):
    """A torn line, a changed value, and keys that are there twice: the result is the same, and only
    the episodes that were lost are driven again."""
    lines = (undisturbed / "episodes.jsonl").read_bytes().splitlines()
    (tmp_path / "episodes.jsonl").write_bytes(b"\n".join(damage(lines)) + b"\n" * (again != 1))
    assert sweep(tmp_path) == timeless(undisturbed)
    assert driven_now(tmp_path) == again + (again == 137) * 3
    keys = [json.loads(line)["key"] for line in episode_lines(tmp_path)]
    assert len(keys) == len(set(keys)) == EPISODES


def episode_lines(out: Path) -> list[bytes]:
    return (out / "episodes.jsonl").read_bytes().splitlines()[1:]


def test_a_finished_sweep_drives_nothing(undisturbed):
    """The same command again: the same result, no episode, and the file is not touched."""
    before = (undisturbed / "episodes.jsonl").stat().st_mtime_ns
    first = timeless(undisturbed)
    assert sweep(undisturbed, "--csv") == first
    assert driven_now(undisturbed) == 0
    assert (undisturbed / "episodes.jsonl").stat().st_mtime_ns == before


def test_a_larger_sweep_drives_what_is_new(tmp_path):
    """One more seed and one more executor: the episodes that are there are not driven again."""
    command = shlex.split("compare --tasks point --workers 1 --out")
    assert execute([*command, str(tmp_path), "--executors", "synchronous", "--episodes", "2"]) == 0
    more = ["--executors", "synchronous", "action-flow:2", "--episodes", "3"]
    assert execute([*command, str(tmp_path), *more]) == 0
    assert driven_now(tmp_path) == 4
    assert execute([*command, str(tmp_path), *more, "--seconds", "14"]) == 0
    assert driven_now(tmp_path) == 6


def test_the_result_follows_its_schema_and_names_no_folder(undisturbed):
    """Every field is as published, and no path of this machine stands in the file."""
    text = (undisturbed / "result.json").read_text()
    assert list(violations(json.loads(text), comparison_schema())) == []
    assert "/tmp" not in text
    assert str(Path.home()) not in text


def test_cells_are_paired_by_seed(undisturbed):
    """Every row has the same seeds, and every row but the first is compared to the first."""
    result = read_comparison(undisturbed / "result.json")
    seeds: dict[tuple[Any, ...], list[int]] = {}
    for each in result["episodes"]:
        key = (each["task"], each["policy"], each["executor"], each["profile"])
        seeds.setdefault(key, []).append(each["seed"])
    assert len(seeds) == 12
    assert set(map(tuple, seeds.values())) == {tuple(range(1_000_000, 1_000_012))}
    for cell in result["cells"]:
        first = cell["executor"] == "synchronous"
        assert (cell["paired"] is None) == first
        assert first or cell["paired"]["executor"] == "synchronous"


def test_the_table_holds_every_episode(undisturbed):
    """`--csv` writes one row an episode, with the figures of the result."""
    with (undisturbed / "episodes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    episodes = read_comparison(undisturbed / "result.json")["episodes"]
    assert [int(row["seed"]) for row in rows] == [each["seed"] for each in episodes]
    assert [int(row["actions"]) for row in rows] == [e["figures"]["actions"] for e in episodes]


@pytest.mark.parametrize(
    ("executors", "profiles"),
    [
        (("action-flow:2,early=action-norm,norm=0.123456789", 0.12345678), ("paper-20hz",)),
        (("action-flow:2,early=random,rate=0.123456789", 0.12345678), ("paper-20hz",)),
        (("synchronous",), ("paper-20hz@0.123456789", "paper-20hz@0.12345678")),
    ],
)
def test_settings_that_differ_in_the_last_digit_are_two(tmp_path, executors, profiles):
    """Each has episodes, key and trace folder of its own."""
    text, *others = executors
    rows = (text, *(text.replace("0.123456789", str(each)) for each in others))
    command = Compare(tasks=("point",), executors=rows, profiles=profiles, episodes=1, out=tmp_path)
    entries = entries_of(command)
    trials = trials_of(command, plan_of(command, command.tasks, entries), entries)
    assert len({trial.episode for trial in trials}) == 2
    assert len({trial.key for trial in trials}) == 2
    assert len({trial.job.path for trial in trials}) == 2


def test_a_policy_file_that_was_replaced_is_not_driven(tmp_path, monkeypatch):
    """A worker that finds another file than the job was made for says both SHA-256."""
    monkeypatch.setattr("streamvla.studies.episodes._policies", {})
    file = tmp_path / "policy.safetensors"
    shutil.copy(SHIPPED / "action-flow.safetensors", file)
    command = Eval(policy=str(file), tasks=("reach",), episodes=1, period="robot")
    (job,) = episode_jobs(command, str(file), ("reach",))
    shutil.copy(SHIPPED / "regression.safetensors", file)
    episodes._policies.clear()  # as in a process of its own
    here = sha256_of(file)
    with pytest.raises(CheckpointError, match=f"sha256 {here} .*, expected {job.policy['sha256']}"):
        traced(job)


def test_the_control_period_is_the_robots(tmp_path):
    """`paper-a800` executes in 27 ms; the point's own period is 50 ms, and that is driven."""
    command = "compare --tasks point-moved --profiles paper-a800 --executors action-flow:auto"
    flags = "--episodes 1 --workers 1 --traces --out"
    assert execute([*shlex.split(f"{command} {flags}"), str(tmp_path)]) == 0
    (cell,) = read_comparison(tmp_path / "result.json")["cells"]
    assert cell["t_action_ms"] == 50
    (trace,) = tmp_path.rglob("1000000.jsonl")
    assert is_complete(trace)
    assert read_header(trace)["config"]["period"] == "robot"


def test_stress_is_one_of_the_conditions(tmp_path):
    """Nominal and stressed cells stand side by side, under the same seeds, each compared to the
    first executor under the same stress."""
    command = "compare --tasks point-moved --episodes 2 --workers 1 --profiles paper-20hz@2"
    assert (
        execute([*shlex.split(f"{command} --stress none latency-jitter:3 --out"), str(tmp_path)])
        == 0
    )
    result = read_comparison(tmp_path / "result.json")
    assert [cell["stress"] for cell in result["cells"]] == ["none"] * 2 + ["latency-jitter:3"] * 2
    nominal, stressed = (cell["action_age_ms"] for cell in result["cells"][::2])
    assert nominal != stressed


def test_kept_traces_are_made_up_for(tmp_path):
    """`--traces` after a sweep without them drives again what has no trace, and counts it once."""
    command = [*shlex.split("compare --tasks point --episodes 1 --workers 1"), "--out"]
    assert execute([*command, str(tmp_path)]) == 0
    before = timeless(tmp_path)
    assert execute([*command, str(tmp_path), "--traces"]) == 0
    assert driven_now(tmp_path) == 2
    assert timeless(tmp_path) == before
    assert len(list((tmp_path / "traces").rglob("*.jsonl"))) == 2


def test_record_and_trace_are_of_the_same_drive(tmp_path):
    """A record that other code drove is replaced once its trace is wanted; a trace that other code
    drove is made anew."""
    command = [*shlex.split("compare --tasks point --executors synchronous --episodes 1")]
    command += ["--workers", "1", "--no-report", "--out", str(tmp_path)]
    assert execute(command) == 0
    fresh = timeless(tmp_path)
    rewrite_record(tmp_path, commit="older", actions=7)
    assert execute(command) == 0
    assert driven_now(tmp_path) == 0
    assert timeless(tmp_path)["cells"][0]["actions"] == 7
    for driven in (1, 0):
        assert execute([*command, "--traces"]) == 0
        assert driven_now(tmp_path) == driven
        assert timeless(tmp_path) == fresh
    rewrite_record(tmp_path, commit="older", actions=7)
    assert execute([*command, "--traces"]) == 0
    assert driven_now(tmp_path) == 1
    (trace,) = (tmp_path / "traces").rglob("*.jsonl")
    run = read_comparison(tmp_path / "result.json")["run"]
    assert run["driven_at"] == [read_header(trace)["commit"]]
    assert timeless(tmp_path) == fresh


def rewrite_record(out: Path, commit: str, actions: int) -> None:
    """As if other code had driven the only episode."""
    with closing(EpisodeStore(out / "episodes.jsonl")) as store:
        key = json.loads(episode_lines(out)[0])["key"]
        record = store[key]
        figures = {**record["figures"], "actions": actions}
        store.add(key, {**record, "commit": commit, "figures": figures})


def test_the_figures_are_those_of_eval(undisturbed, tmp_path, capsys):
    """`eval` of one cell gives its successes, halts and starved ticks."""
    command = "eval --tasks point-moved --policy expert-chunks --executors async-chunks"
    flags = "--profile paper-20hz@0.5 --episodes 12 --workers 1 --json --out"
    assert execute([*shlex.split(f"{command} {flags}"), str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    result = read_comparison(undisturbed / "result.json")
    (cell,) = [
        each
        for each in result["cells"]
        if (each["task"], each["executor"]) == ("point-moved", "async-chunks")
        and each["profile"] == "paper-20hz@0.5"
    ]
    for name in ("successes", "starved_ticks", "actions", "t_action_ms", "success_ci"):
        assert cell[name] == found[name], name
    assert cell["reaction_ms"]["mean"] == pytest.approx(found["reaction_ms"]["mean"])


def test_progress_is_a_line_where_there_is_no_terminal(tmp_path, capsys):
    """Episodes done, pace and time left on stderr; the result as JSON ends stdout."""
    command = shlex.split("compare --tasks point --episodes 1 --workers 1 --json --out")
    assert execute([*command, str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "compare: 2 of 2 episodes, " in err
    assert "a minute, 0:00:00 left" in err
    assert json.loads(out.splitlines()[-1])["episodes"] == 2


def test_two_sweeps_do_not_write_into_one_folder(tmp_path, capsys):
    """While one is at it the other is refused."""
    with start(tmp_path, 1) as process:
        wait_for_lines(tmp_path / "episodes.jsonl", 2)
        assert execute([*shlex.split(SWEEP), "--out", str(tmp_path)]) == 2
        process.kill()
    assert "another sweep is writing into" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "name --tasks, or a --suite"),
        ("--tasks raech", "did you mean 'reach'"),
        ("--tasks point point", "named twice"),
        ("--suite tempoo", "did you mean 'tempo'"),
        ("--tasks point --executors action-flwo", "did you mean 'action-flow'"),
        ("--tasks point --executors action-flow:x", "'x' is no whole number"),
        ("--tasks point --executors action-flow,erly=always", "did you mean 'early'"),
        ("--tasks point --executors action-flow,early=alwys", "early=none|always|random"),
        ("--tasks point --executors action-flow,early", "'early' is not early="),
        ("--tasks point --executors action-flow:2,early=random,rate=x", "rate=NUMBER"),
        ("--tasks point --executors action-flow:2,early=always,early=none", "stated twice"),
        ("--tasks point --executors synchronous,early=always", "changes nothing under"),
        ("--tasks point --executors /synchronous", "no policy before the slash"),
        ("--tasks point --executors no-such-file/synchronous", "no-such-file"),
        ("--tasks point --executors synchronous expert/synchronous", "named twice"),
        ("--tasks point --executors synchronous synchronous", "named twice"),
        ("--tasks point --executors expert/synchronous --policies shipped", "changes nothing"),
        ("--tasks point --policies shipped", "policy"),
        ("--tasks point --profiles paper-20zh", "did you mean 'paper-20hz'"),
        ("--tasks point --profiles paper-20hz@x", "'x' is no scale"),
        ("--tasks point --profiles paper-20hz@-1", "is no scale"),
        ("--tasks point --profiles paper-20hz paper-20hz@1", "named twice"),
        ("--tasks point --profiles measured", "belong to one machine"),
        ("--tasks point --episodes 0", "at least 1"),
        ("--tasks point --seed 5", "evaluation seeds start at 1000000"),
        ("--tasks point --workers 0", "at least 1"),
        ("--tasks point --stress latency-jiter:1", "did you mean 'latency-jitter'"),
        ("--tasks point --stress mass:1+friction:2 friction:2+mass:1", "named twice"),
        ("--tasks point --engine raay", "did you mean 'ray'"),
        ("--tasks point --engine ray --workers 3", "Ray takes all cores"),
        ("--tasks point --seconds 0", "finite and above 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(monkeypatch, tmp_path, capsys, flags, message):
    """One line with the value and the remedy, exit code 2, and no worker was started."""

    def started(*_: Any) -> None:
        raise AssertionError("started before the settings were refused")

    monkeypatch.setattr("streamvla.core.engine.LocalEngine.map_unordered", started)
    assert execute([*shlex.split(f"compare {flags}"), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["compare", "eval", "collect"])
def test_without_the_package_ray_is_refused(monkeypatch, tmp_path, capsys, command):
    """Each command says how to install it."""
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.chdir(tmp_path)
    assert execute([command, "--tasks", "point", "--engine", "ray"]) == 2
    assert "pip install 'streamvla[ray]'" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["ray://head:10001", "http://127.0.0.1:8265"])
def test_addresses_of_rays_client_and_dashboard_are_refused(monkeypatch, tmp_path, capsys, address):
    """RAY_ADDRESS or --engine: one line with what is expected, and nothing is driven."""
    command = ["compare", "--tasks", "point", "--out", str(tmp_path / "out"), "--engine"]
    assert execute([*command, f"ray:{address}"]) == 2
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert execute([*command, "ray"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == second
    assert f"Ray address {address}" in first
    assert "expected HOST:PORT" in first
    assert not (tmp_path / "out").exists()


def test_two_results_are_compared_on_one_page(undisturbed, tmp_path, capsys):
    """A sweep beside another one has a page with both; beside a file that is no result it is
    refused before anything is driven."""
    other = str(undisturbed / "result.json")
    sweep(tmp_path, f"--no-report --beside {other}")
    page = (tmp_path / "beside.html").read_text()
    assert other in page
    assert str(tmp_path / "result.json") in page
    (tmp_path / "none.json").write_text("{}")
    refused = [*shlex.split(SWEEP), "--beside", str(tmp_path / "none.json")]
    capsys.readouterr()
    assert execute([*refused, "--out", str(tmp_path / "new")]) == 2
    assert "none.json" in capsys.readouterr().err
