"""`bench budget` measures a table, and `eval` and `run` choose from it."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from streamvla.cli.main import execute
from streamvla.core.budget import BudgetRow, BudgetTable
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import Observation, PolicySpec
from streamvla.model.checkpoint import Checkpoint, budget_of, save_checkpoint, write_budget
from streamvla.model.defaults import sha256_of
from streamvla.model.methods.action_flow import ActionFlowConfig
from streamvla.model.normalisation import Normalisation
from streamvla.model.vla import StreamingVLA
from streamvla.policy import find_policy
from streamvla.policy.skip_gate import skip_gate_path
from streamvla.robots.point import SPEC
from streamvla.studies.budget_table import _copy_beside, default_rows, encode_ms, parse_row
from streamvla.studies.dial import BudgetOptions, within_budget
from streamvla.studies.recording import Seen
from tests.model.tiny import TINY

FLOW = ActionFlowConfig(horizon=6, max_age=12)
CHEAP = BudgetRow({"reuse": 8.0, "most_skips": 1.0}, 5e5, 3.0, 0.3, 4, 0.5, (0.15, 0.85), 2.0, 1.0)
DEAR = BudgetRow({}, 9e5, 9.0, 1.0, 4, 0.75, (0.3, 0.95), 2.0, 1.0)


def point_policy(path: Path, flow=FLOW, seed=0) -> Path:
    """An untrained policy for the point robot."""
    torch.manual_seed(seed)
    model = replace(TINY, views=1, state_dim=3)
    spec = PolicySpec(SPEC.action_space, 6, SPEC.views, (32, 32), 3, SPEC.control_period_ns)
    scale = Normalisation((0.0,) * 3, (1.0,) * 3, (0.5, 0.5, 1.0))
    weights = StreamingVLA(model, flow).state_dict()
    save_checkpoint(path, Checkpoint(model, flow, spec, scale, {"seed": 0}, weights))
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return point_policy(tmp_path / "tiny.safetensors")


@pytest.fixture
def measured(plain: Path) -> Path:
    """The same with a table of two rows."""
    path = plain.with_name("measured.safetensors")
    write_budget(plain, path, BudgetTable((DEAR, CHEAP), {"machine": {"cpu": "another machine"}}))
    return path


def done(capsys, command: str) -> tuple[dict, str]:
    """The figures of a command, and its stderr."""
    assert execute([*shlex.split(command), "--json"]) == 0
    out, err = capsys.readouterr()
    return json.loads(out.rstrip("\n").split("\n")[-1]), err


def refused(capsys, command: str) -> str:
    """The one line of a command that ends with exit code 2."""
    assert execute(shlex.split(command)) == 2
    return capsys.readouterr().err.splitlines()[-1]


def short(kind: str, policy: Path, out: Path) -> str:
    return (
        f"{kind} --policy {policy} --tasks point --episodes 1 --seconds 1.5 --workers 1 --out {out}"
    )


def test_a_table_is_measured_kept_and_chosen_from(capsys, tmp_path, plain):
    """Rows as named, whole frames first with the ratio 1; the policy's own file is as before; the
    copy has the table, and a skip gate beside it if the policy has; a second run drives no episode;
    a budget is met with a row of it."""
    before, out = sha256_of(plain), tmp_path / "out"
    skip_gate_path(plain).write_text("a gate")
    command = f"{short('bench budget', plain, out)} --repeats 1 --settings reuse=8 most_skips=1"
    figures, _ = done(capsys, command)
    names = ["whole", "reuse=8", "most_skips=1"]
    table = budget_of(out / plain.name)
    assert table is not None
    assert [row.name for row in table.rows] == names
    assert figures["rows"][0]["ms_ratio"] == 1.0
    assert all(row.ms > 0 and row.episodes == 1 for row in table.rows)
    assert table.measured["tasks"] == ["point"]
    assert sha256_of(plain) == before
    assert skip_gate_path(out / plain.name).read_text() == "a gate"
    traces = {path: path.stat().st_mtime_ns for path in out.rglob("*.jsonl")}
    assert len(traces) == 3
    done(capsys, command)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.jsonl")} == traces
    cheapest = min(row.flops for row in table.rows)
    one, _ = done(
        capsys,
        f"{short('eval', out / plain.name, tmp_path / 'eval')} --budget-flops {cheapest + 1}",
    )
    assert one["budget"]["flops_per_observation"] <= cheapest + 1


def test_a_budget_is_what_its_settings_by_hand_are(capsys, tmp_path, measured):
    """The same trace, byte for byte, in the same place; what was chosen is said, and that another
    machine measured it."""
    found = []
    for number, options in enumerate(("--budget-ms 6", "--reuse 8 --most-skips 1")):
        out = tmp_path / str(number)
        figures, err = done(capsys, f"{short('eval', measured, out)} {options}")
        (trace,) = out.rglob("*.jsonl")
        found.append((trace.relative_to(out), trace.read_bytes(), figures, err))
    (one, two) = found
    assert one[:2] == two[:2]
    assert one[2]["budget"]["chosen"] == "reuse=8+most_skips=1"
    assert (one[2]["reuse"], one[2]["most_skips"]) == (8.0, 1.0)
    assert "Budget 6 ms: reuse=8+most_skips=1: 5e+05 operations and 3 ms" in one[3]
    assert "those milliseconds are of another machine" in one[3]
    assert "budget" not in two[2]
    assert "Budget" not in two[3]


@pytest.mark.parametrize("kind", ["eval", "run"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--budget-flops 4e5", "the cheapest settings, reuse=8+most_skips=1, take 5e+05"),
        ("--budget-flops 1e6 --budget-ms 3", "expected one of the two"),
        ("--budget-ms -1", "expected a number > 0"),
        ("--budget-ms nan", "expected a number > 0"),
        ("--budget-ms 6 --reuse 0", "a budget chooses these"),
        ("--budget-ms 6 --camera-every top=1", "a budget chooses these"),
        ("--budget-ms 6 --early adaptive", "may skip encodings"),
        ("--camera-every top", "expected CAMERA=N"),
        ("--camera-every top=0", "at least 1"),
        ("--camera-every top=2 top=3", "names top twice"),
        ("--camera-every front=2", "camera 'front': the policy has top"),
        ("--camera-every top=2 --early adaptive", "cannot be foreseen"),
        ("--most-skips -1", "expected 0 or more observations"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(capsys, tmp_path, measured, kind, options, message):
    """Exit code 2, before any episode, by both commands."""
    command = f"{kind} --policy {measured} --tasks point --out {tmp_path / 'out'} {options}"
    assert message in refused(capsys, command)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_policy_without_a_table_names_the_command_that_makes_it(capsys, tmp_path, plain):
    """One line, with the policy's own file in it."""
    line = refused(capsys, f"{short('eval', plain, tmp_path)} --budget-flops 1e9")
    assert f"streamvla bench budget --policy {plain}" in line


def test_a_table_is_read_only_for_a_budget(monkeypatch, measured):
    """Whoever finds the policy for something else does not read it."""
    read = []
    monkeypatch.setattr("streamvla.model.checkpoint.budget_of", read.append)
    found = find_policy(str(measured))
    assert within_budget(BudgetOptions(), found) is None
    assert read == []
    with pytest.raises(ConfigError, match="has no table"):
        within_budget(BudgetOptions(budget_ms=6), found)
    assert read == [measured]


def test_a_budget_of_a_policy_that_is_no_file_is_not_sent_to_the_bench(capsys, tmp_path):
    """The bench would refuse it too; the line says to leave the budget out."""
    options = "--policy tests.cli.test_options:policy --tasks point --budget-flops 1e9"
    line = refused(capsys, f"eval --out {tmp_path} {options}")
    assert "no policy file of ours" in line
    assert "bench budget" not in line


def test_a_camera_rate_of_a_policy_that_is_no_model_is_refused(capsys, tmp_path):
    """A script has no single views; at rate 1 it runs."""
    options = "--policy tests.cli.test_options:policy --tasks point --camera-every"
    line = refused(capsys, f"eval --out {tmp_path} {options} top=2")
    assert "--camera-every top=2: tests.cli.test_options-policy does not encode" in line
    done(capsys, f"eval --out {tmp_path} --episodes 1 --seconds 1 --workers 1 {options} top=1")


def test_a_rate_of_one_gives_the_trace_of_no_rate(capsys, tmp_path, plain):
    """Byte for byte, in the same place."""
    found = []
    for number, options in enumerate(("", "--camera-every top=1")):
        out = tmp_path / str(number)
        done(capsys, f"{short('eval', plain, out)} {options}")
        (trace,) = out.rglob("*.jsonl")
        found.append((trace.relative_to(out), trace.read_bytes()))
    assert found[0] == found[1]


def test_what_lies_beside_a_policy_goes_with_its_copy(tmp_path, plain):
    """The saliency predictor and the gate of skipping are beside the copy; in place, both stay."""
    names = [f"tiny.{part}.safetensors" for part in ("saliency", "skipping")]
    for name in names:
        plain.with_name(name).write_text(name)
    copy = tmp_path / "out" / plain.name
    for target in (copy, plain):
        _copy_beside(plain, target)
        assert [target.with_name(name).read_text() for name in names] == names


def test_another_policy_is_not_written_over(capsys, tmp_path, plain):
    """A file with other weights is refused before anything is driven, and stays."""
    other = point_policy(tmp_path / "other.safetensors", seed=1)
    before = sha256_of(other)
    line = refused(capsys, f"{short('bench budget', plain, tmp_path / 'out')} --write {other}")
    assert "holds another policy" in line
    assert sha256_of(other) == before


def test_rows_that_a_policy_cannot_have_are_left_out_or_refused(capsys, tmp_path):
    """One that knows no ages skips nothing: by default it has no such row; asked for, an error."""
    path = point_policy(tmp_path / "young.safetensors", replace(FLOW, max_age=0))
    command = short("bench budget", path, tmp_path / "out")
    assert "does not know how old" in refused(capsys, f"{command} --settings most_skips=1")
    figures, err = done(capsys, f"{command} --repeats 1")
    assert not [row for row in figures["rows"] if "most_skips" in row["settings"]]
    assert "Without most_skips=1: skipping" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reuse", "expected NAME=NUMBER"),
        ("reuse=8+reuse=0", "each name once"),
        ("reuse=much", "expected NAME=NUMBER"),
        ("noise_scale=0", "setting noise_scale=0: expected patch_k"),
        ("most_skips=-1", "expected 0 or more"),
        ("most_skips=1.5", "most_skips=1.5: expected a whole number"),
        ("most_skips=nan", "most_skips=nan: expected a whole number"),
        ("skip_phase=inf", "skip_phase=inf: expected a whole number"),
        ("every_front=2", "camera 'front'"),
    ],
)
def test_rows_that_make_no_sense_are_refused(capsys, tmp_path, plain, text, message):
    """Each in one line, before any episode."""
    command = f"{short('bench budget', plain, tmp_path / 'out')} --settings {text}"
    assert message in refused(capsys, command)


def test_default_rows_name_the_cameras_of_a_policy_that_has_several():
    """Every one is a row that can be read, and the cameras of one view are left alone."""
    rows = default_rows(("side", "front"))
    assert {"every_side=2", "every_front=2"} <= set(rows)
    assert all(parse_row(row) for row in rows)
    assert not [row for row in default_rows(("top",)) if "every" in row]


class Timed:
    """A policy whose encodings take what is listed, in turn; also the clock that it moves."""

    spec = PolicySpec(SPEC.action_space, 6, SPEC.views, (32, 32), 3, SPEC.control_period_ns)

    def __init__(self, *taken_ms: int) -> None:
        self.taken_ms, self.t_ns = list(taken_ms), 0

    def now_ns(self) -> int:
        return self.t_ns

    def encode(self, observation: Observation) -> None:
        self.t_ns += self.taken_ms.pop(0) * 1_000_000


def test_the_first_turn_does_not_count_and_of_the_others_the_shortest_does():
    """Two observations, two repeats after the first: (3 + 5) / 2 ms."""
    policy = Timed(100, 100, 3, 9, 4, 5)
    assert encode_ms([policy], [[Seen(None), Seen(None)]], 2, policy) == [4.0]
