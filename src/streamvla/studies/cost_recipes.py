"""Recipes of what an observation costs, and of what a cheaper one does to the whole loop."""

from __future__ import annotations

from streamvla.core.numbers import exact
from streamvla.core.seeds import FIRST_REPORT_SEED, tuning_seeds
from streamvla.evaluation.results import Column
from streamvla.studies.focus_recipes import ARM_TASKS, trained
from streamvla.studies.recipe import Recipe, Row

_CROPS, _PRUNED_CROPS = trained("crops"), trained("crops-pruned")

CHEAPER = {"crops, half of the tokens": (1.07, 0.60), "half of both (assumed)": (0.5, 0.5)}
"""What a look and a context take, as shares of their times on whole frames. The first pair is
measured: `look_ratio` and `context_ratio` of "crops, half of the tokens", moving robot, in
observation-cost.json, to two decimals. The second is assumed, to show where the next step is."""

_EXECUTORS = {
    "synchronous": ("expert-chunks", "synchronous"),
    "early observation": ("expert", "action-flow:up-to-9"),
    "as fast as possible": ("expert", "action-flow:up-to-9,replan=as-fast-as-possible"),
}
"""Name → policy, executor."""


def _options(shares: tuple[float, float]) -> str:
    """Behind an expert's name (`data.experts`)."""
    look, context = map(exact, shares)
    return f":look={look}:context={context}"


def _entries(policy: str, executor: str) -> str:
    """Whole frames first, which the others are compared to."""
    sources = [policy, *(policy + _options(shares) for shares in CHEAPER.values())]
    return " ".join(f"{source}/{executor}" for source in sources)


def _loop_rows(name: str, figures: Row) -> list[Row]:
    """One row a profile and cost, of one executor over all tasks."""
    words = {_options(shares): cost for cost, shares in CHEAPER.items()}
    rows: list[Row] = []
    for cell in figures["overall"]:
        _, colon, options = cell["policy"].partition(":")
        cost = words[colon + options] if colon else "whole frames"
        rows.append({"run": f"{cell['profile']}, {name}, {cost}", **cell})
    return rows


_LOOP_FIGURES = {
    "run": Column("profile, executor, cost of an observation"),
    "success": Column("success", 0, percent=True, interval="success_ci"),
    "paired.difference": Column("less whole frames, paired", 1, percent=True, interval="paired.ci"),
    "score": Column("score of 10", 1, interval="score_ci"),
    "paired.score_difference": Column("less whole frames, paired", 2, interval="paired.score_ci"),
    "mean_lead": Column("mean lead", 2),
    "halt_ms_per_observation": Column("halt / observation (ms)", 0),
    "action_age_ms.p50": Column("action age p50 (ms)", 0),
    "action_age_ms.mean": Column("mean (ms)", 0),
    "reaction_ms.p50": Column("reaction p50 (ms)", 0),
    "reaction_ms.mean": Column("mean (ms)", 0),
    "completion_time_s": Column("time of successes (s)", 2),
}


def _loop_recipe(arguments: str, without: tuple[str, ...] = ()) -> Recipe:
    """The expert under each executor, at every cost of an observation, on one accelerator."""
    sweep = f"compare {arguments} --profiles paper-20hz edge-20hz --seed {FIRST_REPORT_SEED}"
    return Recipe(
        commands={
            name: f"{sweep} --executors {_entries(*entry)} --no-report --json"
            for name, entry in _EXECUTORS.items()
        },
        rows=_loop_rows,
        tuning_seeds=tuning_seeds(),
        columns=_LOOP_FIGURES,
        tables={"main": tuple(name for name in _LOOP_FIGURES if name not in without)},
    )


_SKIPPING = "+most_skips=2+skip_tolerance=0.5"
_VARIANTS = {
    "shipped": "whole frames",
    "shipped+reuse=0": "unchanged views kept",
    "shipped+reuse=2": "views kept up to 2 grey levels",
    _CROPS: "crops",
    _PRUNED_CROPS: "crops, half of the tokens",
    f"{_PRUNED_CROPS}+reuse=2": "the same, views kept up to 2 grey levels",
    f"{_PRUNED_CROPS}+reuse=2{_SKIPPING}": "the same, skipping two",
}


def _variant_rows(name: str, figures: Row) -> list[Row]:
    """One row a variant and scene of a `bench observation`."""
    return [
        {**row, "run": f"{_VARIANTS.get(row['run'], row['run'])}, {row['scene']} robot"}
        for row in figures["rows"]
    ]


_COST_FIGURES = {
    "run": Column("observation, frames to context"),
    "observations": Column("observations", 0),
    "ms_p50": Column("p50 (ms)"),
    "ms_p90": Column("p90 (ms)"),
    "ms_mean": Column("mean (ms)"),
    "ratio": Column("time to whole frames", 2, interval="ratio_ci"),
    "look_ratio": Column("look", 2, interval="look_ratio_ci"),
    "context_ratio": Column("context", 2, interval="context_ratio_ci"),
    "encodes_per_observation": Column("pictures encoded", 2),
    "gflop": Column("GFLOP", 3),
    "encoder_saved": Column("encoder's operations saved", 0, percent=True),
}

_KINDS = {"memory": "memory", "full history": "history", "window, anew": "anew"}
"""What `bench stream` compares → the key of its figures."""


def _stream_rows(name: str, figures: Row) -> list[Row]:
    """The stream as a whole, and one row a length of what is compared."""
    rows: dict[int, Row] = {}
    for each in figures["compared"]:
        row = rows.setdefault(each["before"], {"run": f"after {each['before']}"})
        row[_KINDS[each["kind"]]] = {"ms": each["ms"], "mb": each["bytes"] / 1e6}
    whole = {key: value for key, value in figures.items() if key != "compared"}
    whole |= {
        "run": "the stream",
        "memory_mb": figures["memory_bytes"] / 1e6,
        "resident_slope_kb": figures["resident_slope_bytes_per_1000"] / 1e3,
        "resident_slope_kb_ci": [bound / 1e3 for bound in figures["resident_slope_ci"]],
    }
    return [whole, *rows.values()]


_STREAM_FIGURES = {
    "run": Column("observations"),
    "observe_p50_ms": Column("p50 (ms)", 2),
    "without_memory_p50_ms": Column("without memory", 2),
    "ratio": Column("ratio", 3),
    "slope_us_per_1000": Column("slope, µs per 1000", 1, interval="slope_ci"),
    "without_memory_slope_us_per_1000": Column(
        "without memory", 1, interval="without_memory_slope_ci"
    ),
    "beside_slope_us_per_1000": Column("difference", 1, interval="beside_slope_ci"),
    "memory_mb": Column("memory (MB)", 2),
    "resident_slope_kb": Column("resident, kB per 1000", 1, interval="resident_slope_kb_ci"),
}
_LENGTH_FIGURES = {
    "run": Column("observations"),
    **{
        f"{key}.{figure}": Column(f"{kind} ({unit})", digits)
        for kind, key in _KINDS.items()
        for figure, unit, digits in (("ms", "ms", 1), ("mb", "MB", 2))
    },
}

COSTS: dict[str, Recipe] = {
    "stream": Recipe(
        commands={
            "this machine": "bench stream --observations 10000 "
            f"--seed {FIRST_REPORT_SEED} --compare --json"
        },
        rows=_stream_rows,
        tuning_seeds=tuning_seeds(),
        columns={**_STREAM_FIGURES, **_LENGTH_FIGURES},
        tables={"main": tuple(_STREAM_FIGURES), "lengths": tuple(_LENGTH_FIGURES)},
    ),
    "observation-cost": Recipe(
        commands={
            "this machine": f"bench observation --policies {' '.join(_VARIANTS)} "
            f"--tasks {' '.join(ARM_TASKS)} --episodes 5 --still 20 --seed {FIRST_REPORT_SEED} "
            "--json"
        },
        rows=_variant_rows,
        tuning_seeds=tuning_seeds(),
        columns=_COST_FIGURES,
        tables={"main": tuple(_COST_FIGURES)},
    ),
    "cheaper-observation": _loop_recipe("--suite tempo --episodes 10 --out runs/results/tempo"),
    "cheaper-reaction": _loop_recipe(
        "--tasks reach-moved --episodes 100 --seconds 6 --out runs/results/cheaper-reaction",
        without=("score", "paired.score_difference"),
    ),
}
