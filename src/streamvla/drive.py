"""Policy + robot + executor → result: one episode in real time (`run`) or in virtual time.

    result = sv.run(MyPolicy(), MyRobot(), sv.ActionFlow(lead="auto"), seconds=30)
    result.metrics.halt_ms_per_observation
    result.report("report.html")

Everything else follows from the three: action space, horizon, rate, and how many passes a chunk
takes. What does not fit is refused before the robot gets a command.
"""

from __future__ import annotations

import shlex
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Literal, cast

from streamvla.core.clock import NS_PER_S, SystemClock
from streamvla.core.errors import ConfigError, did_you_mean
from streamvla.core.interfaces import Policy, Robot, RobotSpec, check_fit, check_start, standing_at
from streamvla.core.provenance import commit, machine
from streamvla.evaluation.metrics import RunMetrics, aggregate, metrics_of
from streamvla.runtime.buffer import LateRule
from streamvla.runtime.drivers.episode import Episode, EpisodeLimits, EpisodeResult, Watch
from streamvla.runtime.drivers.simulated import run_simulated
from streamvla.runtime.drivers.stages import StageTimes, measure_once
from streamvla.runtime.drivers.threads import RealtimeDriver
from streamvla.runtime.executors.base import Executor
from streamvla.runtime.executors.registry import parse_executor
from streamvla.runtime.faults.plan import parse_faults
from streamvla.runtime.governor.governor import Hold
from streamvla.runtime.governor.ladder import Ladder
from streamvla.runtime.streamer.machine import Streamer
from streamvla.runtime.timing.latency import (
    ConstantLatency,
    LatencyModel,
    LatencyProfile,
    named_profile,
)
from streamvla.trace import FileTrace, MemoryTrace, TeeTrace, Trace
from streamvla.trace.spans import Pacing

MEASURED = "measured"
WARM_UP, REPEATS = 2, 5
"""How often the stages run before the robot moves: cold starts, and those that count."""
LEAD_TIME_NS = 50_000_000
"""From the reset to the first tick."""

GovernorName = Literal["ladder", "basic"]


@dataclass(frozen=True)
class Result:
    """One episode, and everything that was measured in it.

    Attributes:
        success: whether the robot's task was reached.
        reason: why it ended: "success", "time-limit", "interrupted".
        seconds: how long it took, on the episode's clock.
        metrics: see `evaluation.metrics`.
        trace: every event, with what the run carried in its header.
        executor: what drove, in words.
        profile: the stage times, emulated or as measured.
        robot: its specification.
    """

    success: bool
    reason: str
    seconds: float
    metrics: RunMetrics
    trace: Trace
    executor: str
    profile: LatencyProfile
    pacing: Pacing
    robot: RobotSpec

    def report(self, path: Path | str, beside: Sequence[Result] = ()) -> Path:
        """Write one self-contained HTML page about this run and those beside it.

        Raises:
            ConfigError: two runs by the same executor.
        """
        from streamvla.evaluation.report.report import ReportContext, ReportRun, write_report

        runs = [
            ReportRun(
                each.executor,
                [each.trace],
                aggregate([each.metrics]),
                each.pacing,
                each.profile.execute_ns,
                space=each.robot.action_space,
            )
            for each in (self, *beside)
        ]
        context = ReportContext(
            title=f"{self.robot.name}: {self.executor}",
            profile=self.profile.label,
            emulated=self.profile.emulated,
            command=shlex.join(sys.argv),
            commit=commit(),
            seeds=[self.trace.header["seed"]],
            machine=machine(),
        )
        write_report(Path(path), runs, context)
        return Path(path)


@dataclass(frozen=True)
class _Setup:
    """One episode before it runs: stated once, checked once."""

    policy: Policy
    robot: Robot
    executor: Executor
    profile: LatencyProfile
    pacing: Pacing
    late: LateRule | None
    governor: GovernorName | None
    limits: EpisodeLimits
    seed: int
    instruction: str | None
    shared_accelerator: bool

    def episode(self, trace: Any, watch: Watch | None = None) -> Episode:
        ladder = self.governor == "ladder" or (self.governor is None and self.pacing == "grid")
        streamer = Streamer(
            self.robot.spec.action_space,
            self.policy.spec.horizon,
            self.executor.seeded(self.seed),
            self.pacing,
            trace,
            fallback=Ladder(self.robot.spec.motion_limits) if ladder else Hold(),
            late=self.late,
        )
        return Episode(
            robot=self.robot,
            policy=self.policy,
            streamer=streamer,
            trace=trace,
            pacing=self.pacing,
            profile=self.profile,
            limits=self.limits,
            serial=self.shared_accelerator,
            instruction=self.instruction,
            watch=watch,
        )

    def header(self) -> dict[str, Any]:
        return {
            "command": "python",
            "robot": self.robot.spec.name,
            "executor": self.executor.slug(),
            "profile": self.profile.label,
            "pacing": self.pacing,
            "seed": self.seed,
            "commit": commit(),
        }

    def result(self, outcome: EpisodeResult, events: MemoryTrace) -> Result:
        space, period_ns = self.robot.spec.action_space, self.profile.execute_ns
        return Result(
            success=outcome.success,
            reason=outcome.reason,
            seconds=outcome.duration_ns / NS_PER_S,
            metrics=metrics_of(events.events, period_ns, self.pacing, space),
            trace=Trace(self.header(), list(events.events), complete=True),
            executor=self.executor.label(self.policy.spec.horizon),
            profile=self.profile,
            pacing=self.pacing,
            robot=self.robot.spec,
        )


def run(
    policy: Policy | Callable[[], Policy],
    robot: Robot | Callable[[], Robot],
    executor: Executor | str = "action-flow:auto",
    *,
    seconds: float | None = None,
    latency: str | LatencyProfile = MEASURED,
    pacing: Pacing = "grid",
    governor: GovernorName | None = None,
    late: LateRule | None = None,
    faults: Sequence[str] = (),
    seed: int = 0,
    instruction: str | None = None,
    trace: Path | str | None = None,
    stop_on_success: bool = True,
    shared_accelerator: bool = True,
) -> Result:
    """Drive a robot with a policy in real time, until `seconds` have passed or its task is reached.

    Args:
        policy: or a function that makes it.
        robot: likewise.
        executor: how observing, generating and executing are ordered; a name such as
            "synchronous:5" will do.
        seconds: None for no limit.
        latency: "measured": stages take what they take, and are measured before the robot moves.
            A profile, or a profile's name: they are padded up to its times.
        pacing: "grid": one command every control period; "event": the next when the robot is free.
        governor: "ladder": the robot's motion limits, smooth stops, a latched safe stop (the
            default on the grid); "basic": clip and hold.
        late: what becomes of an action that is late; None to send it late.
        faults: put in on purpose: KIND[:AMOUNT]@START[+LENGTH], as "model-stall:800ms@3s".
        seed: the robot is reset with it.
        instruction: say this to the policy instead of the robot's own.
        trace: a file for every event (JSON lines), written as the run goes.
        shared_accelerator: encoding and generating take turns.

    Raises:
        ConfigError, SpecMismatchError, RobotError: policy, robot and executor do not fit; the robot
            got no command.
        StageFailedError: a stage died; the robot was brought to its safe stop first.
        KeyboardInterrupt: Ctrl-C, after the robot was brought to rest; the trace file is whole.
    """
    return _Realtime(
        _made(policy),
        _made(robot),
        executor,
        latency,
        trace,
        tuple(faults),
        _Options(
            seconds, pacing, governor, late, seed, instruction, stop_on_success, shared_accelerator
        ),
    ).run()


def simulate(
    policy: Policy | Callable[[], Policy],
    robot: Robot | Callable[[], Robot],
    executor: Executor | str = "action-flow:auto",
    *,
    seconds: float = 30.0,
    latency: str | LatencyProfile | LatencyModel = "paper-20hz",
    pacing: Pacing = "grid",
    governor: GovernorName | None = None,
    late: LateRule | None = None,
    faults: Sequence[str] = (),
    seed: int = 0,
    instruction: str | None = None,
    trace: Path | str | None = None,
    stop_on_success: bool = True,
    shared_accelerator: bool = True,
) -> Result:
    """As `run`, in virtual time: the world moves while the model thinks, as long as `latency` says.

    Args:
        latency: a profile or its name; "measured": what the stages take here; or a model of times,
            asked for every stage.
    """
    options = _Options(
        seconds, pacing, governor, late, seed, instruction, stop_on_success, shared_accelerator
    )
    made, moved = _made(policy), _made(robot)
    _check(made, moved)
    plan = parse_faults(faults)
    moved.reset(seed, 0, moved.spec.control_period_ns)
    standing_at(moved)
    repeats = WARM_UP + REPEATS if latency == MEASURED else 1
    times = [_rehearse(made, moved) for _ in range(repeats)]
    profile = _profile(latency, moved, times)
    model = cast(LatencyModel, latency) if _is_model(latency) else ConstantLatency(profile)
    setup = options.setup(made, moved, executor, profile)
    events = MemoryTrace()
    with _Recording(events, trace, setup.header()) as sink:
        moved.reset(seed, 0, profile.execute_ns)
        outcome = run_simulated(setup.episode(sink), model, faults=plan)
    return setup.result(outcome, events)


def start(*arguments: Any, **options: Any) -> Running:
    """As `run`, in the background, for a program with a loop of its own; arguments as for `run`.

        with sv.start(policy, robot, executor) as running:
            while running.alive:
                show(running.health, running.metrics())

    The checks are over, and the robot moves, when this returns; leaving the block stops it.
    """
    return Running(run, arguments, options)


class Running:
    """A run in the background; made by `start`. Use it as a context manager, or call `stop`."""

    def __init__(
        self, target: Callable[..., Result], arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        self._live = _Live()
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._work, args=(arguments, options), name="streamvla-run", daemon=True
        )
        self._thread.start()
        self._live.moving.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether the robot is still being driven."""
        return self._thread.is_alive()

    @property
    def health(self) -> str:
        """The state of the action stream: "streaming", "degraded", "stalled" or "stopped"."""
        episode = self._live.episode
        return "streaming" if episode is None else str(episode.streamer.health)

    def metrics(self) -> RunMetrics:
        """The figures so far."""
        live = self._live
        assert live.episode is not None
        events = list(live.events.events)
        period_ns, pacing = live.episode.profile.execute_ns, live.episode.pacing
        return metrics_of(events, period_ns, pacing, live.episode.robot.spec.action_space)

    def stop(self) -> Result | None:
        """Bring the robot to rest and end the run; its result. Safe to call twice.

        Raises:
            StageFailedError: a stage had died; the robot was brought to its safe stop then.
        """
        self._live.stopping.set()
        self._thread.join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._result

    def _work(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        _present.live = self._live
        try:
            self._result = run(*arguments, **options)
        except BaseException as error:  # handed to the owner, whatever it is
            self._error = error
        finally:
            self._live.moving.set()


class _Stopped(KeyboardInterrupt):
    """Ends the control loop as Ctrl-C does: the robot comes to rest."""


class _Live:
    """What a run in the background shows of itself."""

    def __init__(self) -> None:
        self.moving = threading.Event()
        self.stopping = threading.Event()
        self.episode: Episode | None = None
        self.events = MemoryTrace()

    def watch(self, now_ns: int) -> None:
        self.moving.set()
        if self.stopping.is_set():
            raise _Stopped


class _Present(threading.local):
    live: _Live | None = None


_present = _Present()


@dataclass(frozen=True)
class _Options:
    """What both functions take alike."""

    seconds: float | None
    pacing: Pacing
    governor: GovernorName | None
    late: LateRule | None
    seed: int
    instruction: str | None
    stop_on_success: bool
    shared_accelerator: bool

    def __post_init__(self) -> None:
        if self.seconds is not None and not 0 < self.seconds < 1e9:
            raise ConfigError(f"seconds {self.seconds}: expected a number above 0, or None")
        if self.pacing not in ("grid", "event"):
            raise did_you_mean("pacing", self.pacing, ("grid", "event"))
        if self.governor not in (None, "ladder", "basic"):
            raise did_you_mean("governor", str(self.governor), ("ladder", "basic"))

    def setup(
        self, policy: Policy, robot: Robot, executor: Executor | str, profile: LatencyProfile
    ) -> _Setup:
        if isinstance(executor, str):
            executor = parse_executor(executor, profile, policy.spec.horizon)
        executor = executor.fitted(policy.spec, profile, shared_accelerator=self.shared_accelerator)
        limit_ns = None if self.seconds is None else round(self.seconds * NS_PER_S)
        return _Setup(
            policy,
            robot,
            executor,
            profile,
            self.pacing,
            self.late,
            self.governor,
            EpisodeLimits(limit_ns, self.stop_on_success),
            self.seed,
            self.instruction,
            self.shared_accelerator,
        )


@dataclass(frozen=True)
class _Realtime:
    policy: Policy
    robot: Robot
    executor: Executor | str
    latency: str | LatencyProfile
    trace: Path | str | None
    faults: tuple[str, ...]
    options: _Options

    def run(self) -> Result:
        robot, policy, options = self.robot, self.policy, self.options
        _check(policy, robot)
        plan = parse_faults(self.faults)
        plan.require_in_process()
        live = _present.live or _Live()
        with closing(RealtimeDriver(serial=options.shared_accelerator)) as driver:
            robot.reset(options.seed, driver.clock.now_ns(), robot.spec.control_period_ns)
            standing_at(robot)
            times = driver.measure(robot, policy, WARM_UP + REPEATS)
            profile = _profile(self.latency, robot, times)
            setup = options.setup(policy, robot, self.executor, profile)
            with _Recording(live.events, self.trace, setup.header()) as sink:
                live.episode = setup.episode(sink, live.watch)
                start_ns = driver.clock.now_ns() + LEAD_TIME_NS
                robot.reset(options.seed, start_ns, profile.execute_ns)
                try:
                    outcome = driver.run(live.episode, start_ns, faults=plan)
                except _Stopped:
                    took_ns = driver.clock.now_ns() - start_ns
                    outcome = EpisodeResult(robot.success, "interrupted", took_ns)
        return setup.result(outcome, live.events)


class _Recording:
    """Events kept in memory and, where a file is named, written to it."""

    def __init__(
        self, events: MemoryTrace, path: Path | str | None, header: dict[str, Any]
    ) -> None:
        self._file = None if path is None else FileTrace(Path(path), header)
        self._sink = events if self._file is None else TeeTrace(events, self._file)

    def __enter__(self) -> Any:
        return self._sink

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def _made(part: Any) -> Any:
    """The part, or what a function gives that makes it."""
    made = part() if callable(part) and not hasattr(part, "spec") else part
    if isinstance(made, type) or not hasattr(made, "spec"):
        raise ConfigError(
            f"{made!r} has no `spec`: expected a Policy or Robot (streamvla.core.interfaces), or a "
            "function that makes one"
        )
    return made


def _check(policy: Policy, robot: Robot) -> None:
    """Refuse what does not fit, before anything runs."""
    check_fit(policy.spec, robot.spec)
    check_start(robot.spec)
    robot.spec.motion_limits.require(robot.spec.action_space)


def _rehearse(policy: Policy, robot: Robot) -> StageTimes:
    """Every stage once, checked, with the robot standing."""
    return measure_once(SystemClock(), robot, policy, robot.capture(), robot.instruction)


def _is_model(latency: Any) -> bool:
    return not isinstance(latency, str | LatencyProfile)


def _profile(
    latency: str | LatencyProfile | LatencyModel, robot: Robot, times: list[StageTimes]
) -> LatencyProfile:
    """Stage times at the robot's own rate."""
    period_ns = robot.spec.control_period_ns
    if isinstance(latency, LatencyProfile):
        return replace(latency, execute_ns=period_ns)
    if isinstance(latency, str) and latency != MEASURED:
        return replace(named_profile(latency), execute_ns=period_ns)
    if _is_model(latency):
        if not all(hasattr(latency, name) for name in ("observe_ns", "generate_ns", "execute_ns")):
            raise ConfigError(
                f"latency {latency!r}: expected a profile's name, a LatencyProfile, or a model "
                "with observe_ns(), generate_ns() and execute_ns()"
            )
        model = cast(LatencyModel, latency)
        observe, generate = model.observe_ns(), model.generate_ns()
        return LatencyProfile("model", observe, generate, period_ns)
    known = times[WARM_UP:] or times
    return LatencyProfile(
        MEASURED,
        round(median(time.observe_ns for time in known)),
        round(median(step for time in known for step in time.generate_ns)),
        period_ns,
        emulated=False,
    )
