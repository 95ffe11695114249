"""`streamvla grid`: every rule of early observation × lead × compensation, on paired episodes."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from streamvla.core.engine import LocalEngine
from streamvla.core.errors import ConfigError
from streamvla.core.files import require_writable, write_text
from streamvla.core.interfaces import check_fit
from streamvla.core.provenance import commit, machine
from streamvla.core.seeds import FIRST_EVALUATION_SEED
from streamvla.evaluation.metrics import RunMetrics, aggregate
from streamvla.evaluation.report.charts import GridPoint, success_halt_svg
from streamvla.evaluation.report.grid_report import grid_html
from streamvla.evaluation.results import machine_words
from streamvla.evaluation.stats import compare_paired
from streamvla.robots.registry import suite_of
from streamvla.runtime import LatencyProfile
from streamvla.runtime.executors.action_flow import parse_compensation
from streamvla.runtime.executors.options import EarlyOptions, RuleName
from streamvla.studies.episodes import (
    Eval,
    Job,
    check_tasks,
    driven_at,
    episode_jobs,
    outcome_of,
    policy_of,
    run_missing,
    with_measured_times,
)
from streamvla.studies.outputs import MARK, require_ours
from streamvla.studies.stage_times import StatedTimes, require_stage_times
from streamvla.studies.tables import figure, print_json, print_table
from streamvla.trace.spans import Pacing

if TYPE_CHECKING:
    from streamvla.training.anticipation.early_error import LeadErrors

GridRule = Literal[RuleName, "second-look"]
RULES: tuple[GridRule, ...] = (
    "none",
    "always",
    "adaptive",
    "second-look",
    "random",
    "action-norm",
)
"""`adaptive` waits for a fresh look where it objects, `second-look` does not (decision 22)."""
MATCHED: tuple[GridRule, ...] = ("random", "action-norm")
"""They look as early as adaptive does, wherever that takes them."""
COMPENSATIONS: dict[str, tuple[str, bool]] = {
    "none": ("none", False),
    "state": ("state", False),
    "state + clock shift": ("state+clock-shift", False),
    "state + training": ("state", True),
    "state + training + context": ("state+context", True),
}
"""Name → what the executor compensates, and whether the policy was trained on old images."""


@dataclass(frozen=True)
class Grid:
    """Run the ablation grid of early observation; finished episodes are not run again.

    Cells without early observation are run once a policy. Random and action-norm look as early as
    adaptive does in the same cell: with as many actions pending, on average. A cell that needs a
    file that is not there is left out, and named.

    Attributes:
        policy: one trained on images up to 6 actions old; default the one that ships.
        unaugmented: one trained with `--max-offset 0`, for the cells without training.
        dataset: demonstrations for the held-out action error; none leaves it out.
        tasks: default all the policy was trained on.
        episodes: per task and cell, the same seeds in every cell.
        leads: fixed leads.
        rules: of none, always, adaptive, second-look, random, action-norm.
        rate: of random where there is no adaptive cell to match; action-norm then looks as early.
        profile, pacing, concurrent, seconds, seed, workers: as for `eval`; `measured` is measured
            once, with the policy, and kept in `out`.
        holdout_per_task, holdout_frames: of the dataset, for the held-out error.
        out: folder for the traces, the figure (grid.svg) and a page with every cell (report.html).
        figure: write the figure here too.
        json: print the cells as one JSON object on the last line.
    """

    policy: Path | None = None
    unaugmented: Path | None = None
    dataset: Path | None = None
    tasks: tuple[str, ...] = ()
    episodes: int = 20
    leads: tuple[int, ...] = (1, 2, 3, 5)
    rules: tuple[GridRule, ...] = RULES
    rate: float = 0.5
    profile: str | None = None
    times: StatedTimes = field(default_factory=StatedTimes)
    pacing: Pacing = "grid"
    concurrent: bool = False
    seconds: float = 15.0
    seed: int = FIRST_EVALUATION_SEED
    workers: int = 2
    holdout_per_task: int = 6
    holdout_frames: int = 256
    out: Path = Path("runs/grid")
    figure: Path | None = None
    json: bool = False

    def __post_init__(self) -> None:
        if not self.leads or min(self.leads) < 1:
            raise ConfigError(f"grid leads {self.leads}: expected at least one, each ≥ 1")
        unknown = set(self.rules) - set(RULES)
        if unknown or not self.rules:
            raise ConfigError(f"grid rules {self.rules}: expected some of {', '.join(RULES)}")


@dataclass(frozen=True)
class Cell:
    """One cell: its place in the grid, and how to evaluate it."""

    rule: GridRule
    lead: int
    compensation: str
    evaluation: Eval
    checkpoint: Path

    @property
    def name(self) -> str:
        if self.rule == "none":
            trained = COMPENSATIONS[self.compensation][1]
            return f"none, {'trained' if trained else 'not trained'} on old images"
        return f"{self.rule}, lead {self.lead}, {self.compensation}"


def run_grid(command: Grid) -> None:
    """Run the command: table, figure, JSON."""
    from streamvla.policy import known_tasks, resolve_checkpoint

    require_stage_times(command.profile, command.times)
    augmented = resolve_checkpoint(command.policy)
    tasks = command.tasks or known_tasks(augmented)
    check_tasks(tasks)
    _check_policies(augmented, command.unaugmented)
    require_ours(command.out / "report.html", MARK)
    for path in (command.out / "report.html", command.figure):
        if path is not None:
            require_writable(path)  # now, not after hours of driving
    spec = policy_of(str(augmented)).spec
    for task in tasks:
        check_fit(spec, suite_of(task).spec_of(task))
    measured = Eval(profile=command.profile, times=command.times, seed=command.seed)
    measured = with_measured_times(measured, str(augmented), tasks, command.out)
    command = replace(command, times=measured.times)
    session = _Session(command, augmented, tasks)
    first = [cell for cell in session.cells() if cell.rule not in MATCHED]
    session.measure(first)
    outcomes = session.run(first)
    matched = [session.matched(cell, outcomes) for cell in session.cells() if cell.rule in MATCHED]
    outcomes |= session.run([cell for cell in matched if cell is not None])
    rows = [session.row(cell, outcomes) for cell in outcomes]
    driven = driven_at(session.jobs)
    _write_pictures(command, rows, driven, measured.profile_for(spec))
    _print_rows(rows, measured.profile_for(spec))
    for reason in session.left_out:
        print(f"left out: {reason}")
    if command.json:
        seeds = list(range(command.seed, command.seed + command.episodes))
        print_json(
            {
                "command": "grid",
                "profile": measured.profile_for(spec).label,
                "seeds": seeds,
                "driven_at": driven,
                "cells": rows,
                "left_out": session.left_out,
            }
        )


class _Session:
    """The cells of one command, and what is kept between them."""

    def __init__(self, command: Grid, augmented: Path, tasks: tuple[str, ...]) -> None:
        self._command = command
        self._checkpoints = {True: augmented, False: command.unaugmented}
        self._tasks = tasks
        self._errors: dict[tuple[Path, str], LeadErrors] = {}
        self.jobs: list[Job] = []
        self.left_out: list[str] = []

    def cells(self) -> Iterator[Cell]:
        """All that can be run, rates of random and action-norm still to be matched."""
        for rule in self._command.rules:
            leads = (0,) if rule == "none" else self._command.leads
            compensations = ("state", "state + training") if rule == "none" else COMPENSATIONS
            for compensation in compensations:
                checkpoint = self._usable(rule, compensation)
                if checkpoint is not None:
                    for lead in leads:
                        yield self._cell(rule, lead, compensation, checkpoint)

    def _usable(self, rule: GridRule, compensation: str) -> Path | None:
        """The policy for a cell, or None with the reason noted."""
        told, trained = COMPENSATIONS[compensation]
        checkpoint = self._checkpoints[trained]
        if checkpoint is None:
            return self._leave_out(f"{rule}, {compensation}: no --unaugmented policy")
        gated = rule in ("adaptive", "second-look")
        looks_ahead = gated or "context" in told
        if rule == "second-look" and "context" in told:
            return self._leave_out(f"{rule}, {compensation}: a second look is used as it is")
        if looks_ahead and not policy_of(str(checkpoint)).spec.anticipates:
            return self._leave_out(f"{rule}, {compensation}: {checkpoint} has no predictor")
        if gated and not policy_of(str(checkpoint)).spec.thresholds:
            return self._leave_out(f"{rule}, {compensation}: the predictor is not calibrated")
        return checkpoint

    def _leave_out(self, reason: str) -> None:
        if reason not in self.left_out:
            self.left_out.append(reason)

    def _cell(self, rule: GridRule, lead: int, compensation: str, checkpoint: Path) -> Cell:
        command = self._command
        norm = 0.0 if rule == "action-norm" else None
        looks_again = rule == "second-look"
        options = EarlyOptions(
            "adaptive" if looks_again else rule,
            command.rate,
            norm,
            compensation=COMPENSATIONS[compensation][0],
            refused="second-look" if looks_again else "fresh-look",
        )
        evaluation = Eval(
            policy=str(checkpoint),
            tasks=self._tasks,
            episodes=command.episodes,
            executors=(f"action-flow:{lead}",),
            early=options,
            profile=command.profile,
            times=command.times,
            pacing=command.pacing,
            concurrent=command.concurrent,
            seconds=command.seconds,
            seed=command.seed,
            workers=command.workers,
            out=command.out / "traces",
        )
        return Cell(rule, lead, compensation, evaluation, checkpoint)

    def matched(self, cell: Cell, outcomes: dict[Cell, list[RunMetrics]]) -> Cell | None:
        """The cell, as early as the adaptive one in the same place; action-norm takes the norm that
        does so on held-out motions, and needs a dataset for that."""
        mean_lead = self._command.rate * cell.lead
        for other, runs in outcomes.items():
            same = (other.lead, other.compensation) == (cell.lead, cell.compensation)
            if other.rule == "adaptive" and same:
                mean_lead = aggregate(runs)["mean_lead"] or 0.0
        if cell.rule == "action-norm":
            errors = self._lead_errors(cell)
            if errors is None:
                self._leave_out("action-norm: its threshold is matched on --dataset")
                return None
            norm = math.ceil(1000 * errors.norm_for(cell.lead, mean_lead)) / 1000
            options = replace(cell.evaluation.early, norm=norm)
        else:
            options = replace(cell.evaluation.early, rate=round(mean_lead / cell.lead, 2))
        return replace(cell, evaluation=replace(cell.evaluation, early=options))

    def measure(self, cells: list[Cell]) -> None:
        """Held-out errors, before anything is driven: a dataset that does not fit is told at once.

        Raises:
            ConfigError, DatasetError: the dataset is missing, too small, or of another robot; or a
                lead is too long for it.
        """
        for cell in cells:
            self._lead_errors(cell)

    def run(self, cells: list[Cell]) -> dict[Cell, list[RunMetrics]]:
        """Metrics of every episode of every cell, in the order of tasks and seeds."""
        jobs = {
            cell: episode_jobs(cell.evaluation, str(cell.checkpoint), self._tasks) for cell in cells
        }
        everything = [job for each in jobs.values() for job in each]
        run_missing(everything, LocalEngine(self._command.workers))
        self.jobs += everything
        return {cell: [outcome_of(job) for job in each] for cell, each in jobs.items()}

    def row(self, cell: Cell, outcomes: dict[Cell, list[RunMetrics]]) -> dict[str, Any]:
        """The figures of a cell, with the paired difference to no early observation."""
        runs = outcomes[cell]
        figures = aggregate(runs)
        reference = self._reference(cell, outcomes)
        paired = None if reference is None else _paired(reference, runs)
        kept = (
            "success",
            "success_ci",
            "episodes",
            "halt_ms_per_observation",
            "t_action_ms",
            "starved_ticks",
            "early_accept_rate",
            "mean_lead",
            "seam_ratio",
            "smoothness",
        )
        return {
            "run": cell.name,
            "rule": cell.rule,
            "lead": cell.lead,
            "compensation": cell.compensation,
            "early": asdict(cell.evaluation.early),
            **{name: figures[name] for name in kept},
            "success_difference": paired and paired[0],
            "success_difference_ci": paired and list(paired[1:]),
            "action_error": self._error(cell),
        }

    def _reference(
        self, cell: Cell, outcomes: dict[Cell, list[RunMetrics]]
    ) -> list[RunMetrics] | None:
        """The episodes of the same policy without early observation."""
        for other, runs in outcomes.items():
            if other.rule == "none" and other.checkpoint == cell.checkpoint:
                return runs
        return None

    # --- held-out error ------------------------------------------------------------------------

    def _error(self, cell: Cell) -> float | None:
        errors = self._lead_errors(cell)
        if errors is None:
            return None
        options = cell.evaluation.early
        match cell.rule:
            case "none":
                return errors.none()
            case "always" | "second-look":  # until the second look takes over
                return errors.always(cell.lead)
            case "random":
                return errors.random(cell.lead, options.rate)
            case "action-norm":
                return errors.by_norm(cell.lead, options.norm or 0.0)
            case "adaptive":
                thresholds = policy_of(str(cell.checkpoint)).spec.thresholds
                return errors.adaptive(cell.lead, thresholds)

    def _lead_errors(self, cell: Cell) -> LeadErrors | None:
        """Of one policy and compensation, measured once."""
        if self._command.dataset is None:
            return None
        key = (cell.checkpoint, COMPENSATIONS[cell.compensation][0])
        if key not in self._errors:
            self._errors[key] = self._measure_errors(cell, self._command.dataset)
        return self._errors[key]

    def _measure_errors(self, cell: Cell, dataset: Path) -> LeadErrors:
        from streamvla.data.store import load_dataset
        from streamvla.policy import ModelPolicy
        from streamvla.training.anticipation.early_error import Compensated, lead_errors
        from streamvla.training.anticipation.gate import require_fit
        from streamvla.training.batches import split_holdout

        demonstrations = load_dataset(dataset, self._tasks)
        _, held_out = split_holdout(demonstrations, self._command.holdout_per_task)
        policy = policy_of(str(cell.checkpoint))
        assert isinstance(policy, ModelPolicy)
        require_fit(policy, demonstrations)
        parts = parse_compensation(cell.evaluation.early)
        return lead_errors(
            policy,
            demonstrations,
            held_out,
            Compensated(parts.state, parts.context, parts.clock_shift),
            max(self._command.leads),
            self._command.holdout_frames,
        )


def _paired(reference: list[RunMetrics], runs: list[RunMetrics]) -> tuple[float, float, float]:
    """Difference of success to the reference with its interval, same seeds in both."""
    found = compare_paired(
        [bool(each.success) for each in reference], [bool(each.success) for each in runs]
    )
    return found.difference, found.low, found.high


def _check_policies(augmented: Path, unaugmented: Path | None) -> None:
    """Raise `ConfigError` unless the second was made without what the first is named for."""
    from streamvla.model.checkpoint import load_checkpoint

    if unaugmented is None:
        return
    if unaugmented.resolve() == augmented.resolve():
        raise ConfigError(f"--unaugmented is the policy itself, {augmented}; name another")
    if load_checkpoint(unaugmented).method.max_age:
        raise ConfigError(
            f"--unaugmented {unaugmented} is told how old its images are, so it was trained on old "
            "ones; train one with --max-offset 0, or swap the two policies"
        )


def _write_pictures(
    command: Grid, rows: list[dict[str, Any]], driven: list[str], profile: LatencyProfile
) -> None:
    """The figure, and the page it is in."""
    points = [
        GridPoint(
            row["rule"],
            row["lead"],
            row["compensation"],
            row["halt_ms_per_observation"],
            row["success"],
            tuple(row["success_ci"]),
        )
        for row in rows
        if row["success"] is not None and row["halt_ms_per_observation"] is not None
    ]
    svg = success_halt_svg(points, list(COMPENSATIONS))
    for path in (command.out / "grid.svg", command.figure):
        if path is not None:
            write_text(path, svg)
    settings = {
        "Command": shlex.join(["streamvla", *sys.argv[1:]]),
        "Profile": f"{profile.label}, {command.pacing} pacing",
        "Episodes": f"{command.episodes} a task and cell, seeds from {command.seed}",
        "Tasks": ", ".join(command.tasks) or "all the policy was trained on",
        "Commit": f"{commit()}; episodes driven at {', '.join(driven)}",
        "Machine": machine_words(machine()),
    }
    page = command.out / "report.html"
    write_text(page, grid_html(rows, svg, settings))
    print(f"Figure: {command.figure or command.out / 'grid.svg'}; every cell: {page}")


def _print_rows(rows: list[dict[str, Any]], profile: LatencyProfile) -> None:
    print_table(
        f"early observation; {profile.label}",
        ("cell", "success", "halt / obs (ms)", "T_action (ms)", "mean lead", "held-out error"),
        [
            (
                row["run"],
                "–" if row["success"] is None else f"{100 * row['success']:.0f} %",
                figure(row["halt_ms_per_observation"]),
                figure(row["t_action_ms"]),
                figure(row["mean_lead"], 2),
                figure(row["action_error"], 4),
            )
            for row in rows
        ],
    )
