"""Recipes of the figures on saved and steered attention."""

from __future__ import annotations

from streamvla.core.seeds import FIRST_REPORT_SEED, tuning_seeds
from streamvla.evaluation.results import Column
from streamvla.evaluation.stats import compare_paired
from streamvla.studies.focus_variants import TASKS
from streamvla.studies.recipe import Recipe, Row

_WORDS = {
    "shipped": "the policy that ships",
    "whole": "whole views",
    "crops": "crops at the gripper",
    "crops-longer": "crops, trained longer",
    "crops-leashed": "crops that the instruction pulls",
    "crops-pruned": "crops, half of the tokens into the backbone",
    "mixed": "mixed attention",
    "cascaded": "cascaded attention",
    "quarter": "cascaded, best quarter",
    "quarter-scalar": "cascaded, best quarter, scalar gate",
    "quarter-head": "cascaded, best quarter, head-wise gate",
    "quarter-element": "cascaded, best quarter, element-wise gate",
}


def _named(name: str) -> str:
    """`mixed, K 0.5` → `mixed attention, best 1/2 at run time`."""
    variant, _, k = name.partition(", K ")
    if not k:
        return _WORDS[variant]
    share = "all tokens" if float(k) == 1 else f"best 1/{1 / float(k):g}"
    return f"trained as {_WORDS[variant]}; {share} at run time"


def _variant_rows(name: str, figures: Row) -> list[Row]:
    return [
        {
            **row,
            "run": _named(row["run"]),
            "control": _named(row["control"]),
            "gflop": row["flops_per_observation"] / 1e9,
        }
        for row in figures["rows"]
    ]


_COLUMNS = {
    "run": Column("variant"),
    "control": Column("compared with"),
    "success": Column("success", 0, percent=True, interval="success_ci"),
    "difference": Column("difference, paired", 0, percent=True, interval="difference_ci"),
    "completion_time_s": Column("time of successes (s)", 2),
    "visual_tokens_per_observation": Column("vision tokens", 0),
    "visual_tokens_attended": Column("attended", 0),
    "gflop": Column("GFLOP / observation", 3),
    "action_error": Column("held-out action error", 3),
}
_BY_TASK = {
    f"{task}.success": Column(task, 0, percent=True, interval=f"{task}.success_ci")
    for task in TASKS
}


def trained(variant: str) -> str:
    """Where `focus-variants` leaves a policy."""
    return f"runs/focus-variants/{variant}/policy.safetensors"


ARM_TASKS = TASKS[:6]
"""The Meta-World tasks of them."""

_SKIPS = "--skip-tolerance 0.5 --skip-opening 0.5 --most-skips"
"""Until the gripper is told to open or close, or does."""

_SAVED = {
    "whole views": ("whole", ""),
    "whole views, skipping two": ("whole", f"{_SKIPS} 2"),
    "crops": ("crops", ""),
    "crops, half of the tokens": ("crops-pruned", ""),
    "the same, unchanged views kept": ("crops-pruned", "--reuse 0"),
    "the same, skipping one": ("crops-pruned", f"--reuse 0 {_SKIPS} 1"),
    "the same, skipping one, phase 1": ("crops-pruned", f"--reuse 0 {_SKIPS} 1 --skip-phase 1"),
    "the same, skipping two": ("crops-pruned", f"--reuse 0 {_SKIPS} 2"),
    "the same, skipping two, phase 1": ("crops-pruned", f"--reuse 0 {_SKIPS} 2 --skip-phase 1"),
    "the same, skipping two, phase 2": ("crops-pruned", f"--reuse 0 {_SKIPS} 2 --skip-phase 2"),
    "the same, skipping two, views kept up to 2 grey levels": (
        "crops-pruned",
        f"--reuse 2 {_SKIPS} 2",
    ),
    "the same, learned gate at .3": (
        "crops-pruned",
        "--reuse 0 --most-skips 2 --skip-gate 0.3",
    ),
}
"""Row → variant, options of `eval`; every row is compared with the first, and one that skips with
the row of the same policy that does not, too."""

_UNSKIPPED = {"whole": "whole views", "crops-pruned": "the same, unchanged views kept"}


def _solved(figures: Row) -> list[bool]:
    return [letter == "1" for task in figures["tasks"].values() for letter in task["solved"]]


def _beside(control: Row, figures: Row) -> Row:
    paired = compare_paired(_solved(control), _solved(figures))
    return {"difference": paired.difference, "difference_ci": [paired.low, paired.high]}


def _saved_rows(figures: dict[str, Row]) -> list[Row]:
    first = next(iter(figures.values()))
    rows = []
    for name, each in figures.items():
        variant, options = _SAVED[name]
        row = {"run": name, **each, **_beside(first, each)}
        row |= {
            "encoded": each["encodes"] / _pictures(variant) / each["observations"],
            "encoded_per_success": _encoded_per_success(variant, each),
            "gflop": each["flops_per_observation"] / 1e9,
            "time_by_task": _mean_time(each),
        }
        if "skips" in options:
            every = figures[_UNSKIPPED[variant]]
            row["same_policy"] = _beside(every, each)
            spent = row["encoded_per_success"], _encoded_per_success(variant, every)
            row["saved"] = None if None in spent else 1 - spent[0] / spent[1]
        rows.append(row)
    return rows


def _pictures(variant: str) -> int:
    """Through an encoder for one observation of two views."""
    return 4 if variant.startswith("crops") else 2


def _encoded_per_success(variant: str, figures: Row) -> float | None:
    """Observations; None: nothing succeeded."""
    if not figures["successes"]:
        return None
    return figures["encodes"] / _pictures(variant) / figures["successes"]


def _mean_time(figures: Row) -> float | None:
    """Of successes, mean over the tasks, so that a task that is solved more often adds no time;
    None: a task was never solved."""
    times = [task["completion_time_s"] for task in figures["tasks"].values()]
    return None if None in times else sum(times) / len(times)


_SAVED_COLUMNS = {
    "run": Column("observation"),
    "success": Column("success", 0, percent=True, interval="success_ci"),
    "difference": Column("less whole views, paired", 1, percent=True, interval="difference_ci"),
    "same_policy.difference": Column(
        "less the same policy, paired", 1, percent=True, interval="same_policy.difference_ci"
    ),
    "encoded": Column("of the observations encoded", 0, percent=True),
    "encoded_per_success": Column("encoded per success", 1),
    "saved": Column("fewer", 0, percent=True),
    "gflop": Column("GFLOP / observation", 3),
    "time_by_task": Column("time of successes, mean over tasks (s)", 2),
    "smoothness.mean_jerk": Column("mean jerk of the commands", 0),
}

_SAVED_BY_TASK = {f"tasks.{task}.success": Column(task, 0, percent=True) for task in ARM_TASKS}

_MOVED = {
    "every observation encoded": "",
    "skipping two": f"{_SKIPS} 2",
    "the same, but what moves is encoded": f"{_SKIPS} 2 --skip-pixels 4",
    "the same, the arm left out": f"{_SKIPS} 2 --skip-pixels 4 --skip-arm 40",
}
"""Row → options of `eval`, with a goal that is moved."""

_MOVED_COLUMNS = {
    "run": Column("observation"),
    "encoded": Column("of the observations encoded", 0, percent=True),
    "reaction_ms.p50": Column("reaction p50 (ms)", 0),
    "reaction_ms.mean": Column("mean (ms)", 0),
    "reaction_ms.std": Column("standard deviation", 0),
    "reaction_ms.count": Column("reactions", 0),
    "success": Column("success", 0, percent=True, interval="success_ci"),
}


def _moved_rows(name: str, figures: Row) -> list[Row]:
    encoded = figures["encodes"] / _pictures("whole") / figures["observations"]
    return [{"run": name, **figures, "encoded": encoded}]


FOCUS: dict[str, Recipe] = {
    "moved-goal": Recipe(
        commands={
            name: "eval --policy runs/reach-old-frames/policy.safetensors --tasks reach-moved "
            f"--episodes 100 --seed {FIRST_REPORT_SEED} --executors action-flow:auto "
            + " ".join(f"--early always {options} --out runs/results/moved-goal --json".split())
            for name, options in _MOVED.items()
        },
        rows=_moved_rows,
        tuning_seeds=tuning_seeds(),
        columns=_MOVED_COLUMNS,
        tables={"main": tuple(_MOVED_COLUMNS)},
    ),
    "saving": Recipe(
        commands={
            name: f"eval --policy {trained(variant)} --tasks {' '.join(ARM_TASKS)} --episodes 100 "
            f"--seed {FIRST_REPORT_SEED} --executors action-flow:auto --early always "
            + " ".join(f"{options} --out runs/results/saving --json".split())
            for name, (variant, options) in _SAVED.items()
        },
        gather=_saved_rows,
        tuning_seeds=tuning_seeds(),
        columns={**_SAVED_COLUMNS, **_SAVED_BY_TASK},
        tables={"main": tuple(_SAVED_COLUMNS), "tasks": ("run", *_SAVED_BY_TASK)},
    ),
    "focus-variants": Recipe(
        commands={
            "variants": "focus-variants --dataset datasets/crops --more datasets/language "
            f"--threads 1 --episodes 50 --seed {FIRST_REPORT_SEED} --json"
        },
        rows=_variant_rows,
        tuning_seeds=tuning_seeds(),
        columns={**_COLUMNS, **_BY_TASK},
        tables={"main": tuple(_COLUMNS), "tasks": ("run", *_BY_TASK)},
    ),
}
