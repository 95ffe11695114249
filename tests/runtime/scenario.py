"""One way to run a streamer in virtual time, shared by the runtime tests."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.runtime.buffer import LateRule
from streamvla.runtime.drivers.episode import Episode, EpisodeLimits, EpisodeResult
from streamvla.runtime.drivers.settings import EpisodeSettings
from streamvla.runtime.drivers.simulated import run_simulated
from streamvla.runtime.executors.base import Executor
from streamvla.runtime.governor.governor import Fallback
from streamvla.runtime.governor.ladder import Ladder
from streamvla.runtime.streamer.machine import Pacing, Streamer
from streamvla.runtime.timing.latency import (
    ConstantLatency,
    LatencyModel,
    LatencyProfile,
    profile_ms,
)
from streamvla.testing import ScriptedPolicy, StillRobot
from streamvla.testing.fakes import Script
from streamvla.trace import MemoryTrace, Sent, Stopping, TraceEvent, TraceSink

MIXED = ActionSpace(("dx", "grip"), ("delta", "absolute"), (-1.0, -1.0), (1.0, 1.0))
PAPER = profile_ms("paper", 58, 18, 27)


@dataclass
class Run:
    """What a scenario left behind."""

    result: EpisodeResult
    events: list[TraceEvent]
    robot: StillRobot
    streamer: Streamer

    @property
    def episode(self) -> list[TraceEvent]:
        """The events until it is over."""
        over = next(i for i, event in enumerate(self.events) if isinstance(event, Stopping))
        return self.events[:over]

    @property
    def sent(self) -> list[Sent]:
        """The commands until it is over."""
        return [event for event in self.episode if isinstance(event, Sent)]

    @property
    def stop(self) -> list[Sent]:
        """The commands that then brought the robot to rest."""
        return [event for event in self.events if isinstance(event, Sent)][len(self.sent) :]

    @property
    def policy_values(self) -> list[tuple[float, ...]]:
        return [event.values for event in self.sent if event.source == "policy"]


@dataclass
class Scenario:
    """Settings of a run; `run` carries it out."""

    executor: Executor
    pacing: Pacing = "event"
    profile: LatencyProfile = PAPER
    horizon: int = 10
    observations: int | None = 5
    duration_ns: int | None = None
    space: ActionSpace = field(default_factory=lambda: MIXED)
    script: Script | None = None
    fallback: Fallback | Ladder | None = None
    latency: LatencyModel | None = None
    serial: bool = True
    late: LateRule | None = None
    validity_ns: int | None = None
    standing: np.ndarray | None = None
    chunk_passes: int = 0

    def episode(self, trace: TraceSink) -> Episode:
        period_ns = self.profile.execute_ns
        robot = StillRobot(self.space, period_ns, standing=self.standing)
        policy = ScriptedPolicy(self.space, self.horizon, period_ns, self.script, self.chunk_passes)
        settings = EpisodeSettings(
            self.space,
            self.horizon,
            self.executor,
            self.profile,
            self.pacing,
            EpisodeLimits(self.duration_ns),
            fallback=self.fallback,
            late=self.late,
            validity_ns=self.validity_ns,
            max_observations=self.observations,
            serial=self.serial,
        )
        return settings.episode(policy, robot, trace)

    def run(self) -> Run:
        trace = MemoryTrace()
        episode = self.episode(trace)
        result = run_simulated(episode, self.latency or ConstantLatency(self.profile))
        assert isinstance(episode.robot, StillRobot)
        return Run(result, trace.events, episode.robot, episode.streamer)


def wandering(observation, start, index) -> np.ndarray:
    """A script that depends on where the flow starts and which step it is."""
    phase = observation.action_state[0] + 0.1 * index
    return np.array([0.5 * np.cos(phase), 1.0 if index % 2 else -1.0])
