"""`streamvla bench faults`: a campaign of injected faults, every tick of it checked."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from math import pi
from pathlib import Path

import numpy as np

from streamvla.cli.output import figure, print_json, print_table
from streamvla.core.errors import ConfigError, StageFailedError
from streamvla.core.interfaces import FlowStart, Observation
from streamvla.core.provenance import commit
from streamvla.evaluation.campaign import Case, Verdict, draw_cases, judge, summarise
from streamvla.robots.point import SPEC
from streamvla.runtime import PROFILES, Episode, EpisodeLimits, Ladder, Streamer, run_simulated
from streamvla.runtime.faults import FaultPlan
from streamvla.runtime.latency import JitteredLatency
from streamvla.testing import ScriptedPolicy, StillRobot
from streamvla.trace import FileTrace, read_trace

_HORIZON = 10
_PROFILE = PROFILES["paper-20hz"]
_JITTER = 0.1
_WINDOW_NS = 2 * (_PROFILE.observe_ns + _HORIZON * (_PROFILE.generate_ns + _PROFILE.execute_ns))
_SHOWN_FAILURES = 20


@dataclass(frozen=True)
class BenchFaults:
    """Inject faults in simulated time and check every promise on every tick.

    Attributes:
        faults: how many, one an episode, over all kinds that need no process.
        seed: of the faults, the stage times and the policy.
        json: print the figures as one JSON object on the last line.
    """

    faults: int = 1000
    seed: int = 0
    json: bool = False

    def __post_init__(self) -> None:
        if self.faults < 1 or self.seed < 0:
            raise ConfigError(f"faults {self.faults} must be ≥ 1 and seed {self.seed} ≥ 0")


def bench_faults(command: BenchFaults) -> None:
    """Run the campaign and print its table.

    Raises:
        StageFailedError: a promise was broken; every broken one is printed first.
    """
    cases = draw_cases(command.faults, command.seed, _PROFILE.execute_ns)
    with tempfile.TemporaryDirectory() as folder:
        verdicts = [run_case(case, Path(folder) / "trace.jsonl") for case in cases]
    rows = summarise(verdicts)
    _print(rows, command)
    broken = [verdict for verdict in verdicts if verdict.broken]
    for verdict in broken[:_SHOWN_FAILURES]:
        print(f"{verdict.case}: {'; '.join(verdict.broken[:3])}")
    if command.json:
        fields = {"command": "bench faults", "seed": command.seed, "commit": commit()}
        print_json({**fields, **rows[-1], "kinds": rows[:-1]})
    if broken:
        raise StageFailedError(
            f"{len(broken)} of {len(verdicts)} episodes broke a promise; see above. The same seed "
            "repeats them"
        )


def run_case(case: Case, path: Path) -> Verdict:
    """One episode, its trace written to `path` and read back."""
    space, limits = SPEC.action_space, SPEC.motion_limits
    robot = StillRobot(space, _PROFILE.execute_ns)
    failed = False
    with FileTrace(path, {"command": "bench faults", "seed": case.seed}) as trace:
        streamer = Streamer(
            space,
            _HORIZON,
            case.executor,
            "grid",
            trace,
            fallback=Ladder(limits),
            validity_ns=_WINDOW_NS,
        )
        episode = Episode(
            robot=robot,
            policy=_wandering_policy(case.seed),
            streamer=streamer,
            trace=trace,
            pacing="grid",
            profile=_PROFILE,
            limits=EpisodeLimits(case.duration_ns),
        )
        latency = JitteredLatency(_PROFILE, _JITTER, case.seed)
        try:
            run_simulated(episode, latency, faults=FaultPlan((case.fault,)))
        except StageFailedError:
            failed = True
    commands = [values for _, values in robot.commands]
    return judge(case, read_trace(path), commands, failed, space, limits)


def _wandering_policy(seed: int) -> ScriptedPolicy:
    """Sine waves, up to a half beyond the velocity limit; the gripper opens and closes."""
    stream = np.random.default_rng(seed)
    size, rate = stream.uniform(0.2, 1.5, 2), stream.uniform(0.1, 1.0, 2)  # action units, Hz

    def script(observation: Observation, start: FlowStart, index: int) -> np.ndarray:
        instant_ns = observation.captured_ns + index * _PROFILE.execute_ns
        phase = 2 * pi * rate * instant_ns / 1e9
        return np.array([*(size * np.sin(phase)), 1.0 if np.sin(phase[0]) > 0 else -1.0])

    return ScriptedPolicy(SPEC.action_space, _HORIZON, _PROFILE.execute_ns, script)


def _print(rows: list[dict], command: BenchFaults) -> None:
    print_table(
        f"{command.faults} faults, seed {command.seed}, {_PROFILE.label}",
        ("fault", "faults", "ticks checked", "broken", "recovery p50 (ms)", "max", "max (cycles)"),
        [
            (
                row["kind"],
                str(row["faults"]),
                str(row["ticks"]),
                f"{row['broken']} {', '.join(row['broken_promises'])}".strip(),
                figure(row["recovery_p50_ms"], 0),
                figure(row["recovery_max_ms"], 0),
                figure(row["recovery_max_cycles"], 2),
            )
            for row in rows
        ],
    )
