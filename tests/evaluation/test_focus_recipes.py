"""The rows of the figures on saved computation."""

from __future__ import annotations

from streamvla.evaluation.results import Results, render_table
from streamvla.studies.focus_recipes import ARM_TASKS, FOCUS


def figures(solved: str, encodes: int = 40) -> dict:
    """What `eval --json` says of two episodes a task, in as far as the rows need it."""
    successes = solved.count("1") * len(ARM_TASKS)
    task = {"success": solved.count("1") / 2, "solved": solved}
    task["completion_time_s"] = 2.0 if successes else None
    tasks = dict.fromkeys(ARM_TASKS, task)
    return {
        "tasks": tasks,
        "success": task["success"],
        "success_ci": [0.0, 1.0],
        "successes": successes,
        "encodes": encodes,
        "observations": 20,
        "flops_per_observation": 1e9,
    }


def table(by_row: dict[str, dict]) -> tuple[list[dict], list[str]]:
    """The rows, and the lines of the main table."""
    recipe = FOCUS["saving"]
    assert recipe.gather is not None
    rows = recipe.gather(by_row)
    results = Results("saving", "", "", (), {}, rows, recipe.columns, recipe.tables)
    return rows, render_table(results, "main").split("\n")[2:]


def test_rows_without_a_success_have_no_figures_of_successes():
    """Nor is anything compared with them; the table shows "–" in their place."""
    skipping = "whole views, skipping two"
    for whole, skipped in (("11", "00"), ("00", "11"), ("00", "00")):
        rows, lines = table({"whole views": figures(whole), skipping: figures(skipped, 20)})
        for row, line, solved in zip(rows, lines, (whole, skipped), strict=True):
            known = solved != "00"
            assert (row["encoded_per_success"] is not None, row["time_by_task"] is not None) == (
                known,
                known,
            )
            assert (" – |" in line) or known
        assert rows[1]["saved"] is None


def test_what_skipping_saves_is_a_share_of_the_same_policys_encodings():
    """Half of the encodings for as many successes: 50 % fewer."""
    rows, _ = table({"whole views": figures("11"), "whole views, skipping two": figures("11", 20)})
    assert rows[1]["saved"] == 0.5
