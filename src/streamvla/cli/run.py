"""`streamvla run`: one policy on one robot in wall-clock time, method beside method."""

from __future__ import annotations

import shlex
import shutil
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

from streamvla.cli.methods import AUTO, label, parse_method, require_seconds, slug
from streamvla.cli.output import figure, print_json, print_table
from streamvla.core.clock import NS_PER_S, ms_to_ns
from streamvla.core.errors import ConfigError, did_you_mean
from streamvla.core.interfaces import Policy, Robot, check_fit
from streamvla.core.provenance import commit, machine
from streamvla.evaluation.metrics import RunMetrics, aggregate, metrics_of
from streamvla.evaluation.stats import compare_paired
from streamvla.runtime import (
    Decelerate,
    Episode,
    EpisodeLimits,
    Executor,
    Hold,
    LatencyProfile,
    RealtimeDriver,
    Streamer,
    named_profile,
)
from streamvla.trace import FileTrace, Trace, is_complete, read_trace
from streamvla.trace.spans import Pacing

MEASURED = "measured"
FIRST_SEED = 2_000_000
VIDEO_SIZE = (240, 240)
TRACES, REPORT, PERFETTO = "traces", "report.html", "perfetto.json"
RESET_NS = ms_to_ns(300)
"""Given to the robot to reset before the episode's first tick."""


@dataclass(frozen=True)
class Run:
    """Run the policy on the robot in real time, the classic way and streaming, and compare.

    Attributes:
        checkpoint: the policy; default the one that ships.
        task: tasks to run, in turn; default all the policy was trained on.
        instruction: say this to the policy instead of the task's own phrasing.
        methods: synchronous[:h] or action-flow[:lead|:auto], compared in this order; the first is
            what ratios refer to.
        profile: paper-20hz, paper-a800, edge-20hz (emulated: stages padded), or measured.
        pacing: "grid": fixed control ticks; "event": the next action when the robot is free.
        fallback: what goes out on a tick without an action.
        episodes: with each method.
        seconds: an episode's limit.
        seed: of the first episode; method runs are paired, same seeds for each.
        out: folder for traces, videos, the report and the Perfetto trace.
        resume: keep complete episodes that an interrupted run left in `out`.
        videos: how many episodes to film.
        json: print the figures as one JSON object on the last line.
    """

    checkpoint: Path | None = None
    task: tuple[str, ...] = ()
    instruction: str | None = None
    methods: tuple[str, ...] = ("synchronous", "synchronous:5", f"action-flow:{AUTO}")
    profile: str = "paper-20hz"
    pacing: Pacing = "grid"
    fallback: Literal["hold", "decelerate"] = "hold"
    episodes: int = 6
    seconds: float = 15.0
    seed: int = FIRST_SEED
    out: Path = Path("runs/run")
    resume: bool = False
    videos: int = 3
    json: bool = False

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.videos < 0:
            raise ConfigError(f"episodes {self.episodes} must be ≥ 1, videos {self.videos} ≥ 0")
        require_seconds(self.seconds)


@dataclass
class _Filmed:
    """World captures of one episode, one per control instant, to be rendered afterwards."""

    robot: Any
    captures: list[tuple[int, Any]] = field(default_factory=list)

    def __call__(self, now_ns: int) -> None:
        self.captures.append((now_ns, self.robot.capture()))


def run(command: Run) -> None:
    """Run the command, print the comparison, write the report."""
    from streamvla.policy import identify, load_policy, resolve_checkpoint, trained_tasks
    from streamvla.robots.registry import task_names

    if command.profile != MEASURED:
        named_profile(command.profile)  # a wrong name is said before the model is loaded
    checkpoint = resolve_checkpoint(command.checkpoint)
    tasks = command.task or trained_tasks(checkpoint)
    for task in tasks:
        if task not in task_names():
            raise did_you_mean("task", task, task_names())
    _use_one_model_thread()
    policy = load_policy(checkpoint)
    with RealtimeDriver() as driver:
        session = _Session(command, policy, identify(checkpoint), driver, tasks)
        if not command.resume:
            _clear(command.out)
        try:
            session.run_all()
        except KeyboardInterrupt:
            print(
                f"Interrupted: the robot was told to hold; traces are in {command.out}. "
                "Add --resume to go on.",
                file=sys.stderr,
            )
            raise
    session.report()


def _clear(out: Path) -> None:
    """Remove what an earlier run left in `out`, and nothing else."""
    if (out / TRACES).is_dir():
        shutil.rmtree(out / TRACES)
    for name in (REPORT, PERFETTO):
        (out / name).unlink(missing_ok=True)


def _use_one_model_thread() -> None:
    """Leave the other cores to the control thread and the renderer."""
    import torch

    torch.set_num_threads(1)


class _Session:
    """All episodes of one command: paired seeds, method after method."""

    def __init__(
        self,
        command: Run,
        policy: Policy,
        identity: dict[str, str],
        driver: RealtimeDriver,
        tasks: tuple[str, ...],
    ) -> None:
        self._command = command
        self._policy = policy
        self._identity = identity
        self._driver = driver
        self._tasks = tasks
        self._robot: Robot | None = None
        self._robot_task = ""
        self._profile = self._resolve_profile()
        horizon = policy.spec.horizon
        self._executors = [
            parse_method(method, self._profile, horizon) for method in command.methods
        ]
        names = [label(executor, horizon) for executor in self._executors]
        if len(set(names)) < len(names):
            raise ConfigError(f"methods {list(command.methods)} are {names}: name each once")

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
        if self._robot is not None:
            self._robot.close()

    def _order(self) -> Iterator[int]:
        """Episode numbers, those of one task together: episode i is of task i mod tasks."""
        tasks = len(self._tasks)
        for task in range(tasks):
            yield from range(task, self._command.episodes, tasks)

    def _task_of(self, number: int) -> str:
        return self._tasks[number % len(self._tasks)]

    def _path(self, number: int, executor: Executor) -> Path:
        name = f"{number:03d}-{self._task_of(number)}.jsonl"
        return self._command.out / TRACES / slug(executor) / name

    def _run_one(self, number: int, executor: Executor) -> None:
        path = self._path(number, executor)
        filmed = number < self._command.videos
        header = self._header(number, executor)
        filmed_before = not filmed or path.with_suffix(".mp4").exists()
        if self._command.resume and filmed_before and is_complete(path, header):
            return
        robot = self._robot_for(self._task_of(number))
        film = _Filmed(robot) if filmed else None
        with FileTrace(path, {**header, "commit": commit()}) as trace:
            episode = self._episode(robot, executor, trace, film)
            start_ns = self._driver.clock.now_ns() + RESET_NS
            robot.reset(self._command.seed + number, start_ns, self._profile.execute_ns)
            self._driver.run(episode, start_ns)
        if film is not None:
            self._render(film, path)

    def _episode(
        self, robot: Robot, executor: Executor, trace: Any, watch: Callable[[int], None] | None
    ) -> Episode:
        space, horizon = self._policy.spec.action_space, self._policy.spec.horizon
        return Episode(
            robot=robot,
            policy=self._policy,
            streamer=Streamer(
                space,
                horizon,
                executor,
                self._command.pacing,
                trace,
                fallback=Decelerate() if self._command.fallback == "decelerate" else Hold(),
            ),
            trace=trace,
            pacing=self._command.pacing,
            profile=self._profile,
            limits=EpisodeLimits(ms_to_ns(self._command.seconds * 1000)),
            instruction=self._command.instruction,
            watch=watch,
        )

    def _robot_for(self, task: str) -> Robot:
        """The robot of a task, warmed up: its first rendering and encoding happen here."""
        from streamvla.robots.registry import make_robot

        if self._robot is None or self._robot_task != task:
            if self._robot is not None:
                self._robot.close()
            self._robot, self._robot_task = make_robot(task), task
            check_fit(self._policy.spec, self._robot.spec)
            self._warm_up(self._robot)
        return self._robot

    def _warm_up(self, robot: Robot) -> None:
        robot.reset(self._command.seed, self._driver.clock.now_ns(), self._profile.execute_ns)
        self._driver.measure(robot, self._policy, repeats=3)

    def _resolve_profile(self) -> LatencyProfile:
        """The named profile, or this machine's own median stage times."""
        from streamvla.robots.registry import make_robot

        if self._command.profile != MEASURED:
            return named_profile(self._command.profile)
        robot = make_robot(self._tasks[0])
        period_ns = robot.spec.control_period_ns
        robot.reset(self._command.seed, self._driver.clock.now_ns(), period_ns)
        times = self._driver.measure(robot, self._policy, repeats=12)[2:]  # the cold ones left out
        robot.close()
        return LatencyProfile(
            MEASURED,
            round(median(time.observe_ns for time in times)),
            round(median(step for time in times for step in time.generate_ns)),
            period_ns,
            emulated=False,
        )

    def _header(self, number: int, executor: Executor) -> dict[str, Any]:
        command = self._command
        return {
            "command": "run",
            "config": {
                "pacing": command.pacing,
                "seconds": command.seconds,
                "instruction": command.instruction,
                "fallback": command.fallback,
            },
            "method": label(executor, self._policy.spec.horizon),
            "profile": self._profile.label,
            "policy": self._identity,
            "task": self._task_of(number),
            "seed": command.seed + number,
        }

    # --- afterwards ----------------------------------------------------------------------------

    def _render(self, film: _Filmed, path: Path) -> None:
        """Write the episode's video, frames drawn from the captures of its control instants."""
        from streamvla.evaluation.video import annotate, frame_statuses, write_video

        events = read_trace(path).events
        period_ns = self._profile.execute_ns
        shown = _evenly(film.captures, period_ns)
        statuses = frame_statuses(
            events, [now_ns for now_ns, _ in shown], period_ns, self._command.pacing
        )
        frames = [
            annotate(film.robot.render_capture(capture, size=VIDEO_SIZE), status)
            for (_, capture), status in zip(shown, statuses, strict=True)
        ]
        write_video(path.with_suffix(".mp4"), frames, NS_PER_S / period_ns)

    def report(self) -> None:
        """Compute every figure from the traces; print them, write report and Perfetto trace."""
        outcomes = [self._outcome(executor) for executor in self._executors]
        rows = _rows(outcomes)
        _print_rows(rows, self._profile, self._command)
        self._write_report(outcomes, rows)
        if self._command.json:
            print_json(
                {
                    "command": "run",
                    "profile": self._profile.label,
                    "emulated": self._profile.emulated,
                    "seeds": self._seeds(),
                    "machine": machine(),
                    "methods": rows,
                }
            )

    def _outcome(self, executor: Executor) -> _Outcome:
        space, period_ns = self._policy.spec.action_space, self._profile.execute_ns
        paths = [self._path(number, executor) for number in range(self._command.episodes)]
        traces = [read_trace(path) for path in paths]
        metrics = [
            metrics_of(trace.events, period_ns, self._command.pacing, space) for trace in traces
        ]
        films = [path.with_suffix(".mp4") for path in paths[: self._command.videos]]
        name = label(executor, self._policy.spec.horizon)
        return _Outcome(name, traces, metrics, films)

    def _seeds(self) -> list[int]:
        return [self._command.seed + number for number in range(self._command.episodes)]

    def _write_report(self, outcomes: list[_Outcome], rows: list[dict[str, Any]]) -> None:
        from streamvla.evaluation.report import ReportContext, ReportRun, write_report
        from streamvla.trace.perfetto import PerfettoRun, write_perfetto

        pacing, period_ns, out = self._command.pacing, self._profile.execute_ns, self._command.out
        runs = [
            ReportRun(outcome.name, outcome.traces, row, pacing, period_ns, outcome.videos)
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
            settings={"tasks": ", ".join(self._tasks), "pacing": pacing},
        )
        write_report(out / REPORT, runs, context)
        first = [
            PerfettoRun(outcome.name, outcome.traces[0].events, period_ns) for outcome in outcomes
        ]
        write_perfetto(out / PERFETTO, first)
        print(
            f"Report: {out / 'report.html'}; timeline for ui.perfetto.dev: {out / 'perfetto.json'}"
        )


def _evenly(captures: list[tuple[int, Any]], period_ns: int) -> list[tuple[int, Any]]:
    """One frame a period: at each instant of an even grid, the capture that was then the latest.

    Captures are made at control instants, which event pacing and skipped ticks space unevenly; a
    video that played them at a constant rate would not run on the clock.
    """
    instants = [now_ns for now_ns, _ in captures]
    grid = range(instants[0], instants[-1] + 1, period_ns)
    return [(now, captures[bisect_right(instants, now) - 1][1]) for now in grid]


@dataclass(frozen=True)
class _Outcome:
    """All episodes of one method."""

    name: str
    traces: list[Trace]
    metrics: list[RunMetrics]
    videos: list[Path]


def _rows(outcomes: list[_Outcome]) -> list[dict[str, Any]]:
    """Figures of every method, with ratios and the paired difference of success to the first."""
    rows = [{"run": outcome.name, **aggregate(outcome.metrics)} for outcome in outcomes]
    reference = [bool(metrics.success) for metrics in outcomes[0].metrics]
    for row, outcome in zip(rows, outcomes, strict=True):
        paired = compare_paired(reference, [bool(metrics.success) for metrics in outcome.metrics])
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
    print_table(
        f"{profile.label}; {command.pacing} pacing; {command.episodes} episodes each",
        (
            "method",
            "success",
            "T_action (ms)",
            "halt / obs (ms)",
            "longest halt",
            "starved",
            "misses",
            "age p50 (ms)",
            "SPARC",
            "speed-up",
            "less halting",
        ),
        [
            (
                row["run"],
                f"{100 * row['success']:.0f} %",
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
        ],
    )


def _times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}×"
