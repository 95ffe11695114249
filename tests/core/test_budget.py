"""Which settings a budget gets."""

from __future__ import annotations

import json

import pytest

from streamvla.core.budget import BudgetRow, BudgetTable
from streamvla.core.errors import ConfigError

WHOLE = BudgetRow({}, 8e8, 11.0, 1.0, 50, 0.92, (0.81, 0.97), 5.0, 1.0)
REUSED = BudgetRow({"reuse": 8.0}, 6e8, 9.5, 0.86, 50, 0.9, (0.79, 0.96), 4.9, 0.97)
SKIPPED = BudgetRow({"most_skips": 1.0}, 4e8, 6.0, 0.55, 50, 0.78, (0.65, 0.87), 4.0, 0.8)
SLOW = BudgetRow({"every_front": 2.0}, 5e8, 8.0, 0.73, 50, 0.9, (0.79, 0.96), 4.9, 0.972)
TABLE = BudgetTable((WHOLE, REUSED, SKIPPED, SLOW), {"machine": {"cpu": "a machine"}})


@pytest.mark.parametrize(
    ("unit", "budget", "chosen"),
    [
        ("flops", 1e9, "reuse=8"),  # whole frames succeed as often, to the noise, and take longer
        ("flops", 6e8, "reuse=8"),  # as fast as every_front=2, to .01: the costlier
        ("flops", 5.5e8, "every_front=2"),
        ("flops", 4e8, "most_skips=1"),  # exactly the budget
        ("ms", 8.5, "every_front=2"),
        ("ms", 7.0, "most_skips=1"),
    ],
)
def test_the_row_that_fits_with_the_highest_success(unit, budget, chosen):
    """Success first; those that the episodes cannot tell apart by time, then by cost."""
    assert TABLE.choose(unit, budget).name == chosen


def test_a_faster_row_that_fails_more_often_is_not_chosen():
    """Least time counts among rows within half of the best one's interval, not for one at 78 %
    beside 92 %, though both intervals overlap."""
    assert BudgetTable((WHOLE, SKIPPED), {}).choose("flops", 1e9).name == "whole"


def test_a_row_that_never_succeeds_comes_last():
    """A row without a time beside one that has one."""
    never = BudgetRow({"reuse": 99.0}, 1e8, 1.0, 0.1, 2, 0.0, (0.0, 0.66))
    once = BudgetRow({}, 9e7, 1.0, 0.1, 2, 0.5, (0.1, 0.9), 5.0, 1.0)
    assert BudgetTable((never, once), {}).choose("ms", 5.0).name == "whole"
    assert BudgetTable((never,), {}).choose("ms", 5.0).name == "reuse=99"


def test_a_budget_below_the_cheapest_row_names_it():
    """The error has the settings and what they take, in the unit that was asked for."""
    with pytest.raises(ConfigError, match=r"cheapest settings, most_skips=1, take 4e\+08"):
        TABLE.choose("flops", 3e8)
    with pytest.raises(ConfigError, match=r"budget of 5 ms .* take 6; allow at least that"):
        TABLE.choose("ms", 5)


def test_a_table_survives_json():
    """What is read back equals what was written."""
    assert BudgetTable.from_json(json.loads(json.dumps(TABLE.to_json()))) == TABLE


@pytest.mark.parametrize(
    "row",
    [
        {"flops": float("nan")},
        {"ms": -1.0},
        {"success": 0.5},  # outside its interval
        {"success_ci": (0.9, 1.1)},
        {"settings": {"reuse": float("inf")}},
        {"time_ratio": float("nan")},
    ],
)
def test_rows_that_cannot_be_are_refused(row):
    """Numbers that are none, and shares that are not in order."""
    with pytest.raises(ConfigError, match="budget row"):
        BudgetRow(**{**vars(WHOLE), **row})


def test_a_table_has_each_row_once():
    """No row, or one twice, is refused."""
    for rows in ((), (WHOLE, WHOLE)):
        with pytest.raises(ConfigError, match="each once"):
            BudgetTable(rows, {})


@pytest.mark.parametrize(
    "damage",
    [
        {"measured": None},
        {"measured": {"machine": "a machine"}},
        {"rows": 5},
        {"rows": [{**vars(WHOLE), "settings": 8}]},
        {"rows": [{**vars(WHOLE), "time_ratio": "fast"}]},
    ],
)
def test_a_damaged_table_is_noticed_when_it_is_read(damage):
    """Each raises one of the errors that `from_json` names, and not later ones of its users."""
    with pytest.raises((ConfigError, KeyError, TypeError, ValueError)):
        BudgetTable.from_json({**TABLE.to_json(), **damage})
