"""`streamvla focus-variants`: the ways to save or steer attention, each trained alike and compared.

Three groups, each with its own control that had the same steps and batches from the same weights:

    control          trained                         compared with it
    whole views      all weights, long               crops
    crops, longer    from crops on, briefly          crops on a leash; crops with fewer tokens for
                                                     the backbone
    mixed attention  the expert alone, briefly       cascaded; best quarter of the tokens; gates;
                                                     each with fewer tokens at run time, too
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamvla.core.engine import LocalEngine
from streamvla.core.errors import ConfigError, InterruptedRunError, did_you_mean
from streamvla.core.files import require_writable
from streamvla.core.seeds import FIRST_EVALUATION_SEED
from streamvla.evaluation.metrics import RunMetrics, aggregate
from streamvla.evaluation.stats import compare_paired, wilson_interval
from streamvla.runtime.executors.options import EarlyOptions
from streamvla.studies.episodes import Eval, episode_jobs, outcome_of, run_missing
from streamvla.studies.tables import figure, print_json, print_table
from streamvla.studies.trainings import Train, train_config

SHIPPED = "shipped"
TASKS = (
    "peg-insert-side",
    "box-close",
    "push",
    "pick-place",
    "hand-insert",
    "drawer-open",
    "press-named-button",
    "put-named-block",
    "open-named-drawer",
)
"""Those that fail by millimetres, others of all kinds, and language scenes, where other things of
the same kind stand beside the one that is named."""


@dataclass(frozen=True)
class Variant:
    """A training.

    Attributes:
        changes: of `Train`.
        start: the policy it starts from: what ships, or another variant.
        brief: it takes `FocusVariants.brief_steps`.
    """

    changes: Mapping[str, Any]
    start: str = SHIPPED
    brief: bool = False


def _expert(**changes: Any) -> Variant:
    return Variant({"train": "expert", **changes}, brief=True)


def _further(**changes: Any) -> Variant:
    return Variant({"crops": True, "lr": 3e-4, **changes}, start="crops", brief=True)


_QUARTER = {"attention": "cascaded", "patch_k": 0.25}

VARIANTS: dict[str, Variant] = {
    "whole": Variant({}),
    "crops": Variant({"crops": True}),
    "crops-longer": _further(),
    "crops-leashed": _further(crop_leash_px=9.0),
    "crops-pruned": _further(pruned_to=0.5),
    "mixed": _expert(),
    "cascaded": _expert(attention="cascaded"),
    "quarter": _expert(**_QUARTER),
    "quarter-scalar": _expert(**_QUARTER, gate="scalar"),
    "quarter-head": _expert(**_QUARTER, gate="head"),
    "quarter-element": _expert(**_QUARTER, gate="element"),
}


@dataclass(frozen=True)
class Driven:
    """A row of the table.

    Attributes:
        variant: whose policy; `SHIPPED` for the one that ships.
        control: the row it is compared with.
        patch_k: share of the vision tokens that the expert attends to; None: as trained.
    """

    variant: str
    control: str
    patch_k: float | None = None


def _rows() -> dict[str, Driven]:
    rows = {SHIPPED: Driven(SHIPPED, SHIPPED)}
    for name, variant in VARIANTS.items():
        of_crops = "crops-longer" if variant.start == "crops" else "whole"
        expert = variant.changes.get("train") == "expert"
        rows[name] = Driven(name, "mixed" if expert else of_crops)
    for name in ("mixed", "quarter"):
        for k in (1.0, 0.5, 0.25, 0.125):
            if k != VARIANTS[name].changes.get("patch_k", 1.0):
                rows[f"{name}, K {k:g}"] = Driven(name, "mixed", k)
    return rows


ROWS = _rows()


@dataclass(frozen=True)
class FocusVariants:
    """Train the ways to spend less on vision from the weights that ship, and compare success.

    Resumable: what is trained and driven is kept.

    Attributes:
        names: rows; their controls come first by themselves. Default all.
        dataset, more: as for `train`.
        tasks: to train and evaluate on.
        steps: of trainings of all weights; brief_steps: of those of the expert alone, and of those
            that go on from another variant.
        lr: highest learning rate; 3e-4 for those that go on from crops.
        max_offset, threads: as for `train`.
        episodes: per task and row, the same seeds in each.
        seed: of the first episode.
        executors: as for `eval`; early observation is always on.
        workers: processes.
        out: folder for policies and traces.
        json: print the rows as one JSON object on the last line.
    """

    names: tuple[str, ...] = ()
    dataset: Path = Path("datasets/all")
    more: tuple[Path, ...] = ()
    tasks: tuple[str, ...] = TASKS
    steps: int = 6000
    brief_steps: int = 1500
    lr: float = 5e-4
    max_offset: int = 23
    threads: int | None = None
    episodes: int = 20
    seed: int = FIRST_EVALUATION_SEED
    executors: tuple[str, ...] = ("action-flow:auto",)
    workers: int = 2
    out: Path = Path("runs/focus-variants")
    json: bool = False

    def __post_init__(self) -> None:
        if len(self.executors) != 1:
            raise ConfigError(f"executors {', '.join(self.executors) or 'none'}: expected one")
        for name in self.names:
            if name not in ROWS:
                raise did_you_mean("variant", name, ROWS)

    def rows(self) -> list[str]:
        """The names of the rows, every control before what is compared with it."""
        names = self.names or tuple(ROWS)
        wanted = {*names, *(ROWS[name].control for name in names)}
        return [name for name in ROWS if name in wanted]


def run_focus_variants(command: FocusVariants) -> None:
    """Run the command: train what is not trained, drive what is not driven, print the table.

    Raises:
        InterruptedRunError: Ctrl-C during a training; the same command goes on.
    """
    require_writable(command.out / "rows.json")
    outcomes: dict[str, list[list[RunMetrics]]] = {}
    rows: list[dict[str, Any]] = []
    for name in command.rows():
        driven = ROWS[name]
        policy, error = _policy(command, driven.variant)
        outcomes[name] = _outcomes(command, driven, policy)
        rows.append(_row(command, name, error, outcomes))
        print(f"{name}: {100 * rows[-1]['success']:.0f} %", flush=True)
    _print_rows(command, rows)
    if command.json:
        seeds = list(range(command.seed, command.seed + command.episodes))
        print_json({"command": "focus-variants", "seeds": seeds, "rows": rows})


def _policy(command: FocusVariants, name: str) -> tuple[Path | str, float | None]:
    """The policy of a variant and its held-out action error, trained if it is not there."""
    from streamvla.training import train
    from streamvla.training.config import STATE_NAME

    if name == SHIPPED:
        return SHIPPED, None
    variant, out = VARIANTS[name], command.out / name
    changes = {"lr": command.lr, **variant.changes}
    settings = Train(
        dataset=command.dataset,
        more=command.more,
        tasks=command.tasks,
        init=Path(_policy(command, variant.start)[0]),
        steps=command.brief_steps if variant.brief else command.steps,
        max_offset=command.max_offset,
        threads=command.threads,
        out=out,
        resume=(out / STATE_NAME).exists(),
        **changes,
    )
    result = train(train_config(settings))
    if not result.finished:
        raise InterruptedRunError(
            f"interrupted in {name} at step {result.step} of {settings.steps}; "
            "run the same command to go on",
            result.stopped_by,
        )
    return result.policy, result.holdout["lead_0"]


def _outcomes(command: FocusVariants, driven: Driven, policy: Path | str) -> list[list[RunMetrics]]:
    """One list a task."""
    evaluation = Eval(
        policy=str(policy),
        tasks=command.tasks,
        episodes=command.episodes,
        seed=command.seed,
        executors=command.executors,
        early=EarlyOptions(early="always"),
        patch_k=driven.patch_k,
        workers=command.workers,
        out=command.out / "traces",
    )
    jobs = [episode_jobs(evaluation, str(policy), (task,)) for task in command.tasks]
    run_missing([job for of_task in jobs for job in of_task], LocalEngine(command.workers))
    return [[outcome_of(job) for job in of_task] for of_task in jobs]


_SHOWN = (
    "success",
    "success_ci",
    "episodes",
    "completion_time_s",
    "smoothness",
    "visual_tokens_per_observation",
    "visual_tokens_attended",
    "flops_per_observation",
)


def _row(
    command: FocusVariants,
    name: str,
    error: float | None,
    outcomes: dict[str, list[list[RunMetrics]]],
) -> dict[str, Any]:
    """The figures of one row, over all tasks and by task, beside those of its control."""
    mine, control = outcomes[name], outcomes[ROWS[name].control]
    figures = aggregate([run for runs in mine for run in runs])
    row = {"run": name, "control": ROWS[name].control, "action_error": error}
    row |= {key: figures[key] for key in _SHOWN}
    row |= _paired(
        [run for runs in control for run in runs], [run for runs in mine for run in runs]
    )
    for task, runs, beside in zip(command.tasks, mine, control, strict=True):
        solved = sum(bool(run.success) for run in runs)
        interval = wilson_interval(solved, len(runs))
        row[task] = {"success": solved / len(runs), "success_ci": interval, **_paired(beside, runs)}
    return row


def _paired(control: list[RunMetrics], runs: list[RunMetrics]) -> dict[str, Any]:
    paired = compare_paired(
        [bool(run.success) for run in control], [bool(run.success) for run in runs]
    )
    return {"difference": paired.difference, "difference_ci": [paired.low, paired.high]}


def _print_rows(command: FocusVariants, rows: list[dict[str, Any]]) -> None:
    print_table(
        f"ways to spend less on vision, {command.episodes} paired episodes a task",
        ("variant", "success", "less its control", "tokens attended", "GFLOP", "held-out error"),
        [
            (
                row["run"],
                f"{100 * row['success']:.0f} %",
                f"{100 * row['difference']:+.0f}",
                figure(row["visual_tokens_attended"], 0),
                figure(row["flops_per_observation"] / 1e9, 3),
                figure(row["action_error"], 4),
            )
            for row in rows
        ],
    )
