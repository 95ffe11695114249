"""The grid of early observation: its cells, what they are matched to, and a small one driven."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streamvla.core.errors import ConfigError, StreamVLAError
from streamvla.policy.shipped import resolve_checkpoint
from streamvla.studies.early_grid import Grid, _check_policies, _Session, run_grid
from streamvla.training.anticipation.early_error import LeadErrors

SHIPPED = resolve_checkpoint(None)


@pytest.fixture
def session(monkeypatch, tmp_path) -> _Session:
    """Leads 2 and 3 of the shipped policy, with held-out motions of norm 1, 2, 3 at each."""
    norm = np.repeat([[1.0, 2.0, 3.0]], 4, axis=0)
    errors = LeadErrors(norm, norm, np.zeros((4, 3, 0)))
    monkeypatch.setattr(_Session, "_lead_errors", lambda self, cell: errors)
    return _Session(Grid(leads=(2, 3), out=tmp_path), SHIPPED, ("reach",))


def test_random_and_action_norm_look_as_early_as_adaptive_does(session, monkeypatch):
    """With the mean lead of the adaptive cell in the same place, not of another."""
    cells = {
        (cell.rule, cell.lead): cell
        for cell in session.cells()
        if cell.compensation == "state + training"
    }
    monkeypatch.setattr("streamvla.studies.early_grid.aggregate", lambda runs: {"mean_lead": runs})
    outcomes = {cells["adaptive", 2]: 2.0, cells["adaptive", 3]: 1.5, cells["always", 3]: 3.0}
    early = {
        key: session.matched(cells[key], outcomes).evaluation.early
        for key in cells
        if key[0] in ("random", "action-norm")
    }
    assert early["random", 2].rate == 1.0
    assert early["random", 3].rate == 0.5
    assert early["action-norm", 2].norm == 3.0  # all of it
    assert early["action-norm", 3].norm == 2.0  # leads 3, 3, 0: at least 1.5
    assert session.matched(cells["random", 3], {}).evaluation.early.rate == 0.5  # as asked


def test_cells_without_their_policy_are_named(session):
    """Without an unaugmented policy the cells that need it are left out, and nothing else is."""
    compensations = {cell.compensation for cell in session.cells()}
    assert compensations == {"state + training", "state + training + context"}
    assert "always, none: no --unaugmented policy" in session.left_out


def test_policies_in_the_wrong_place_are_refused():
    """The same policy twice, or one trained on old images where one is asked that was not."""
    with pytest.raises(ConfigError, match="is the policy itself"):
        _check_policies(SHIPPED, SHIPPED)
    with pytest.raises(ConfigError, match="told how old its images are"):
        _check_policies(Path("other.safetensors"), SHIPPED)


def test_what_cannot_be_is_said_before_anything_is_driven(tmp_path):
    """A task that is not there, one named twice, a dataset that is not there."""
    grid = Grid(out=tmp_path, tasks=("reach",), rules=("none",))
    for changes, message in (
        ({"tasks": ("raech",)}, "reach"),
        ({"tasks": ("reach", "reach")}, "named twice"),
        ({"dataset": tmp_path / "none"}, "none"),
    ):
        with pytest.raises(StreamVLAError, match=message):
            run_grid(replace(grid, **changes))
    assert not (tmp_path / "traces").exists()


def test_a_small_grid_is_driven_once(tmp_path, capsys):
    """Each cell is driven as it is named; asked again, nothing is driven and all is the same."""
    grid = Grid(
        tasks=("reach",),
        episodes=1,
        leads=(3,),
        rules=("none", "always", "adaptive"),
        seconds=1.5,
        workers=1,
        out=tmp_path,
        json=True,
    )
    run_grid(grid)
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    cells = {cell["run"]: cell for cell in first["cells"]}
    never, early = cells["none, trained on old images"], cells["always, lead 3, state + training"]
    assert (never["mean_lead"], early["mean_lead"]) == (0.0, 3.0)
    assert never["halt_ms_per_observation"] > early["halt_ms_per_observation"] == 0.0
    assert cells["always, lead 3, state + training + context"]["early"]["compensation"] != "state"
    driven = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")}
    assert len(driven) == len(first["cells"]) == 5
    run_grid(grid)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")} == driven
    assert (tmp_path / "grid.svg").exists()
    assert all(name in (tmp_path / "report.html").read_text() for name in cells)
