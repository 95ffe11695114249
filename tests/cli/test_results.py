"""Recipes: how the figures in the documents are made."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from streamvla.cli.main import _parse
from streamvla.evaluation.stats import compare_paired
from streamvla.studies.recipes import RECIPES, _cell_rows, _compared_rows, _schedule_rows

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_of_commands_that_parse_and_columns_that_exist(name):
    """Flags that a recipe types are those the commands take, and its tables show its columns."""
    recipe = RECIPES[name]
    for arguments in recipe.commands.values():
        if arguments.endswith(".py"):  # an example, not one of our commands
            assert (ROOT / arguments).is_file()
            continue
        assert getattr(_parse(shlex.split(arguments)), "json", None) is True or "bench" in arguments
    for table in recipe.tables.values():
        assert set(table) <= recipe.columns.keys()


def test_a_recipe_that_drives_a_policy_says_what_was_looked_at():
    """Only timings of the runtime and schedules without a policy have no tuning seeds."""
    for name, recipe in RECIPES.items():
        kinds = {arguments.split()[0] for arguments in recipe.commands.values()}
        if kinds & {"eval", "run", "grid", "ablations"}:
            assert recipe.tuning_seeds, name


def evaluation(**solved: str) -> dict:
    """What an `eval` would print, of tasks with these episodes solved."""
    every = "".join(solved.values())
    share = every.count("1") / len(every)
    tasks = {
        task: {"success": digits.count("1") / len(digits), "ci_low": 0.0, "ci_high": 1.0}
        | {"solved": digits}
        for task, digits in solved.items()
    }
    return {"mean_success": share, "success_ci": [0.0, 1.0], "tasks": tasks}


def test_methods_are_compared_episode_by_episode():
    """The mean's row has the paired difference of the first evaluation to each other one."""
    ours, theirs = evaluation(reach="1110", push="1100"), evaluation(reach="1010", push="1000")
    *tasks, mean = _compared_rows({"a": ours, "b": theirs})
    assert [row["run"] for row in tasks] == ["reach", "push"]
    assert tasks[0]["b"]["success"] == 0.5
    expected = compare_paired([c == "1" for c in "10101000"], [c == "1" for c in "11101100"])
    assert mean["b"]["behind"] == expected.difference == 0.25
    assert mean["b"]["behind_ci"] == [expected.low, expected.high]
    assert "behind" not in mean["a"]


def test_schedules_name_the_tasks_that_differ_most():
    """By episodes, the largest change first; equal tasks are left out."""
    none = evaluation(reach="1110", push="1100", sweep="11", door="1")
    early = evaluation(reach="1010", push="0000", sweep="11", door="0")
    first, second = _schedule_rows({"none": none, "early": early})
    assert second["lost_most"] == "push 2 → 0, reach 3 → 2, door 1 → 0"
    assert second["gained_most"] == "–"
    assert first["lost_most"] == first["gained_most"] == "–"
    assert second["paired"] == pytest.approx(-4 / 11)
    (reversed_row,) = _schedule_rows({"early": early, "none": none})[1:]
    assert reversed_row["gained_most"] == "push 0 → 2, reach 2 → 3, door 0 → 1"


def test_cells_of_a_grid_stand_side_by_side_by_lead():
    """One row per rule and compensation; never looking early is a row for each policy."""
    cells = [
        {"run": "none, trained on old images", "rule": "none", "lead": 0, "compensation": "state"},
        {"run": "always, lead 1, state", "rule": "always", "lead": 1, "compensation": "state"},
        {"run": "always, lead 3, state", "rule": "always", "lead": 3, "compensation": "state"},
        {"run": "always, lead 3, none", "rule": "always", "lead": 3, "compensation": "none"},
    ]
    never, state, uncompensated = _cell_rows("grid", {"cells": cells})
    assert never == {"run": "none, trained on old images", "0": cells[0]}
    assert state == {"run": "always, state", "1": cells[1], "3": cells[2]}
    assert uncompensated == {"run": "always, none", "3": cells[3]}
