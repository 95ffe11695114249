"""What a control loop did with its time, in the words and with the thresholds of ros2_control.

    due ──── served ─────────── sent ── done          lateness        sent − due
         └ lateness of waking ┘ └ execution time ┘    execution time  done − served
                                                      periodicity     1 / (served − served before)

Source: ros2_control's controller manager, `diagnostics.threshold.controllers` in
controller_manager_parameters.yaml: names, units and default levels are the same.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from streamvla.core.clock import NS_PER_MS, NS_PER_S

Level = Literal["ok", "warn", "error"]
_LEVELS: tuple[Level, ...] = ("ok", "warn", "error")

MISS_NS = NS_PER_MS
"""A command later than this counts as a miss."""


class TickLog:
    """Four instants of every control tick, ns; appending costs no allocation most of the time.

    Attributes:
        due_ns: the tick's absolute deadline.
        served_ns: when the loop came to it.
        sent_ns: when the command was handed to the robot.
        done_ns: when the loop was free again.
        capture_ns: not of ticks but of observations: how long the robot's capture and handing it on
            kept the loop busy.
    """

    __slots__ = ("capture_ns", "done_ns", "due_ns", "sent_ns", "served_ns")

    def __init__(self) -> None:
        self.due_ns: array[int] = array("q")
        self.served_ns: array[int] = array("q")
        self.sent_ns: array[int] = array("q")
        self.done_ns: array[int] = array("q")
        self.capture_ns: array[int] = array("q")

    def __len__(self) -> int:
        return len(self.due_ns)

    def append(self, due_ns: int, served_ns: int, sent_ns: int, done_ns: int) -> None:
        self.due_ns.append(due_ns)
        self.served_ns.append(served_ns)
        self.sent_ns.append(sent_ns)
        self.done_ns.append(done_ns)

    def lateness_ns(self) -> np.ndarray:
        """(ticks,) int64: how long after its deadline each command was handed to the robot."""
        return _int64(self.sent_ns) - _int64(self.due_ns)

    def execution_ns(self) -> np.ndarray:
        """(ticks,) int64: how long each tick kept the loop busy."""
        return _int64(self.done_ns) - _int64(self.served_ns)

    def skipped(self, rate_hz: float) -> int:
        """Ticks between the first and the last that were never served."""
        if not self.due_ns:
            return 0
        expected = round((self.due_ns[-1] - self.due_ns[0]) * rate_hz / NS_PER_S) + 1
        return expected - len(self)

    def periodicity_hz(self) -> np.ndarray:
        """(ticks − 1,) rates between one tick and the next."""
        return NS_PER_S / np.maximum(np.diff(_int64(self.served_ns)), 1)


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation, minimum and maximum of one quantity, in its unit."""

    mean: float
    standard_deviation: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: np.ndarray) -> Spread:
        """The spread of at least one value; of none, all zero."""
        if not len(values):
            return cls(0.0, 0.0, 0.0, 0.0)
        return cls(
            float(values.mean()), float(values.std()), float(values.min()), float(values.max())
        )


@dataclass(frozen=True)
class Threshold:
    """From `warn` on a value is a warning, from `error` on an error."""

    warn: float
    error: float

    def level(self, value: float) -> Level:
        return _LEVELS[(value > self.warn) + (value > self.error)]


@dataclass(frozen=True)
class Thresholds:
    """ros2_control's defaults: periodicity in Hz, execution time in microseconds."""

    periodicity_mean_error: Threshold = Threshold(5.0, 10.0)
    periodicity_standard_deviation: Threshold = Threshold(5.0, 10.0)
    execution_time_mean_error: Threshold = Threshold(1000.0, 2000.0)
    execution_time_standard_deviation: Threshold = Threshold(100.0, 200.0)


@dataclass(frozen=True)
class LoopStatistics:
    """A control loop over one episode.

    Attributes:
        rate_hz: what was asked for.
        periodicity: Hz, from tick to tick.
        execution_time: microseconds a tick kept the loop busy.
        skipped: ticks that never got a command, because the loop was held up beyond the next.
        lateness_ms: p50, p99 and maximum, from a command's deadline to its hand-over to the robot.
        miss_rate: the fraction of ticks whose command went out later than 1 ms, or never.
    """

    rate_hz: float
    ticks: int
    skipped: int
    periodicity: Spread
    execution_time: Spread
    lateness_ms: dict[str, float]
    miss_rate: float
    thresholds: Thresholds = field(default_factory=Thresholds)

    @classmethod
    def of(cls, log: TickLog, rate_hz: float) -> LoopStatistics:
        late_ns = log.lateness_ns()
        skipped = log.skipped(rate_hz)
        return cls(
            rate_hz=rate_hz,
            ticks=len(log),
            skipped=skipped,
            periodicity=Spread.of(log.periodicity_hz()),
            execution_time=Spread.of(log.execution_ns() / 1e3),
            lateness_ms=lateness_ms(late_ns),
            miss_rate=miss_rate(late_ns, skipped),
        )

    @property
    def level(self) -> Level:
        """The worst level of mean error and standard deviation, as ros2_control judges them."""
        limits = self.thresholds
        found = (
            limits.periodicity_mean_error.level(abs(self.periodicity.mean - self.rate_hz)),
            limits.periodicity_standard_deviation.level(self.periodicity.standard_deviation),
            limits.execution_time_mean_error.level(self.execution_time.mean),
            limits.execution_time_standard_deviation.level(self.execution_time.standard_deviation),
        )
        return max(found, key=_LEVELS.index)


def lateness_ms(late_ns: np.ndarray) -> dict[str, float]:
    """p50, p99 and max of (n,) ns in milliseconds; zeros for none."""
    if not len(late_ns):
        return {"p50": 0.0, "p99": 0.0, "max": 0.0}
    p50, p99 = np.percentile(late_ns, (50, 99)) / NS_PER_MS
    return {"p50": float(p50), "p99": float(p99), "max": float(late_ns.max()) / NS_PER_MS}


def miss_rate(late_ns: np.ndarray, skipped: int = 0) -> float:
    """The fraction of ticks later than `MISS_NS`, (n,) ns, or skipped."""
    ticks = len(late_ns) + skipped
    return (int((late_ns > MISS_NS).sum()) + skipped) / ticks if ticks else 0.0


def _int64(values: array[int]) -> np.ndarray:
    return np.frombuffer(values, np.int64) if len(values) else np.empty(0, np.int64)
