"""`streamvla run`: one policy on one robot in wall-clock time, method beside method."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from streamvla.cli.attention import attention_pictures, watched
from streamvla.core.clock import NS_PER_S, ms_to_ns
from streamvla.core.errors import ConfigError, StageFailedError, StreamVLAError, TraceError
from streamvla.core.files import require_writable
from streamvla.core.interfaces import Policy, Robot, check_fit, picture_of
from streamvla.core.provenance import commit, machine
from streamvla.data.experts import for_task, of_every_task
from streamvla.evaluation.metrics import RunMetrics, aggregate, metrics_of
from streamvla.evaluation.stats import compare_paired
from streamvla.robots.registry import is_robot, require_task, suite_of
from streamvla.runtime import (
    Decelerate,
    EpisodeLimits,
    Executor,
    FaultPlan,
    FrozenCamera,
    Hold,
    Ladder,
    LatencyProfile,
    RealtimeSettings,
    parse_faults,
)
from streamvla.runtime.drivers.feasibility import check_schedule, estimate_stages
from streamvla.runtime.drivers.film import evenly
from streamvla.runtime.drivers.settings import EpisodeSettings
from streamvla.runtime.drivers.stages import StageTimes
from streamvla.runtime.executors.options import AUTO, EarlyOptions
from streamvla.runtime.executors.registry import executor_named, parse_executor
from streamvla.runtime.processes.plan import EpisodePlan
from streamvla.studies.checks import require_effect, require_seconds
from streamvla.studies.dial import (
    BudgetOptions,
    Chosen,
    require_saving,
    saving_settings,
    within_budget,
)
from streamvla.studies.episodes import (
    file_name,
    policy_and_tasks,
    said_in,
    warn_of_unclear,
    warn_of_unseen_tasks,
)
from streamvla.studies.outputs import (
    MARK,
    PERFETTO_MARK,
    remove_traces,
    require_ours,
    require_trace,
)
from streamvla.studies.sessions import (
    Captures,
    Driver,
    DriverName,
    load_on_one_thread,
    make_driver,
)
from streamvla.studies.stage_times import (
    MEASURED,
    MEASURED_FILE,
    REPEATS,
    StatedTimes,
    median_profile,
    read_measured,
    require_stage_times,
    stage_times,
    write_measured,
)
from streamvla.studies.tables import figure, print_json, print_table, transposed
from streamvla.trace import Trace, is_complete, read_trace
from streamvla.trace.spans import Pacing

FIRST_SEED = 2_000_000
VIDEO_SIZE = (240, 240)
TRACES, REPORT, PERFETTO = "traces", "report.html", "perfetto.json"
WARM_UP_REPEATS = 5


@dataclass(frozen=True)
class Run:
    """Run the policy on the robot in real time, the classic way and streaming, and compare.

    Attributes:
        policy: a file, or another source (docs/how-to/policies.md); default the
            one of the first task's suite, which for ours is the one that ships.
        patch_k: share of the vision tokens to attend to; this and the next nine as of eval.
        reuse: encode only views that changed by more than so many grey levels.
        most_skips: observations in a row that are not encoded.
        skip_phase: with most_skips: observations of an episode to encode first, beside one.
        skip_tolerance: with most_skips: by how much gripper command and opening may have changed.
        skip_opening: with most_skips: the same of the opening alone.
        skip_pixels: with most_skips: encode if a cell away from the gripper changed by more.
        skip_arm: with skip_pixels: cells above the gripper, this far to each side, do not count.
        skip_gate: with most_skips: let the learned gate decide, at this miss rate.
        camera_every: cameras that are encoded only every n-th observation, as in front=2.
        tasks: to run, in turn; default all the policy was trained on.
        instruction: say this to the policy instead of the task's own phrasing.
        early: of the action-flow executors among them.
        robot: a robot instead of tasks: package.module:make, a function that gives one.
        executors: synchronous[:h], action-flow[:lead|:auto], async-chunks[:left], or one of a
            package; compared in this order, the first is what ratios refer to.
        profile: paper-20hz (the default), paper-a800, edge-20hz (emulated: stages padded), or
            measured: nothing is padded; the times are kept in `out` for --resume.
        pacing: "grid": fixed control ticks; "event": the next action when the robot is free.
        fallback: what goes out on a tick without an action, under the basic governor.
        episodes: with each method.
        seconds: an episode's limit.
        seed: of the first episode; method runs are paired, same seeds for each.
        out: folder for traces, videos, the report and the Perfetto trace.
        resume: keep complete episodes that an interrupted run left in `out`.
        videos: how many episodes to film.
        attention: films also show what the policy attends to in its camera views.
        driver: "thread": the control loop beside the model's threads; "process": in a process of
            its own, which the model cannot hold up.
        priority: SCHED_FIFO priority of the control loop's process, if the system grants it; None
            for the normal scheduler.
        governor: "basic": clip and hold; "ladder": the robot's motion limits, smooth stops, a
            latched safe stop. Default: the ladder when faults are put in, else basic.
        faults: put in on purpose, in every episode: KIND[:AMOUNT]@START[+LENGTH], as in
            model-stall:800ms@3s.
        frozen_after: a camera counts as frozen when its picture came again so often while the robot
            moved; None: never.
        json: print the figures as one JSON object on the last line.
    """

    policy: str | None = None
    patch_k: float | None = None
    reuse: float | None = None
    most_skips: int = 0
    skip_phase: int = 0
    skip_tolerance: float | None = None
    skip_opening: float | None = None
    skip_pixels: float | None = None
    skip_arm: float | None = None
    skip_gate: float | None = None
    camera_every: tuple[str, ...] = ()
    budget: BudgetOptions = field(default_factory=BudgetOptions)
    tasks: tuple[str, ...] = ()
    robot: str | None = None
    instruction: str | None = None
    executors: tuple[str, ...] = ("synchronous", "synchronous:5", f"action-flow:{AUTO}")
    early: EarlyOptions = field(default_factory=EarlyOptions)
    profile: str | None = None
    times: StatedTimes = field(default_factory=StatedTimes)
    pacing: Pacing = "grid"
    fallback: Literal["hold", "decelerate"] = "hold"
    episodes: int = 6
    seconds: float = 15.0
    seed: int = FIRST_SEED
    out: Path = Path("runs/run")
    resume: bool = False
    videos: int = 3
    attention: bool = False
    driver: DriverName = "thread"
    priority: int | None = RealtimeSettings.fifo_priority
    governor: Literal["basic", "ladder"] | None = None
    faults: tuple[str, ...] = ()
    frozen_after: int | None = FrozenCamera.repeats
    json: bool = False

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.videos < 0:
            raise ConfigError(f"episodes {self.episodes} must be ≥ 1, videos {self.videos} ≥ 0")
        if self.attention and not self.videos:
            raise ConfigError("--attention is drawn on films, and --videos 0 makes none")
        require_seconds(self.seconds)
        require_saving(self)
        if self.robot is not None and self.tasks:
            raise ConfigError(
                f"robot {self.robot} and tasks {', '.join(self.tasks)}: expected one of the two"
            )
        FrozenCamera(self.frozen_after)  # a wrong number is said before the model is loaded
        if self.driver == "thread":
            self.fault_plan().require_in_process()
        if self.uses_ladder() and self.pacing == "event":
            raise ConfigError(
                "the ladder steps in on control ticks, and event pacing has none: use --pacing "
                "grid, or --governor basic"
            )
        if self.uses_ladder() and self.fallback != "hold":
            raise ConfigError(
                f"--fallback {self.fallback} is the basic governor's, and the ladder has rungs of "
                "its own: leave it out, or use --governor basic"
            )

    def fault_plan(self) -> FaultPlan:
        return parse_faults(self.faults)

    def uses_ladder(self) -> bool:
        return self.governor == "ladder" or (self.governor is None and bool(self.faults))


def run(command: Run) -> None:
    """Run the command, print the comparison, write the report."""
    from streamvla.model.instruction import misspelt_words, unknown_words
    from streamvla.policy import find_policy, identity_of

    require_stage_times(command.profile, command.times)
    for text in command.executors:
        executor_named(text.partition(":")[0])
    named = (command.robot,) if command.robot else command.tasks
    source, tasks = policy_and_tasks(command.policy, named)
    for task in tasks:
        require_task(task)
    for name, mark in ((REPORT, MARK), (PERFETTO, PERFETTO_MARK)):
        require_ours(command.out / name, mark)
        require_writable(command.out / name)  # now, not after the last episode
    first, *others = tasks
    if of_every_task(source) and others:
        raise ConfigError(
            f"{source} is another policy in every task: expected one of {', '.join(tasks)}"
        )
    source = for_task(source, first)
    found = find_policy(source)
    chosen = within_budget(command.budget, found)
    command = command if chosen is None else replace(command, **chosen.fields())
    policy = load_on_one_thread(source, saving_settings(command))
    for task in tasks:
        if not is_robot(task) and not policy.spec.sees_truth:
            check_fit(policy.spec, suite_of(task).spec_of(task))
    warn_of_unseen_tasks(source, tasks)
    unknown = unknown_words(command.instruction or "", policy.spec.vocabulary)
    if unknown:
        print(f"The policy does not know, and leaves out: {', '.join(unknown)}.", file=sys.stderr)
    for typed, read in misspelt_words(command.instruction or "", policy.spec.vocabulary).items():
        print(f"The policy reads {typed} as {read}.", file=sys.stderr)
    warn_of_unclear(policy, [command.instruction] if command.instruction else said_in(tasks))
    identity = identity_of(found, policy.spec)
    begun: _Session | None = None
    try:
        with closing(_driver(command, source, policy)) as driver:
            session = _Session(command, policy, identity, driver, tasks)
            session.claim()
            begun = session
            session.run_all()
    except (StreamVLAError, KeyboardInterrupt) as ending:
        if begun is not None:
            _report_early_end(begun, command, ending)
        raise
    session.report(chosen)


def _report_early_end(
    session: _Session, command: Run, ending: StreamVLAError | KeyboardInterrupt
) -> None:
    """The report of the episodes there are, which is then wanted most; `ending` stays the error."""
    reason = str(ending)
    if isinstance(ending, KeyboardInterrupt):
        reason = "interrupted"
        print(
            f"Interrupted: the robot was told to hold; traces are in {command.out}. "
            "Add --resume to go on.",
            file=sys.stderr,
        )
    try:
        session.report_early_end(reason)
    except (StreamVLAError, OSError) as error:
        print(f"No report: {error}", file=sys.stderr)


def _driver(command: Run, source: str, policy: Policy) -> Driver:
    settings = RealtimeSettings(command.priority)
    return make_driver(command.driver, source, policy, settings, saving_settings(command))


class _Session:
    """All episodes of one command: paired seeds, method after method."""

    def __init__(
        self,
        command: Run,
        policy: Policy,
        identity: dict[str, Any],
        driver: Driver,
        tasks: tuple[str, ...],
    ) -> None:
        self._command = command
        self._policy = policy.spec
        self._identity = identity
        self._driver = driver
        self._tasks = tasks
        self._task = ""
        self._profile = self._resolve_profile()
        horizon = policy.spec.horizon
        builds = [partial(self._executor, text, horizon, policy) for text in command.executors]
        self._executors = [build(command.early) for build in builds]
        require_effect(builds, command.early)
        names = [executor.label(horizon) for executor in self._executors]
        if len(set(names)) < len(names):
            raise ConfigError(f"executors {list(command.executors)} are {names}: name each once")
        self._checked = False  # feasibility was said
        self._watched = watched(policy) if command.attention else None

    def _executor(self, text: str, horizon: int, policy: Policy, options: EarlyOptions) -> Executor:
        return parse_executor(text, self._profile, horizon, options, policy)

    def claim(self) -> None:
        """Remove what an earlier run left in `out`, unless it is resumed, and nothing else.

        Raises:
            ConfigError: a file of somebody else is where one of ours would be.
        """
        out, command = self._command.out, self._command
        for executor in self._executors:
            for number in range(command.episodes):
                require_trace(self._path(number, executor), "run")
        read_measured(out / MEASURED_FILE, self._measured_of())  # refuses another file
        if not command.resume:
            remove_traces(out / TRACES, "run")
            for name in (REPORT, PERFETTO, MEASURED_FILE):
                (out / name).unlink(missing_ok=True)
        if command.profile == MEASURED:
            write_measured(out / MEASURED_FILE, self._profile, self._measured_of())

    def run_all(self) -> None:
        """Every episode with every method; a robot is set up once per task."""
        from rich.progress import Progress

        print(f"Profile {self._profile.label}; {self._command.pacing} pacing.", flush=True)
        with Progress(transient=True) as progress:
            bar = progress.add_task("episodes", total=self._command.episodes * len(self._executors))
            for number in self._order():
                for executor in self._executors:
                    self._run_one(number, executor)
                    progress.advance(bar)

    def _order(self) -> Iterator[int]:
        """Episode numbers, those of one task together: episode i is of task i mod tasks."""
        tasks = len(self._tasks)
        for task in range(tasks):
            yield from range(task, self._command.episodes, tasks)

    def _task_of(self, number: int) -> str:
        return self._tasks[number % len(self._tasks)]

    def _path(self, number: int, executor: Executor) -> Path:
        name = f"{number:03d}-{file_name(self._task_of(number))}.jsonl"
        return self._command.out / TRACES / executor.slug() / name

    def _run_one(self, number: int, executor: Executor) -> None:
        path = self._path(number, executor)
        filmed = number < self._command.videos
        header = self._header(number, executor)
        filmed_before = not filmed or path.with_suffix(".mp4").exists()
        if self._command.resume and filmed_before and is_complete(path, header):
            return
        robot = self._robot_for(self._task_of(number))
        film: Captures = []
        self._drive(self._plan(number, executor, robot, filmed), film)
        if film:
            self._render(robot, film, path)

    def _drive(self, plan: EpisodePlan, film: Captures) -> None:
        """Run it; where faults are put in, a stage that dies is a result, not the end."""
        try:
            self._driver.run(plan, film)
        except StageFailedError as error:
            if not plan.faults:
                raise
            print(f"Episode ended: {error}", flush=True)

    def _plan(self, number: int, executor: Executor, robot: Robot, filmed: bool) -> EpisodePlan:
        space, horizon = self._policy.action_space, self._policy.horizon
        seed = self._command.seed + number
        settings = EpisodeSettings(
            space,
            horizon,
            executor.seeded(seed),
            self._profile,
            self._command.pacing,
            EpisodeLimits(ms_to_ns(self._command.seconds * 1000)),
            fallback=self._rule(robot),
            instruction=self._command.instruction,
            frozen=FrozenCamera(self._command.frozen_after),
        )
        return EpisodePlan(
            settings,
            self._path(number, executor),
            header={
                **self._header(number, executor),
                "has_task": robot.spec.has_task,
                "commit": commit(),
            },
            seed=seed,
            faults=self._command.fault_plan(),
            film=filmed,
        )

    def _rule(self, robot: Robot) -> Hold | Decelerate | Ladder:
        if self._command.uses_ladder():
            return Ladder(robot.spec.motion_limits)
        return Decelerate() if self._command.fallback == "decelerate" else Hold()

    def _robot_for(self, task: str) -> Robot:
        """The robot of a task, warmed up: its first rendering and encoding happen here."""
        robot = self._driver.use(task)
        if self._task != task:
            self._task = task
            times = self._driver.measure(self._command.seed, repeats=WARM_UP_REPEATS)
            if not self._checked:
                self._say_what_is_feasible(times)
                self._checked = True
        return robot

    def _say_what_is_feasible(self, times: list[StageTimes]) -> None:
        """Before motion: whether each method's schedule can be met here."""
        stages = estimate_stages(times).padded(self._profile)
        horizon, period_ns = self._policy.horizon, self._profile.execute_ns
        for executor in self._executors:
            passes = self._policy.chunk_passes
            verdict = check_schedule(stages, period_ns, executor, horizon, passes)
            print(f"{executor.label(horizon)}: {verdict.sentence()}", flush=True)

    def _resolve_profile(self) -> LatencyProfile:
        """The profile named or stated, or this machine's own median stage times, of now or of the
        run that is resumed."""
        command = self._command
        if command.profile != MEASURED:
            return stage_times(command.profile, command.times, self._policy)
        if command.resume:
            kept = read_measured(command.out / MEASURED_FILE, self._measured_of())
            if kept is not None:
                return kept
        period_ns = self._driver.use(self._tasks[0]).spec.control_period_ns
        return median_profile(self._driver.measure(command.seed, REPEATS), period_ns)

    def _measured_of(self) -> dict[str, Any]:
        """What the stage times depend on besides the machine."""
        return {"policy": self._identity, "driver": self._command.driver}

    def _header(self, number: int, executor: Executor) -> dict[str, Any]:
        command = self._command
        return {
            "command": "run",
            "config": {
                "pacing": command.pacing,
                "seconds": command.seconds,
                "instruction": command.instruction,
                "fallback": command.fallback,
                "driver": command.driver,
                "governor": "ladder" if command.uses_ladder() else "basic",
                "faults": list(command.faults),
                "frozen_after": command.frozen_after,
            },
            "method": executor.label(self._policy.horizon),
            "profile": self._profile.label,
            "policy": self._identity,
            "task": self._task_of(number),
            "seed": command.seed + number,
        }

    # --- afterwards ----------------------------------------------------------------------------

    def _render(self, robot: Robot, film: Captures, path: Path) -> None:
        """Write the episode's video, frames drawn from the captures of its control instants."""
        from streamvla.evaluation.report.video import annotate, frame_statuses, write_video

        events = read_trace(path).events
        period_ns = self._profile.execute_ns
        shown = evenly(film, period_ns)
        statuses = frame_statuses(
            events, [now_ns for now_ns, _ in shown], period_ns, self._command.pacing
        )
        pictures = [picture_of(robot, capture, VIDEO_SIZE) for _, capture in shown]
        if self._watched is not None:
            attended = attention_pictures(
                self._watched, robot, shown, events, self._command.instruction, len(pictures[0])
            )
            pictures = [np.hstack(pair) for pair in zip(pictures, attended, strict=True)]
        frames = [annotate(*pair) for pair in zip(pictures, statuses, strict=True)]
        write_video(path.with_suffix(".mp4"), frames, NS_PER_S / period_ns)

    def report_early_end(self, reason: str) -> None:
        """Report and Perfetto trace of the episodes whose traces can be read, if there are any."""
        outcomes = [self._outcome(executor, readable=True) for executor in self._executors]
        outcomes = [outcome for outcome in outcomes if outcome.traces]
        if outcomes:
            self._write_report(outcomes, _rows(outcomes), {"ended early": reason})

    def report(self, chosen: Chosen | None = None) -> None:
        """Compute every figure from the traces; print them, write report and Perfetto trace."""
        outcomes = [self._outcome(executor) for executor in self._executors]
        rows = _rows(outcomes)
        _print_rows(rows, self._profile, self._command)
        self._write_report(outcomes, rows)
        if self._command.json:
            print_json(
                {
                    "command": "run",
                    **self._policy.settings,
                    **({} if chosen is None else {"budget": chosen.to_json()}),
                    "profile": self._profile.label,
                    "emulated": self._profile.emulated,
                    "seeds": self._seeds(),
                    "machine": machine(),
                    "methods": rows,
                }
            )

    def _outcome(self, executor: Executor, *, readable: bool = False) -> _Outcome:
        """All episodes of a method, or those that have a readable trace with events."""
        paths = {number: self._path(number, executor) for number in range(self._command.episodes)}
        if readable:
            paths = {number: path for number, path in paths.items() if _has_events(path)}
        traces = {number: read_trace(path) for number, path in paths.items()}
        metrics = {number: self._metrics_of(trace) for number, trace in traces.items()}
        films = [paths[n].with_suffix(".mp4") for n in paths if n < self._command.videos]
        name = executor.label(self._policy.horizon)
        return _Outcome(
            name, list(traces.values()), metrics, [film for film in films if film.exists()]
        )

    def _metrics_of(self, trace: Trace) -> RunMetrics:
        space, period_ns = self._policy.action_space, self._profile.execute_ns
        metrics = metrics_of(trace.events, period_ns, self._command.pacing, space)
        return metrics if trace.header.get("has_task", True) else replace(metrics, success=None)

    def _seeds(self) -> list[int]:
        return [self._command.seed + number for number in range(self._command.episodes)]

    def _write_report(
        self,
        outcomes: list[_Outcome],
        rows: list[dict[str, Any]],
        more: Mapping[str, str] | None = None,
    ) -> None:
        from streamvla.evaluation.report.report import ReportContext, ReportRun, write_report
        from streamvla.trace.perfetto import perfetto_run, write_perfetto

        pacing, period_ns, out = self._command.pacing, self._profile.execute_ns, self._command.out
        space = self._policy.action_space
        runs = [
            ReportRun(outcome.name, outcome.traces, row, pacing, period_ns, outcome.videos, space)
            for outcome, row in zip(outcomes, rows, strict=True)
        ]
        context = ReportContext(
            title="A robot that never waits",
            profile=self._profile.label,
            emulated=self._profile.emulated,
            command=shlex.join(["streamvla", *sys.argv[1:]]),
            commit=commit(),
            seeds=self._seeds(),
            machine=machine(),
            settings={
                "tasks": ", ".join(self._tasks),
                "pacing": pacing,
                **{name: f"{value:g}" for name, value in self._policy.settings.items()},
                **(more or {}),
            },
        )
        write_report(out / REPORT, runs, context)
        episodes = [
            perfetto_run(trace, period_ns=period_ns)
            for outcome in outcomes
            for trace in outcome.traces
        ]
        write_perfetto(out / PERFETTO, episodes)
        print(f"Report: {out / REPORT}; timeline for ui.perfetto.dev: {out / PERFETTO}")


@dataclass(frozen=True)
class _Outcome:
    """The episodes of one method.

    Attributes:
        metrics: episode number → its figures; in the order of `traces`.
    """

    name: str
    traces: list[Trace]
    metrics: dict[int, RunMetrics]
    videos: list[Path]


def _has_events(path: Path) -> bool:
    try:
        return bool(read_trace(path).events)
    except TraceError:
        return False


def _rows(outcomes: list[_Outcome]) -> list[dict[str, Any]]:
    """Figures of every method, with ratios and the paired difference of success to the first, over
    the episodes that both have."""
    rows = [
        {"run": outcome.name, **aggregate(list(outcome.metrics.values()))} for outcome in outcomes
    ]
    reference = outcomes[0].metrics
    for row, outcome in zip(rows, outcomes, strict=True):
        both = [number for number in reference if number in outcome.metrics]
        row["success_difference"] = row["success_difference_ci"] = None
        if both:
            paired = compare_paired(
                [bool(reference[number].success) for number in both],
                [bool(outcome.metrics[number].success) for number in both],
            )
            row["success_difference"] = paired.difference
            row["success_difference_ci"] = [paired.low, paired.high]
        row["t_action_ratio"] = _ratio(rows[0]["t_action_ms"], row["t_action_ms"])
        row["halt_ratio"] = _ratio(
            rows[0]["halt_ms_per_observation"], row["halt_ms_per_observation"]
        )
    return rows


def _ratio(reference: float | None, value: float | None) -> float | None:
    """How many times better; None where there is nothing to divide (zero halt is not a ratio)."""
    return reference / value if reference and value else None


def _print_rows(rows: list[dict[str, Any]], profile: LatencyProfile, command: Run) -> None:
    """Figures as rows, methods as columns: there are more of the first."""
    columns = (
        "method",
        "success",
        "T_action (ms)",
        "halt / observation (ms)",
        "longest halt (ms)",
        "starved ticks",
        "deadline misses",
        "action age p50 (ms)",
        "SPARC",
        "speed-up",
        "less halting",
    )
    cells = [
        (
            row["run"],
            "–" if row["success"] is None else f"{100 * row['success']:.0f} %",
            figure(row["t_action_ms"]),
            figure(row["halt_ms_per_observation"]),
            figure(row["longest_halt_ms"], 0),
            str(row["starved_ticks"]),
            str(row["deadline_misses"]),
            figure(row["action_age_ms"]["p50"], 0),
            figure(row["smoothness"]["sparc"], 2),
            _times(row["t_action_ratio"]),
            "no halt" if row["halt_ms_per_observation"] == 0 else _times(row["halt_ratio"]),
        )
        for row in rows
    ]
    title = f"{profile.label}; {command.pacing} pacing; {command.episodes} episodes each"
    print_table(title, *transposed("figure", columns, cells))


def _times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}×"
