"""One page about a grid of early observation: success against halting, and every cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from streamvla.evaluation.report.report import NONE, page

_COLUMNS = (
    ("success", "95 % Wilson interval in small figures"),
    ("difference", "paired, to the same policy without early observation"),
    ("halt per obs., ms", "time the robot waited, per observation cycle"),
    ("T_action, ms", "length of whole observation cycles / actions in them"),
    ("mean lead", "actions pending when it looked, on average"),
    (
        "held-out error",
        "mean |action − label| in action scales, on demonstrations, whose pending "
        "actions are the expert's: it compares compensations at one lead, not leads",
    ),
)


def grid_html(rows: Sequence[Mapping[str, Any]], figure: str, settings: Mapping[str, str]) -> str:
    """The page.

    Args:
        rows: cells as `streamvla grid --json` gives them.
        figure: SVG, `charts.success_halt_svg`.
        settings: how it was made: name → words.
    """
    head = "".join(
        f'<th scope="col" role="columnheader"><abbr title="{escape(title)}">{name}</abbr></th>'
        for name, title in _COLUMNS
    )
    body = "".join(_row(row) for row in rows)
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in settings.items())
    return page(
        "Early observation",
        "<header><p>Early observation</p><h1>What it costs, what it saves, and what compensation "
        "buys</h1></header><section><h2>Success against halting</h2><p>Every mark is a cell of the "
        "grid, its lead inside; further left is less halting, higher is more success. Marks that "
        "would hide each other stand side by side, on a thread that begins at their halt. Dashed: "
        "no early observation. Panels: what is compensated.</p>"
        f'<div class="picture" tabindex="0" role="group">{figure}</div></section>'
        '<section><h2>Every cell</h2><table role="table"><thead role="rowgroup"><tr role="row">'
        f'<th scope="col" role="columnheader">cell</th>{head}</tr></thead>'
        f'<tbody role="rowgroup">{body}</tbody></table></section>'
        f"<section><h2>Settings</h2><dl>{items}</dl></section>",
    )


def _row(row: Mapping[str, Any]) -> str:
    low, high = (f"{100 * bound:.0f}" for bound in row["success_ci"])
    difference = row["success_difference"]
    cells = [
        f"{100 * row['success']:.0f} % <small>{low}–{high} %</small>",
        NONE if difference is None else f"{100 * difference:+.0f}",
        _number(row["halt_ms_per_observation"], 1),
        _number(row["t_action_ms"], 1),
        _number(row["mean_lead"], 2),
        _number(row["action_error"], 4),
    ]
    tds = "".join(
        f'<td role="cell" data-label="{name}">{cell}</td>'
        for (name, _), cell in zip(_COLUMNS, cells, strict=True)
    )
    name = escape(row["run"])
    return f'<tr role="row"><th scope="row" role="rowheader">{name}</th>{tds}</tr>'


def _number(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:.{digits}f}"
