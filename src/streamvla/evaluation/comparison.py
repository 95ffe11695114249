"""The result of a sweep: figures of every episode, cells with intervals, paired differences.

A cell is all seeds of one task under one row (a policy under an executor), profile, number of
accelerators and stress. Differences are to the first row under the same conditions, over the same
seeds.
The schema is in `compare.schema.json`; all that depends on when and where a sweep ran stands in
`run`, and everything else is the same however often the sweep was interrupted.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from streamvla.core.clock import NS_PER_MS
from streamvla.core.errors import ConfigError
from streamvla.core.files import reason
from streamvla.core.seals import open_json
from streamvla.evaluation.stats import (
    Distribution,
    bootstrap_mean,
    compare_paired,
    wilson_interval,
)
from streamvla.evaluation.task_metrics import TaskMetrics, pooled_figure

SCHEMA = "streamvla-compare/1"

Record = dict[str, Any]
"""One episode: the fields of `EpisodeKey`, `driven` (the executor as it was made), `commit`,
`figures` (as `RunMetrics.to_json`, and `window`, `score`, `completion_time_s`, `measured`)."""


@dataclass(frozen=True, order=True)
class EpisodeKey:
    """What tells one episode of a sweep from all others."""

    task: str
    policy: str
    executor: str
    profile: str
    accelerators: int
    stress: str
    seed: int


KEY = tuple(each.name for each in fields(EpisodeKey))
_CELL = KEY[:-1]

_COUNTED = (
    "actions",
    "observations",
    "generations",
    "fallbacks",
    "deadline_misses",
    "starved_ticks",
    "unanswered_stimuli",
)
_SPREAD = ("action_age_ms", "loop_time_ms", "reaction_ms")
TASK_FIGURES = tuple(
    name for name in TaskMetrics().to_json() if name not in ("score", "completion_time_s")
)
"""How the task went, besides score and time (`evaluation.task_metrics`)."""
COMPUTE_FIGURES = (
    "visual_tokens_per_observation",
    "visual_tokens_attended",
    "encodes_per_observation",
    "flops_per_observation",
    "flops_per_tick",
)
"""What a policy computed (`evaluation.compute_metrics`); None where it does not count, and in
results from before that was counted."""
_SCALARS = (
    "success",
    "end_reason",
    "score",
    "completion_time_s",
    "t_action_ms",
    "halt_ms_per_observation",
    "longest_halt_ms",
    "startup_ms",
    "tail_ms",
    *_COUNTED,
    "mean_lead",
    "early_accept_rate",
    "seam_ratio",
    *TASK_FIGURES,
    *COMPUTE_FIGURES,
)
FIGURES = (
    *_SCALARS,
    *(f"{name}_{part}" for name in _SPREAD for part in ("mean", "p50", "max")),
    "sparc",
)
"""Of one episode in the result, besides `measured`."""


@dataclass(frozen=True)
class Plan:
    """What a sweep is made of, in its order.

    Attributes:
        rows: (policy, executor) labels; the first is what the others are compared to.
        settings: what else the episodes depend on, for the reader.
    """

    tasks: tuple[str, ...]
    rows: tuple[tuple[str, str], ...]
    profiles: tuple[str, ...]
    accelerators: tuple[int, ...]
    stress: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: dict[str, Any]

    def settings_of_cells(self) -> Iterator[tuple[str, int, str]]:
        """(profile, accelerators, stress)."""
        for profile in self.profiles:
            for accelerators in self.accelerators:
                for stress in self.stress:
                    yield profile, accelerators, stress


def comparison(plan: Plan, records: Iterable[Record], run: dict[str, Any]) -> dict[str, Any]:
    """The result of a sweep (`compare.schema.json`).

    Args:
        records: one for every episode of the plan.
        run: when and where.
    """
    of = {EpisodeKey(**{name: record[name] for name in KEY}): record for record in records}
    return {
        "schema": SCHEMA,
        "plan": {
            "tasks": list(plan.tasks),
            "rows": [{"policy": policy, "executor": executor} for policy, executor in plan.rows],
            "profiles": list(plan.profiles),
            "accelerators": list(plan.accelerators),
            "stress": list(plan.stress),
            "seeds": list(plan.seeds),
            **plan.settings,
        },
        "overall": [_cell(plan, of, plan.tasks, row, at) for row, at in _cells(plan)],
        "cells": [
            _cell(plan, of, (task,), row, at) for task in plan.tasks for row, at in _cells(plan)
        ],
        "episodes": [
            {name: record[name] for name in KEY} | {"figures": episode_figures(record["figures"])}
            for record in (of[key] for key in episode_keys(plan))
        ],
        "run": run,
    }


def episode_keys(plan: Plan) -> Iterator[EpisodeKey]:
    """Every episode, all of one seed of a task together."""
    for task in plan.tasks:
        for seed in plan.seeds:
            for (policy, executor), at in _cells(plan):
                yield EpisodeKey(task, policy, executor, *at, seed)


def _cells(plan: Plan) -> Iterator[tuple[tuple[str, str], tuple[str, int, str]]]:
    for at in plan.settings_of_cells():
        for row in plan.rows:
            yield row, at


def episode_figures(figures: dict[str, Any]) -> dict[str, Any]:
    """The `FIGURES` of an episode, and what its robot measured."""
    spread = {
        f"{name}_{part}": figures[name][part] for name in _SPREAD for part in ("mean", "p50", "max")
    }
    return {
        **{name: figures.get(name) for name in _SCALARS},
        **spread,
        "sparc": figures["smoothness"]["sparc"],
        "measured": figures["measured"],
    }


def _cell(
    plan: Plan,
    of: dict[EpisodeKey, Record],
    tasks: Sequence[str],
    row: tuple[str, str],
    at: tuple[str, int, str],
) -> dict[str, Any]:
    """One cell, or the same over all tasks (then its task is None)."""

    def taken(one: tuple[str, str]) -> list[Record]:
        return [of[EpisodeKey(task, *one, *at, seed)] for task in tasks for seed in plan.seeds]

    records = taken(row)
    first = None if row == plan.rows[0] else taken(plan.rows[0])
    task = tasks[0] if len(tasks) == 1 and tasks is not plan.tasks else None
    key = dict(zip(_CELL, (task, *row, *at), strict=True))
    return {
        **key,
        "driven": sorted({record["driven"] for record in records}),
        **pooled_figures([record["figures"] for record in records]),
        "paired": first and _paired(plan.rows[0], first, records),
    }


def pooled_figures(episodes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of several episodes as one.

    Ratios are of sums, counts add up, the longest halt is the longest of all; of a distribution
    `count`, `mean` and `max` are those of all measurements, `p50` is the median of the episodes'
    medians. How the task went pools as `task_metrics` says.
    """
    judged = [bool(each["success"]) for each in episodes if each["success"] is not None]
    scores = [each["score"] for each in episodes if each["score"] is not None]
    windows = [each["window"] for each in episodes if each["window"] is not None]
    actions, cycles = (sum(w[name] for w in windows) for name in ("actions", "cycles"))
    return {
        "episodes": len(episodes),
        "judged": len(judged),
        "successes": sum(judged),
        "success": _mean(judged),
        "success_ci": _listed(wilson_interval(sum(judged), len(judged))),
        "score": _mean(scores),
        "score_ci": _score_interval(scores),
        "completion_time_s": _mean(_present(episodes, "completion_time_s")),
        "t_action_ms": sum(w["length_ns"] for w in windows) / actions / NS_PER_MS
        if actions
        else None,
        "halt_ms_per_observation": (
            sum(w["idle_ns"] for w in windows) / cycles / NS_PER_MS if cycles else None
        ),
        "longest_halt_ms": max(_present(episodes, "longest_halt_ms"), default=None),
        "startup_ms": _mean(_present(episodes, "startup_ms")),
        "tail_ms": _mean(_present(episodes, "tail_ms")),
        **{name: sum(each[name] for each in episodes) for name in _COUNTED},
        "mean_lead": _weighted(episodes, "mean_lead", "later_observations"),
        "early_accept_rate": _weighted(episodes, "early_accept_rate", "later_observations"),
        "seam_ratio": _mean(_present(episodes, "seam_ratio")),
        **{name: pooled_figure(name, _present(episodes, name)) for name in TASK_FIGURES},
        **{name: _mean(_present(episodes, name)) for name in COMPUTE_FIGURES},
        "sparc": _mean(_present([each["smoothness"] for each in episodes], "sparc")),
        **{name: _spread([each[name] for each in episodes]) for name in _SPREAD},
        "end_reasons": _tally(each["end_reason"] or "cut off" for each in episodes),
        "measured": _measured([each["measured"] for each in episodes]),
    }


def _paired(row: tuple[str, str], first: list[Record], second: list[Record]) -> dict[str, Any]:
    """The second less the first, episode by episode."""
    solved = [[bool(each["figures"]["success"]) for each in some] for some in (first, second)]
    found = compare_paired(solved[0], solved[1])
    both = zip(first, second, strict=True)
    scored = [tuple(each["figures"]["score"] for each in pair) for pair in both]
    scores = [pair for pair in scored if None not in pair]
    between = [second - first for first, second in scores]
    return {
        "policy": row[0],
        "executor": row[1],
        "episodes": found.episodes,
        "difference": found.difference,
        "ci": [found.low, found.high],
        "p_value": found.p_value,
        "only_first": found.only_first,
        "only_second": found.only_second,
        "score_difference": _mean(between),
        "score_ci": _score_interval(between),
    }


def row_label(cell: dict[str, Any]) -> str:
    """Of a cell, for people: `expert/action-flow:auto`."""
    return f"{cell['policy']}/{cell['executor']}"


# --- files -----------------------------------------------------------------------------------


def read_comparison(path: Path) -> dict[str, Any]:
    """A result file.

    Raises:
        ConfigError: it cannot be read, is damaged, or is none.
    """
    try:
        found, sealed = open_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {reason(error)}") from error
    except ValueError as error:
        raise ConfigError(
            f"{path} is damaged ({error}): run the same `streamvla compare` again, which makes it "
            "anew from the episodes"
        ) from error
    if found.get("schema") != SCHEMA or not sealed:
        raise ConfigError(
            f"{path} has schema {found.get('schema')!r}, expected {SCHEMA!r}: name a result of "
            "`streamvla compare`"
        )
    return found


def comparison_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a result file."""
    text = files("streamvla.evaluation").joinpath("compare.schema.json").read_text(encoding="utf-8")
    return json.loads(text)


def episodes_csv(result: dict[str, Any]) -> str:
    """One row an episode: its key, its figures, and the last and the largest of what was
    measured."""
    episodes = result["episodes"]
    measured = sorted({name for each in episodes for name in each["figures"]["measured"]})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    parts = [(name, part) for name in measured for part in ("last", "max")]
    writer.writerow([*KEY, *FIGURES, *(f"{name}_{part}" for name, part in parts)])
    for each in episodes:
        figures = each["figures"]
        found = [figures["measured"].get(name, {}).get(part) for name, part in parts]
        cells = [each[name] for name in KEY] + [figures.get(name) for name in FIGURES] + found
        writer.writerow(["" if cell is None else cell for cell in cells])
    return text.getvalue()


# --- small parts -----------------------------------------------------------------------------


def _present(episodes: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [each[name] for each in episodes if each.get(name) is not None]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _listed(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _score_interval(values: Sequence[float]) -> list[float] | None:
    """Of a mean, as `task_metrics` has it; None of fewer than two."""
    return list(bootstrap_mean(values)[1:]) if len(values) > 1 else None


def _weighted(episodes: Sequence[dict[str, Any]], name: str, by: str) -> float | None:
    pairs = [(each[name], each[by]) for each in episodes if each[name] is not None]
    total = sum(weight for _, weight in pairs)
    return sum(value * weight for value, weight in pairs) / total if total else None


def _spread(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    counted = [part for part in parts if part["count"]]
    total = sum(part["count"] for part in counted)
    return {
        "count": total,
        "mean": sum(part["mean"] * part["count"] for part in counted) / total if total else None,
        "p50": Distribution.of([part["p50"] for part in counted]).p50,
        "max": max((part["max"] for part in counted), default=None),
    }


def _tally(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


def _measured(episodes: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Means over the episodes of the last value and of the largest."""
    names = sorted({name for each in episodes for name in each})
    return {
        name: {
            part: sum(each[name][part] for each in episodes if name in each)
            / sum(name in each for each in episodes)
            for part in ("last", "max")
        }
        for name in names
    }
