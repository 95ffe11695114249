"""Stress on the stage times: each factor is a latency model around another (`core.stress`).

They touch observing and generating; how long a command acts on the robot stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from streamvla.core.clock import NS_PER_MS, ms_to_ns
from streamvla.core.stress import Stress, stream_of
from streamvla.runtime.timing.latency import LatencyModel

BURST_FACTOR = 3.0
BURST_RUNS = 10
"""Stage runs in a burst, on average."""
RETRANSMISSION_MS = 200
"""Until a lost message is sent again for the first time: the least that Linux's TCP waits. Each
time after it doubles (RFC 6298)."""


def stressed_latency(latency: LatencyModel, stress: Stress, seed: int) -> LatencyModel:
    """The latency model under those factors of a stress that change stage times.

    Args:
        seed: of the episode.
    """
    for factor, size in stress.of("latency"):
        latency = factor.wrap(latency, size, stream_of(factor.name, seed))
    return latency


def jittered(latency: LatencyModel, percent: float, stream: np.random.Generator) -> LatencyModel:
    """Log-normal factors of mean 1 and this coefficient of variation."""
    sigma = math.sqrt(math.log1p((percent / 100) ** 2))
    return _Scaled(latency, lambda: stream.lognormal(-(sigma**2) / 2, sigma))


def heavy_tailed(latency: LatencyModel, p99: float, stream: np.random.Generator) -> LatencyModel:
    """Pareto factors ≥ 1: the quantile `q` is `(1 − q)^(−1/α)`, the mean `α/(α − 1)`.

    Args:
        p99: the 99th percentile, which gives `α = ln 100 / ln p99`.
    """
    alpha = tail_index(p99)
    return _Scaled(latency, lambda: 1.0 + stream.pareto(alpha))


def tail_index(p99: float) -> float:
    """α of the Pareto distribution from 1 on that has this 99th percentile."""
    return math.log(100) / math.log(p99)


def in_bursts(latency: LatencyModel, percent: float, stream: np.random.Generator) -> LatencyModel:
    """Every stage run is in a burst or not, as a Markov chain of two states says; `percent` of all
    runs are."""
    return _Scaled(latency, _Bursts(percent / 100, stream).factor)


def over_a_network(
    latency: LatencyModel, round_trip_ms: float, stream: np.random.Generator
) -> LatencyModel:
    """Half of the round trip on every message."""
    half_ns = ms_to_ns(round_trip_ms / 2)
    return _Messages(latency, lambda: half_ns)


def over_a_lossy_network(
    latency: LatencyModel, percent: float, stream: np.random.Generator
) -> LatencyModel:
    """A message is lost with this probability each time it is sent: `k` losses cost
    `(2^k − 1) · 200 ms`."""
    stays = 1 - percent / 100

    def lost_ns() -> int:
        losses = int(stream.geometric(stays)) - 1
        return (2**losses - 1) * RETRANSMISSION_MS * NS_PER_MS

    return _Messages(latency, lost_ns)


@dataclass(frozen=True)
class _Scaled:
    """Stage times, each multiplied by a factor of its own. Implements `LatencyModel`."""

    latency: LatencyModel
    factor: Callable[[], float]

    def observe_ns(self) -> int:
        return round(self.latency.observe_ns() * self.factor())

    def generate_ns(self) -> int:
        return round(self.latency.generate_ns() * self.factor())

    def execute_ns(self) -> int:
        return self.latency.execute_ns()


class _Messages:
    """A model at the other end of a network. Implements `LatencyModel`.

    An observation goes there, and its first action comes back; the actions behind that one follow
    in its stream, and cost nothing more. Both ways count before the context is there: a model of
    stage times does not know which action is an observation's first one. A delay here keeps the
    accelerator busy, as all of a stage's time does.
    """

    def __init__(self, latency: LatencyModel, delay_ns: Callable[[], int]) -> None:
        self._latency = latency
        self._delay_ns = delay_ns

    def observe_ns(self) -> int:
        return self._latency.observe_ns() + self._delay_ns() + self._delay_ns()

    def generate_ns(self) -> int:
        return self._latency.generate_ns()

    def execute_ns(self) -> int:
        return self._latency.execute_ns()


class _Bursts:
    """A Markov chain that is in a burst for `share` of its steps, `BURST_RUNS` in a row."""

    def __init__(self, share: float, stream: np.random.Generator) -> None:
        self._stream = stream
        self._ends = 1 / BURST_RUNS
        self._begins = self._ends * share / (1 - share)
        self._inside = stream.random() < share

    def factor(self) -> float:
        now = BURST_FACTOR if self._inside else 1.0
        changes = self._ends if self._inside else self._begins
        if self._stream.random() < changes:
            self._inside = not self._inside
        return now
