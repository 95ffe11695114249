"""When to observe, generate and send: the streamer and its drivers. Never imports torch."""

from streamvla.runtime.drivers.cameras import FrozenCamera
from streamvla.runtime.drivers.episode import Episode, EpisodeLimits, EpisodeResult
from streamvla.runtime.drivers.settings import EpisodeSettings
from streamvla.runtime.drivers.simulated import run_simulated
from streamvla.runtime.drivers.threads import RealtimeDriver, run_realtime
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.executors.base import Executor
from streamvla.runtime.executors.synchronous import Synchronous
from streamvla.runtime.faults.plan import FaultPlan, parse_faults
from streamvla.runtime.governor.fallbacks import (
    Compliance,
    FallbackController,
    HoldPosition,
    TowardGoal,
)
from streamvla.runtime.governor.governor import Decelerate, Governor, Hold
from streamvla.runtime.governor.ladder import Ladder
from streamvla.runtime.processes.driver import ProcessDriver
from streamvla.runtime.processes.plan import EpisodePlan, ProcessResult
from streamvla.runtime.processes.privileges import RealtimeSettings
from streamvla.runtime.streamer.machine import Streamer
from streamvla.runtime.timing.latency import PROFILES, LatencyProfile, named_profile
from streamvla.trace.spans import Pacing

__all__ = [
    "PROFILES",
    "ActionFlow",
    "Compliance",
    "Decelerate",
    "Episode",
    "EpisodeLimits",
    "EpisodePlan",
    "EpisodeResult",
    "EpisodeSettings",
    "Executor",
    "FallbackController",
    "FaultPlan",
    "FrozenCamera",
    "Governor",
    "Hold",
    "HoldPosition",
    "Ladder",
    "LatencyProfile",
    "Pacing",
    "ProcessDriver",
    "ProcessResult",
    "RealtimeDriver",
    "RealtimeSettings",
    "Streamer",
    "Synchronous",
    "TowardGoal",
    "named_profile",
    "parse_faults",
    "run_realtime",
    "run_simulated",
]
