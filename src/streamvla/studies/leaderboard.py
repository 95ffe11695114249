"""The leaderboard: policies on one fixed protocol, a file each, and the table made from them.

    streamvla compare … --out runs/mine ─► runs/mine/result.json
    streamvla leaderboard --add runs/mine/result.json … ─► docs/results/leaderboard/NAME.json
    streamvla leaderboard ─► the table in docs/leaderboard.md

An entry keeps how every episode ended, so that intervals are computed here and not by who enters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from streamvla.core.errors import ConfigError
from streamvla.core.files import reason, write_text
from streamvla.core.seals import open_json, sealed_json
from streamvla.core.seeds import FIRST_LEADERBOARD_SEED
from streamvla.core.stress import NOMINAL
from streamvla.evaluation.comparison import read_comparison
from streamvla.evaluation.report.sweep import SCORE, SUCCESS, Cell, Figure, Outcome, overall
from streamvla.robots.registry import suite_tasks

SCHEMA = "streamvla-leaderboard/1"
FOLDER = Path("docs/results/leaderboard")
PAGE = Path("docs/leaderboard.md")
TRUTH = "truth"
"""What an expert sees: the state of the simulated world. It is listed apart."""

_REGION = re.compile(r"(<!-- leaderboard -->\n).*?(<!-- /leaderboard -->)", re.DOTALL)
_LINK = re.compile(r"https?://[^\s()<>|\\]+")
_LONGEST = 80


@dataclass(frozen=True)
class Protocol:
    """What every entry must have been driven on; a change of any field is a new version."""

    version: int
    suite: str
    tasks: tuple[str, ...]
    profiles: tuple[str, ...]
    accelerators: tuple[int, ...]
    stress: tuple[str, ...]
    seeds: tuple[int, ...]
    seconds: float
    pacing: str
    jitter: float

    def command(self, policy: str, out: str) -> str:
        """The command that drives a policy on it."""
        return (
            f"streamvla compare --suite {self.suite} --policies {policy} --seed {self.seeds[0]} "
            f"--episodes {len(self.seeds)} --out {out}"
        )

    def require(self, plan: Mapping[str, Any], where: str) -> None:
        """Raise `ConfigError`, naming the first field in which a plan differs."""
        for name, expected in asdict(self).items():
            if name in ("version", "suite"):
                continue
            found = plan.get(name)
            listed = tuple(found) if isinstance(found, list) else found
            if listed != expected:
                raise ConfigError(
                    f"{where}: {name} {_shown(listed)}, expected {_shown(expected)} (leaderboard "
                    f"protocol {self.version}); drive it with: {self.command('POLICY', 'FOLDER')}"
                )


def protocol() -> Protocol:
    """The present one."""
    return Protocol(
        version=1,
        suite="tempo-arm",
        tasks=suite_tasks("tempo-arm"),
        profiles=("paper-20hz",),
        accelerators=(1,),
        stress=(NOMINAL,),
        seeds=tuple(range(FIRST_LEADERBOARD_SEED, FIRST_LEADERBOARD_SEED + 50)),
        seconds=15.0,
        pacing="grid",
        jitter=0.0,
    )


@dataclass(frozen=True)
class Row:
    """One executor of one entry.

    Attributes:
        name, link, sees: of the entry.
        cells: one a task.
        halt_ms: per observation, mean over tasks; `misses`: control instants without an action,
            per episode.
    """

    name: str
    link: str
    sees: str
    executor: str
    cells: tuple[Cell, ...]
    halt_ms: float | None
    misses: float

    @property
    def rank(self) -> tuple[float, float]:
        """Higher is better: by score, then by success."""
        score, success = (overall(self.cells, figure) for figure in (SCORE, SUCCESS))
        return (score.value if score else -1.0, success.value if success else -1.0)


# --- entries -------------------------------------------------------------------------------------


def add_entry(result: Path, folder: Path, name: str, link: str, sees: str, on: Protocol) -> Path:
    """Make an entry of a result of `streamvla compare`; one of that name is replaced.

    Args:
        name: of the policy; `link`: where it can be found; `sees`: its inputs, a few words, or
            "truth" for an expert.

    Raises:
        ConfigError: a name, link or words that a table cannot show, a result file of another
            protocol or of several policies, or no result file.
    """
    _require_words(name=name, sees=sees)
    if not _LINK.fullmatch(link):
        raise ConfigError(f"link {link!r}: expected an address, such as https://example.org/policy")
    found = read_comparison(result)
    on.require(found["plan"], str(result))
    sources = {row["policy"] for row in found["plan"]["rows"]}
    if len(sources) > 1 and sees != TRUTH:
        raise ConfigError(
            f"{result} has {len(sources)} policies ({', '.join(sorted(sources))}): expected one; "
            "enter each with a result of its own"
        )
    entry = {
        "schema": SCHEMA,
        "protocol": on.version,
        "name": name,
        "link": link,
        "sees": sees,
        "plan": found["plan"],
        "run": found["run"],
        "cells": [_kept(cell, found["episodes"]) for cell in found["cells"]],
    }
    path = folder / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-') or 'entry'}.json"
    if path.exists() and open_json(path.read_bytes())[0].get("name") != name:
        raise ConfigError(f"{path} is the entry of another policy: choose another --name")
    write_text(path, sealed_json(entry))
    return path


def read_entries(folder: Path, on: Protocol) -> list[Row]:
    """Every executor of every entry, the best first.

    Raises:
        ConfigError: a file is damaged, none of ours, or of another protocol.
    """
    rows = [row for path in sorted(folder.glob("*.json")) for row in _rows(path, on)]
    return sorted(rows, key=lambda row: (*(-value for value in row.rank), row.name, row.executor))


def _kept(cell: Mapping[str, Any], episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of a cell what the table needs, and how each of its episodes ended, by seed."""
    names = ("task", "policy", "executor")
    of_cell = [each for each in episodes if all(each[name] == cell[name] for name in names)]
    return {
        **{name: cell[name] for name in names},
        "halt_ms_per_observation": cell["halt_ms_per_observation"],
        "deadline_misses": cell["deadline_misses"],
        "solved": [each["figures"]["success"] for each in of_cell],
        "scores": [each["figures"]["score"] for each in of_cell],
    }


def _rows(path: Path, on: Protocol) -> list[Row]:
    try:
        entry, sealed = open_json(path.read_bytes())
        if entry.get("schema") != SCHEMA or not sealed:
            raise ValueError(f"schema {entry.get('schema')!r}, expected {SCHEMA!r}")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {reason(error)}") from error
    except ValueError as error:
        raise ConfigError(
            f"{path} is no entry ({error}); make it with streamvla leaderboard --add"
        ) from error
    on.require(entry["plan"], str(path))
    return [_row(entry, row) for row in entry["plan"]["rows"]]


def _row(entry: Mapping[str, Any], row: Mapping[str, str]) -> Row:
    found = [
        cell
        for cell in entry["cells"]
        if (cell["policy"], cell["executor"]) == (row["policy"], row["executor"])
    ]
    seeds, halts = entry["plan"]["seeds"], [cell["halt_ms_per_observation"] for cell in found]
    known = [halt for halt in halts if halt is not None]
    cells = tuple(_cell(cell, seeds) for cell in found)
    several = len({each["policy"] for each in entry["plan"]["rows"]}) > 1
    return Row(
        name=entry["name"],
        link=entry["link"],
        sees=entry["sees"],
        executor=f"{row['policy']}/{row['executor']}" if several else row["executor"],
        cells=cells,
        halt_ms=sum(known) / len(known) if known else None,
        misses=sum(cell["deadline_misses"] for cell in found) / (len(seeds) * len(found)),
    )


def _cell(found: Mapping[str, Any], seeds: Sequence[int]) -> Cell:
    ends = zip(seeds, found["solved"], found["scores"], strict=True)
    return Cell(
        task=found["task"],
        policy=found["policy"],
        executor=found["executor"],
        profile="",
        outcomes={seed: Outcome(solved, score) for seed, solved, score in ends},
    )


def _require_words(**words: str) -> None:
    for name, text in words.items():
        if not text.strip() or len(text) > _LONGEST or not text.isprintable():
            raise ConfigError(f"{name} {text!r}: expected 1 to {_LONGEST} characters on one line")


def _shown(value: Any) -> str:
    """Of a long list its ends."""
    if not isinstance(value, tuple):
        return str(value)
    shown = [str(each) for each in value]
    return ", ".join(shown) if len(shown) < 8 else f"{shown[0]} to {shown[-1]} ({len(shown)})"


# --- the page ------------------------------------------------------------------------------------


def fresh_page(text: str, rows: Sequence[Row], on: Protocol) -> str:
    """The page with its table made anew.

    Raises:
        ConfigError: it has no place for the table.
    """
    if not _REGION.search(text):
        raise ConfigError(
            f"{PAGE} has no <!-- leaderboard --> … <!-- /leaderboard --> for the table: add both"
        )
    return _REGION.sub(lambda found: f"{found[1]}{_tables(rows, on)}\n{found[2]}", text)


def _tables(rows: Sequence[Row], on: Protocol) -> str:
    entered = [row for row in rows if row.sees != TRUTH]
    experts = [row for row in rows if row.sees == TRUTH]
    parts = ["", _table(entered) if entered else "No policy has been entered yet.", ""]
    if experts:
        parts += [
            "**Experts**, which see the true state of the world: what timing alone costs.",
            "",
            _table(experts),
            "",
        ]
    tasks = ", ".join(f"`{task}`" for task in on.tasks)
    last = (
        f"Protocol {on.version}: suite `{on.suite}` ({tasks}), {len(on.seeds)} episodes a task at "
        f"seeds {on.seeds[0]} to {on.seeds[-1]}, stage times `{', '.join(on.profiles)}`, one "
        f"accelerator, no stress, at most {on.seconds:g} s an episode."
    )
    return "\n".join([*parts, last, ""])


def _table(rows: Sequence[Row]) -> str:
    head = (
        "policy",
        "sees",
        "executor",
        "score of 10 (95 %)",
        "success (95 %)",
        "halt per observation (ms)",
        "deadline misses per episode",
    )
    rule = ["---"] * 3 + ["---:"] * 4
    body = [
        [
            f"[{_plain(row.name)}]({row.link})",
            _plain(row.sees),
            _code(row.executor),
            _with_interval(row, SCORE),
            _with_interval(row, SUCCESS),
            "–" if row.halt_ms is None else f"{row.halt_ms:.0f}",
            f"{row.misses:.1f}",
        ]
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *body])


def _with_interval(row: Row, figure: Figure) -> str:
    estimate = overall(row.cells, figure)
    interval = figure.interval(estimate)
    number = "–" if estimate is None else figure.number(estimate.value)
    unit = " %" if figure is SUCCESS and estimate is not None else ""
    return f"{number}{unit} ({interval})" if interval else f"{number}{unit}"


def _code(text: str) -> str:
    r"""A code span in a cell of a table, as GitHub reads it: `\|` is a pipe, all else stands for
    itself, and more backticks are around it than inside.

    >>> _code("a|b"), _code(r"a\b_c"), _code("a`b")
    ('`a\\|b`', '`a\\b_c`', '``a`b``')
    """
    longest = max(map(len, re.findall("`+", text)), default=0)
    marks = "`" * (longest + 1)
    apart = " " if text.startswith(("`", " ")) or text.endswith(("`", " ")) else ""
    escaped = text.replace("|", r"\|")
    return f"{marks}{apart}{escaped}{apart}{marks}"


def _plain(text: str) -> str:
    """Text that Markdown and HTML leave as it is."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", escape(text, quote=False))
