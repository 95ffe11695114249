"""Figures in documents come from files: `docs/results/NAME.json` → marked regions in Markdown.

A region names the file and what to show of it; what stands inside is generated:

    <!-- results:demo:main -->                       the table `main` of demo.json
    | executor | T_action (ms) | …
    <!-- /results -->
    <!-- results:demo:main@streaming; mean -->           some of its rows
    … every <!-- results:demo:streaming:t_action_ms -->29.2<!-- /results --> ms …     one figure
    <!-- results:demo:source --> … <!-- /results -->               how it was made, in a sentence
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from streamvla.core.clock import wall_date
from streamvla.core.errors import ConfigError, did_you_mean
from streamvla.core.files import write_text
from streamvla.core.seeds import tuning_seeds

SCHEMA = "streamvla-results/1"
SOURCE = "source"

_REGION = re.compile(
    r"(?P<open><!-- results:(?P<name>[\w.-]+):(?P<what>[^\n]+?) -->)"
    r"(?P<body>.*?)(?P<close><!-- /results -->)",
    re.DOTALL,
)
_INTEGERS = re.compile(r"\[\s+\d+(?:,\s+\d+)*\s+\]")
_MARKER = re.compile(r"<!-- (?:results:|/results)")


@dataclass(frozen=True)
class Column:
    """How one figure is shown.

    Attributes:
        title: table heading, with the unit.
        digits: decimals.
        percent: the value is a fraction; show it times 100 with a % sign.
        interval: key of a `[low, high]` pair to show behind the value, in brackets.
    """

    title: str
    digits: int = 1
    percent: bool = False
    interval: str | None = None


@dataclass(frozen=True)
class Results:
    """What one command measured, with all that is needed to measure it again.

    Attributes:
        command: as typed; `commit` of the code; `date` ISO; `seeds` used.
        tuning_seeds: those that were looked at while what is measured here was chosen; empty where
            nothing was (a timing of the runtime, say).
        seen: some `seeds` are among them, so that the figures flatter whatever was chosen; the
            documents then say so.
        driven_at: commits at which episodes were driven that this one found finished.
        machine: see `core.provenance.machine`.
        rows: one object per run; `run` is its name. Figures may be nested.
        columns: key → how it is shown; a key reaches into nested objects with dots
            (`action_age_ms.p50`).
        tables: table name → keys of its columns, in order.
    """

    name: str
    command: str
    commit: str
    seeds: Sequence[int]
    machine: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    columns: Mapping[str, Column]
    tables: Mapping[str, Sequence[str]]
    date: str = field(default_factory=wall_date)
    driven_at: Sequence[str] = ()
    tuning_seeds: Sequence[int] = ()
    seen: bool = False


def write_results(folder: Path, results: Results) -> Path:
    """Write `folder/NAME.json`, after checking that every table can be drawn.

    Raises:
        ConfigError: a table without such a row or column, or of seeds that were chosen on.
    """
    for table in results.tables:
        render_table(results, table)
    require_fresh_seeds(results)
    path = folder / f"{results.name}.json"
    text = json.dumps({"schema": SCHEMA, **asdict(results)}, indent=1, ensure_ascii=False)
    write_text(path, _INTEGERS.sub(_on_one_line, text) + "\n")
    return path


def _on_one_line(found: re.Match[str]) -> str:
    return f"[{' '.join(found[0][1:-1].split())}]"


def require_fresh_seeds(results: Results) -> None:
    """Raise `ConfigError` if it was measured on seeds it was chosen on and does not say so.

    Seeds that were looked at since (`core.seeds.tuning_seeds`) count as well.
    """
    looked_at = {*results.tuning_seeds, *(tuning_seeds() if results.tuning_seeds else ())}
    both = sorted(set(results.seeds) & looked_at)
    if both and not results.seen:
        raise ConfigError(
            f"results {results.name!r}: {len(both)} of its seeds, such as {both[0]}, were looked "
            "at while choosing. Measure it on other seeds, or mark it as seen."
        )


def read_results(path: Path) -> Results:
    """Inverse of `write_results`.

    Raises:
        ConfigError: no such file, or not one of ours.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields.pop("schema") != SCHEMA:
            raise ConfigError(f"{path}: not schema {SCHEMA!r}")
        if "tuning_seeds" not in fields:
            raise ConfigError(f"{path} does not say which seeds were looked at: `tuning_seeds`")
        columns = {key: Column(**column) for key, column in fields.pop("columns").items()}
        return Results(columns=columns, **fields)
    except OSError as error:
        raise ConfigError(f"cannot read results {path}: {error.strerror or error}") from error
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is no results file ({error}); make it anew") from error


def render_table(results: Results, table: str, runs: Sequence[str] = ()) -> str:
    """A table of the results in Markdown; figures are set flush right.

    Args:
        runs: only these rows, in this order; default all that have a figure in the table.

    Raises:
        ConfigError: there is no such table or row.
    """
    if table not in results.tables:
        raise did_you_mean(f"table of results {results.name!r}", table, results.tables)
    keys = results.tables[table]
    columns = [_column(results, key) for key in keys]
    rows = [_row(results, run) for run in runs] or [
        row for row in results.rows if any(_reach(row, key) is not None for key in keys[1:])
    ]
    numeric = [_is_numeric(results.rows, key) for key in keys]
    head = [column.title for column in columns]
    rule = ["---:" if right else "---" for right in numeric]
    body = [[_show(row, key, results) for key in keys] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *body])


def render_value(results: Results, run: str, key: str) -> str:
    """One figure of one run, formatted as in the tables but without its interval."""
    return _format(_reach(_row(results, run), key), _column(results, key))


def render_source(results: Results) -> str:
    """Command, commit, date and machine in one line."""
    earlier = ", ".join(each for each in results.driven_at if each != results.commit)
    driven = f" (episodes driven at {earlier})" if earlier else ""
    made = f"`{results.command}`, commit {results.commit}{driven}, {results.date}"
    seen = " Seeds seen while choosing." if results.seen else ""
    return f"{made}, {_seed_words(results.seeds)}on {machine_words(results.machine)}.{seen}"


def _seed_words(seeds: Sequence[int]) -> str:
    """`seeds 5000000 to 5000049, `; nothing where there are none or one."""
    return f"seeds {min(seeds)} to {max(seeds)}, " if len(seeds) > 1 else ""


def documents(root: Path) -> list[Path]:
    """The Markdown files whose figures are generated: at the root and under `docs/`."""
    return sorted([*root.glob("*.md"), *root.glob("docs/**/*.md")])


def update(paths: Iterable[Path], folder: Path) -> list[Path]:
    """Rewrite the regions of these documents from `folder`; returns the files that changed."""
    changed = []
    for path in paths:
        text = path.read_text(encoding="utf-8")
        fresh = generate(text, folder, str(path))
        if fresh != text:
            write_text(path, fresh)
            changed.append(path)
    return changed


def check(paths: Iterable[Path], folder: Path) -> list[str]:
    """Where documents disagree with the results files, and which of those claim a result on seeds
    that were chosen on: one message each; [] if nowhere."""
    complaints = []
    for file in sorted(folder.glob("*.json")):
        try:
            require_fresh_seeds(read_results(file))
        except ConfigError as error:
            complaints.append(str(error))
    for path in paths:
        text = path.read_text(encoding="utf-8")
        try:
            fresh = generate(text, folder, path.name)
        except ConfigError as error:
            complaints.append(str(error))
            continue
        regions = zip(_REGION.finditer(text), _REGION.finditer(fresh), strict=True)
        for found, expected in regions:
            if found["body"] != expected["body"]:
                line = text.count("\n", 0, found.start()) + 1
                complaints.append(f"{path.name}, line {line}: {_difference(found, expected)}")
    return complaints


def generate(text: str, folder: Path, where: str) -> str:
    """`text` with every region filled from the files in `folder`.

    Raises:
        ConfigError: an unclosed region, or one that names what does not exist.
    """
    if len(_MARKER.findall(text)) != 2 * len(_REGION.findall(text)):
        raise ConfigError(
            f"{where}: a results region is not closed, or not as "
            "<!-- results:NAME:TABLE --> … <!-- /results -->"
        )

    def fill(region: re.Match[str]) -> str:
        try:
            body = _render(read_results(folder / f"{region['name']}.json"), region["what"])
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        return region["open"] + body + region["close"]

    return _REGION.sub(fill, text)


def machine_words(machine: Mapping[str, Any]) -> str:
    """What `core.provenance.machine` found, in words: "Some CPU, 2 cores, Linux, Python 3.11.7"."""
    phrases = {"cores": "{} cores", "python": "Python {}"}
    return ", ".join(phrases.get(key, "{}").format(value) for key, value in machine.items())


def _difference(found: re.Match[str], expected: re.Match[str]) -> str:
    """The first line of two regions in which they differ."""
    lines = zip_longest(found["body"].split("\n"), expected["body"].split("\n"), fillvalue="")
    stands, belongs = next(pair for pair in lines if pair[0] != pair[1])
    name = f"results:{found['name']}:{found['what']}"
    return f"{name} says {stands!r}, the results file {belongs!r}"


def _render(results: Results, what: str) -> str:
    if what == SOURCE:
        return render_source(results)
    run, separator, key = what.rpartition(":")
    if separator:
        return render_value(results, run, key)
    table, _, runs = what.partition("@")
    return f"\n{render_table(results, table, [run.strip() for run in runs.split(';') if run])}\n"


def _row(results: Results, run: str) -> Mapping[str, Any]:
    rows = {row["run"]: row for row in results.rows}
    if run not in rows:
        raise did_you_mean(f"run of results {results.name!r}", run, rows)
    return rows[run]


def _column(results: Results, key: str) -> Column:
    if key not in results.columns:
        raise did_you_mean(f"column of results {results.name!r}", key, results.columns)
    return results.columns[key]


def _reach(row: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; None where the path ends early."""
    value: Any = row
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _show(row: Mapping[str, Any], key: str, results: Results) -> str:
    column = results.columns[key]
    shown = _format(_reach(row, key), column)
    bounds = _reach(row, column.interval) if column.interval else None
    if not bounds:
        return shown
    low, high = (_format(bound, column) for bound in bounds)
    return f"{shown} ({low}–{high})"


def _format(value: Any, column: Column) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if column.percent:
        return f"{100 * value:z.{column.digits}f} %"
    return str(value) if isinstance(value, int) else f"{value:z.{column.digits}f}"


def _is_numeric(rows: Iterable[Mapping[str, Any]], key: str) -> bool:
    values = [_reach(row, key) for row in rows]
    return all(value is None or isinstance(value, int | float) for value in values)
