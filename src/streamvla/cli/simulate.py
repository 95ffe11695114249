"""`streamvla simulate`: the timeline of a schedule, without a robot or a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from streamvla.core.clock import NS_PER_MS
from streamvla.core.errors import ConfigError
from streamvla.core.provenance import commit
from streamvla.evaluation.metrics import MetricsAccumulator, RunMetrics
from streamvla.runtime import Episode, EpisodeLimits, Streamer, run_simulated
from streamvla.runtime.drivers.feasibility import Feasibility, StageEstimates, check_schedule
from streamvla.runtime.executors.base import Executor
from streamvla.runtime.executors.registry import executor_named, parse_executor
from streamvla.runtime.timing.latency import (
    ConstantLatency,
    JitteredLatency,
    LatencyProfile,
    named_profile,
    profile_ms,
)
from streamvla.studies.outputs import require_trace
from streamvla.studies.tables import figure, print_json, print_table
from streamvla.testing import ScriptedPolicy, StillRobot, unit_space
from streamvla.trace import TeeTrace, TraceSink
from streamvla.trace.spans import Pacing
from streamvla.trace.store import whole_trace


@dataclass(frozen=True)
class Simulate:
    """Simulate a schedule in virtual time: will the robot stutter, and how much?

    Attributes:
        observe_ms: stage time T_o, per observation; default 58.
        generate_ms: stage time g of a policy that streams, per action; default 18.
        chunk_ms: of a policy that gives whole chunks: stage time of one, instead of --generate-ms.
        chunk_passes: the same, in so many passes of --generate-ms or of the profile; with
            --chunk-ms, into how many passes that divides (default 1).
        execute_ms: stage time e, per action: the control period; default 27.
        profile: take the stage times of a named profile instead: paper-20hz, paper-a800 or
            edge-20hz. There is nothing to measure here, so `measured` is not one of them.
        horizon: H, actions per observation.
        executor: one of synchronous[:h], async-chunks[:left], action-flow[:lead|:auto], or one of a
            package.
        lead: actions still pending when the next observation starts (action-flow, async-chunks).
        execute_horizon: actions executed of the H generated (synchronous); default all.
        pacing: "event": the next action starts when the robot is free; "grid": fixed ticks.
        observations: how many observation cycles.
        jitter: coefficient of variation of the stage times.
        seed: of the jitter.
        concurrent: encode and generate on an accelerator each, instead of sharing one.
        trace: write the event trace (JSON lines) to this file.
        json: print the figures as one JSON object on the last line.
    """

    observe_ms: float | None = None
    generate_ms: float | None = None
    chunk_ms: float | None = None
    chunk_passes: int | None = None
    execute_ms: float | None = None
    profile: str | None = None
    horizon: int = 10
    executor: Annotated[str, tyro.conf.arg(name="executors")] = "action-flow"
    lead: int | None = None
    execute_horizon: int | None = None
    pacing: Pacing = "event"
    observations: int = 100
    jitter: float = 0.0
    seed: int = 0
    concurrent: bool = False
    trace: Path | None = None
    json: bool = False

    @property
    def passes(self) -> int:
        """Of a chunk; 0 for a policy that streams."""
        return self.chunk_passes or (0 if self.chunk_ms is None else 1)

    def stage_times(self) -> LatencyProfile:
        stated = {
            "--observe-ms": self.observe_ms,
            "--generate-ms": self.generate_ms,
            "--chunk-ms": self.chunk_ms,
            "--execute-ms": self.execute_ms,
        }
        flags = [flag for flag, value in stated.items() if value is not None]
        if self.profile is not None and flags:
            raise ConfigError(f"--profile {self.profile} and {flags[0]}: expected one of the two")
        if self.chunk_passes is not None and self.chunk_passes < 1:
            raise ConfigError(f"--chunk-passes {self.chunk_passes}: expected at least 1")
        if self.profile == "measured":
            raise ConfigError(
                "--profile measured: there is nothing to measure here; state the stage times, or "
                "measure a policy with `streamvla run` or `eval`"
            )
        if self.profile is not None:
            return named_profile(self.profile)
        observe, execute = _or(self.observe_ms, 58.0), _or(self.execute_ms, 27.0)
        if self.chunk_ms is None:
            return profile_ms("stated", observe, _or(self.generate_ms, 18.0), execute)
        if self.generate_ms is not None:
            raise ConfigError(
                "--generate-ms and --chunk-ms: expected one of the two, the first for a policy "
                "that streams its actions, the second for one that gives whole chunks"
            )
        return profile_ms("stated", observe, self.chunk_ms / self.passes, execute)


def _or(stated: float | None, default: float) -> float:
    return default if stated is None else stated


def simulate(command: Simulate) -> None:
    """Run the command and print its figures."""
    if command.observations < 1 or command.horizon < 1:
        raise ConfigError(
            f"observations {command.observations} and horizon {command.horizon} must be ≥ 1"
        )
    profile = command.stage_times()
    metrics = MetricsAccumulator(profile.execute_ns, command.pacing)
    if command.trace is not None:
        require_trace(command.trace, "simulate")
    if command.trace is None:
        drive(command, profile, metrics)
    else:
        with whole_trace(command.trace, _header(command)) as trace:
            drive(command, profile, TeeTrace(metrics, trace))
    _report(command, profile, metrics.result())


def _header(command: Simulate) -> dict:
    settings = {name: value for name, value in asdict(command).items() if name != "trace"}
    return {"command": "simulate", "config": settings, "seed": command.seed, "commit": commit()}


def drive(command: Simulate, profile: LatencyProfile, trace: TraceSink) -> None:
    """Run the schedule; every event goes to `trace`."""
    space = unit_space()
    executor = _executor(command, profile)
    episode = Episode(
        robot=StillRobot(space, profile.execute_ns, keep=False),
        policy=_policy(command, profile),
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


def _policy(command: Simulate, profile: LatencyProfile) -> ScriptedPolicy:
    space, passes = unit_space(), command.passes
    return ScriptedPolicy(space, command.horizon, profile.execute_ns, chunk_passes=passes)


def _executor(command: Simulate, profile: LatencyProfile) -> Executor:
    """Of `--lead` and `--execute-horizon` the one that this executor has."""
    name, _, setting = command.executor.partition(":")
    stated = {"lead": command.lead, "execute horizon": command.execute_horizon}
    counts = executor_named(name).counts
    what = "lead" if counts == "actions left" else counts
    for each, number in stated.items():
        if number is not None and each != what:
            raise ConfigError(
                f"{each} {number}: executor {name} has none, its number is the {counts}; leave it "
                "out, or choose another executor"
            )
    number = stated.get(what)
    if number is not None and setting:
        raise ConfigError(f"{command.executor} and {what} {number}: expected one of the two")
    text = command.executor if number is None else f"{name}:{number}"
    return parse_executor(
        text,
        profile,
        command.horizon,
        policy=_policy(command, profile),
        shared_accelerator=not command.concurrent,
    )


def verdict(command: Simulate, profile: LatencyProfile) -> Feasibility:
    """What the stage times, without their jitter, come to under this executor."""
    return check_schedule(
        StageEstimates(profile.observe_ns, profile.generate_ns),
        profile.execute_ns,
        _executor(command, profile),
        command.horizon,
        command.passes,
        shared_accelerator=not command.concurrent,
    )


def _sentence(command: Simulate, found: Feasibility) -> str:
    """Which number reaches zero halt, and why none does."""
    name = command.executor.partition(":")[0]
    overlaps = executor_named(name).overlaps
    number = "actions left" if executor_named(name).counts == "actions left" else "lead"
    jitter = ", as long as the stages take their mean times" if command.jitter else ""
    if not overlaps:
        if found.feasible:
            return f"{name}: no halt at these stage times{jitter}."
        needed = found.needed_lead
        other = "" if needed is None else f"; action-flow with lead {needed} would not halt"
        return (
            f"{name} halts {found.work_ns / NS_PER_MS:.4g} ms an observation, whatever its "
            f"execute horizon{other}."
        )
    if found.needed_lead is None:
        return f"No {number} below H = {command.horizon} reaches zero halt: {found.never}."
    if found.feasible:
        return (
            f"No halt with {number} {found.lead}{jitter}; zero halt needs {number} "
            f"{found.needed_lead} at these stage times."
        )
    return (
        f"Zero halt needs {number} {found.needed_lead} at these stage times{jitter}: {found.why}."
    )


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
    found = verdict(command, profile)
    print(_sentence(command, found))
    if command.json:
        schedule = {"zero_halt_lead": found.needed_lead, "feasible": found.feasible}
        print_json({"command": "simulate", "seed": command.seed, **schedule, **figures})
