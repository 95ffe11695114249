"""`eval` on tasks that give scores, and on those that do not."""

from __future__ import annotations

import json

import pytest

from streamvla.cli.main import execute
from streamvla.evaluation.task_metrics import TaskMetrics
from streamvla.studies.tables import WIDTH

EVAL = ("eval", "--policy", "expert", "--episodes", "2", "--workers", "1", "--json")


@pytest.fixture
def evaluated(capsys, tmp_path):
    """(task, seconds) → what `eval` prints, and its figures."""

    def run(task: str, seconds: int):
        flags = ("--tasks", task, "--seconds", f"{seconds}", "--out", str(tmp_path))
        assert execute([*EVAL, *flags]) == 0
        *table, last = capsys.readouterr().out.splitlines()
        return "\n".join(table), json.loads(last)

    return run


def test_a_task_without_scores_has_the_keys_and_no_columns(evaluated):
    """The point measures nothing: every figure but the completion time is null."""
    table, figures = evaluated("point", 5)
    assert "score" not in table
    null = {name for name in TaskMetrics().to_json() if figures[name] is None}
    assert null == set(TaskMetrics().to_json()) - {"completion_time_s"}
    assert figures["score_ci"] is None
    assert 0 < figures["completion_time_s"] < 5
    assert figures["tasks"]["point"]["scores"] == [None, None]


@pytest.mark.render
def test_a_task_with_scores_has_their_columns(evaluated):
    """An easy pursuit: mean score, its interval and the time to success, none cut off at the edge
    of the table."""
    task = "follow-moving-target@0.1"
    table, figures = evaluated(task, 12)
    assert "score (95 %)" in table
    assert "success" in table
    assert max(map(len, table.splitlines())) <= WIDTH
    assert all(line.endswith("│") for line in table.splitlines() if line.startswith("│"))
    low, high = figures["score_ci"]
    assert 0 <= low <= figures["score"] <= high <= 10
    assert f"{figures['score']:.1f} ({low:.1f}–{high:.1f})" in table
    assert sum(figures["tasks"][task]["scores"]) / 2 == pytest.approx(figures["score"])
    for name in ("hand_path_m", "oscillation_mm", "mean_hand_jerk", "energy_j"):
        assert figures[name] > 0
    assert figures["contact_failures"] == 0
