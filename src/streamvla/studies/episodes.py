"""`streamvla eval`: success and timing over many simulated episodes, resumable."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from streamvla.core.cameras import Gaze
from streamvla.core.clock import NS_PER_S, SystemClock, ms_to_ns
from streamvla.core.engine import Engine
from streamvla.core.errors import CheckpointError, ConfigError
from streamvla.core.files import replacing, require_writable
from streamvla.core.interfaces import (
    Policy,
    PolicySpec,
    Robot,
    begin_episode,
    check_fit,
    unclear_to,
)
from streamvla.core.numbers import exact
from streamvla.core.provenance import commit
from streamvla.core.seeds import FIRST_EVALUATION_SEED
from streamvla.core.stress import NO_STRESS, Stress, parse_stress
from streamvla.data.experts import for_task, of_every_task
from streamvla.evaluation.metrics import RunMetrics, aggregate, metrics_of
from streamvla.robots.instructions import Asked, Split
from streamvla.robots.registry import (
    is_robot,
    make_robot,
    require_task,
    suite_of,
    suite_tasks,
    training_instructions,
)
from streamvla.robots.stress import stressed_robot
from streamvla.robots.typing_errors import misspelt
from streamvla.runtime import (
    EpisodeLimits,
    Executor,
    LatencyProfile,
    run_simulated,
)
from streamvla.runtime.drivers.film import Captures, Film
from streamvla.runtime.drivers.settings import EpisodeSettings
from streamvla.runtime.executors.options import EarlyOptions
from streamvla.runtime.executors.registry import executor_named, parse_executor
from streamvla.runtime.timing.latency import ConstantLatency, JitteredLatency
from streamvla.runtime.timing.stress import stressed_latency
from streamvla.studies.checks import (
    require_effect,
    require_fresh_seed,
    require_jitter,
    require_seconds,
)
from streamvla.studies.dial import (
    EVERY,
    MOST_SKIPS,
    REUSE,
    SAVING,
    SKIP_ARM,
    SKIP_GATE,
    SKIP_OPENING,
    SKIP_PHASE,
    SKIP_PIXELS,
    SKIP_TOLERANCE,
    SKIPS,
    BudgetOptions,
    Chosen,
    is_saving,
    require_saving,
    saving_settings,
    within_budget,
)
from streamvla.studies.engines import parse_engine
from streamvla.studies.outputs import require_trace
from streamvla.studies.stage_times import (
    MEASURED,
    MEASURED_FILE,
    StatedTimes,
    measured_times,
    profile_name,
    read_measured,
    require_stage_times,
    stage_times,
)
from streamvla.studies.tables import figure, print_json, print_table
from streamvla.trace import MemoryTrace, TraceSink, is_complete, read_header, read_trace
from streamvla.trace.spans import Pacing
from streamvla.trace.store import trace_bytes

if TYPE_CHECKING:  # it needs torch
    from streamvla.policy.skipping import SkippingPolicy
    from streamvla.policy.sources import FoundPolicy
    from streamvla.policy.stream import Stream


@dataclass(frozen=True)
class Eval:
    """Evaluate a policy in simulation, in virtual time: the world moves while the model thinks.

    Attributes:
        policy: a file, a folder with one of `method`, or another source
            (docs/how-to/policies.md); default that of the first task's suite, which for ours is
            what ships.
        method: of the policy: action-flow, chunk-flow or regression; default the checkpoint's.
        noise_scale: of chunk flow: the noise it starts from, 1 as in training, 0 none; default the
            policy's own.
        euler_steps: of chunk flow: expert passes a chunk; default the policy's own.
        patch_k: share of the vision tokens that each layer of the expert attends to, the best ones;
            default the policy's own.
        nearest_phrase: read an instruction as the nearest phrasing of the training, if the two are
            more similar than this (0.3 suits the shipped policies); default: as it stands.
        reuse: encode only views of which a cell of 16 px changed by more than so many grey levels;
            0 for any change. Default: encode all.
        most_skips: observations in a row that are not encoded, where the actions from the context
            before are as good (docs/how-to/focus.md); 0 encodes every one.
        skip_phase: with most_skips: observations of an episode to encode first, beside one.
        skip_tolerance: with most_skips: by how much gripper command and opening may have changed;
            default .02.
        skip_opening: with most_skips: the same of the opening alone.
        skip_pixels: with most_skips: encode if a cell of 16 px away from the gripper changed by
            more than so many grey levels.
        skip_arm: with skip_pixels: cells above the gripper, so many pixels to each side, do not
            count, nor those just under it, instead of all cells near the gripper; for an arm that
            hangs from above in every view.
        skip_gate: with most_skips: let the learned gate beside the policy decide instead of the
            tolerances, at this miss rate; one that it was calibrated at, such as 0.1.
        camera_every: cameras that are encoded only every n-th observation, as in front=2; in
            between their last tokens are used again.
        suite: evaluate on all tasks of a suite: metaworld, language, all, point, or one of a
            package that is installed.
        tasks: default all the policy was trained on.
        episodes: per task, at seeds `seed`, `seed` + 1, …
        interference: before each episode drive so many others, of the other tasks of its suite, as
            one stream that a policy with a memory remembers.
        robot: a robot instead of tasks: package.module:make, a function that gives one.
        executors: one: synchronous[:h], action-flow[:lead|:auto], async-chunks[:left], or one of a
            package; default action-flow for a policy that streams, synchronous for one that gives
            chunks.
        profile: stage times of the latency model: paper-20hz (the default), paper-a800, edge-20hz,
            or measured: on this machine, once, before the first episode; the times are kept with
            the results, and used again by whoever goes on. paper-20hz@0.5 observes and generates
            in half the time.
        period: whose control period: the profile's, or the robot's own, so that a profile gives
            the times of observing and generating alone.
        pacing: "grid": fixed control ticks; "event": the next action when the robot is free.
        jitter: coefficient of variation of the stage times.
        stress: what real robots bring, NAME:SEVERITY with severities from 1 to 3, several joined
            by "+", as in camera-pose:2+latency-jitter:1 (docs/how-to/stress.md).
        concurrent: encode and generate on an accelerator each, instead of sharing one.
        seconds: an episode's limit, on the robot's clock.
        instructions: phrasings the policy was trained on, or held out.
        asked: the episode's own goal; another goal of the same scene, which success then means
            (language scenes); or nothing, with success still the episode's own goal.
        misspelt: put typing errors into 30 % of an instruction's words, others in every episode.
        engine: local: processes of this machine; ray: a Ray cluster, that of RAY_ADDRESS or one
            found or started here; ray:HOST:PORT.
        workers: processes of the local engine.
        out: folder for the traces; complete ones with the same settings are not run again.
        json: print the figures as one JSON object on the last line.
    """

    policy: str | None = None
    method: str | None = None
    noise_scale: float | None = None
    euler_steps: int | None = None
    patch_k: float | None = None
    nearest_phrase: float | None = None
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
    suite: str | None = None
    tasks: tuple[str, ...] = ()
    robot: str | None = None
    episodes: int = 50
    executors: tuple[str, ...] = ()
    early: EarlyOptions = field(default_factory=EarlyOptions)
    profile: str | None = None
    period: Literal["profile", "robot"] = "profile"
    times: StatedTimes = field(default_factory=StatedTimes)
    pacing: Pacing = "grid"
    jitter: float = 0.0
    stress: str | None = None
    concurrent: bool = False
    seconds: float = 15.0
    seed: int = FIRST_EVALUATION_SEED
    instructions: Split = "train"
    asked: Asked = "own"
    misspelt: bool = False
    interference: int = 0
    engine: str = "local"
    workers: int = 2
    out: Path = Path("runs/eval")
    json: bool = False

    def __post_init__(self) -> None:
        if self.interference < 0 or (self.interference and self.robot):
            raise ConfigError(
                f"interference {self.interference}: expected 0 or more episodes, of the suite of a "
                "task; a robot alone has none"
            )
        if self.episodes < 1 or self.workers < 1:
            raise ConfigError(
                f"episodes {self.episodes} and workers {self.workers} must be at least 1"
            )
        require_seconds(self.seconds)
        require_jitter(self.jitter)
        if len(self.executors) > 1:
            raise ConfigError(
                f"executors {', '.join(self.executors)}: expected one; evaluate each in a command "
                "of its own, their episodes are paired by seed"
            )
        named = {"suite": self.suite, "robot": self.robot, "tasks": ", ".join(self.tasks)}
        said = [f"{what} {name}" for what, name in named.items() if name]
        if len(said) > 1:
            raise ConfigError(f"{' and '.join(said)}: expected one of the two")
        require_saving(self)
        self.stresses()
        require_fresh_seed(self.seed)

    @property
    def executor(self) -> str | None:
        """The one asked for."""
        return self.executors[0] if self.executors else None

    @property
    def profile_name(self) -> str:
        return profile_name(self.profile, self.times)

    def profile_for(self, policy: PolicySpec) -> LatencyProfile:
        """The stage times; those of `measured` once they are. A policy has its robot's period."""
        profile = stage_times(self.profile, self.times, policy)
        if self.period == "robot":
            return replace(profile, execute_ns=policy.control_period_ns)
        return profile

    def stresses(self) -> Stress:
        """What the text says; raises `ConfigError` if it says nothing known."""
        return NO_STRESS if self.stress is None else parse_stress(self.stress)

    def policy_settings(self) -> dict[str, float]:
        """What shall be changed of the policy's own settings."""
        asked: dict[str, float | None] = {
            "noise_scale": self.noise_scale,
            "euler_steps": self.euler_steps,
            "nearest_phrase": self.nearest_phrase,
        }
        stated = {name: value for name, value in asked.items() if value is not None}
        return stated | saving_settings(self)


@dataclass(frozen=True)
class Job:
    """One episode: everything a worker process needs."""

    settings: Eval
    source: str
    policy: dict[str, Any]
    executor: str
    task: str
    seed: int
    path: Path

    def header(self) -> dict[str, Any]:
        """What must agree for a finished trace to be taken instead of running again."""
        left_out = {"policy", "method", "suite", "tasks", "episodes", "seed"}
        left_out |= {"executors", "early", "workers", "out", "json", "noise_scale", "euler_steps"}
        left_out |= {"engine", "stress", "nearest_phrase", *SAVING, "camera_every", "budget"}
        left_out |= set() if self.settings.misspelt else {"misspelt"}
        left_out |= set() if self.settings.interference else {"interference"}
        left_out |= {"period"} if self.settings.period == "profile" else set()
        left_out |= {"robot"} if self.settings.times.stated else {"robot", "times"}
        settings = {k: v for k, v in asdict(self.settings).items() if k not in left_out}
        settings["profile"] = self.settings.profile_name
        stress = self.settings.stresses()
        if stress.parts:
            settings |= {"stress": str(stress), "stress_sizes": stress.sizes()}
        return {
            "command": "eval",
            "executor": self.executor,
            "config": settings,
            "policy": self.policy,
            "task": self.task,
            "seed": self.seed,
        }


def evaluate(command: Eval) -> None:
    """Run the command and print its figures."""
    require_stage_times(command.profile, command.times)
    engine = parse_engine(command.engine, command.workers)
    if command.executor is not None:
        executor_named(command.executor.partition(":")[0])
    named = suite_tasks(command.suite) if command.suite else command.tasks
    named = (command.robot,) if command.robot else named
    source, tasks = policy_and_tasks(command.policy, named, command.method)
    check_tasks(tasks)
    chosen = within_budget(command.budget, _found(for_task(source, tasks[0]), command.method))
    command = command if chosen is None else replace(command, **chosen.fields())
    _require_settings(source, command)
    policy = policy_of(for_task(source, tasks[0]), command.method, command.policy_settings())
    require_robots(policy, tasks, command.instructions, command.asked)
    for task in tasks:
        require_stressable(policy, task, command, [command.stresses()])
    if not of_every_task(source):
        warn_of_unseen_tasks(source, tasks, command.method)
    if command.interference:
        require_stream(policy)
    warn_of_short_episodes(tasks, command.seconds)
    if command.asked != "blank":
        warn_of_unclear(policy, said_in(tasks))
    folder = command.out / _folder(command, for_task(source, tasks[0]))
    command = with_measured_times(command, source, tasks, folder)
    require_effect(
        [lambda early: executor_of(replace(command, early=early), policy)], command.early
    )
    executor = executor_of(command, policy)
    if command.concurrent and not (executor.overlaps and executor.streams):
        raise ConfigError(
            f"--concurrent changes nothing under {executor.name}, which generates and observes in "
            "turn: leave it out, or use an executor that streams, such as action-flow"
        )
    jobs = episode_jobs(command, source, tasks)
    pace = run_missing(jobs, engine)
    outcomes = {task: [outcome_of(job) for job in jobs if job.task == task] for task in tasks}
    _report(command, source, jobs, outcomes, pace, chosen)


def policy_and_tasks(
    source: str | None, tasks: tuple[str, ...], method: str | None = None
) -> tuple[str, tuple[str, ...]]:
    """The policy's source and the tasks, of which a user may have named one, both, or neither.

    Raises:
        ConfigError: a task that no suite has; a suite without a policy, or a policy that does not
            say what it was trained on, and the other was not named.
    """
    from streamvla.policy import find_policy

    if source is None:
        suite = suite_of(tasks[0]) if tasks and not is_robot(tasks[0]) else None
        source = "shipped" if suite is None and not tasks else suite and suite.policy
    if source is None:
        raise ConfigError(
            f"{'robot' if is_robot(tasks[0]) else 'task'} {tasks[0]} names no policy; name one "
            "with --policy, a file or package.module:make"
        )
    if source == "shipped" and method is not None:
        source = f"shipped:{method}"
    if not tasks and not of_every_task(source):
        tasks = find_policy(source, method).tasks
    if not tasks:
        raise ConfigError(f"{source} does not say which tasks it was trained on; name them")
    return source, tasks


def warn_of_unseen_tasks(source: str, tasks: tuple[str, ...], method: str | None = None) -> None:
    """One line on stderr if the policy says what it was trained on, and some tasks are not that.

    Robots without tasks have nothing to compare.
    """
    from streamvla.policy import find_policy

    found = find_policy(source, method)
    unseen = [task for task in tasks if task not in found.tasks and not is_robot(task)]
    if found.tasks and unseen:
        known = f"{len(found.tasks)} tasks" if len(found.tasks) > 6 else ", ".join(found.tasks)
        print(
            f"warning: {found.name} was not trained on {', '.join(unseen)} (it was on {known}); "
            "expect it to fail there",
            file=sys.stderr,
            flush=True,
        )


def warn_of_short_episodes(tasks: Iterable[str], seconds: float) -> None:
    """One line on stderr if a suite says that an episode of its task may take longer."""
    for task in tasks:
        longest_s = 0.0 if is_robot(task) else suite_of(task).longest_s(task, 0.0)
        if longest_s > seconds:
            print(
                f"warning: an episode of {task} may take {longest_s:.1f} s, more than the limit of "
                f"{seconds:g} s: whoever is slow fails; give --seconds {math.ceil(longest_s)}",
                file=sys.stderr,
                flush=True,
            )


def said_in(tasks: Iterable[str]) -> list[str]:
    """The training instructions of tasks; robots have none."""
    named = [task for task in tasks if not is_robot(task)]
    return [text for task in named for text in training_instructions(task)]


def warn_of_unclear(policy: Policy, instructions: Iterable[str]) -> None:
    """One line on stderr for the instructions that are unclear to the policy, if any are."""
    unclear = [text for text in instructions if unclear_to(policy, text) is not None]
    if unclear:
        named = ", ".join(repr(text) for text in unclear[:3])
        more = f" and {len(unclear) - 3} more" if len(unclear) > 3 else ""
        print(
            f"warning: the policy does not understand {named}{more}; expect it to reach for "
            "anything, or for nothing",
            file=sys.stderr,
            flush=True,
        )


def check_tasks(tasks: tuple[str, ...]) -> None:
    """Raise `ConfigError` unless every task exists and is named once."""
    for task in tasks:
        if tasks.count(task) > 1:
            raise ConfigError(f"task {task} is named twice; its episodes would count twice")
        require_task(task)


def _require_settings(source: str, command: Eval) -> None:
    """Raise `ConfigError` for a setting that the policy's method does not have; before loading."""
    from streamvla.model.methods.registry import METHODS, method_named
    from streamvla.policy import find_policy

    method = None if of_every_task(source) else find_policy(source, command.method).method
    if method is not None and method in METHODS:
        for name, value in command.policy_settings().items():
            of_policy = name == "nearest_phrase" or is_saving(name)
            if not of_policy and name not in method_named(method).tunable:
                raise ConfigError(
                    f"--{name.replace('_', '-')} {value:g}: a policy by {method} has no such "
                    "setting; leave it out, or use a policy of another method"
                )


def require_robots(policy: Policy, tasks: tuple[str, ...], split: Split, asked: Asked) -> None:
    """Raise `ConfigError` unless every task has such instructions, and `SpecMismatchError` unless
    the policy fits its robot; before any worker starts."""
    if policy.spec.sees_truth:
        return  # every task has its own
    for task in tasks:
        if not is_robot(task):
            check_fit(policy.spec, suite_of(task).spec_of(task))
        if is_robot(task) or (split, asked) != ("train", "own"):
            with closing(make_robot(task, split, asked)) as robot:
                check_fit(policy.spec, robot.spec)


def require_stressable(
    policy: Policy, task: str, command: Eval, stresses: Iterable[Stress]
) -> None:
    """Raise `ConfigError` unless the robot of a task can have each of these; before any worker
    starts."""
    on_robot = [stress for stress in stresses if stress.of("robot")]
    if on_robot:
        robot = make_robot(
            task, command.instructions, command.asked, sees_truth=policy.spec.sees_truth
        )
        with closing(robot):
            for stress in on_robot:
                stressed_robot(robot, stress)


def with_measured_times(command: Eval, source: str, tasks: tuple[str, ...], folder: Path) -> Eval:
    """The command with the times of this machine, if it asks for `measured`; they are kept in
    `folder`, and said."""
    if command.profile != MEASURED:
        return command
    from streamvla.policy import find_policy, identity_of

    source = for_task(source, tasks[0])
    policy = policy_of(source, command.method, command.policy_settings())
    path = folder / MEASURED_FILE
    of = {"policy": identity_of(find_policy(source, command.method), policy.spec)}
    kept = read_measured(path, of) is not None
    sees_truth = policy.spec.sees_truth
    with closing(
        make_robot(tasks[0], command.instructions, command.asked, sees_truth=sees_truth)
    ) as robot:
        times = measured_times(policy, robot, command.seed, path, of)
    command = replace(command, times=times)
    since = f"kept in {path}" if kept else f"on this machine; kept in {path}"
    print(f"Profile {command.profile_for(policy.spec).label}, {since}.", flush=True)
    return command


def episode_jobs(command: Eval, source: str, tasks: tuple[str, ...]) -> list[Job]:
    """One job for every task and seed."""
    return [job for task in tasks for job in _jobs_of(command, for_task(source, task), task)]


@lru_cache(maxsize=64)
def _found(source: str, method: str | None) -> FoundPolicy:
    """`find_policy`, which reads and hashes a whole file, once a command."""
    from streamvla.policy import find_policy

    return find_policy(source, method)


def _jobs_of(command: Eval, source: str, task: str) -> list[Job]:
    """One job for every seed."""
    from streamvla.policy import identity_of

    found = _found(source, command.method)
    policy = policy_of(source, command.method, command.policy_settings())
    executor = executor_of(command, policy)
    identity = identity_of(found, policy.spec)
    variant = [v for v in (command.instructions, command.asked) if v not in ("train", "own")]
    variant += ["misspelt"] * command.misspelt
    variant += [f"stress-{command.stresses().slug()}"] if command.stress else []
    setting = "-".join(
        [
            command.profile_name,
            *["robot-period"] * (command.period == "robot"),
            command.pacing,
            *["concurrent"] * command.concurrent,
            *variant,
        ]
    )
    folder = command.out / _folder(command, source) / executor.slug() / setting
    if executor.anticipates:
        identity["predictor_sha256"] = found.predictor
    resolved = (source, identity, executor.slug())
    seeds = range(command.seed, command.seed + command.episodes)
    return [
        Job(command, *resolved, task, seed, folder / file_name(task) / f"{seed}.jsonl")
        for seed in seeds
    ]


def _folder(command: Eval, source: str) -> str:
    """Of the episodes of one policy with its settings."""
    from streamvla.policy import identity_of

    found = _found(source, command.method)
    spec = policy_of(source, command.method, command.policy_settings()).spec
    digest = identity_of(found, spec).get("sha256", "")[:8]
    settings = (f"{key}-{exact(value)}" for key, value in spec.settings.items())
    return "-".join([found.name, *filter(None, [digest]), *settings])


def file_name(task: str) -> str:
    """Of a task; `package.module:make` without its colon."""
    return task.replace(":", "-")


def executor_of(command: Eval, policy: Policy, seed: int = 0) -> Executor:
    """The executor asked for, or the one that suits the policy."""
    spec = policy.spec
    return parse_executor(
        command.executor or ("synchronous" if spec.chunk_passes else "action-flow"),
        command.profile_for(spec),
        spec.horizon,
        command.early,
        policy,
        seed=seed,
        shared_accelerator=not command.concurrent,
    )


def driven_at(jobs: Iterable[Job]) -> list[str]:
    """The commits at which these episodes were driven."""
    return sorted({read_header(job.path).get("commit", "unknown") for job in jobs})


def outcome_of(job: Job) -> RunMetrics:
    spec = _policy_for(job).spec
    period_ns = job.settings.profile_for(spec).execute_ns
    events = read_trace(job.path).events
    return metrics_of(events, period_ns, job.settings.pacing, spec.action_space)


# --- worker processes ------------------------------------------------------------------------


def run_missing(every: list[Job], engine: Engine) -> float | None:
    """Run the episodes that have no complete trace yet; Ctrl-C keeps every finished one.

    Returns:
        Episodes a minute, the start of the workers included; None if there was nothing to run.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    total = len(every)
    jobs = [job for job in every if not is_complete(job.path, job.header())]
    if not jobs:
        return None
    for job in jobs:
        require_trace(job.path, "eval")
    require_writable(jobs[0].path)
    clock = SystemClock()
    began_ns = clock.now_ns()
    columns = ("[progress.description]{task.description}", BarColumn(), MofNCompleteColumn())
    with (
        Progress(*columns, TimeRemainingColumn()) as progress,
        closing(engine.map_unordered(traced, jobs, start_worker)) as done,
    ):
        bar = progress.add_task("episodes", total=total, completed=total - len(jobs))
        try:
            for index, trace in done:
                with replacing(jobs[index].path) as partial:
                    partial.write_bytes(trace)
                progress.advance(bar)
        except KeyboardInterrupt:
            progress.console.print(
                "Interrupted; finished episodes are kept. Run the same command to go on."
            )
            raise
    return len(jobs) * 60 * NS_PER_S / (clock.now_ns() - began_ns)


_MOST_POLICIES = 8
_policies: dict[tuple[Any, ...], tuple[FoundPolicy, Policy]] = {}
_robots: dict[tuple[str, Split, Asked, bool, Stress], Any] = {}


def start_worker() -> None:
    """Before the first episode of a worker: one thread each."""
    import torch

    torch.set_num_threads(1)


def traced(job: Job) -> bytes:
    """One episode in a worker: its trace, as the file that holds it."""
    trace = MemoryTrace()
    drive(job, trace)
    return trace_bytes({**job.header(), "commit": driven_commit()}, trace.events)


@cache
def driven_commit() -> str:
    """The commit that this process drives at; asked once, for it takes longer than an episode."""
    return commit()


def _disturbed(job: Job, policy: Policy) -> None:
    """Drive other episodes first, of which a policy with a memory remembers what it will."""
    stream = require_stream(policy)
    stream.continues = False
    begin_episode(policy)
    stream.continues = True
    others = [task for task in suite_of(job.task).tasks if task != job.task] or [job.task]
    command = replace(job.settings, interference=0)
    for number in range(job.settings.interference):
        task = others[(job.seed + number) % len(others)]
        other = replace(job, settings=command, task=task, seed=job.seed + FAR * (1 + number))
        drive(other, MemoryTrace(), driving=policy)


FAR = 10_000_000
"""Between the seed of an episode and those of the unrelated ones before it."""


def require_stream(policy: Policy) -> Stream:
    """What a policy remembers.

    Raises:
        ConfigError: it has no memory.
    """
    stream = getattr(policy, "stream", None)
    if stream is None:
        raise ConfigError(
            "interference: the policy has no memory that other episodes could disturb; leave it "
            "out, or train one (--memory-window)"
        )
    return stream


def drive(
    job: Job, trace: TraceSink, film: Captures | None = None, driving: Policy | None = None
) -> Robot:
    """One episode; policy and robot are kept for the next.

    Args:
        film: gets the captures of all control instants; the robot that is returned draws them.
        driving: instead of the job's policy.
    """
    command = job.settings
    policy = driving or _policy_for(job)
    if command.interference:
        _disturbed(job, policy)
        try:
            return drive(
                replace(job, settings=replace(command, interference=0)), trace, film, policy
            )
        finally:
            require_stream(policy).continues = False
    sees_truth = policy.spec.sees_truth
    stress = command.stresses()
    robot = _robot(job.task, command.instructions, command.asked, sees_truth, stress)
    check_fit(policy.spec, robot.spec)
    know_gripper(policy, robot.spec.gaze)
    profile = command.profile_for(policy.spec)
    robot.reset(job.seed, 0, profile.execute_ns)
    settings = EpisodeSettings(
        policy.spec.action_space,
        policy.spec.horizon,
        executor_of(command, policy, job.seed),
        profile,
        command.pacing,
        EpisodeLimits(ms_to_ns(command.seconds * 1000)),
        serial=not command.concurrent,
        instruction=_mistyped(robot.instruction, job.seed) if command.misspelt else None,
    )
    jittered = JitteredLatency(profile, command.jitter, job.seed)
    latency = jittered if command.jitter else ConstantLatency(profile)
    with nullcontext() if film is None else Film(robot, film) as watch:
        episode = settings.episode(policy, robot, trace, watch)
        run_simulated(episode, stressed_latency(latency, stress, job.seed))
    return robot


def know_gripper(policy: Policy, gaze: Gaze | None) -> None:
    """Tell a policy that skips by pixels where the robot's cameras show its gripper."""
    if SKIP_PIXELS in policy.spec.settings:
        cast("SkippingPolicy", policy).gaze = gaze


def _mistyped(instruction: str, seed: int) -> str:
    """With typing errors, from a stream of their own."""
    return misspelt(instruction, np.random.default_rng([seed, 4]))


def policy_of(
    source: str, method: str | None = None, settings: Mapping[str, float] | None = None
) -> Policy:
    """The policy with these settings of its method; kept for the next call."""
    return _loaded(source, method, settings)[1]


def _loaded(
    source: str, method: str | None, settings: Mapping[str, float] | None
) -> tuple[FoundPolicy, Policy]:
    from streamvla.policy import find_policy

    key = (source, method, *(settings or {}).items())
    if key not in _policies:
        while len(_policies) >= _MOST_POLICIES:
            del _policies[next(iter(_policies))]  # the oldest
        found = find_policy(source, method)
        _policies[key] = found, _saving(found, dict(settings or {}))
    return _policies[key]


def _policy_for(job: Job) -> Policy:
    """The policy of a job.

    Raises:
        CheckpointError: the file here is another one than when the job was made.
    """
    from streamvla.policy import identity_of

    found, policy = _loaded(job.source, job.settings.method, job.settings.policy_settings())
    here = identity_of(found, policy.spec)
    if "predictor_sha256" in job.policy:
        here["predictor_sha256"] = found.predictor
    for name, expected in job.policy.items():
        if here.get(name) != expected:
            raise CheckpointError(
                f"policy {job.source}: {name} {here.get(name)} where it is driven, expected "
                f"{expected} as when the command started. The file was replaced, or this machine "
                "has another one: run the command again with the same file everywhere"
            )
    return policy


def _robot(task: str, split: Split, asked: Asked, sees_truth: bool, stress: Stress) -> Any:
    on_robot = stress.only("robot")
    key = (task, split, asked, sees_truth, on_robot)
    if key not in _robots:
        close_robots()
        robot = make_robot(task, split, asked, sees_truth=sees_truth)
        _robots[key] = stressed_robot(robot, on_robot)
    return _robots[key]


def _saving(found: FoundPolicy, settings: dict[str, float]) -> Policy:
    """The policy with these settings: its own, and of what saves encodings.

    Raises:
        ConfigError: views cannot be reused by a policy that is not one of our models.
    """
    tolerance = settings.pop(REUSE, None)
    skips = {name: settings.pop(name) for name in SKIPS if name in settings}
    every = {name: settings.pop(name) for name in list(settings) if name.startswith(EVERY)}
    every = {name.removeprefix(EVERY): rate for name, rate in every.items()}
    policy = found.load(settings)
    if tolerance is not None or every:
        policy = _reusing(found, policy, tolerance, every)
    return _skipping(found, policy, skips) if skips else policy


def _skipping(found: FoundPolicy, policy: Policy, settings: Mapping[str, float]) -> Policy:
    """The policy that does not encode every observation.

    Raises:
        ConfigError: it knows no ages, or its gate not this miss rate; or it is no file of ours, and
            has no gate.
        CheckpointError: the gate is missing, damaged, or another policy's.
    """
    from streamvla.policy.skipping import SkippingPolicy, SkipRule

    rule = SkipRule(
        int(settings[MOST_SKIPS]),
        int(settings.get(SKIP_PHASE, 0)),
        tolerance=settings.get(SKIP_TOLERANCE, SkipRule.tolerance),
        opening_tolerance=settings.get(SKIP_OPENING),
        moved_levels=settings.get(SKIP_PIXELS),
        arm_px=settings.get(SKIP_ARM, 0.0),
    )
    miss_rate = settings.get(SKIP_GATE)
    if miss_rate is None:
        return SkippingPolicy(policy, rule)
    from streamvla.policy import ModelPolicy
    from streamvla.policy.skip_gate import LearnedGate, load_skip_gate, skip_gate_path

    if found.file is None or not isinstance(policy, ModelPolicy):
        raise ConfigError(
            f"--skip-gate {miss_rate:g}: {found.name} is no policy file of ours, beside which a "
            "gate could lie; leave it out"
        )
    checkpoint = load_skip_gate(skip_gate_path(found.file), policy)
    return SkippingPolicy(policy, rule, LearnedGate(checkpoint, policy, miss_rate))


def _reusing(
    found: FoundPolicy, policy: Policy, tolerance: float | None, every: Mapping[str, float]
) -> Policy:
    """The policy that encodes only some of the views; itself, where that is all of them."""
    from streamvla.policy import ModelPolicy
    from streamvla.policy.reuse import ReusingPolicy, camera_rates

    rates = camera_rates(policy.spec.views, every)
    if tolerance is None and max(rates, default=1) == 1:
        return policy
    if not isinstance(policy, ModelPolicy):
        said = [] if tolerance is None else [f"--reuse {tolerance:g}"]
        said += [f"--camera-every {camera}={rate:g}" for camera, rate in every.items()]
        raise ConfigError(
            f"{' '.join(said)}: {found.name} does not encode single views; leave it out"
        )
    return ReusingPolicy(policy, tolerance, every=every)


def close_robots() -> None:
    """Close what `drive` keeps, in the process that drove."""
    for robot in _robots.values():
        robot.close()
    _robots.clear()


# --- figures ---------------------------------------------------------------------------------

_COLUMNS = ("task", "success", "95 % interval", "T_action (ms)", "halt / observation (ms)")
_TASK_COLUMNS = ("score (95 %)", "time to success (s)")


def _report(
    command: Eval,
    source: str,
    jobs: list[Job],
    outcomes: dict[str, list[RunMetrics]],
    pace: float | None,
    chosen: Chosen | None,
) -> None:
    from streamvla.policy import find_policy

    source = for_task(source, next(iter(outcomes)))
    tasks = {task: aggregate(runs) for task, runs in outcomes.items()}
    everything = aggregate([run for runs in outcomes.values() for run in runs])
    mean_success = sum(figures["success"] for figures in tasks.values()) / len(tasks)
    policy = policy_of(source, command.method, command.policy_settings())
    executor = executor_of(command, policy)
    scored = everything["score"] is not None
    rows = [
        (
            task,
            f"{100 * figures['success']:.0f} %",
            f"{100 * figures['success_ci'][0]:.0f} – {100 * figures['success_ci'][1]:.0f} %",
            figure(figures["t_action_ms"]),
            figure(figures["halt_ms_per_observation"]),
            *_task_cells(figures, scored),
        )
        for task, figures in [*tasks.items(), ("all", everything)]
    ]
    driven = ", ".join([executor.label(policy.spec.horizon), *_settings_words(policy)])
    stress = f"stress {command.stresses()}; " if command.stress else ""
    print_table(
        f"{driven}; {command.profile_for(policy.spec).label}; "
        f"{command.pacing} pacing; {stress}{command.episodes} episodes a task",
        (*_COLUMNS, *(_TASK_COLUMNS if scored else ())),
        rows,
    )
    if command.json:
        print_json(
            {
                "command": "eval",
                "method": find_policy(source, command.method).method,
                **policy.spec.settings,
                **({} if chosen is None else {"budget": chosen.to_json()}),
                "policy": jobs[0].policy,
                "executor": executor.slug(),
                "profile": command.profile_for(policy.spec).label,
                "early": asdict(command.early),
                "stress": str(command.stresses()) or None,
                "seeds": list(range(command.seed, command.seed + command.episodes)),
                "episodes_per_minute": pace,
                "driven_at": driven_at(jobs),
                "mean_success": mean_success,
                "tasks": {
                    task: _task_figures(figures, outcomes[task]) for task, figures in tasks.items()
                },
                **everything,
            }
        )


def _task_cells(figures: dict[str, Any], scored: bool) -> tuple[str, ...]:
    """For `_TASK_COLUMNS`; nothing unless some episode had a score."""
    if not scored:
        return ()
    interval = figures["score_ci"]
    between = f" ({interval[0]:.1f}–{interval[1]:.1f})" if interval else ""
    return figure(figures["score"]) + between, figure(figures["completion_time_s"], 2)


def _settings_words(policy: Policy) -> list[str]:
    """`["noise scale 0", "euler steps 2"]`."""
    return [f"{name.replace('_', ' ')} {value:g}" for name, value in policy.spec.settings.items()]


def _task_figures(figures: dict[str, Any], runs: list[RunMetrics]) -> dict[str, Any]:
    """Success and score of a task; `solved` has a 1 or a 0 for each seed, `scores` a score or None,
    for paired comparisons."""
    low, high = figures["success_ci"]
    return {
        "success": figures["success"],
        "score": figures["score"],
        "score_ci": figures["score_ci"],
        "completion_time_s": figures["completion_time_s"],
        "episodes": figures["episodes"],
        "ci_low": low,
        "ci_high": high,
        "solved": "".join(str(int(bool(run.success))) for run in runs),
        "scores": [run.task.score for run in runs],
    }
