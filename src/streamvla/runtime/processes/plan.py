"""An episode that is not alive yet: all another process needs to make it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamvla.core.clock import ms_to_ns
from streamvla.core.interfaces import Policy, Robot
from streamvla.runtime.drivers.episode import EpisodeResult
from streamvla.runtime.drivers.loop_statistics import LoopStatistics, TickLog
from streamvla.runtime.drivers.settings import EpisodeSettings
from streamvla.runtime.faults.plan import NO_FAULTS, FaultPlan
from streamvla.runtime.processes.privileges import Grant
from streamvla.runtime.timing.latency import LatencyModel

MakeRobot = Callable[[], Robot]
MakePolicy = Callable[[], Policy]


@dataclass(frozen=True)
class EpisodePlan:
    """One episode; sent to the executor process.

    Attributes:
        trace: the file the executor process writes.
        header: what the trace should carry.
        seed: the robot is reset with it.
        reset_ns: given to the robot to reset before the first tick.
        faults: put in on purpose, counted from tick 0.
        latency: stages are padded up to its times; None: to those of the settings' profile.
        film: keep a capture of every control instant, for a video made afterwards.
    """

    settings: EpisodeSettings
    trace: Path
    header: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    reset_ns: int = ms_to_ns(300)
    faults: FaultPlan = NO_FAULTS
    latency: LatencyModel | None = None
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
