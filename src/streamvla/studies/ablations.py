"""`streamvla ablations`: one change at a time, each trained and evaluated on the same episodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamvla.core.engine import LocalEngine
from streamvla.core.errors import ConfigError, InterruptedRunError, did_you_mean
from streamvla.core.files import require_writable
from streamvla.core.seeds import FIRST_EVALUATION_SEED
from streamvla.evaluation.metrics import RunMetrics, aggregate
from streamvla.evaluation.stats import compare_paired
from streamvla.runtime.executors.registry import executor_named
from streamvla.studies.episodes import Eval, episode_jobs, outcome_of, run_missing
from streamvla.studies.tables import figure, print_json, print_table
from streamvla.studies.trainings import Train, train_config

CONTROL = "control"
TASKS = (
    "reach",
    "push",
    "pick-place",
    "button-press",
    "window-close",
    "press-named-button",
)
SHARED_CONTEXT = (
    "unshared-normalisation",
    "unaligned",
    "all-delta",
    "origin-episode",
    "no-contraction",
    "no-perturbation",
    "label-path",
    "tau-uniform",
    "tau-beta",
    "age-untold",
    "no-offset",
    "horizon-5",
)
"""Changes that leave the context as it is, so that experts alone can be compared."""


@dataclass(frozen=True)
class Ablations:
    """Train an action-flow expert per ablation on one frozen context, and compare their success.

    Every expert starts from the same random weights, sees the same batches and drives the same
    episodes; only the one change differs. Resumable: what is trained and driven is kept.

    Attributes:
        init: a policy of another method, whose context all experts use; default the chunk-flow
            policy that ships.
        names: ablations (`streamvla train --help`); the unchanged training comes first by itself.
        dataset: folder that `streamvla collect` wrote.
        tasks: to train and evaluate on.
        steps, batch_size, lr, seed: of each training.
        episodes: per task and ablation, the same seeds in each.
        executors: as for `eval`.
        out: folder for policies and traces.
        json: print the rows as one JSON object on the last line.
    """

    init: Path | None = None
    names: tuple[str, ...] = SHARED_CONTEXT
    dataset: Path = Path("datasets/all")
    tasks: tuple[str, ...] = TASKS
    steps: int = 1000
    batch_size: int = 32
    lr: float = 1e-3
    seed: int = 0
    episodes: int = 20
    executors: tuple[str, ...] = ("action-flow:0",)
    workers: int = 2
    out: Path = Path("runs/ablations")
    json: bool = False

    def __post_init__(self) -> None:
        from streamvla.training.ablations import ABLATIONS

        if len(self.executors) != 1:
            raise ConfigError(f"executors {', '.join(self.executors) or 'none'}: expected one")
        executor_named(self.executors[0].partition(":")[0])  # said before anything is trained
        for name in self.names:
            if name not in ABLATIONS:
                raise did_you_mean("ablation", name, ABLATIONS)


def run_ablations(command: Ablations) -> None:
    """Run the command: train what is not trained, drive what is not driven, print the table.

    Raises:
        InterruptedRunError: Ctrl-C during a training; the same command goes on.
    """
    require_writable(command.out / CONTROL / "log.jsonl")
    outcomes: dict[str, list[RunMetrics]] = {}
    errors: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    for name in (CONTROL, *command.names):
        policy, errors[name] = _trained(command, name)
        outcomes[name] = _driven(command, policy)
        rows.append(_row(name, errors, outcomes))
        print(f"{name}: {100 * rows[-1]['success']:.0f} %", flush=True)
    _print_rows(command, rows)
    if command.json:
        seeds = list(range(FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + command.episodes))
        print_json({"command": "ablations", "seeds": seeds, "rows": rows})


def _trained(command: Ablations, name: str) -> tuple[Path, float]:
    """The policy of one ablation and its held-out action error, trained if it is not there."""
    from streamvla.training import train
    from streamvla.training.config import STATE_NAME

    out = command.out / name
    settings = Train(
        dataset=command.dataset,
        out=out,
        ablation=None if name == CONTROL else name,
        steps=command.steps,
        batch_size=command.batch_size,
        lr=command.lr,
        tasks=command.tasks,
        seed=command.seed,
        train="expert",
        init=_context(command),
        resume=(out / STATE_NAME).exists(),
    )
    result = train(train_config(settings))
    if not result.finished:
        raise InterruptedRunError(
            f"interrupted in {name} at step {result.step} of {command.steps}; "
            "run the same command to go on",
            result.stopped_by,
        )
    return result.policy, result.holdout["lead_0"]


def _context(command: Ablations) -> Path:
    """The policy whose context is used; its expert must be no start for the ones to train."""
    from streamvla.model.checkpoint import method_of
    from streamvla.policy import resolve_checkpoint

    path = resolve_checkpoint(command.init, None if command.init else "chunk-flow")
    if method_of(path) == "action-flow":
        raise ConfigError(
            f"init {path} holds an action-flow expert, which the ablations would start from; name "
            "a policy of another method on the same context"
        )
    return path


def _driven(command: Ablations, policy: Path) -> list[RunMetrics]:
    evaluation = Eval(
        policy=str(policy),
        tasks=command.tasks,
        episodes=command.episodes,
        executors=command.executors,
        workers=command.workers,
        out=command.out / "traces",
    )
    jobs = episode_jobs(evaluation, str(policy), command.tasks)
    run_missing(jobs, LocalEngine(command.workers))
    return [outcome_of(job) for job in jobs]


def _row(
    name: str, errors: dict[str, float], outcomes: dict[str, list[RunMetrics]]
) -> dict[str, Any]:
    """The figures of one ablation beside those of the control."""
    runs, control = outcomes[name], outcomes[CONTROL]
    figures = aggregate(runs)
    paired = compare_paired(
        [bool(run.success) for run in control], [bool(run.success) for run in runs]
    )
    return {
        "run": name,
        "success": figures["success"],
        "success_ci": figures["success_ci"],
        "episodes": figures["episodes"],
        "success_difference": paired.difference,
        "success_difference_ci": [paired.low, paired.high],
        "action_error": errors[name],
        "action_error_ratio": errors[name] / errors[CONTROL],
        "smoothness": figures["smoothness"],
        "seam_ratio": figures["seam_ratio"],
    }


def _print_rows(command: Ablations, rows: list[dict[str, Any]]) -> None:
    print_table(
        f"ablations, {command.steps} steps each, {command.episodes} paired episodes a task",
        ("change", "success", "difference", "held-out error"),
        [
            (
                row["run"],
                f"{100 * row['success']:.0f} %",
                f"{100 * row['success_difference']:+.0f}",
                figure(row["action_error"], 4),
            )
            for row in rows
        ],
    )
