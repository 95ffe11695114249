"""Recipes of the figures on saved and steered attention."""

from __future__ import annotations

from streamvla.core.seeds import FIRST_REPORT_SEED, tuning_seeds
from streamvla.evaluation.results import Column
from streamvla.studies.focus_variants import TASKS
from streamvla.studies.recipe import Recipe, Row

_WORDS = {
    "shipped": "the policy that ships",
    "whole": "whole views",
    "crops": "crops at the gripper",
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

FOCUS: dict[str, Recipe] = {
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
