"""The start-up check: estimates that forget, and a verdict that the simulator confirms."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from streamvla.core.clock import ms_to_ns
from streamvla.core.errors import ConfigError
from streamvla.runtime.drivers.feasibility import (
    DecayingEstimate,
    StageEstimates,
    check_schedule,
    estimate_stages,
)
from streamvla.runtime.drivers.stages import StageTimes
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.executors.synchronous import Synchronous
from streamvla.runtime.timing.latency import PROFILES, profile_ms

from .scenario import Scenario

PAPER_20HZ = StageEstimates(ms_to_ns(107), ms_to_ns(33))
PERIOD_NS = ms_to_ns(50)


def test_one_spike_does_not_drive_the_estimate_for_ever():
    """A spike of 100 times the rest is felt at once, and forgotten after twenty half-lives."""
    estimate = DecayingEstimate(half_life=8, warm_up=0)
    for _ in range(50):
        estimate.add(1000)
    estimate.add(100_000)
    at_once = estimate.cautious_ns
    assert at_once > 10_000
    for _ in range(160):
        estimate.add(1000)
    assert estimate.mean_ns == pytest.approx(1000, rel=0.001)
    assert estimate.cautious_ns < 1100


def test_a_lasting_change_is_followed():
    """When the latency doubles for good, the estimate is there after five half-lives."""
    estimate = DecayingEstimate(half_life=8, warm_up=0)
    for duration in [1000] * 100 + [2000] * 40:
        estimate.add(duration)
    assert estimate.mean_ns == pytest.approx(2000, rel=0.05)


def test_the_warm_up_does_not_count():
    """A cold first measurement of three seconds leaves no mark."""
    cold = StageTimes(ms_to_ns(3000), (ms_to_ns(900),) * 10)
    warm = StageTimes(ms_to_ns(107), (ms_to_ns(33),) * 10)
    assert estimate_stages([cold, *[warm] * 5]) == PAPER_20HZ


@given(durations=st.lists(st.integers(0, 10**9), min_size=1, max_size=50))
def test_the_estimate_stays_within_what_was_measured(durations):
    """For any measurements the mean lies between the least and the largest."""
    estimate = DecayingEstimate(warm_up=0)
    for duration in durations:
        estimate.add(duration)
    assert min(durations) - 1 <= estimate.mean_ns <= max(durations) + 1
    assert estimate.cautious_ns >= round(estimate.mean_ns)


@pytest.mark.parametrize(
    ("executor", "halt_ms", "starved", "needed"),
    [
        (ActionFlow(3), 0, 0, 3),
        (ActionFlow(2), 40, 1, 3),
        (ActionFlow(0), 140, 3, 3),
        (Synchronous(), 437, 9, 3),
        (Synchronous(5), 437, 9, 3),
    ],
)
def test_the_verdict_at_the_papers_ratios(executor, halt_ms, starved, needed):
    """T_o 107, g 33, e 50 ms, H 10: halt, starved ticks and the lead that avoids them."""
    verdict = check_schedule(PAPER_20HZ, PERIOD_NS, executor, 10)
    assert (verdict.halt_ns / 1e6, verdict.starved_ticks) == (halt_ms, starved)
    assert verdict.needed_lead == needed
    assert verdict.feasible == (halt_ms == 0)


def test_too_much_work_starves_at_every_lead_and_says_so():
    """When T_o + H·g exceeds H·e no lead helps, and the sentence says which work is too much."""
    slow = StageEstimates(ms_to_ns(300), ms_to_ns(33))
    verdict = check_schedule(slow, PERIOD_NS, ActionFlow(9), 10)
    assert verdict.needed_lead is None
    assert "no lead avoids it" in verdict.sentence()
    assert "work of 630 ms does not fit into 500 ms" in verdict.sentence()


def test_an_emulated_profile_pads_and_never_shortens():
    """Emulation lifts a measured stage up to the profile's time; a slower one stays as it is."""
    padded = StageEstimates(ms_to_ns(5), ms_to_ns(90)).padded(PROFILES["paper-20hz"])
    assert padded == StageEstimates(ms_to_ns(107), ms_to_ns(90))


@given(
    observe=st.integers(1, 400),
    generate=st.integers(1, 60),
    lead=st.integers(0, 8),
)
def test_the_simulator_confirms_the_verdict(observe, generate, lead):
    """What is called feasible never halts in simulation; what is not, does (no contention)."""
    execute, horizon = 50, 10
    contention = observe + horizon * generate > (horizon - lead) * execute
    assume(not contention)
    stages = StageEstimates(ms_to_ns(observe), ms_to_ns(generate))
    verdict = check_schedule(stages, ms_to_ns(execute), ActionFlow(lead), horizon)
    profile = profile_ms("drawn", observe, generate, execute)
    run = Scenario(ActionFlow(lead), profile=profile, observations=5).run()
    waits = [event.t_ns - event.due_ns for event in run.sent[1:]]
    assert max(waits) == verdict.halt_ns


def test_measurements_that_are_all_warm_up_are_refused():
    """One measurement, one of warm-up: nothing is left, and the error says to measure more."""
    with pytest.raises(ConfigError, match="measure more"):
        estimate_stages([StageTimes(1, (1,))])
    with pytest.raises(ConfigError, match="half-life 0"):
        DecayingEstimate(half_life=0)
