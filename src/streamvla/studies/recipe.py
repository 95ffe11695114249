"""What a recipe of a results file is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from streamvla.evaluation.results import Column

Row = dict[str, Any]
"""The JSON object that one command printed, or a row of a results file."""


@dataclass(frozen=True)
class Recipe:
    """How one results file is made.

    Attributes:
        commands: row name → arguments of `streamvla`, ending in `--json`; or the file of an
            example, whose `main` gives one result per executor.
        rows: (row name, the command's JSON object) → its rows.
        gather: all commands' JSON objects by row name → all rows, instead of `rows`.
        columns, tables, tuning_seeds, seen: as in `ResultsFile`.
    """

    commands: dict[str, str]
    columns: dict[str, Column]
    tables: dict[str, tuple[str, ...]]
    rows: Callable[[str, Row], list[Row]] = lambda name, figures: [{"run": name, **figures}]
    gather: Callable[[dict[str, Row]], list[Row]] | None = None
    tuning_seeds: tuple[int, ...] = ()
    seen: bool = False
