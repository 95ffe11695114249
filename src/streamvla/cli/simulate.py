"""`streamvla simulate`: the timeline of a schedule, without a robot or a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from streamvla.core.errors import ConfigError
from streamvla.core.provenance import commit
from streamvla.evaluation.metrics import MetricsAccumulator, RunMetrics
from streamvla.runtime import Episode, EpisodeLimits, Streamer, run_simulated
from streamvla.runtime.executors.base import Executor
from streamvla.runtime.executors.registry import executor_named, parse_executor
from streamvla.runtime.timing.latency import (
    ConstantLatency,
    JitteredLatency,
    LatencyProfile,
    named_profile,
    profile_ms,
)
from streamvla.studies.tables import figure, print_json, print_table
from streamvla.testing import ScriptedPolicy, StillRobot, unit_space
from streamvla.trace import FileTrace, TeeTrace, TraceSink
from streamvla.trace.spans import Pacing


@dataclass(frozen=True)
class Simulate:
    """Simulate a schedule in virtual time: will the robot stutter, and how much?

    Attributes:
        observe_ms: stage time T_o, per observation.
        generate_ms: stage time g, per action.
        execute_ms: stage time e, per action: the control period.
        profile: take the stage times of a named profile instead.
        horizon: H, actions per observation.
        executor: action-flow or synchronous.
        lead: actions still pending when the next observation starts (action-flow).
        execute_horizon: actions executed of the H generated (synchronous); default all.
        pacing: "event": the next action starts when the robot is free; "grid": fixed ticks.
        observations: how many observation cycles.
        jitter: coefficient of variation of the stage times.
        seed: of the jitter.
        concurrent: encode and generate on an accelerator each, instead of sharing one.
        trace: write the event trace (JSON lines) to this file.
        json: print the figures as one JSON object on the last line.
    """

    observe_ms: float = 58.0
    generate_ms: float = 18.0
    execute_ms: float = 27.0
    profile: str | None = None
    horizon: int = 10
    executor: str = "action-flow"
    lead: int = 0
    execute_horizon: int | None = None
    pacing: Pacing = "event"
    observations: int = 100
    jitter: float = 0.0
    seed: int = 0
    concurrent: bool = False
    trace: Path | None = None
    json: bool = False

    def stage_times(self) -> LatencyProfile:
        if self.profile is not None:
            return named_profile(self.profile)
        return profile_ms("stated", self.observe_ms, self.generate_ms, self.execute_ms)


def simulate(command: Simulate) -> None:
    """Run the command and print its figures."""
    if command.observations < 1 or command.horizon < 1:
        raise ConfigError(
            f"observations {command.observations} and horizon {command.horizon} must be ≥ 1"
        )
    profile = command.stage_times()
    metrics = MetricsAccumulator(profile.execute_ns, command.pacing)
    if command.trace is None:
        _run(command, profile, metrics)
    else:
        with FileTrace(command.trace, _header(command)) as trace:
            _run(command, profile, TeeTrace(metrics, trace))
    _report(command, profile, metrics.result())


def _header(command: Simulate) -> dict:
    settings = {name: value for name, value in asdict(command).items() if name != "trace"}
    return {"command": "simulate", "config": settings, "seed": command.seed, "commit": commit()}


def _run(command: Simulate, profile: LatencyProfile, trace: TraceSink) -> None:
    space = unit_space()
    executor = _executor(command, profile)
    episode = Episode(
        robot=StillRobot(space, profile.execute_ns, keep=False),
        policy=ScriptedPolicy(space, command.horizon, profile.execute_ns),
        streamer=Streamer(
            space,
            command.horizon,
            executor,
            command.pacing,
            trace,
            max_observations=command.observations,
        ),
        trace=trace,
        profile=profile,
        limits=EpisodeLimits(),
        serial=not command.concurrent,
    )
    jittered = JitteredLatency(profile, command.jitter, command.seed)
    run_simulated(episode, jittered if command.jitter else ConstantLatency(profile))


def _executor(command: Simulate, profile: LatencyProfile) -> Executor:
    """Of `--lead` and `--execute-horizon` the one that this executor has."""
    stated = {"lead": command.lead or None, "execute horizon": command.execute_horizon}
    counts = executor_named(command.executor).counts
    for what, number in stated.items():
        if number is not None and what != counts:
            raise ConfigError(
                f"{what} {number}: executor {command.executor} has none, its number is the "
                f"{counts}; leave it out, or choose another executor"
            )
    number = stated.get(counts)
    text = command.executor if number is None else f"{command.executor}:{number}"
    return parse_executor(text, profile, command.horizon)


def _report(command: Simulate, profile: LatencyProfile, metrics: RunMetrics) -> None:
    figures = metrics.to_json()
    shown = (
        ("time per action (ms)", metrics.t_action_ms),
        ("halt per observation (ms)", metrics.halt_ms_per_observation),
        ("longest halt (ms)", metrics.longest_halt_ms),
        ("start-up, not counted above (ms)", metrics.startup_ms),
        ("deadline misses", metrics.deadline_misses),
        ("starved ticks", metrics.starved_ticks),
        ("action age p50 (ms)", metrics.action_age_ms.p50),
    )
    rows = [(name, figure(value)) for name, value in shown]
    title = f"{command.executor}, {command.pacing} pacing, {profile.label}"
    print_table(title, ("figure", "value"), rows)
    lead = profile.zero_halt_lead()
    if lead < command.horizon:
        print(f"Zero halt needs lead {lead} at these stage times (n·e ≥ T_o + g).")
    else:
        print(f"No lead below H = {command.horizon} reaches zero halt at these stage times.")
    if command.json:
        print_json({"command": "simulate", "seed": command.seed, **figures})
