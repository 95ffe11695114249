"""What a policy's observations cost with each of several settings, as measured, and which settings
fit a budget.

    settings               flops    ms     success          time
    whole                  8.4e8    11.0   92 % (81–97)     1.00
    reuse=8                6.9e8     9.5   92 % (81–97)     0.97   ← for a budget of 7e8
    reuse=8+most_skips=1   5.0e8     6.9   78 % (65–87)     0.95

`streamvla bench budget` measures such a table and writes it into the policy's file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from streamvla.core.errors import ConfigError
from streamvla.core.numbers import exact

Unit = Literal["flops", "ms"]
WHOLE = "whole"
"""Name of the row without settings: every view of every observation is encoded."""

_WORDS = {"flops": "floating-point operations", "ms": "ms"}


@dataclass(frozen=True)
class BudgetRow:
    """One choice of settings.

    Attributes:
        settings: name → value, as in `PolicySpec.settings`; none for whole frames.
        flops: floating-point operations of an observation, looks and contexts.
        ms: milliseconds of an observation on the table's machine, one thread.
        ms_ratio: the same as a share of what whole frames took in the same run.
        episodes: behind the success.
        success, success_ci: share of them that succeeded, with its 95 % Wilson interval.
        completion_time_s: mean of the episodes that succeeded; None: none did.
        time_ratio: Σ completion time / Σ that of whole frames, over the episodes that both solved;
            None: there is none.
    """

    settings: Mapping[str, float]
    flops: float
    ms: float
    ms_ratio: float
    episodes: int
    success: float
    success_ci: tuple[float, float]
    completion_time_s: float | None = None
    time_ratio: float | None = None

    def __post_init__(self) -> None:
        low, high = self.success_ci
        times = [time for time in (self.completion_time_s, self.time_ratio) if time is not None]
        numbers = (self.flops, self.ms, self.ms_ratio, *times, *self.settings.values())
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            raise ConfigError(f"budget row {self.name}: {numbers}; expected finite numbers ≥ 0")
        if not 0 <= low <= self.success <= high <= 1:
            raise ConfigError(
                f"budget row {self.name}: success {self.success} and interval {low} – {high}; "
                "expected shares from 0 to 1, in order"
            )

    @property
    def name(self) -> str:
        """`reuse=8+most_skips=1`, or `whole`."""
        return settings_name(self.settings)

    def cost(self, unit: Unit) -> float:
        """Of an observation."""
        return self.flops if unit == "flops" else self.ms

    def sentence(self) -> str:
        """What it costs and gives, in a few words."""
        low, high = (100 * bound for bound in self.success_ci)
        return (
            f"{self.name}: {self.flops:.3g} operations and {self.ms:.3g} ms an observation, "
            f"{100 * self.success:.0f} % success ({low:.0f} – {high:.0f} %, {self.episodes} "
            "episodes)"
        )


@dataclass(frozen=True)
class BudgetTable:
    """The rows, and how they were measured: machine, commit, tasks, seeds, executor, profile."""

    rows: tuple[BudgetRow, ...]
    measured: Mapping[str, Any]

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"budget table with rows {names}: expected one or more, each once")

    def choose(self, unit: Unit, budget: float) -> BudgetRow:
        """The row to use for a budget.

        Of the rows whose cost is within it, the one with the highest success sets the bar: half of
        the way from there to the lower end of its interval, about a standard error. Of the rows
        above the bar, which these episodes cannot tell apart, the one that needs the least time for
        what whole frames solve too (`time_ratio`, to .01); then the costliest, which departs least
        from whole frames; then the first.

        Raises:
            ConfigError: the cheapest row costs more.
        """
        fitting = [row for row in self.rows if row.cost(unit) <= budget]
        if not fitting:
            cheapest = min(self.rows, key=lambda row: row.cost(unit))
            raise ConfigError(
                f"budget of {budget:g} {_WORDS[unit]} an observation: the cheapest settings, "
                f"{cheapest.name}, take {cheapest.cost(unit):.4g}; allow at least that"
            )
        best = max(fitting, key=lambda row: (row.success, row.success_ci[0]))
        bar = (best.success + best.success_ci[0]) / 2
        alike = [row for row in fitting if row.success >= bar]
        return min(alike, key=lambda row: (_rounded(row.time_ratio), -row.cost(unit)))

    def to_json(self) -> dict[str, Any]:
        """Inverse of `from_json`."""
        return {"rows": [asdict(row) for row in self.rows], "measured": dict(self.measured)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """From `to_json`.

        Raises:
            ConfigError, KeyError, TypeError, ValueError: it is something else.
        """
        measured = fields["measured"]
        machine: Any = dict(measured).get("machine", {})
        dict(machine)  # an object too, or one of these errors
        return cls(tuple(_row_from_json(row) for row in fields["rows"]), measured)


def _row_from_json(fields: Mapping[str, Any]) -> BudgetRow:
    low, high = fields["success_ci"]
    values: dict[str, Any] = {**fields, "success_ci": (float(low), float(high))}
    values["settings"] = dict(values["settings"])
    return BudgetRow(**values)


def settings_name(settings: Mapping[str, float]) -> str:
    """Of a row.

    >>> settings_name({"reuse": 8.0, "most_skips": 1.0}), settings_name({})
    ('reuse=8+most_skips=1', 'whole')
    """
    return "+".join(f"{key}={exact(value)}" for key, value in settings.items()) or WHOLE


def _rounded(ratio: float | None) -> float:
    return math.inf if ratio is None else round(ratio, 2)
