"""Policy + robot + executor → result: one episode in real time (`run`) or in virtual time.

    result = sv.run(MyPolicy(), MyRobot(), sv.ActionFlow(lead="auto"), seconds=30)
    result.metrics.halt_ms_per_observation
    result.report("report.html")

Everything else follows from the three: action space, horizon, rate, and how many passes a chunk
takes. What does not fit is refused before the robot gets a command.
"""

from __future__ import annotations

import atexit
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Literal

from streamvla.core.clock import NS_PER_S, SystemClock
from streamvla.core.errors import ConfigError, TraceError, did_you_mean
from streamvla.core.interfaces import (
    Policy,
    PolicySpec,
    Robot,
    RobotSpec,
    check_fit,
    check_start,
    standing_at,
)
from streamvla.core.provenance import commit
from streamvla.evaluation.metrics import RunMetrics, metrics_of
from streamvla.result import Result
from streamvla.runtime.buffer import LateRule
from streamvla.runtime.drivers.episode import EpisodeLimits, EpisodeResult
from streamvla.runtime.drivers.settings import EpisodeSettings
from streamvla.runtime.drivers.signals import raised_as_interrupts, stopped_by_signals
from streamvla.runtime.drivers.simulated import run_simulated
from streamvla.runtime.drivers.stages import StageTimes, measure_once
from streamvla.runtime.drivers.threads import RealtimeDriver
from streamvla.runtime.executors.base import Executor
from streamvla.runtime.executors.registry import parse_executor
from streamvla.runtime.faults.plan import FaultPlan, parse_faults
from streamvla.runtime.governor.governor import Fallback, Hold
from streamvla.runtime.governor.ladder import Ladder
from streamvla.runtime.processes.driver import ProcessDriver
from streamvla.runtime.processes.plan import EpisodePlan
from streamvla.runtime.timing.latency import (
    ConstantLatency,
    LatencyModel,
    LatencyProfile,
    named_profile,
)
from streamvla.trace import FileTrace, HealthChanged, MemoryTrace, TeeTrace, Trace, read_trace
from streamvla.trace.spans import Pacing

MEASURED = "measured"
WARM_UP, REPEATS = 2, 5
"""How often the stages run before the robot moves: cold starts, and those that count."""
_ASK_AGAIN_S = 0.1
LEAD_TIME_NS = 50_000_000
"""From the reset to the first tick."""

DriverName = Literal["thread", "process"]
GovernorName = Literal["ladder", "basic"]
PolicySource = Policy | Callable[[], Policy] | str
RobotSource = Robot | Callable[[], Robot] | str


def run(
    policy: PolicySource,
    robot: RobotSource,
    executor: Executor | str = "action-flow:auto",
    *,
    seconds: float | None = None,
    latency: str | LatencyProfile | LatencyModel = MEASURED,
    pacing: Pacing = "grid",
    driver: DriverName = "thread",
    governor: GovernorName | Fallback | Ladder | None = None,
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
        policy: the object, a function that makes it, or a name, as on the command line.
        robot: likewise.
        executor: how observing, generating and executing are ordered; a name such as
            "synchronous:5" will do.
        seconds: None for no limit.
        latency: "measured": stages take what they take, and are measured before the robot moves.
            A profile, its name, or a model of times: they are padded up to its times.
        pacing: "grid": one command every control period; "event": the next when the robot is free.
        driver: "thread": the control loop on this thread, the policy on threads beside it;
            "process": a process each, so that the policy's Python cannot hold the loop up. Policy
            and robot are then functions of importable modules, or names, and the robot's module
            imports no torch.
        governor: "ladder": the robot's motion limits, smooth stops, a latched safe stop (the
            default on the grid); "basic": clip and hold; or a `Ladder`, `Hold` or `Decelerate`.
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
    options = _Options(
        seconds, pacing, governor, late, seed, instruction, stop_on_success, shared_accelerator
    )
    live = _present.live or _Live()
    file, plan = None if trace is None else Path(trace), parse_faults(faults)
    drivers = {"thread": _run_on_threads, "process": _run_in_processes}
    if driver not in drivers:
        raise did_you_mean("driver", str(driver), drivers)
    if driver == "thread":
        plan.require_in_process()
    with raised_as_interrupts():
        asked = _Asked(policy, robot, executor, latency, file, plan)
        return drivers[driver](asked, options, live)


def simulate(
    policy: PolicySource,
    robot: RobotSource,
    executor: Executor | str = "action-flow:auto",
    *,
    seconds: float = 30.0,
    latency: str | LatencyProfile | LatencyModel = "paper-20hz",
    pacing: Pacing = "grid",
    governor: GovernorName | Fallback | Ladder | None = None,
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
    plan = parse_faults(faults)
    with ExitStack() as owned:
        made, moved = _policy(policy), _robot(robot, owned)
        _check(made.spec, moved.spec)
        moved.reset(seed, 0, moved.spec.control_period_ns)
        standing_at(moved)
        repeats = WARM_UP + REPEATS if latency == MEASURED else 1
        times = [_rehearse(made, moved) for _ in range(repeats)]
        profile = _profile(latency, moved.spec, times)
        settings = options.settings(made.spec, moved.spec, executor, profile)
        events = MemoryTrace()
        with _Recording(events, trace, _header(settings, seed, moved.spec)) as sink:
            moved.reset(seed, 0, profile.execute_ns)
            outcome = run_simulated(
                settings.episode(made, moved, sink),
                _model(latency) or ConstantLatency(profile),
                faults=plan,
            )
    return _result(outcome, events.events, settings, seed, moved.spec)


def start(*arguments: Any, **options: Any) -> Running:
    """As `run`, in the background, for a program with a loop of its own; arguments as for `run`.

        with sv.start(policy, robot, executor) as running:
            while running.alive:
                show(running.health, running.metrics())

    The checks are over, and the robot is about to move, when this returns. Leaving the block stops
    it; so do SIGTERM, SIGHUP and SIGQUIT, and the end of the program.
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
            target=self._work, args=(target, arguments, options), name="streamvla-run", daemon=True
        )
        self._signals = ExitStack()
        self._signals.enter_context(stopped_by_signals(self._stop_and_wait))
        atexit.register(self._stop_and_wait)
        self._thread.start()
        try:
            self._live.moving.wait()
            if self._error is not None:
                raise self._error
        except BaseException:
            self._stop_and_wait()
            self._let_go()
            raise

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
        changes = (e for e in reversed(self._live.events()) if isinstance(e, HealthChanged))
        return next((change.after for change in changes), "streaming")

    def metrics(self) -> RunMetrics:
        """The figures so far."""
        live = self._live
        assert live.settings is not None
        settings = live.settings
        return metrics_of(
            live.events(), settings.profile.execute_ns, settings.pacing, settings.space
        )

    def stop(self) -> Result | None:
        """Bring the robot to rest and end the run; its result. Safe to call twice.

        Raises:
            StageFailedError: a stage had died; the robot was brought to its safe stop then.
        """
        self._stop_and_wait()
        self._let_go()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._result

    def _stop_and_wait(self) -> None:
        """Ask until it ends: one that has not begun yet hears only what comes later."""
        self._live.stopping.set()
        while self._thread.is_alive():
            self._live.interrupt()
            self._thread.join(_ASK_AGAIN_S)

    def _let_go(self) -> None:
        self._signals.close()
        atexit.unregister(self._stop_and_wait)

    def _work(
        self, target: Callable[..., Result], arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        _present.live = self._live
        try:
            self._result = target(*arguments, **options)
        except BaseException as error:  # handed to the owner, whatever it is
            self._error = error
        finally:
            self._live.moving.set()


class _Stopped(KeyboardInterrupt):
    """Ends the control loop as Ctrl-C does: the robot comes to rest."""


class _Live:
    """What a run shows of itself while it goes on.

    Attributes:
        moving: the checks are over.
        stopping: its owner wants it to end.
        settings: of the episode, once it is known.
        events: those so far.
    """

    def __init__(self) -> None:
        self.moving = threading.Event()
        self.stopping = threading.Event()
        self.settings: EpisodeSettings | None = None
        self.events: Callable[[], list[Any]] = list
        self.interrupt: Callable[[], None] = lambda: None

    def begin(self, settings: EpisodeSettings, events: Callable[[], list[Any]]) -> None:
        self.settings, self.events = settings, events

    def watch(self, now_ns: int) -> None:
        self.moving.set()
        if self.stopping.is_set():
            raise _Stopped


class _Present(threading.local):
    live: _Live | None = None


_present = _Present()


# --- the drivers -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """What is driven by what, and where it is recorded."""

    policy: PolicySource
    robot: RobotSource
    executor: Executor | str
    latency: str | LatencyProfile | LatencyModel
    file: Path | None
    faults: FaultPlan


def _run_on_threads(asked: _Asked, options: _Options, live: _Live) -> Result:
    with ExitStack() as owned:
        made, moved = _policy(asked.policy), _robot(asked.robot, owned)
        _check(made.spec, moved.spec)
        driver = owned.enter_context(RealtimeDriver(serial=options.shared_accelerator))
        moved.reset(options.seed, driver.clock.now_ns(), moved.spec.control_period_ns)
        standing_at(moved)
        times = driver.measure(moved, made, WARM_UP + REPEATS)
        profile = _profile(asked.latency, moved.spec, times)
        settings = options.settings(made.spec, moved.spec, asked.executor, profile)
        events = MemoryTrace()
        live.begin(settings, lambda: list(events.events))
        header = _header(settings, options.seed, moved.spec)
        with _Recording(events, asked.file, header, background=True) as sink:
            episode = settings.episode(made, moved, sink, live.watch)
            start_ns = driver.clock.now_ns() + LEAD_TIME_NS
            moved.reset(options.seed, start_ns, profile.execute_ns)
            try:
                outcome = driver.run(
                    episode, start_ns, faults=asked.faults, latency=_model(asked.latency)
                )
            except _Stopped:
                took_ns = driver.clock.now_ns() - start_ns
                outcome = EpisodeResult(moved.success, "interrupted", took_ns)
    return _result(outcome, events.events, settings, options.seed, moved.spec)


def _run_in_processes(asked: _Asked, options: _Options, live: _Live) -> Result:
    if not options.shared_accelerator:
        raise ConfigError(
            "shared_accelerator=False: the model process has one accelerator; use driver='thread'"
        )
    makers = (
        _maker(asked.robot, "robot", _robot_named),
        _maker(asked.policy, "policy", _policy_named),
    )
    with ExitStack() as owned:
        driver = owned.enter_context(closing(ProcessDriver(*makers)))
        policy_spec, robot_spec = driver.policy_spec, driver.robot_spec
        _check(policy_spec, robot_spec)
        profile = _profile(
            asked.latency, robot_spec, driver.measure(WARM_UP + REPEATS, options.seed)
        )
        settings = options.settings(policy_spec, robot_spec, asked.executor, profile)
        file = asked.file
        if file is None:
            file = Path(owned.enter_context(tempfile.TemporaryDirectory())) / "trace.jsonl"
        header = _header(settings, options.seed, robot_spec)
        plan = EpisodePlan(
            settings, file, header, options.seed, faults=asked.faults, latency=_model(asked.latency)
        )
        live.begin(settings, partial(_events_in, file))
        live.interrupt = driver.interrupt
        live.moving.set()
        outcome: EpisodeResult | None = None
        try:
            if not live.stopping.is_set():
                outcome = driver.run(plan)
        except KeyboardInterrupt:
            if not live.stopping.is_set():
                raise
        events = _events_in(file)
        live.begin(settings, lambda: events)
    if outcome is None:
        took_ns = events[-1].t_ns - events[0].t_ns if events else 0
        outcome = EpisodeResult(success=False, reason="interrupted", duration_ns=took_ns)
    return _result(outcome, events, settings, options.seed, robot_spec)


def _events_in(file: Path) -> list[Any]:
    """The events that another process has written so far."""
    try:
        return list(read_trace(file).events)
    except TraceError:
        return []


# --- one episode, stated once ----------------------------------------------------------------


@dataclass(frozen=True)
class _Options:
    """What both functions take alike."""

    seconds: float | None
    pacing: Pacing
    governor: GovernorName | Fallback | Ladder | None
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
        if isinstance(self.governor, str) and self.governor not in ("ladder", "basic"):
            raise did_you_mean("governor", self.governor, ("ladder", "basic"))
        if not isinstance(self.governor, str | None) and not (
            isinstance(self.governor, Ladder) or hasattr(self.governor, "factor")
        ):
            raise ConfigError(
                f'governor {self.governor!r}: expected "ladder", "basic", or a Ladder, Hold or '
                "Decelerate (streamvla.runtime)"
            )

    def settings(
        self,
        policy: PolicySpec,
        robot: RobotSpec,
        executor: Executor | str,
        profile: LatencyProfile,
    ) -> EpisodeSettings:
        if isinstance(executor, str):
            executor = parse_executor(executor, profile, policy.horizon)
        fitted = executor.fitted(policy, profile, shared_accelerator=self.shared_accelerator)
        limit_ns = None if self.seconds is None else round(self.seconds * NS_PER_S)
        return EpisodeSettings(
            robot.action_space,
            policy.horizon,
            fitted.seeded(self.seed),
            profile,
            self.pacing,
            EpisodeLimits(limit_ns, self.stop_on_success),
            fallback=self._fallback(robot),
            late=self.late,
            serial=self.shared_accelerator,
            instruction=self.instruction,
        )

    def _fallback(self, robot: RobotSpec) -> Fallback | Ladder:
        governor = self.governor or ("ladder" if self.pacing == "grid" else "basic")
        if not isinstance(governor, str):
            return governor
        return Ladder(robot.motion_limits) if governor == "ladder" else Hold()


class _Recording:
    """Events kept in memory and, where a file is named, written to it."""

    def __init__(
        self,
        events: MemoryTrace,
        path: Path | str | None,
        header: dict[str, Any],
        *,
        background: bool = False,
    ) -> None:
        self._file = None if path is None else FileTrace(Path(path), header, background=background)
        self._sink = events if self._file is None else TeeTrace(events, self._file)

    def __enter__(self) -> Any:
        return self._sink

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def _header(settings: EpisodeSettings, seed: int, robot: RobotSpec) -> dict[str, Any]:
    return {
        "command": "python",
        "robot": robot.name,
        "has_task": robot.has_task,
        "executor": settings.executor.slug(),
        "profile": settings.profile.label,
        "pacing": settings.pacing,
        "seed": seed,
        "commit": commit(),
    }


def _result(
    outcome: EpisodeResult,
    events: list[Any],
    settings: EpisodeSettings,
    seed: int,
    robot: RobotSpec,
) -> Result:
    profile, pacing = settings.profile, settings.pacing
    metrics = metrics_of(events, profile.execute_ns, pacing, settings.space)
    if not robot.has_task:
        metrics = replace(metrics, success=None)
    return Result(
        success=outcome.success,
        reason=outcome.reason,
        seconds=outcome.duration_ns / NS_PER_S,
        metrics=metrics,
        trace=Trace(_header(settings, seed, robot), list(events), complete=True),
        executor=settings.executor.label(settings.horizon),
        profile=profile,
        pacing=pacing,
        robot=robot,
    )


# --- what the caller gave ----------------------------------------------------------------------


def _policy_named(source: str) -> Policy:
    from streamvla.policy import find_policy

    return find_policy(source).load({})


def _robot_named(source: str) -> Robot:
    from streamvla.robots.registry import make_robot

    return make_robot(source)


def _policy(source: PolicySource) -> Policy:
    return _made(partial(_policy_named, source) if isinstance(source, str) else source)


def _robot(source: RobotSource, owned: ExitStack) -> Robot:
    """The robot; one that is made here is closed here."""
    if isinstance(source, str):
        source = partial(_robot_named, source)
    made = _made(source)
    if made is not source:
        owned.callback(made.close)
    return made


def _made(part: Any) -> Any:
    """The part, or what a function gives that makes it."""
    made = part() if callable(part) and not hasattr(part, "spec") else part
    if isinstance(made, type) or not hasattr(made, "spec"):
        raise ConfigError(
            f"{made!r} has no `spec`: expected a Policy or Robot (streamvla.core.interfaces), a "
            "function that makes one, or a name"
        )
    return made


def _maker(part: Any, what: str, named: Callable[[str], Any]) -> Callable[[], Any]:
    """A function that another process can call for the part."""
    if isinstance(part, str):
        return partial(named, part)
    if callable(part) and (isinstance(part, type) or not hasattr(part, "spec")):
        return part
    raise ConfigError(
        f"the {what} is an object, and driver='process' makes it in another process: give a "
        "function of an importable module that makes it, or a name"
    )


def _check(policy: PolicySpec, robot: RobotSpec) -> None:
    """Refuse what does not fit, before anything runs."""
    check_fit(policy, robot)
    check_start(robot)
    robot.motion_limits.require(robot.action_space)


def _rehearse(policy: Policy, robot: Robot) -> StageTimes:
    """Every stage once, checked, with the robot standing."""
    return measure_once(SystemClock(), robot, policy, robot.capture(), robot.instruction)


def _model(latency: str | LatencyProfile | LatencyModel) -> LatencyModel | None:
    return None if isinstance(latency, str | LatencyProfile) else latency


def _profile(
    latency: str | LatencyProfile | LatencyModel, robot: RobotSpec, times: list[StageTimes]
) -> LatencyProfile:
    """Stage times at the robot's own rate."""
    period_ns = robot.control_period_ns
    if isinstance(latency, LatencyProfile):
        return replace(latency, execute_ns=period_ns)
    if isinstance(latency, str) and latency != MEASURED:
        return replace(named_profile(latency), execute_ns=period_ns)
    if not isinstance(latency, str):
        if not all(hasattr(latency, name) for name in ("observe_ns", "generate_ns", "execute_ns")):
            raise ConfigError(
                f"latency {latency!r}: expected a profile's name, a LatencyProfile, or a model "
                "with observe_ns(), generate_ns() and execute_ns()"
            )
        observe, generate = latency.observe_ns(), latency.generate_ns()
        return LatencyProfile("model", observe, generate, period_ns)
    known = times[WARM_UP:] or times
    return LatencyProfile(
        MEASURED,
        round(median(time.observe_ns for time in known)),
        round(median(step for time in known for step in time.generate_ns)),
        period_ns,
        emulated=False,
    )
