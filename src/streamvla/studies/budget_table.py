"""`streamvla bench budget`: what a policy's observations cost with each of several settings, and
what they give; the table goes into the policy's file, where `eval --budget-flops` finds it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, Protocol

from streamvla.core.budget import WHOLE, BudgetRow, BudgetTable, settings_name
from streamvla.core.clock import NS_PER_MS, SystemClock
from streamvla.core.errors import ConfigError
from streamvla.core.files import replacing, require_writable
from streamvla.core.interfaces import Policy, begin_episode
from streamvla.core.provenance import commit, machine
from streamvla.core.seeds import FIRST_TUNING_SEED
from streamvla.evaluation.metrics import RunMetrics, aggregate
from streamvla.robots.registry import suite_tasks
from streamvla.studies.dial import EVERY, stated_by
from streamvla.studies.engines import parse_engine
from streamvla.studies.episodes import (
    Eval,
    Job,
    check_tasks,
    close_robots,
    drive,
    episode_jobs,
    executor_of,
    outcome_of,
    policy_and_tasks,
    policy_of,
    require_robots,
    run_missing,
)
from streamvla.studies.recording import Recorder, Seen
from streamvla.studies.tables import figure, print_json, print_table
from streamvla.trace import MemoryTrace

if TYPE_CHECKING:  # it needs torch
    from streamvla.policy.sources import FoundPolicy


@dataclass(frozen=True)
class BenchBudget:
    """Measure what observations cost with each of several settings, and what they give.

    The same episodes with all of them. The table goes into a copy of the policy's file, for
    `streamvla eval --budget-flops` and `--budget-ms`. Finished episodes are kept in `out`; run the
    same command to go on.

    Attributes:
        policy: a file or folder of ours; default what ships.
        method: of the policy, where the folder holds several.
        settings: a row of the table each: settings joined by "+", as in reuse=8+most_skips=1,
            of patch_k, reuse, most_skips, skip_phase, skip_tolerance, skip_opening, skip_pixels,
            skip_arm, skip_gate, and every_CAMERA. Whole frames are always a row. Default: one of
            the simplest that the policy can have, and two pairs.
        suite: measure on all tasks of a suite.
        tasks: default all the policy was trained on.
        episodes: per task and row, at seeds `seed`, `seed` + 1, …
        executors: one, as of eval.
        profile: stage times of the latency model, as of eval.
        seconds: an episode's limit, on the robot's clock.
        repeats: how often the observations of the first episode of each task are encoded with
            every row to time them; the shortest of each counts, for what else the machine does
            only adds to it.
        engine: local, or ray.
        workers: processes of the local engine.
        out: folder for the traces.
        write: the file to write the policy with its table to; default of its name, in `out`. A
            file that holds another policy is refused.
        json: print the figures as one JSON object on the last line.
    """

    policy: str | None = None
    method: str | None = None
    settings: tuple[str, ...] = ()
    suite: str | None = None
    tasks: tuple[str, ...] = ()
    episodes: int = 50
    executors: tuple[str, ...] = ()
    profile: str | None = None
    seconds: float = 15.0
    seed: int = FIRST_TUNING_SEED
    repeats: int = 5
    engine: str = "local"
    workers: int = 2
    out: Path = Path("runs/budget")
    write: Path | None = None
    json: bool = False

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ConfigError(f"repeats {self.repeats} must be at least 1")
        self.evaluation({})  # says what cannot be, before the policy is loaded

    def evaluation(self, settings: dict[str, float]) -> Eval:
        """The `eval` of one row."""
        return Eval(
            policy=self.policy,
            method=self.method,
            suite=self.suite,
            tasks=self.tasks,
            episodes=self.episodes,
            executors=self.executors,
            profile=self.profile,
            seconds=self.seconds,
            seed=self.seed,
            engine=self.engine,
            workers=self.workers,
            out=self.out,
            **stated_by(settings),
        )


def bench_budget(command: BenchBudget) -> None:
    """Run the command, print the table, and write it into a policy file."""
    from streamvla.model.checkpoint import write_budget
    from streamvla.policy import find_policy

    engine = parse_engine(command.engine, command.workers)
    named = suite_tasks(command.suite) if command.suite else command.tasks
    source, tasks = policy_and_tasks(command.policy, named, command.method)
    check_tasks(tasks)
    found = find_policy(source, command.method)
    file = found.file
    if file is None:
        raise ConfigError(f"{found.name} is no policy file of ours, which the table goes into")
    target = command.write or command.out / file.name
    require_target(file, target)
    rows = _rows(command, source, found)
    require_robots(policy_of(source, command.method, {}), tasks, "train", "own")
    evaluations = {settings_name(row): command.evaluation(row) for row in rows}
    jobs = {name: episode_jobs(each, source, tasks) for name, each in evaluations.items()}
    run_missing([job for some in jobs.values() for job in some], engine)
    outcomes = {name: [outcome_of(job) for job in some] for name, some in jobs.items()}
    policies = [policy_of(source, command.method, row) for row in rows]
    milliseconds = _time(policies, _seen(jobs[WHOLE]), command.repeats)
    table = BudgetTable(
        tuple(
            _row(settings, outcomes[name], outcomes[WHOLE], taken, milliseconds[0])
            for settings, name, taken in zip(rows, outcomes, milliseconds, strict=True)
        ),
        _measured(command, found, policies[0], evaluations[WHOLE], tasks),
    )
    write_budget(file, target, table)
    _copy_beside(file, target)
    _report(command, table, target)


def require_target(source: Path, target: Path) -> None:
    """Raise `ConfigError` if the table would replace something else than a copy of the policy."""
    from streamvla.model.checkpoint import load_tensors

    require_writable(target)
    if not target.exists() or target.samefile(source):
        return
    here, there = load_tensors(source)[1], load_tensors(target)[1]
    same = here.keys() <= there.keys() and all(here[n].equal(there[n]) for n in here)
    if not same:
        raise ConfigError(
            f"{target} holds another policy than {source}: name another file with --write"
        )


def _copy_beside(source: Path, target: Path) -> None:
    """What lies beside a policy and belongs to what it sees with: its saliency predictor and its
    gate of skipping."""
    from streamvla.policy.saliency import saliency_path
    from streamvla.policy.skip_gate import skip_gate_path

    for path_of in (saliency_path, skip_gate_path):
        beside = path_of(source)
        if beside.is_file() and path_of(target).resolve() != beside.resolve():
            with replacing(path_of(target)) as partial:
                shutil.copyfile(beside, partial)


# --- rows ------------------------------------------------------------------------------------


def parse_row(text: str) -> dict[str, float]:
    """The settings of a row by name.

    Raises:
        ConfigError: a part that is not NAME=NUMBER, a name twice, or one that is no such setting.

    >>> parse_row("reuse=8+most_skips=1"), parse_row("whole")
    ({'reuse': 8.0, 'most_skips': 1.0}, {})
    """
    settings: dict[str, float] = {}
    for part in [] if text == WHOLE else text.split("+"):
        name, equals, number = part.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value, equals = 0.0, ""
        if not equals or name in settings:
            raise ConfigError(
                f"settings {text}: expected NAME=NUMBER, joined by +, each name once, such as "
                "reuse=8+most_skips=1"
            )
        settings[name] = value
    stated_by(settings)
    return settings


def default_rows(views: Sequence[str]) -> list[str]:
    """One of every kind, and pairs that go well together."""
    cameras = [f"{EVERY}{view}=2" for view in views] if len(views) > 1 else []
    single = ["patch_k=0.5", "patch_k=0.25", "reuse=0", "reuse=8", "most_skips=1", "most_skips=2"]
    return [*single, *cameras, "reuse=8+most_skips=1", "reuse=8+most_skips=2"]


def _rows(command: BenchBudget, source: str, found: FoundPolicy) -> list[dict[str, float]]:
    """Whole frames first. Of the default rows those that the policy cannot have are left out."""
    spec = policy_of(source, command.method, {}).spec
    rows, kinds = [dict[str, float]()], [spec.settings]
    for text in command.settings or default_rows(spec.views):
        try:
            row = command.evaluation(parse_row(text)).policy_settings()
            kind = policy_of(source, command.method, row).spec.settings
        except ConfigError as error:
            if command.settings:
                raise
            print(f"Without {text}: {error}", file=sys.stderr, flush=True)
            continue
        if kind not in kinds:
            rows.append(row)
            kinds.append(kind)
    return rows


def _row(
    settings: dict[str, float],
    runs: list[RunMetrics],
    whole: list[RunMetrics],
    taken_ms: float,
    whole_ms: float,
) -> BudgetRow:
    """What was measured with these settings, beside whole frames on the same episodes."""
    figures = aggregate(runs)
    if not figures["judged"] or figures["flops_per_observation"] is None:
        raise ConfigError(
            "the episodes were not judged, or their observations not counted: measure on tasks, "
            "with a policy that counts its costs"
        )
    both = [
        (one.task.completion_time_s, other.task.completion_time_s)
        for one, other in zip(runs, whole, strict=True)
        if one.task.completion_time_s and other.task.completion_time_s
    ]
    return BudgetRow(
        settings,
        flops=figures["flops_per_observation"],
        ms=taken_ms,
        ms_ratio=taken_ms / whole_ms,
        episodes=figures["judged"],
        success=figures["success"],
        success_ci=figures["success_ci"],
        completion_time_s=figures["completion_time_s"],
        time_ratio=sum(a for a, _ in both) / sum(b for _, b in both) if both else None,
    )


def _measured(
    command: BenchBudget,
    found: FoundPolicy,
    policy: Policy,
    whole: Eval,
    tasks: tuple[str, ...],
) -> dict[str, Any]:
    """How the table came to be."""
    return {
        "machine": machine(),
        "commit": commit(),
        "policy": dict(found.identity),
        "tasks": list(tasks),
        "episodes": command.episodes,
        "first_seed": command.seed,
        "executor": executor_of(whole, policy).slug(),
        "profile": whole.profile_for(policy.spec).label,
        "seconds": command.seconds,
    }


# --- time ------------------------------------------------------------------------------------


class _Clock(Protocol):
    def now_ns(self) -> int: ...


def _seen(jobs: list[Job]) -> list[list[Seen]]:
    """The observations of the first episode of every task, driven once more."""
    firsts = {job.task: job for job in reversed(jobs)}
    episodes = []
    for job in firsts.values():
        policy = policy_of(job.source, job.settings.method, job.settings.policy_settings())
        recorder = Recorder(policy)
        drive(job, MemoryTrace(), driving=recorder)
        episodes.append(recorder.seen)
    close_robots()
    return episodes


def _time(
    policies: Sequence[Policy], episodes: Sequence[Sequence[Seen]], repeats: int
) -> list[float]:
    """Milliseconds an observation of every policy, on one thread: policies take turns episode by
    episode, so that a disturbance hits all alike; the first turn does not count."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return encode_ms(policies, episodes, repeats, SystemClock())
    finally:
        torch.set_num_threads(threads)


def encode_ms(
    policies: Sequence[Policy],
    episodes: Sequence[Sequence[Seen]],
    repeats: int,
    clock: _Clock,
) -> list[float]:
    """Of every policy the mean over observations of the shortest of all repeats.

    A gate of skipping decides with the actions pending that were so when the observation was
    driven.
    """
    taken: list[list[list[float]]] = [[] for _ in policies]
    for repeat in range(repeats + 1):
        for times in taken:
            times.append([])
        for observations in episodes:
            for policy, times in zip(policies, taken, strict=True):
                begin_episode(policy)
                for seen in observations:
                    began_ns = clock.now_ns()
                    seen.encode(policy)
                    times[repeat].append((clock.now_ns() - began_ns) / NS_PER_MS)
    return [mean(min(each) for each in zip(*times[1:], strict=True)) for times in taken]


# --- figures ---------------------------------------------------------------------------------

_COLUMNS = (
    "settings",
    "MFLOP / observation",
    "ms",
    "of whole",
    "success",
    "95 % interval",
    "time to success (s)",
    "paired",
)


def _report(command: BenchBudget, table: BudgetTable, target: Path) -> None:
    cpu, episodes = table.measured["machine"]["cpu"], table.rows[0].episodes
    cells = [
        (
            row.name,
            figure(row.flops / 1e6),
            figure(row.ms, 2),
            figure(row.ms_ratio, 2),
            f"{100 * row.success:.0f} %",
            f"{100 * row.success_ci[0]:.0f} – {100 * row.success_ci[1]:.0f} %",
            figure(row.completion_time_s, 2),
            figure(row.time_ratio, 2),
        )
        for row in table.rows
    ]
    print_table(f"Observations on {cpu}; {episodes} episodes a row", _COLUMNS, cells)
    print(f"The policy with this table: {target}")
    if command.json:
        fields = {"command": "bench budget", "file": str(target), **table.to_json()}
        print_json(fields)
