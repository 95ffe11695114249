"""Realistic traces: the real streamer and simulated driver, with a scripted policy."""

from __future__ import annotations

import math

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.clock import NS_PER_S
from streamvla.core.interfaces import FlowStart, Observation
from streamvla.runtime.drivers.episode import Episode, EpisodeLimits
from streamvla.runtime.drivers.simulated import run_simulated
from streamvla.runtime.executors.base import Executor
from streamvla.runtime.streamer.machine import Pacing, Streamer
from streamvla.runtime.timing.latency import JitteredLatency, LatencyProfile
from streamvla.testing.fakes import ScriptedPolicy, StillRobot
from streamvla.trace import MemoryTrace, TraceEvent

ARM = ActionSpace(
    ("dx", "dy", "dz", "grip"),
    ("delta", "delta", "delta", "absolute"),
    (-1.0,) * 4,
    (1.0,) * 4,
)
HORIZON = 10


def simulate_arm(
    profile: LatencyProfile,
    executor: Executor,
    pacing: Pacing = "grid",
    *,
    observations: int = 20,
    seconds: float | None = None,
    jitter: float = 0.0,
    seed: int = 0,
    success: bool = False,
) -> list[TraceEvent]:
    """The events of one episode of an arm that circles and opens and closes its hand."""
    trace = MemoryTrace()
    robot = StillRobot(ARM, profile.execute_ns, keep=False)
    robot.success = success
    policy = ScriptedPolicy(ARM, HORIZON, profile.execute_ns, _circle)
    streamer = Streamer(ARM, HORIZON, executor, pacing, trace, max_observations=observations)
    limits = EpisodeLimits(round(seconds * NS_PER_S) if seconds else None, stop_on_success=False)
    episode = Episode(robot, policy, streamer, trace, profile, limits)
    run_simulated(episode, JitteredLatency(profile, jitter, seed))
    return trace.events


def _circle(observation: Observation, start: FlowStart, index: int) -> np.ndarray:
    phase = 0.12 * index + observation.captured_ns / NS_PER_S
    seam = 0.05 * math.sin(7 * observation.captured_ns / NS_PER_S)
    grip = 1.0 if math.sin(phase / 3) > 0 else -1.0
    return np.array([0.4 * math.cos(phase) + seam, 0.4 * math.sin(phase), 0.1 + seam, grip])
