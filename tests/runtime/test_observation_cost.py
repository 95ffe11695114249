"""What observations cost reaches the clock, the trace and the figures."""

from __future__ import annotations

import numpy as np
import pytest

from streamvla.core.compute import ObservationCost
from streamvla.evaluation.metrics import aggregate, metrics_of
from streamvla.runtime.drivers.episode import EpisodeLimits
from streamvla.runtime.drivers.settings import EpisodeSettings
from streamvla.runtime.drivers.simulated import run_simulated
from streamvla.runtime.executors.synchronous import Synchronous
from streamvla.runtime.timing.latency import ConstantLatency, named_profile, profile_ms
from streamvla.testing import StillRobot
from streamvla.testing.fakes import CountingPolicy
from streamvla.trace import MemoryTrace, ObserveCost, ObserveReady, ObserveStarted
from tests.runtime.scenario import MIXED

TIMES = named_profile("paper-20hz")  # looks for 33 of 107 ms
WHOLE = ObservationCost(78, 78, 5, 2, 1, 400, 500, 50, 7)


def driven(*costs):
    """The events of four observations by a policy with these costs."""
    policy = CountingPolicy(MIXED, 10, TIMES.execute_ns, costs, lambda *_: np.array([0.1, 1.0]))
    settings = EpisodeSettings(
        MIXED, 10, Synchronous(), TIMES, "grid", EpisodeLimits(None), max_observations=4
    )
    trace = MemoryTrace()
    robot = StillRobot(MIXED, TIMES.execute_ns)
    run_simulated(settings.episode(policy, robot, trace), ConstantLatency(TIMES))
    return trace.events


def observing_ms(events):
    """How long each observation took."""
    began = {e.observation: e.t_ns for e in events if isinstance(e, ObserveStarted)}
    return [(e.t_ns - began[e.observation]) / 1e6 for e in events if isinstance(e, ObserveReady)]


def test_each_observation_takes_the_time_of_its_own_parts():
    """Shares of the look's 33 ms and of the other 74 ms, observation by observation."""
    part = {"look_time": 0.5, "context_time": 0.25}
    skipped = ObservationCost(look_time=0.0, context_time=0.0)
    costs = [WHOLE, ObservationCost(**part), skipped, ObservationCost(look_time=2.0)]
    assert observing_ms(driven(*costs)) == [107.0, 0.5 * 33 + 0.25 * 74, 0.0, 2 * 33 + 74]


def test_a_policy_of_whole_frames_takes_the_nominal_time():
    """Counting by itself changes no instant."""
    assert observing_ms(driven(WHOLE)) == [107.0] * 4


@pytest.mark.parametrize(
    ("look", "context", "refused", "expected_ms"),
    [(1, 1, False, 107), (1, 1, True, 33), (0.5, 1, True, 16.5), (0.5, 2, False, 164.5)],
)
def test_a_refusal_saves_the_context_and_costs_its_share_of_the_look(
    look, context, refused, expected_ms
):
    """`sighting_ns` of a refused look is its own look's time; two predictions come on top."""
    cost = ObservationCost(look_time=look, context_time=context)
    took_ns = TIMES.sighting_ns(TIMES.observe_ns, 2, refused=refused, cost=cost)
    assert took_ns == pytest.approx(expected_ms * 1e6 + 2 * TIMES.predict_ns, abs=1)


def test_without_a_look_of_its_own_a_stage_saves_what_both_parts_save():
    """A profile that does not say how long the look takes: the larger share counts for all."""
    times = profile_ms("whole", 100, 10, 50)
    half = ObservationCost(look_time=0.5)
    assert times.sighting_ns(times.observe_ns, 0, refused=False, cost=half) == times.observe_ns
    both = ObservationCost(look_time=0.1, context_time=0.2)
    assert times.sighting_ns(times.observe_ns, 0, refused=False, cost=both) == 20_000_000


def test_jitter_scales_with_the_parts():
    """A stage that takes half as long again does so too where the look is halved."""
    cost = ObservationCost(look_time=0.5)
    slow_ns = TIMES.sighting_ns(round(1.5 * TIMES.observe_ns), 0, refused=False, cost=cost)
    assert slow_ns == pytest.approx(1.5 * (0.5 * 33 + 74) * 1e6, rel=1e-6)


def test_the_figures_are_sums_over_contexts_and_commands():
    """Tokens and FLOPs per observation, and with the actions per command, of two costs."""
    events = driven(WHOLE, ObservationCost(39, 20, 5, 1, 2, 200, 300, 0, 5))
    figures = metrics_of(events, TIMES.execute_ns, "grid").to_json()
    assert figures["visual_tokens_per_observation"] == (78 + 3 * 39) / 4
    assert figures["visual_tokens_attended"] == (78 + 3 * 20) / 4
    assert figures["encodes_per_observation"] == 5 / 4
    assert figures["cache_hits"] == 7
    assert figures["flops_per_observation"] == (900 + 3 * 500) / 4
    spent = 900 + 3 * 500 + 10 * 7 + 30 * 5
    assert figures["flops_per_tick"] == spent / (figures["actions"] + figures["fallbacks"])
    assert [e.observation for e in events if isinstance(e, ObserveCost)] == [0, 1, 2, 3]


def test_without_counts_the_figures_are_none_and_pool_without_them():
    """An uncounted run neither counts as zero nor dilutes the others."""
    counted = metrics_of(driven(WHOLE), TIMES.execute_ns, "grid")
    plain = metrics_of(
        [e for e in driven(WHOLE) if not isinstance(e, ObserveCost)], TIMES.execute_ns, "grid"
    )
    assert plain.to_json()["flops_per_observation"] is None
    both = aggregate([counted, plain])
    assert both["flops_per_observation"] == 900
    assert both["flops_per_tick"] == counted.to_json()["flops_per_tick"]
