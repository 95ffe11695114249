"""`streamvla bench faults`: a campaign of injected faults, every tick of it checked.

simulated     virtual time; all kinds that need no process
wall clock    the control loop and the model in processes of their own; all kinds
"""

from __future__ import annotations

import importlib
import signal
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from math import pi
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from streamvla.core.clock import NS_PER_S, SystemClock
from streamvla.core.errors import ConfigError, StageFailedError
from streamvla.core.interfaces import FlowStart, Observation
from streamvla.core.provenance import commit, machine
from streamvla.evaluation.campaign import (
    ENDINGS,
    KILLED,
    WALL_CLOCK,
    Case,
    Verdict,
    draw_cases,
    judge,
    judge_killed,
    summarise,
)
from streamvla.robots.point import SPEC, PointRobot
from streamvla.runtime import (
    PROFILES,
    EpisodeLimits,
    EpisodePlan,
    Ladder,
    LatencyProfile,
    ProcessDriver,
    RealtimeSettings,
    run_simulated,
)
from streamvla.runtime.drivers.settings import EpisodeSettings
from streamvla.runtime.drivers.signals import raised_as_interrupts
from streamvla.runtime.faults.plan import SIGNALS, FaultPlan
from streamvla.runtime.timing.latency import JitteredLatency, profile_ms
from streamvla.studies.tables import figure, print_json, print_table
from streamvla.testing import ScriptedPolicy
from streamvla.testing.remote_robot import RemoteRobot, RemoteServer
from streamvla.trace import FileTrace, read_trace

_HORIZON = 10
_PROFILE = PROFILES["paper-20hz"]
_WALL_PROFILE = profile_ms("campaign-50hz", 40, 12, 20)
_JITTER = 0.1
_SHOWN_FAILURES = 20


@dataclass(frozen=True)
class BenchFaults:
    """Inject faults, one an episode, and check every promise on every tick.

    Attributes:
        faults: how many in simulated time, over all kinds that need no process.
        wall_clock: how many in wall-clock time, over all kinds; about four seconds each.
        seed: of the faults, the stage times and the policy.
        priority: SCHED_FIFO priority of the control loop's process (wall clock); None for the
            normal scheduler.
        json: print the figures as one JSON object on the last line.
    """

    faults: int = 1000
    wall_clock: int = 0
    seed: int = 0
    priority: int | None = RealtimeSettings.fifo_priority
    json: bool = False

    def __post_init__(self) -> None:
        if min(self.faults, self.wall_clock, self.seed) < 0 or not self.faults + self.wall_clock:
            raise ConfigError(
                f"faults {self.faults} must be ≥ 1, or wall-clock {self.wall_clock} must be; seed "
                f"{self.seed} must be ≥ 0"
            )
        RealtimeSettings(self.priority)


def bench_faults(command: BenchFaults) -> None:
    """Run the campaigns and print their tables.

    Raises:
        StageFailedError: a promise was broken; every broken one is printed first.
    """
    figures: dict[str, Any] = {"seed": command.seed, "commit": commit(), "machine": machine()}
    verdicts: list[Verdict] = []
    before = _children()
    with tempfile.TemporaryDirectory() as name:
        if command.faults:
            cases = draw_cases(command.faults, command.seed, _PROFILE.execute_ns)
            path = Path(name) / "trace" / "trace.jsonl"
            simulated = [run_case(case, path) for case in cases]
            figures |= _report(simulated, f"simulated time, {_PROFILE.label}")
            verdicts += simulated
        if command.wall_clock:
            waited = list(_run_in_wall_clock(command, Path(name)))
            figures["wall_clock"] = _report(waited, f"wall clock, {_WALL_PROFILE.label}")
            verdicts += waited
    figures["processes_left_behind"] = len(_children() - before)
    if command.json:
        print_json({"command": "bench faults", **figures})
    broken = sum(bool(verdict.broken) for verdict in verdicts)
    if figures["processes_left_behind"]:
        raise StageFailedError(f"{figures['processes_left_behind']} processes were left behind")
    if broken:
        raise StageFailedError(
            f"{broken} of {len(verdicts)} episodes broke a promise; see above. The same seed "
            "draws them again"
        )


def _children() -> set[str]:
    """Processes that this one started and that still are there (Linux; none elsewhere)."""
    lists = Path("/proc/self/task").glob("*/children")
    return {child for each in lists for child in each.read_text().split()}


# --- one episode -----------------------------------------------------------------------------


class WitnessRobot(PointRobot):
    """The point robot, which also writes down every command it gets.

    Args:
        folder: gets one file an episode, named by its seed: the commands (d,) as float64.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._diary: BinaryIO | None = None

    def reset(self, seed: int, now_ns: int, command_duration_ns: int) -> None:
        self.close()
        super().reset(seed, now_ns, command_duration_ns)
        self._diary = _diary_path(self._folder, seed).open("wb", buffering=0)

    def command(self, values: np.ndarray, now_ns: int) -> None:
        super().command(values, now_ns)
        assert self._diary is not None  # `command` was accepted: there is an episode
        self._diary.write(np.asarray(values, np.float64).tobytes())

    def close(self) -> None:
        if self._diary is not None:
            self._diary.close()
            self._diary = None
        super().close()


def _diary_path(folder: Path, seed: int) -> Path:
    return folder / f"{seed}.f64"


def run_case(case: Case, path: Path) -> Verdict:
    """One episode in simulated time, its trace written to `path` and read back."""
    robot = WitnessRobot(path.parent.parent)
    robot.reset(case.seed, 0, _PROFILE.execute_ns)
    failed = False
    header = {"command": "bench faults", "seed": case.seed}
    with FileTrace(path, header, background=True) as trace:
        episode = _settings(case, _PROFILE).episode(wandering_policy(_PROFILE), robot, trace)
        latency = JitteredLatency(_PROFILE, _JITTER, case.seed)
        try:
            run_simulated(episode, latency, faults=FaultPlan((case.fault,)))
        except StageFailedError:
            failed = True
    robot.close()
    return _judged(case, path, failed)


def _run_in_wall_clock(command: BenchFaults, folder: Path) -> Iterator[Verdict]:
    """The drawn episodes, one after another, with processes that only a killed one replaces."""
    from rich.progress import track

    cases = draw_cases(command.wall_clock, command.seed, _WALL_PROFILE.execute_ns, WALL_CLOCK)
    settings, policy = RealtimeSettings(command.priority), partial(wandering_policy, _WALL_PROFILE)
    robot, remote = partial(WitnessRobot, folder), partial(RemoteRobot, folder)
    with _heard_signals(), ProcessDriver(robot, policy, settings=settings) as driver:
        for case in track(cases, "wall-clock faults", transient=True):
            if case.fault.kind != KILLED:
                yield run_wall_clock_case(case, driver, folder)
                continue
            with (
                RemoteServer(folder) as server,
                ProcessDriver(remote, policy, settings=settings) as watched,
            ):
                yield run_killed_case(case, watched, server, folder)


@contextmanager
def _heard_signals() -> Generator[None]:
    """Inside, no signal of the campaign is ignored, here and in the processes started from here:
    `nohup`, and a shell's `&`, hand ignored ones down."""
    numbers = {number for process, number in SIGNALS.values() if process == "owner"}
    ignored = [each for each in numbers if signal.getsignal(each) == signal.SIG_IGN]
    for each in ignored:
        heard = signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL
        signal.signal(each, heard)
    try:
        yield
    finally:
        for each in ignored:
            signal.signal(each, signal.SIG_IGN)


def run_killed_case(
    case: Case, driver: ProcessDriver, server: RemoteServer, folder: Path
) -> Verdict:
    """One episode whose executor process is killed; the robot is a process of its own."""
    plan = _plan(case, folder)
    try:
        driver.run(plan)
    except StageFailedError:
        _wait_for_stop(server)
    entries = [(round(row[0]), bool(row[1]), row[2:]) for row in server.diary()]
    return judge_killed(case, read_trace(plan.trace), entries, SPEC.control_period_ns)


def _wait_for_stop(server: RemoteServer) -> None:
    clock = SystemClock()
    deadline_ns = clock.now_ns() + NS_PER_S
    while not server.diary()[-1][1] and clock.now_ns() < deadline_ns:
        clock.sleep_for_ns(NS_PER_S // 100)


def run_wall_clock_case(case: Case, driver: ProcessDriver, folder: Path) -> Verdict:
    """One episode in wall-clock time, its trace written to `folder` and read back."""
    plan, failed = _plan(case, folder), False
    try:
        with raised_as_interrupts():
            driver.run(plan)
    except StageFailedError:
        failed = True
    except KeyboardInterrupt:
        if case.fault.kind not in ENDINGS:
            raise
        failed = True
    return _judged(case, plan.trace, failed)


def _plan(case: Case, folder: Path) -> EpisodePlan:
    return EpisodePlan(
        _settings(case, _WALL_PROFILE),
        folder / "trace" / "trace.jsonl",
        header={"command": "bench faults", "seed": case.seed},
        seed=case.seed,
        faults=FaultPlan((case.fault,)),
    )


def _settings(case: Case, profile: LatencyProfile) -> EpisodeSettings:
    """Twice the time of a synchronous cycle is how old an action may get."""
    work_ns = profile.observe_ns + _HORIZON * (profile.generate_ns + profile.execute_ns)
    return EpisodeSettings(
        SPEC.action_space,
        _HORIZON,
        case.executor,
        profile,
        limits=EpisodeLimits(case.duration_ns, stop_on_success=False),
        fallback=Ladder(SPEC.motion_limits),
        validity_ns=2 * work_ns,
        instruction=str(case.seed),
    )


def _judged(case: Case, path: Path, failed: bool) -> Verdict:
    diary = np.fromfile(_diary_path(path.parent.parent, case.seed)).reshape(
        -1, SPEC.action_space.dim
    )
    space, limits = SPEC.action_space, SPEC.motion_limits
    return judge(case, read_trace(path), list(diary), failed, space, limits)


def wandering_policy(profile: LatencyProfile) -> ScriptedPolicy:
    """Sine waves, up to a half beyond the velocity limit; the gripper opens and closes.

    Which waves, the instruction says: it is a number. PyTorch is imported here, where it is
    installed, so that a fault that needs it is no stall as well.
    """
    with suppress(ModuleNotFoundError):
        importlib.import_module("torch")
    script = partial(_wander, period_ns=profile.execute_ns)
    return ScriptedPolicy(SPEC.action_space, _HORIZON, SPEC.control_period_ns, script, robot=SPEC)


def _wander(
    observation: Observation, start: FlowStart, index: int, *, period_ns: int
) -> np.ndarray:
    size, rate_hz = _waves(observation.instruction)
    instant_ns = observation.captured_ns + index * period_ns
    phase = 2 * pi * rate_hz * instant_ns / 1e9
    return np.array([*(size * np.sin(phase)), 1.0 if np.sin(phase[0]) > 0 else -1.0])


@lru_cache(maxsize=1)
def _waves(instruction: str) -> tuple[np.ndarray, np.ndarray]:
    """(2,) size in action units and (2,) rate in Hz."""
    stream = np.random.default_rng(int(instruction))
    return stream.uniform(0.2, 1.5, 2), stream.uniform(0.1, 1.0, 2)


# --- figures ---------------------------------------------------------------------------------


def _report(verdicts: list[Verdict], what: str) -> dict[str, Any]:
    """Print the table and the broken promises; the figures."""
    rows = summarise(verdicts)
    _print(rows, what)
    broken = [verdict for verdict in verdicts if verdict.broken]
    for verdict in broken[:_SHOWN_FAILURES]:
        print(f"{verdict.case}: {'; '.join(verdict.broken[:3])}")
    return {**rows[-1], "kinds": rows[:-1]}


def _print(rows: list[dict], what: str) -> None:
    names = ("fault", "faults", "ticks", "skipped", "broken", "recovery p50 (ms)", "max", "cycles")
    print_table(
        f"{rows[-1]['faults']} faults, {what}",
        names,
        [
            (
                row["kind"],
                str(row["faults"]),
                str(row["ticks"]),
                str(row["skipped_ticks"]),
                f"{row['broken']} {', '.join(row['broken_promises'])}".strip(),
                figure(row["recovery_p50_ms"], 0),
                figure(row["recovery_max_ms"], 0),
                figure(row["recovery_max_cycles"], 2),
            )
            for row in rows
        ],
    )
