"""What every command prints: a table for people, and one JSON object as the last line if asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout, as wide as it needs when stdout is no terminal."""
    console = Console(width=None if Console().is_terminal else 160)
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def print_json(fields: dict[str, Any]) -> None:
    """One JSON object on one line: by convention the last line of stdout."""
    print(json.dumps(fields, default=str))


def figure(value: float | None, digits: int = 1) -> str:
    """A number for a table cell; "–" for none.

    >>> figure(50.84), figure(None)
    ('50.8', '–')
    """
    return "–" if value is None else f"{value:.{digits}f}"
