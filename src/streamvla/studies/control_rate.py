"""`streamvla bench realtime`: how late commands are, with the model's process under full load.

executor process    the control loop of `run --driver process`, the load in the model process
same process        the same control loop and the same load in one interpreter
sleep loop          `while True: command(); time.sleep(period)`, beside the same load
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from streamvla.core.clock import NS_PER_MS, NS_PER_S, SystemClock
from streamvla.core.errors import ConfigError
from streamvla.core.provenance import commit, machine
from streamvla.runtime import ActionFlow, EpisodeLimits, RealtimeDriver
from streamvla.runtime.drivers.loop_statistics import LoopStatistics, lateness_ms, miss_rate
from streamvla.runtime.drivers.settings import EpisodeSettings
from streamvla.runtime.processes.driver import ProcessDriver
from streamvla.runtime.processes.plan import EpisodePlan, ProcessResult
from streamvla.runtime.processes.privileges import RealtimeSettings
from streamvla.runtime.timing.latency import LatencyProfile
from streamvla.studies.tables import figure, print_json, print_table
from streamvla.testing import ScriptedPolicy, StillRobot, unit_space
from streamvla.testing.load import Load, LoadedPolicy
from streamvla.trace import MemoryTrace

_DIM, _HORIZON, _LEAD = 7, 10, 5


@dataclass(frozen=True)
class BenchRealtime:
    """Measure how late commands are while the model's process is under full load.

    The load: one thread of matrix products, one of pure Python.

    Attributes:
        hz: control ticks a second.
        seconds: for each of the three loops.
        priority: ask for SCHED_FIFO with this priority (executor process); None for the normal
            scheduler.
        cpus: ask to run on these cores only (executor process).
        lock_memory: ask to keep memory from being paged out (executor process).
        json: print the figures as one JSON object on the last line.
    """

    hz: float = 100.0
    seconds: float = 60.0
    priority: int | None = RealtimeSettings.fifo_priority
    cpus: tuple[int, ...] = ()
    lock_memory: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.hz <= 10_000:
            raise ConfigError(f"rate {self.hz} Hz: expected 1 to 10000")
        if not 0.1 <= self.seconds <= 86_400:
            raise ConfigError(f"{self.seconds} seconds: expected 0.1 to 86400")

    @property
    def period_ns(self) -> int:
        return round(NS_PER_S / self.hz)

    @property
    def duration_ns(self) -> int:
        return round(self.seconds * NS_PER_S)

    @property
    def profile(self) -> LatencyProfile:
        """A model that keeps up: an action in half a period, a context in two."""
        period_ns = self.period_ns
        return LatencyProfile("bench", 2 * period_ns, period_ns // 2, period_ns)


def bench_realtime(command: BenchRealtime) -> None:
    """Run the command and print its figures."""
    before_ms = _stolen_ms()
    executor = _executor_process(command)
    statistics = executor.statistics
    stolen_ms = _stolen_ms() - before_ms
    same_process = _same_process(command)
    sleep_loop = _sleep_loop(command)
    figures = {
        **_figures(statistics),
        "stolen_ms": stolen_ms,
        "same_process": _figures(same_process),
        "sleep_loop": sleep_loop,
        "times_better_p99": same_process.lateness_ms["p99"]
        / executor.statistics.lateness_ms["p99"],
        "level": executor.statistics.level,
        "periodicity_hz": asdict(executor.statistics.periodicity),
        "execution_time_us": asdict(executor.statistics.execution_time),
    }
    _print(command, executor, figures)
    if command.json:
        head = {"command": "bench realtime", "hz": command.hz, "seconds": command.seconds}
        grants = [str(grant) for grant in executor.grants]
        print_json(
            {**head, "commit": commit(), "machine": machine(), "executor": grants, **figures}
        )


def _stolen_ms() -> float:
    """Processor time that the host of a virtual machine gave to others, all cores, since boot.

    No scheduler inside can give it back. 0 where the system does not say (Linux does).
    """
    try:
        total = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
        return int(total.split()[8]) * 1000 / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0.0


# --- the three loops -------------------------------------------------------------------------


def _robot(period_ns: int) -> StillRobot:
    return StillRobot(unit_space(_DIM), period_ns, keep=False)


def _settings(command: BenchRealtime) -> EpisodeSettings:
    limits = EpisodeLimits(command.duration_ns)
    return EpisodeSettings(
        unit_space(_DIM), _HORIZON, ActionFlow(_LEAD), command.profile, limits=limits
    )


def _executor_process(command: BenchRealtime) -> ProcessResult:
    space, period_ns = unit_space(_DIM), command.period_ns
    settings = RealtimeSettings(command.priority, command.cpus, command.lock_memory)
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessDriver(
            partial(_robot, period_ns),
            partial(LoadedPolicy, space, _HORIZON, period_ns),
            settings=settings,
        ) as driver,
    ):
        return driver.run(EpisodePlan(_settings(command), Path(folder) / "trace.jsonl"))


def _same_process(command: BenchRealtime) -> LoopStatistics:
    space, period_ns = unit_space(_DIM), command.period_ns
    trace = MemoryTrace()
    policy = ScriptedPolicy(space, _HORIZON, period_ns)
    episode = _settings(command).episode(policy, _robot(period_ns), trace)
    with RealtimeDriver() as driver, Load():
        driver.run(episode)
    return LoopStatistics.of(driver.ticks, command.hz)


def _sleep_loop(command: BenchRealtime) -> dict[str, float]:
    """Lateness against each sleep's own end, and by how much the loop drifted from its rate."""
    clock, robot, values = SystemClock(), _robot(command.period_ns), np.zeros(_DIM)
    ticks = round(command.seconds * command.hz)
    late_ns = np.empty(ticks, np.int64)
    start_ns = clock.now_ns()
    with Load():
        for tick in range(ticks):
            due_ns = clock.now_ns() + command.period_ns
            clock.sleep_for_ns(command.period_ns)
            robot.command(values, now_ns := clock.now_ns())
            late_ns[tick] = now_ns - due_ns
    drift_ns = clock.now_ns() - start_ns - ticks * command.period_ns
    return {**_lateness(late_ns), "drift_ms": drift_ns / NS_PER_MS}


# --- figures ---------------------------------------------------------------------------------


def _lateness(late_ns: np.ndarray) -> dict[str, float]:
    found = lateness_ms(late_ns)
    named = {f"lateness_{name}_ms": value for name, value in found.items()}
    return {**named, "miss_rate": miss_rate(late_ns)}


def _figures(statistics: LoopStatistics) -> dict[str, float]:
    named = {f"lateness_{name}_ms": value for name, value in statistics.lateness_ms.items()}
    counts = {"ticks": statistics.ticks, "skipped_ticks": statistics.skipped}
    return {**named, "miss_rate": statistics.miss_rate, **counts}


def _print(command: BenchRealtime, executor: ProcessResult, figures: dict[str, Any]) -> None:
    loops = {
        "executor process": figures,
        "same process": figures["same_process"],
        "sleep loop": figures["sleep_loop"],
    }
    print_table(
        f"Command lateness at {command.hz:g} Hz, {command.seconds:g} s each, on {machine()['cpu']}",
        ("loop", "p50 (ms)", "p99 (ms)", "max (ms)", "misses (%)", "skipped ticks", "drift (ms)"),
        [
            (
                name,
                figure(loop["lateness_p50_ms"], 3),
                figure(loop["lateness_p99_ms"], 3),
                figure(loop["lateness_max_ms"], 2),
                figure(100 * loop["miss_rate"], 2),
                figure(loop.get("skipped_ticks"), 0),
                figure(loop.get("drift_ms"), 0),
            )
            for name, loop in loops.items()
        ],
    )
    for grant in executor.grants:
        print(grant)
    if figures["stolen_ms"]:
        print(
            f"while the executor process ran, the host of this virtual machine withheld its cores "
            f"for {figures['stolen_ms']:.0f} ms; no scheduler in here can make up for that"
        )
