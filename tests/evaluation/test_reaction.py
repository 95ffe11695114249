"""Reaction time: from a stimulus to the first command that depends on it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from streamvla.core.interfaces import RobotSpec
from streamvla.evaluation.metrics import RunMetrics, aggregate, metrics_of
from streamvla.runtime import Episode, EpisodeLimits, Streamer, named_profile, run_simulated
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.executors.base import Executor
from streamvla.runtime.executors.synchronous import Synchronous
from streamvla.runtime.timing.latency import ConstantLatency
from streamvla.testing import ScriptedPolicy, StillRobot, unit_space
from streamvla.trace import MemoryTrace, ObserveRequested, Sent, Stimulus

PROFILE = named_profile("paper-20hz")
PERIOD_NS = PROFILE.execute_ns


class StartledRobot(StillRobot):
    """Something happens at `instant_ns`."""

    def __init__(self, instant_ns: int) -> None:
        super().__init__(unit_space(), PERIOD_NS, keep=False)
        self.instant_ns = instant_ns
        self.stimulus_ns: int | None = None

    @property
    def spec(self) -> RobotSpec:
        return replace(super().spec, knows_stimulus=True)

    def advance_to(self, now_ns: int) -> None:
        if now_ns >= self.instant_ns:
            self.stimulus_ns = self.instant_ns


def run(executor: Executor, instant_ns: int, *, serial: bool = True) -> RunMetrics:
    space, trace = unit_space(), MemoryTrace()
    episode = Episode(
        StartledRobot(instant_ns),
        ScriptedPolicy(space, 10, PERIOD_NS),
        Streamer(space, 10, executor, "grid", trace),
        trace,
        PROFILE,
        EpisodeLimits(instant_ns + 16 * 10**8),
        serial,
    )
    run_simulated(episode, ConstantLatency(PROFILE))
    return metrics_of(trace.events, PERIOD_NS, "grid", space)


def reactions(executor: Executor, *, serial: bool = True) -> np.ndarray:
    """ms, for stimuli spread evenly over the time after start-up."""
    instants = np.linspace(3e9, 4.9e9, 41).astype(int)
    found = [run(executor, int(instant), serial=serial).reaction_ms for instant in instants]
    assert all(each.count == 1 for each in found)
    return np.array([each.mean for each in found])


def test_a_synchronous_robot_reacts_within_latency_and_twice_that_plus_execution():
    """Uniform in (L, 2L + E), rounded up to control ticks: L = 437 ms, E = 500 ms."""
    ms = reactions(Synchronous())
    assert ms.min() >= 437
    assert ms.max() <= 2 * 437 + 500 + 2 * 50
    assert ms.mean() == pytest.approx((437 + 2 * 437 + 500) / 2, abs=60)


def test_early_observation_reacts_within_one_cycle():
    """Without a halt: uniform in (T_o + g, T_o + g + H·e), rounded up to control ticks."""
    ms = reactions(ActionFlow(3))
    assert ms.min() >= 140
    assert ms.max() <= 150 + 500 + 50
    assert np.median(ms) == pytest.approx(150 + 250, abs=40)


@pytest.mark.parametrize("serial", [True, False])
def test_replanning_as_fast_as_possible_reacts_twice_as_fast_as_synchronous(serial):
    """At the median; and faster than early observation, most of all with an own accelerator."""
    fast = reactions(
        ActionFlow(3, replan="as-fast-as-possible", shared_accelerator=serial), serial=serial
    )
    assert np.median(fast) < 0.5 * np.median(reactions(Synchronous()))
    assert np.median(fast) < (1.0 if serial else 0.7) * np.median(reactions(ActionFlow(3)))


def test_only_a_command_whose_observation_saw_it_is_a_reaction():
    """A command from an observation captured before the stimulus does not count, however late."""
    seen = ObserveRequested(100, 1, 0)
    old = Sent(110, 110, 2, "policy", 0, 0, 3, 50, 0, (0.0,))
    new = Sent(160, 160, 3, "policy", 1, 1, 0, 100, 0, (0.0,))
    metrics = metrics_of([seen, old, Stimulus(90, "moved"), old, new, new], 50, "grid")
    assert metrics.reaction_ms.count == 1
    assert metrics.reaction_ms.mean == pytest.approx((160 - 90) / 1e6)
    assert metrics.unanswered_stimuli == 0


def test_a_stimulus_nobody_answers_is_counted():
    """No figure is made of it."""
    metrics = metrics_of([Stimulus(90, "moved")], 50, "grid")
    assert (metrics.reaction_ms.count, metrics.unanswered_stimuli) == (0, 1)


def test_runs_pool_their_reactions():
    """Over episodes every reaction counts once."""
    runs = [run(ActionFlow(3), 3 * 10**9 + step * 70_000_000) for step in range(5)]
    pooled = aggregate([*runs, replace(runs[0])])
    assert pooled["reaction_ms"]["count"] == 6
