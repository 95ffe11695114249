"""What every command prints: a table for people, and one JSON object as the last line if asked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

WIDTH = 100
"""Columns of a table at the most: it fits a window beside an editor, and a page."""

_BORDER = 3
"""What a column takes beside its text: a line and a space each side."""


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout, no wider than `WIDTH` and the terminal.

    Cells wrap between words, never inside one. What still does not fit goes below, under the first
    column again.
    """
    console = Console()
    width = min(WIDTH, console.width) if console.is_terminal else WIDTH
    for number, chosen in enumerate(_blocks(columns, rows, width)):
        table = Table(title=None if number else title, title_justify="left")
        for i, taken in zip(chosen, _widths(columns, rows, chosen, width), strict=True):
            table.add_column(columns[i], justify="left" if i == 0 else "right", width=taken)
        for row in rows:
            table.add_row(*(row[i] for i in chosen))
        Console(width=width).print(table)


def transposed(
    name: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Figures as rows and what they belong to as columns, for few things with many figures.

    >>> transposed("figure", ("method", "a", "b"), [("m", "1", "2"), ("n", "3", "4")])
    (('figure', 'm', 'n'), [('a', '1', '3'), ('b', '2', '4')])
    """
    heads = (name, *(row[0] for row in rows))
    return heads, [(column, *(row[i] for row in rows)) for i, column in enumerate(columns) if i > 0]


def _blocks(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> Iterator[list[int]]:
    """The columns of every block: the first, and as many more as fit."""
    first = _least(columns, rows, 0) + _BORDER + 1
    block, taken = [0], first
    for i in range(1, len(columns)):
        wanted = _least(columns, rows, i) + _BORDER
        if taken + wanted > width and len(block) > 1:
            yield block
            block, taken = [0], first
        block.append(i)
        taken += wanted
    yield block


def _least(columns: Sequence[str], rows: Sequence[Sequence[str]], i: int) -> int:
    """The longest word of a column."""
    words = (word for text in (columns[i], *(row[i] for row in rows)) for word in text.split())
    return max((cell_len(word) for word in words), default=1)


def _widths(
    columns: Sequence[str], rows: Sequence[Sequence[str]], block: Sequence[int], width: int
) -> list[int]:
    """Of the text in each column of a block: its longest word, and what is left to those that would
    wrap, the narrowest first."""
    widths = [_least(columns, rows, i) for i in block]
    left = width - 1 - sum(taken + _BORDER for taken in widths)
    wanted = [_most(columns, rows, i) for i in block]
    for k in sorted(range(len(block)), key=lambda k: wanted[k] - widths[k]):
        more = max(0, min(left, wanted[k] - widths[k]))
        widths[k] += more
        left -= more
    return widths


def _most(columns: Sequence[str], rows: Sequence[Sequence[str]], i: int) -> int:
    """The longest cell of a column."""
    return max(cell_len(text) for text in (columns[i], *(row[i] for row in rows)))


def print_json(fields: dict[str, Any]) -> None:
    """One JSON object on one line: by convention the last line of stdout."""
    print(json.dumps(fields, default=str))


def figure(value: float | None, digits: int = 1) -> str:
    """A number for a table cell; "–" for none.

    >>> figure(50.84), figure(None)
    ('50.8', '–')
    """
    return "–" if value is None else f"{value:.{digits}f}"
