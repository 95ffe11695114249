"""`streamvla bench runtime`: what the runtime itself costs, on this machine."""

from __future__ import annotations

import resource
from dataclasses import dataclass

import numpy as np

from streamvla.core.clock import NS_PER_S, SystemClock
from streamvla.core.errors import ConfigError
from streamvla.core.provenance import machine
from streamvla.evaluation.metrics import MetricsAccumulator
from streamvla.runtime import PROFILES, ActionFlow, Episode, EpisodeLimits, Streamer, run_simulated
from streamvla.runtime.streamer.messages import (
    Generated,
    Observed,
    Started,
    StartGenerate,
    StartObserve,
    Tick,
)
from streamvla.runtime.timing.latency import ConstantLatency
from streamvla.studies.tables import figure, print_json, print_table
from streamvla.testing import ScriptedPolicy, StillRobot, unit_space
from streamvla.trace import MemoryTrace

_DIM, _HORIZON = 7, 10
_PROFILE = PROFILES["paper-20hz"]


@dataclass(frozen=True)
class BenchRuntime:
    """Measure the runtime's own cost: no model, no robot, no rendering.

    Attributes:
        ticks: control ticks of the simulated run.
        samples: control ticks timed one by one.
        json: print the figures as one JSON object on the last line.
    """

    ticks: int = 1_000_000
    samples: int = 50_000
    json: bool = False

    def __post_init__(self) -> None:
        if self.ticks < 100 or self.samples < 100:
            raise ConfigError(f"ticks {self.ticks} and samples {self.samples} must be at least 100")


def bench_runtime(command: BenchRuntime) -> None:
    """Run the command and print its figures."""
    tick_ns = _tick_times(command.samples)
    before_kib = _peak_kib()
    ticks_per_s = _simulated_rate(command.ticks)
    figures = {
        "tick_p50_us": float(np.percentile(tick_ns, 50)) / 1e3,
        "tick_p99_us": float(np.percentile(tick_ns, 99)) / 1e3,
        "tick_max_us": float(tick_ns.max()) / 1e3,
        "simulated_ticks": command.ticks,
        "simulated_ticks_per_s": ticks_per_s,
        "memory_growth_mib": (_peak_kib() - before_kib) / 1024,
    }
    rows = [(name, figure(value)) for name, value in figures.items()]
    print_table(f"Runtime overhead on {machine()['cpu']}", ("figure", "value"), rows)
    if command.json:
        print_json({"command": "bench runtime", "machine": machine(), **figures})


def _tick_times(samples: int) -> np.ndarray:
    """(samples,) ns from a control tick to its command, 7-D actions, trace included."""
    clock = SystemClock()
    space = unit_space(_DIM)
    times = np.empty(samples, np.int64)
    streamer = Streamer(space, _HORIZON, ActionFlow(3), "grid", MemoryTrace())
    queue = streamer.handle(Started(0))
    for tick in range(samples):
        _answer_stages(streamer, queue, tick)
        begin_ns = clock.now_ns()
        queue = streamer.handle(Tick(tick, tick, tick))
        times[tick] = clock.now_ns() - begin_ns
    return times


def _answer_stages(streamer: Streamer, commands: list, now_ns: int) -> None:
    """Give the streamer at once what it asked for: contexts and whole generations."""
    for command in commands:
        if isinstance(command, StartObserve):
            more = streamer.handle(Observed(now_ns, command.observation))
            _answer_stages(streamer, more, now_ns)
        elif isinstance(command, StartGenerate):
            for index in range(_HORIZON):
                values = np.full(_DIM, 0.01 * index)
                streamer.handle(Generated(now_ns, now_ns, command.generation, index, values))


def _simulated_rate(ticks: int) -> float:
    """Ticks a second of the simulated driver with metrics, no robot and no model."""
    clock = SystemClock()
    space = unit_space(_DIM)
    trace = MetricsAccumulator(_PROFILE.execute_ns, "grid", space)
    episode = Episode(
        robot=StillRobot(space, _PROFILE.execute_ns, keep=False),
        policy=ScriptedPolicy(space, _HORIZON, _PROFILE.execute_ns),
        streamer=Streamer(space, _HORIZON, ActionFlow(3), "grid", trace),
        trace=trace,
        profile=_PROFILE,
        limits=EpisodeLimits(duration_ns=ticks * _PROFILE.execute_ns),
    )
    begin_ns = clock.now_ns()
    run_simulated(episode, ConstantLatency(_PROFILE))
    return ticks * NS_PER_S / (clock.now_ns() - begin_ns)


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
