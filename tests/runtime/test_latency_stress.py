"""Stress on stage times: the stated means and quantiles, on the stages that it says."""

from __future__ import annotations

import numpy as np
import pytest

from streamvla.core.stress import FACTORS, NO_STRESS, parse_stress
from streamvla.runtime.timing.latency import ConstantLatency, profile_ms
from streamvla.runtime.timing.stress import BURST_FACTOR, stressed_latency, tail_index

NOMINAL = ConstantLatency(profile_ms("nominal", 100, 30, 50))
OF_LATENCY = tuple(name for name, factor in FACTORS.items() if factor.wraps == "latency")


def stressed(text, seed=0):
    return stressed_latency(NOMINAL, parse_stress(text), seed)


def factors(text, draws=20_000, seed=0):
    """(n,) by how much generating took longer."""
    latency = stressed(text, seed)
    return np.array([latency.generate_ns() for _ in range(draws)]) / NOMINAL.generate_ns()


@pytest.mark.parametrize("name", OF_LATENCY)
def test_the_same_seed_gives_the_same_times(name):
    """Stage times are a function of the seed, and of no other factor's draws; executing a command
    takes its nominal time."""
    one, other, beside = (
        stressed(text, 4) for text in (f"{name}:3", f"{name}:3", f"{name}:3+camera-drop:1")
    )
    for _ in range(50):
        times = {(each.observe_ns(), each.generate_ns()) for each in (one, other, beside)}
        assert len(times) == 1
        assert one.execute_ns() == NOMINAL.execute_ns()


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_jitter_has_mean_one_and_the_stated_variation(severity):
    """10, 30 and 60 % coefficient of variation around an unchanged mean."""
    drawn = factors(f"latency-jitter:{severity}")
    assert drawn.mean() == pytest.approx(1.0, rel=0.02)
    assert drawn.std() == pytest.approx((0.1, 0.3, 0.6)[severity - 1], rel=0.05)


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_the_tail_has_the_stated_quantile(severity):
    """The 99th percentile is 2, 4 and 8 times nominal, nothing is quicker, and the mean is that of
    the Pareto distribution."""
    p99 = (2.0, 4.0, 8.0)[severity - 1]
    drawn, alpha = factors(f"latency-tail:{severity}", 60_000), tail_index(p99)
    assert np.quantile(drawn, 0.99) == pytest.approx(p99, rel=0.08)
    assert drawn.min() >= 1.0
    assert drawn.mean() == pytest.approx(alpha / (alpha - 1), rel=0.05)


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_bursts_take_the_stated_share_of_runs(severity):
    """10, 25 and 50 % of the runs take three times as long, ten in a row on average."""
    slow = factors(f"latency-burst:{severity}", 60_000) > 1.5
    assert slow.mean() == pytest.approx((0.1, 0.25, 0.5)[severity - 1], rel=0.1)
    begins = np.count_nonzero(slow[1:] & ~slow[:-1])
    assert slow.sum() / begins == pytest.approx(10, rel=0.1)
    assert set(np.round(factors(f"latency-burst:{severity}", 500), 6)) <= {1.0, BURST_FACTOR}


def test_a_network_delays_the_context():
    """A round trip of 60 ms an observation; actions cost nothing more."""
    latency = stressed("network-delay:2")
    extra = latency.observe_ns() - NOMINAL.observe_ns()
    rest = [latency.generate_ns() - NOMINAL.generate_ns() for _ in range(3)]
    assert [extra, *rest] == [60_000_000, 0, 0, 0]


def test_lost_messages_cost_doubling_retransmissions():
    """15 % of the messages, two an observation, cost 200 ms or more, 15 % of those 600 ms or
    more."""
    latency = stressed("network-loss:3")
    extra = np.array([latency.observe_ns() for _ in range(20_000)]) - NOMINAL.observe_ns()
    assert set(extra % (200 * 10**6)) == {0}
    assert (extra > 0).mean() == pytest.approx(1 - 0.85**2, rel=0.1)
    assert (extra >= 600 * 10**6).mean() == pytest.approx(2 * 0.15**2, rel=0.2)


def test_two_factors_both_act_in_any_order():
    """A delayed network in bursts: the burst stretches the stage, and not the network."""
    one, other = (
        stressed(text)
        for text in ("network-delay:1+latency-burst:3", "latency-burst:3+network-delay:1")
    )
    times = [one.observe_ns() for _ in range(200)]
    assert times == [other.observe_ns() for _ in range(200)]
    assert set(times) == {120_000_000, 320_000_000}


def test_without_factors_nothing_is_wrapped():
    """Nor by those of robots."""
    assert stressed_latency(NOMINAL, NO_STRESS, 0) is NOMINAL
    assert stressed("camera-noise:1") is NOMINAL
