"""`streamvla bench realtime`: how late commands are, with the model's process under full load.

executor process    the control loop of `run --driver process`, the load in the model process
same process        the same control loop and the same load in one interpreter
sleep loop          `while True: command(); time.sleep(period)`, beside the same load

With cameras, threads of the robot write frames at 30 Hz, and the policy sees all of them whole.
`--sweep` measures the executor process at several sizes, and for each size the way of before:
captures pickled on the control thread and sent through a socket.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import closing
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
from streamvla.studies.camera_frames import SIZES, WAYS, Cameras, Way, parse_size
from streamvla.studies.tables import figure, print_json, print_table
from streamvla.testing import ScriptedPolicy, unit_space
from streamvla.testing.load import Load
from streamvla.trace import MemoryTrace

_DIM, _HORIZON, _LEAD = 7, 10, 5


@dataclass(frozen=True)
class BenchRealtime:
    """Measure how late commands are while the model's process is under full load.

    The load: one thread of matrix products, one of pure Python.

    Attributes:
        hz: control ticks a second.
        seconds: for each of the three loops; with `sweep`, for each size and way.
        cameras: how many the robot has; 0 for none.
        camera_size: of a frame, HEIGHTxWIDTH.
        sweep: measure the executor process at 64p, 480p, 720p and 1080p, and the way of before.
        priority: ask for SCHED_FIFO with this priority (executor process); None for the normal
            scheduler.
        cpus: ask to run on these cores only (executor process).
        lock_memory: ask to keep memory from being paged out (executor process).
        json: print the figures as one JSON object on the last line.
    """

    hz: float = 100.0
    seconds: float = 60.0
    cameras: int = 0
    camera_size: str = "1080x1920"
    sweep: bool = False
    priority: int | None = RealtimeSettings.fifo_priority
    cpus: tuple[int, ...] = ()
    lock_memory: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.hz <= 10_000:
            raise ConfigError(f"rate {self.hz} Hz: expected 1 to 10000")
        if not 0.1 <= self.seconds <= 86_400:
            raise ConfigError(f"{self.seconds} seconds: expected 0.1 to 86400")
        if not 0 <= self.cameras <= 16:
            raise ConfigError(f"{self.cameras} cameras: expected 0 to 16")
        if self.sweep and not self.cameras:
            raise ConfigError("a sweep over sizes of frames needs cameras: --cameras 3")
        parse_size(self.camera_size)

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
    if command.sweep:
        _sweep(command)
        return
    executor, measured = _measured(command, parse_size(command.camera_size), "shared")
    statistics = executor.statistics
    same_process = _same_process(command)
    sleep_loop = _sleep_loop(command)
    figures = {
        **measured,
        "same_process": _figures(same_process),
        "sleep_loop": sleep_loop,
        "times_better_p99": same_process.lateness_ms["p99"] / statistics.lateness_ms["p99"],
        "level": statistics.level,
        "periodicity_hz": asdict(statistics.periodicity),
        "execution_time_us": asdict(statistics.execution_time),
    }
    _print(command, executor, figures)
    if command.json:
        print_json({**_head(command, executor), **figures})


def _sweep(command: BenchRealtime) -> None:
    """Every size, frames in shared memory and the way of before."""
    rows: list[dict[str, Any]] = []
    executor = None
    for name, size in SIZES.items():
        for way, words in WAYS.items():
            executor, measured = _measured(command, size, way)
            run = f"{name}, {words}"
            rows.append({"run": run, "name": name, "size": list(size), "way": way, **measured})
    assert executor is not None
    print_table(
        f"{command.cameras} cameras at 30 Hz, commands at {command.hz:g} Hz, {command.seconds:g} s "
        f"each, on {machine()['cpu']}",
        (
            *("frames", "way", "p50 (ms)", "p99 (ms)", "max (ms)", "lost (%)", "captures"),
            *("capture p50 (µs)", "capture p99 (µs)"),
        ),
        [
            (
                row["name"],
                row["way"],
                *(figure(row[f"lateness_{name}_ms"], 3) for name in ("p50", "p99", "max")),
                figure(100 * row["lost_rate"], 2),
                figure(row["captures"], 0),
                *(figure(row[f"capture_{name}_us"], 0) for name in ("p50", "p99")),
            )
            for row in rows
        ],
    )
    if command.json:
        print_json({**_head(command, executor), "rows": rows})


def _head(command: BenchRealtime, executor: ProcessResult) -> dict[str, Any]:
    cameras = {"cameras": command.cameras, "camera_size": command.camera_size}
    return {
        "command": "bench realtime",
        "hz": command.hz,
        "seconds": command.seconds,
        **(cameras if command.cameras else {}),
        "commit": commit(),
        "machine": machine(),
        "executor": [str(grant) for grant in executor.grants],
    }


def _measured(
    command: BenchRealtime, size: tuple[int, int], way: Way
) -> tuple[ProcessResult, dict[str, float]]:
    """The executor process, and its figures."""
    before_ms = _stolen_ms()
    executor = _executor_process(command, Cameras(command.cameras, size, way))
    stolen_ms = _stolen_ms() - before_ms
    capture_us = np.frombuffer(executor.ticks.capture_ns, np.int64) / 1e3
    p50, p99 = np.percentile(capture_us, (50, 99)) if len(capture_us) else (0.0, 0.0)
    statistics = executor.statistics
    ticks = statistics.ticks + statistics.skipped
    return executor, {
        **_figures(statistics),
        "stolen_ms": stolen_ms,
        "lost_ticks": statistics.skipped,
        "lost_rate": statistics.skipped / ticks if ticks else 0.0,
        "captures": len(capture_us),
        "capture_p50_us": float(p50),
        "capture_p99_us": float(p99),
    }


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


def _settings(command: BenchRealtime) -> EpisodeSettings:
    limits = EpisodeLimits(command.duration_ns)
    return EpisodeSettings(
        unit_space(_DIM), _HORIZON, ActionFlow(_LEAD), command.profile, limits=limits
    )


def _executor_process(command: BenchRealtime, cameras: Cameras) -> ProcessResult:
    space, period_ns = unit_space(_DIM), command.period_ns
    settings = RealtimeSettings(command.priority, command.cpus, command.lock_memory)
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessDriver(
            partial(cameras.robot, space, period_ns),
            partial(cameras.policy, space, period_ns, _HORIZON),
            settings=settings,
        ) as driver,
    ):
        return driver.run(EpisodePlan(_settings(command), Path(folder) / "trace.jsonl"))


def _same_process(command: BenchRealtime) -> LoopStatistics:
    space, period_ns = unit_space(_DIM), command.period_ns
    trace = MemoryTrace()
    robot = Cameras(command.cameras, parse_size(command.camera_size)).robot(space, period_ns)
    policy = ScriptedPolicy(space, _HORIZON, period_ns, robot=robot.spec)
    episode = _settings(command).episode(policy, robot, trace)
    robot.reset(0, SystemClock().now_ns(), period_ns)
    with closing(robot), RealtimeDriver() as driver, Load():
        driver.run(episode)
    return LoopStatistics.of(driver.ticks, command.hz)


def _sleep_loop(command: BenchRealtime) -> dict[str, float]:
    """Lateness against each sleep's own end, and by how much the loop drifted from its rate."""
    clock, values = SystemClock(), np.zeros(_DIM)
    robot = Cameras(0).robot(unit_space(_DIM), command.period_ns)
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
