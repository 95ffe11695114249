"""An episode that is not alive yet: all another process needs to make it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamvla.core.clock import ms_to_ns
from streamvla.core.interfaces import Policy, Robot
from streamvla.runtime.drivers.cameras import FrozenCamera
from streamvla.runtime.drivers.episode import EpisodeLimits, EpisodeResult
from streamvla.runtime.drivers.loop_statistics import LoopStatistics, TickLog
from streamvla.runtime.faults.plan import NO_FAULTS, FaultPlan
from streamvla.runtime.processes.privileges import Grant
from streamvla.runtime.streamer.machine import Streamer
from streamvla.runtime.timing.latency import LatencyProfile
from streamvla.trace import TraceSink
from streamvla.trace.spans import Pacing

MakeRobot = Callable[[], Robot]
MakePolicy = Callable[[], Policy]
MakeStreamer = Callable[[TraceSink], Streamer]
"""As `functools.partial(Streamer, space, horizon, executor, pacing)`."""


@dataclass(frozen=True)
class EpisodePlan:
    """Settings of one episode; sent to the executor process.

    Attributes:
        streamer: makes the streamer; a function of an importable module, or a partial of one.
        trace: the file the executor process writes.
        header: what the trace should carry.
        profile: gives the control period and the stage times to emulate.
        seed: the robot is reset with it.
        instruction: say this to the policy instead of the robot's own phrasing.
        reset_ns: given to the robot to reset before the first tick.
        faults: put in on purpose, counted from tick 0.
        frozen: when a camera counts as frozen.
        film: keep a capture of every control instant, for a video made afterwards.
    """

    streamer: MakeStreamer
    trace: Path
    pacing: Pacing
    profile: LatencyProfile
    limits: EpisodeLimits
    header: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    instruction: str | None = None
    reset_ns: int = ms_to_ns(300)
    faults: FaultPlan = NO_FAULTS
    frozen: FrozenCamera = field(default_factory=FrozenCamera)
    film: bool = False


@dataclass(frozen=True)
class ProcessResult(EpisodeResult):
    """How an episode in the executor process ended.

    Attributes:
        ticks: when every control tick was due, served and done.
        statistics: of the control loop.
        grants: what the executor process asked the operating system for, and the answers.
    """

    ticks: TickLog
    statistics: LoopStatistics
    grants: tuple[Grant, ...]
