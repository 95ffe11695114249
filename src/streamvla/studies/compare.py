"""`streamvla compare`: the same episodes under many policies, executors and conditions."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from streamvla.core.clock import NS_PER_MS, wall_date
from streamvla.core.engine import Engine
from streamvla.core.errors import ConfigError
from streamvla.core.files import replacing, require_writable, write_text
from streamvla.core.provenance import commit, machine
from streamvla.core.seals import sealed_json
from streamvla.core.seeds import FIRST_EVALUATION_SEED
from streamvla.core.stress import NOMINAL, parse_stress
from streamvla.data.experts import for_task
from streamvla.evaluation.comparison import (
    EpisodeKey,
    Plan,
    Record,
    comparison,
    episode_keys,
    episodes_csv,
    read_comparison,
    row_label,
)
from streamvla.evaluation.metrics import metrics_of
from streamvla.robots.registry import suite_of, suite_tasks
from streamvla.runtime.timing.latency import named_profile
from streamvla.studies.checks import require_effect, require_jitter, require_seconds
from streamvla.studies.engines import parse_engine
from streamvla.studies.entries import Entry, parse_entry
from streamvla.studies.episode_store import EpisodeStore
from streamvla.studies.episodes import (
    Eval,
    Job,
    check_tasks,
    drive,
    driven_commit,
    episode_jobs,
    executor_of,
    policy_of,
    require_robots,
    require_stressable,
    start_worker,
)
from streamvla.studies.outputs import MARK, require_ours
from streamvla.studies.sweep_progress import SweepProgress
from streamvla.studies.tables import figure, print_json, print_table
from streamvla.trace import Measured, MemoryTrace, TraceEvent, is_complete
from streamvla.trace.spans import Pacing
from streamvla.trace.store import trace_bytes

REPORT, BESIDE = "report.html", "beside.html"
_BATCHES = 64
"""At least so many, if there are enough episodes: the last worker is soon done."""
_MOST_IN_BATCH = 8


@dataclass(frozen=True)
class Compare:
    """Compare policies and executors over the same episodes: tasks × profiles × accelerators ×
    stress, paired by seed; resumable.

    An executor is [POLICY/]NAME[:SETTING][,OPTION=VALUE]..., with the options of early observation
    early, rate, norm, eta, compensation, refused and replan: action-flow:auto,early=always or
    expert-chunks/async-chunks or action-flow:3,early=adaptive,eta=0.2+0.1,replan=as-fast. The first
    one is what the others are compared to.

    Attributes:
        suite: all tasks of these suites.
        tasks: these tasks; NAME@1.5 of a suite with a difficulty.
        policies: their sources (docs/how-to/policies.md) for every executor that names none;
            expert is the scripted one of each task, expert-chunks the same in whole chunks.
        executors: any number; see above.
        profiles: stage times of observing and generating; the control period is the robot's.
            paper-20hz@0.5 takes half the time, paper-20hz@0 none.
        accelerators: 1 that encoding and generating share; 2: one each.
        stress: what real robots bring, NAME:SEVERITY joined by "+", as `eval`
            takes it (docs/how-to/stress.md); none for nominal conditions.
        episodes: per cell, at seeds `seed`, `seed` + 1, …
        seconds: an episode's limit, on the robot's clock.
        pacing: "grid": fixed control ticks; "event": the next action when the robot is free.
        jitter: coefficient of variation of the stage times.
        engine: local: processes of this machine; ray: a Ray cluster, that of RAY_ADDRESS or one
            found or started here; ray:HOST:PORT.
        workers: processes of the local engine.
        traces: keep the trace of every episode too; one without is driven again, and its figures
            replaced.
        report: also write report.html, a page with charts and paired differences.
        videos: on the page, of every task so many of the worst failures, driven again and filmed.
        beside: result.json of another sweep, such as one of an earlier commit: also write
            beside.html, which compares what drives in both, episode by episode.
        out: folder for result.json and the episodes; those that are there are not driven again.
        csv: also write the episodes as a table, episodes.csv.
        json: print the result without its episodes as one JSON object on the last line.
    """

    suite: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    policies: tuple[str, ...] = ("expert",)
    executors: tuple[str, ...] = ("synchronous", "action-flow:auto")
    profiles: tuple[str, ...] = ("paper-20hz",)
    accelerators: tuple[Literal[1, 2], ...] = (1,)
    stress: tuple[str, ...] = (NOMINAL,)
    episodes: int = 20
    seed: int = FIRST_EVALUATION_SEED
    seconds: float = 15.0
    pacing: Pacing = "grid"
    jitter: float = 0.0
    engine: str = "local"
    workers: int = 2
    traces: bool = False
    report: bool = True
    videos: int = 1
    beside: Path | None = None
    out: Path = Path("runs/compare")
    csv: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        if not (self.suite or self.tasks):
            raise ConfigError("nothing to compare on: name --tasks, or a --suite")
        for name in ("policies", "executors", "profiles", "accelerators", "stress"):
            stated = [str(each) for each in getattr(self, name)]
            if not stated:
                raise ConfigError(f"--{name}: expected at least one")
            twice = {each for each in stated if stated.count(each) > 1}
            if twice:
                raise ConfigError(f"--{name} {', '.join(twice)}: named twice; name each once")
        if self.episodes < 1:
            raise ConfigError(f"episodes {self.episodes}: expected at least 1")
        if self.videos < 0:
            raise ConfigError(f"videos {self.videos}: expected 0 or more a task")
        require_seconds(self.seconds)
        require_jitter(self.jitter)

    def evaluation(self, entry: Entry, at: tuple[str, int, str]) -> Eval:
        """The command that drives one row under these conditions."""
        profile, accelerators, stress = at
        return Eval(
            policy=entry.policy,
            episodes=self.episodes,
            executors=(entry.executor,),
            early=entry.early,
            profile=profile,
            period="robot",
            concurrent=accelerators == 2,
            pacing=self.pacing,
            jitter=self.jitter,
            seconds=self.seconds,
            seed=self.seed,
            out=self.out / "traces",
            stress=None if stress == NOMINAL else stress,
        )


@dataclass(frozen=True)
class Trial:
    """One episode of a sweep: everything a worker needs."""

    episode: EpisodeKey
    job: Job
    key: str
    keeps_trace: bool


def compare(command: Compare) -> None:
    """Run the command and print its cells."""
    engine = parse_engine(command.engine, command.workers)
    tasks = tuple(task for name in command.suite for task in suite_tasks(name)) + command.tasks
    check_tasks(tasks)
    entries = entries_of(command)
    plan = plan_of(command, tasks, entries)
    _require_all(command, plan, entries)
    trials = trials_of(command, plan, entries)
    other = None if command.beside is None else read_comparison(command.beside)
    if other is not None:
        _require_alike(command, plan, other["plan"])
    with closing(EpisodeStore(command.out / "episodes.jsonl")) as store:
        require_writable(command.out / "result.json")
        for name, wanted in ((REPORT, command.report), (BESIDE, other is not None)):
            if wanted:
                require_ours(command.out / name, MARK)
        missing = [trial for trial in trials if not _is_done(trial, store)]
        pace = run_trials(missing, len(trials), store, engine)
        records = [{**store[trial.key], **asdict(trial.episode)} for trial in trials]
    run = {
        "commit": commit(),
        "driven_at": sorted({record["commit"] for record in records}),
        "engine": command.engine,
        "episodes_per_minute": pace,
        "driven_now": len(missing),
        "machine": machine(),
    }
    result = comparison(plan, records, run)
    write_text(command.out / "result.json", sealed_json(result))
    if command.csv:
        write_text(command.out / "episodes.csv", episodes_csv(result))
    if command.report:
        _write_page(command, result, trials)
    _report(command, result)
    if other is not None:
        _write_beside(command, result, other)


def entries_of(command: Compare) -> tuple[Entry, ...]:
    """Every row, with its policy.

    Raises:
        ConfigError: wrong grammar, a row twice, or a policy that no executor is left for.
    """
    parsed = [parse_entry(text) for text in command.executors]
    if all(entry.policy for entry in parsed) and command.policies != ("expert",):
        raise ConfigError(
            f"--policies {', '.join(command.policies)} changes nothing here: every executor names "
            "its own"
        )
    entries = tuple(
        replace(entry, policy=policy)
        for entry in parsed
        for policy in ([entry.policy] if entry.policy else command.policies)
    )
    rows = [entry.row for entry in entries]
    for row in rows:
        if rows.count(row) > 1:
            raise ConfigError(f"executor {'/'.join(row)} is named twice; name it once")
    return entries


def plan_of(command: Compare, tasks: tuple[str, ...], entries: tuple[Entry, ...]) -> Plan:
    """What the sweep is made of.

    Raises:
        ConfigError: an unknown profile, or one that is there twice.
    """
    if "measured" in command.profiles:
        raise ConfigError(
            "profile measured: its times belong to one machine; use `streamvla eval --profile "
            "measured`, or state a profile by name"
        )
    profiles = tuple(named_profile(text).name for text in command.profiles)
    if len(set(profiles)) < len(profiles):
        raise ConfigError(f"--profiles {', '.join(command.profiles)}: one is named twice")
    stress = tuple(each if each == NOMINAL else str(parse_stress(each)) for each in command.stress)
    if len(set(stress)) < len(stress):
        raise ConfigError(f"--stress {', '.join(command.stress)}: one is named twice")
    times = {name: named_profile(name) for name in profiles}
    return Plan(
        tasks=tasks,
        rows=tuple(entry.row for entry in entries),
        profiles=profiles,
        accelerators=tuple(command.accelerators),
        stress=stress,
        seeds=tuple(range(command.seed, command.seed + command.episodes)),
        settings={
            "robots": {task: _robot_of(task) for task in tasks},
            "stage_times_ms": {
                name: {
                    "observe": each.observe_ns / NS_PER_MS,
                    "generate": each.generate_ns / NS_PER_MS,
                }
                for name, each in times.items()
            },
            "seconds": command.seconds,
            "pacing": command.pacing,
            "jitter": command.jitter,
        },
    )


def _robot_of(task: str) -> dict[str, Any]:
    suite = suite_of(task)
    spec = suite.spec_of(task)
    period_ms = spec.control_period_ns / NS_PER_MS
    return {"suite": suite.name, "robot": spec.name, "control_period_ms": period_ms}


def _require_alike(command: Compare, plan: Plan, other: dict[str, Any]) -> None:
    """Raise `ConfigError` unless another result was driven under the same conditions."""
    for name in ("seconds", "pacing", "jitter"):
        if other[name] != plan.settings[name]:
            raise ConfigError(
                f"--beside {command.beside}: {name} {other[name]}, expected "
                f"{plan.settings[name]}; compare sweeps of the same conditions"
            )


def _require_all(command: Compare, plan: Plan, entries: tuple[Entry, ...]) -> None:
    """Raise unless every policy fits every task, every row can be made, and each of its options
    changes something; before any worker starts."""
    at = next(plan.settings_of_cells())
    stresses = [parse_stress(each) for each in plan.stress if each != NOMINAL]
    for entry in entries:
        assert entry.policy is not None  # entries_of
        evaluation = command.evaluation(entry, at)
        for number, task in enumerate(plan.tasks):
            policy = policy_of(for_task(entry.policy, task))
            require_robots(policy, (task,), "train", "own")
            require_stressable(policy, task, evaluation, stresses)
            if number == 0:

                def build(early: Any, evaluation: Eval = evaluation, policy: Any = policy) -> Any:
                    return executor_of(replace(evaluation, early=early), policy)

                require_effect([build], entry.early)


def trials_of(command: Compare, plan: Plan, entries: tuple[Entry, ...]) -> list[Trial]:
    """Every episode, in the order of the plan."""
    of: dict[EpisodeKey, Job] = {}
    for task in plan.tasks:
        for entry in entries:
            for at in plan.settings_of_cells():
                assert entry.policy is not None  # entries_of
                for job in episode_jobs(command.evaluation(entry, at), entry.policy, (task,)):
                    of[EpisodeKey(task, *entry.row, *at, job.seed)] = job
    return [
        Trial(episode, of[episode], _key(of[episode]), command.traces)
        for episode in episode_keys(plan)
    ]


def _key(job: Job) -> str:
    """Of all that the figures of an episode depend on."""
    text = json.dumps(job.header(), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _is_done(trial: Trial, store: EpisodeStore) -> bool:
    """Whether its record is there, and, if wanted, the trace of the same drive."""
    if trial.key not in store:
        return False
    driven = {**trial.job.header(), "commit": store[trial.key]["commit"]}
    return not trial.keeps_trace or is_complete(trial.job.path, driven)


# --- driving ---------------------------------------------------------------------------------


def run_trials(
    missing: list[Trial], total: int, store: EpisodeStore, engine: Engine
) -> float | None:
    """Drive what is missing; every batch that comes back is kept at once.

    Returns:
        Episodes a minute, the start of the workers included; None if there was nothing to drive.
    """
    if not missing:
        return None
    of = {trial.key: trial for trial in missing}
    batches = list(batches_of(_by_robot(missing)))
    with (
        SweepProgress("compare", total, total - len(missing)) as progress,
        closing(engine.map_unordered(drive_batch, batches, start_worker)) as done,
    ):
        for _, driven in done:
            for key, record, trace in driven:
                if trace is not None:
                    with replacing(of[key].job.path) as partial:
                        partial.write_bytes(trace)
                store.add(key, record)
            progress.advance(len(driven))
        return progress.per_minute


def _by_robot(trials: list[Trial]) -> list[Trial]:
    """In order of the tasks, and of each all of one stress together: a robot for all of them."""
    tasks = list(dict.fromkeys(trial.episode.task for trial in trials))
    stresses = list(dict.fromkeys(trial.episode.stress for trial in trials))
    return sorted(
        trials,
        key=lambda trial: (tasks.index(trial.episode.task), stresses.index(trial.episode.stress)),
    )


def batches_of(trials: Sequence[Trial]) -> Iterator[tuple[Trial, ...]]:
    """Neighbours of one task, so that a worker keeps its robot; few enough that none waits long."""
    most = max(1, min(_MOST_IN_BATCH, len(trials) // _BATCHES))
    batch: list[Trial] = []
    for trial in trials:
        if batch and (len(batch) == most or batch[0].episode.task != trial.episode.task):
            yield tuple(batch)
            batch = []
        batch.append(trial)
    if batch:
        yield tuple(batch)


def drive_batch(batch: tuple[Trial, ...]) -> list[tuple[str, Record, bytes | None]]:
    """In a worker: (key, record, trace if it is kept) of every episode."""
    return [(trial.key, *_driven(trial)) for trial in batch]


def _driven(trial: Trial) -> tuple[Record, bytes | None]:
    job, trace = trial.job, MemoryTrace()
    drive(job, trace)
    policy = policy_of(job.source, job.settings.method, job.settings.policy_settings())
    period_ns = job.settings.profile_for(policy.spec).execute_ns
    run = metrics_of(trace.events, period_ns, job.settings.pacing, policy.spec.action_space)
    measured = measured_of(trace.events)
    window = run.window
    figures = {
        **run.to_json(),
        "window": window
        and {
            "length_ns": window.length_ns,
            "idle_ns": window.idle_ns,
            "actions": window.actions,
            "cycles": window.cycles,
        },
        "measured": measured,
    }
    at = driven_commit()
    record = {
        **asdict(trial.episode),
        "driven": job.executor,
        "commit": at,
        "figures": figures,
    }
    kept = trace_bytes({**job.header(), "commit": at}, trace.events) if trial.keeps_trace else None
    return record, kept


def measured_of(events: Sequence[TraceEvent]) -> dict[str, dict[str, float]]:
    """Of everything that the robot measured the last value and the largest."""
    found: dict[str, dict[str, float]] = {}
    for event in events:
        if isinstance(event, Measured):
            for name, value in event.values.items():
                before = found.get(name, {"max": value})
                found[name] = {"last": value, "max": max(before["max"], value)}
    return found


# --- figures ---------------------------------------------------------------------------------


def _report(command: Compare, result: dict[str, Any]) -> None:
    """Every row over all tasks; the cells are in the file."""
    scored = any(cell["score"] is not None for cell in result["overall"])
    columns = ("row", "conditions", "success (95 %)", "to the first", "T_action (ms)", "halt (ms)")
    print_table(
        f"{len(result['plan']['tasks'])} tasks, {command.episodes} episodes each, paired by seed",
        (*columns, "score") if scored else columns,
        [
            (
                row_label(cell),
                _conditions(cell),
                _percent(cell["success"], cell["success_ci"]),
                _percent(cell["paired"]["difference"], cell["paired"]["ci"])
                if cell["paired"]
                else "–",
                figure(cell["t_action_ms"]),
                figure(cell["halt_ms_per_observation"]),
                *([figure(cell["score"])] if scored else []),
            )
            for cell in result["overall"]
        ],
    )
    pace = result["run"]["episodes_per_minute"]
    if pace is not None:
        cores = len(os.sched_getaffinity(0))
        print(f"{result['run']['driven_now']} episodes driven, {pace:.0f} a minute ({cores} cores)")
    print(f"Result: {command.out / 'result.json'}")
    if command.json:
        sys.stdout.flush()
        print_json({"command": "compare", **result, "episodes": len(result["episodes"])})


def _write_page(command: Compare, result: dict[str, Any], trials: Sequence[Trial]) -> None:
    """The page about the sweep; without films where they cannot be made, which is said."""
    from streamvla.evaluation.report.sweep_file import sweep_of
    from streamvla.evaluation.report.sweep_report import write_sweep_report
    from streamvla.studies.worst_films import film_worst

    typed = shlex.join(["streamvla", *sys.argv[1:]])
    sweep = sweep_of(result, command=typed, date=wall_date())
    films = film_worst(sweep, trials, command.out / "videos", command.videos)
    write_sweep_report(command.out / REPORT, sweep, films)
    print(f"Report: {command.out / REPORT}")


def _write_beside(command: Compare, result: dict[str, Any], other: dict[str, Any]) -> None:
    """The page that compares this result with another one."""
    from streamvla.evaluation.report.sweep_file import sweep_of
    from streamvla.evaluation.report.sweep_report import two_files_html

    assert command.beside is not None
    names = (str(command.beside), str(command.out / "result.json"))
    write_text(command.out / BESIDE, two_files_html(sweep_of(other), sweep_of(result), names))
    print(f"Both beside each other: {command.out / BESIDE}")


def _conditions(cell: dict[str, Any]) -> str:
    words = [cell["profile"]]
    if cell["accelerators"] > 1:
        words.append(f"{cell['accelerators']} accelerators")
    if cell["stress"] != NOMINAL:
        words.append(cell["stress"])
    return ", ".join(words)


def _percent(rate: float | None, interval: list[float] | None) -> str:
    if rate is None or interval is None:
        return "–"
    low, high = interval
    return f"{100 * rate:.0f} % ({100 * low:.0f} – {100 * high:.0f})"
