"""When to observe, generate and send: the streamer and its drivers. Never imports torch."""

from streamvla.runtime.cameras import FrozenCamera
from streamvla.runtime.episode import Episode, EpisodeLimits, EpisodeResult
from streamvla.runtime.executors import ActionFlow, Executor, Synchronous
from streamvla.runtime.fallbacks import Compliance, FallbackController, HoldPosition, TowardGoal
from streamvla.runtime.faults import FaultPlan, parse_faults
from streamvla.runtime.governor import Decelerate, Governor, Hold
from streamvla.runtime.ladder import Ladder
from streamvla.runtime.latency import PROFILES, LatencyProfile, named_profile
from streamvla.runtime.plan import EpisodePlan, ProcessResult
from streamvla.runtime.privileges import RealtimeSettings
from streamvla.runtime.process import ProcessDriver
from streamvla.runtime.realtime import RealtimeDriver, run_realtime
from streamvla.runtime.simulated import run_simulated
from streamvla.runtime.streamer import Streamer
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
