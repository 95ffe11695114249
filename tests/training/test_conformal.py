"""The promise of the threshold, on data whose coverage is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamvla.core.errors import ConfigError
from streamvla.training.anticipation.conformal import least_episodes, risk_controlled_threshold


def episodes(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Episodes of different lengths whose scores share a level: strongly dependent frames."""
    levels = rng.normal(10, 3, count)
    return [rng.normal(level, 0.5, rng.integers(1, 12)) for level in levels]


class Fresh:
    """Many new episodes: the mean share of their scores at or below a threshold."""

    def __init__(self, scores: list[np.ndarray]) -> None:
        values = np.concatenate(scores)
        shares = np.concatenate([np.full(len(each), 1 / len(each)) for each in scores])
        order = values.argsort()
        self.values = values[order]
        self.missed = np.concatenate([[0.0], shares[order].cumsum() / len(scores)])

    def miss(self, threshold: float) -> float:
        return float(self.missed[np.searchsorted(self.values, threshold, side="right")])


@pytest.mark.parametrize(("count", "rate"), [(9, 0.1), (19, 0.1), (60, 0.1), (60, 0.3)])
def test_the_miss_rate_holds_and_is_used_up(count, rate):
    """Over many calibrations the mean miss rate of new episodes is at most α, and within
    1/(n + 1) and one share of it: the bound is no vacuous one."""
    rng = np.random.default_rng(count)
    fresh = Fresh(episodes(rng, 4000))
    rates = [fresh.miss(risk_controlled_threshold(episodes(rng, count), rate)) for _ in range(400)]
    error = np.std(rates) / np.sqrt(len(rates))
    assert np.mean(rates) <= rate + 3 * error
    assert np.mean(rates) >= rate - 1.5 / (count + 1) - 3 * error


def test_one_score_an_episode_is_split_conformal():
    """With n single scores it is just short of the k-th smallest, k = ⌊α(n + 1)⌋."""
    scores = [np.array([float(value)]) for value in range(1, 20)]  # n = 19, α = .1: k = 2
    threshold = risk_controlled_threshold(scores, 0.1)
    assert 1.99 < threshold < 2.0
    assert risk_controlled_threshold(scores[:9], 0.1) == np.nextafter(1.0, -np.inf)


def test_long_episodes_count_no_more_than_short_ones():
    """A thousand low scores of one episode are one episode's misses."""
    scores = [np.zeros(1000), *(np.array([float(value)]) for value in range(10, 40))]
    assert risk_controlled_threshold(scores, 0.1) > 10


@settings(max_examples=60)
@given(
    scores=st.lists(
        st.lists(st.floats(-5, 5), min_size=1, max_size=5).map(np.array), min_size=9, max_size=30
    ),
    rate=st.sampled_from([0.1, 0.25, 0.5]),
)
def test_no_larger_threshold_keeps_the_bound(scores, rate):
    """At η the bound holds; at the next score it does not."""
    threshold = risk_controlled_threshold(scores, rate)
    count = len(scores)

    def bound(eta: float) -> float:
        return (sum((each <= eta).mean() for each in scores) + 1) / (count + 1)

    assert bound(threshold) <= rate + 1e-9
    assert bound(float(np.nextafter(threshold, np.inf))) > rate - 1e-9


def test_too_few_episodes_are_refused():
    """Eight episodes cannot bound a rate of one in ten."""
    assert least_episodes(0.1) == 9
    with pytest.raises(ConfigError, match="at least 9 are needed"):
        risk_controlled_threshold([np.array([1.0])] * 8, 0.1)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        risk_controlled_threshold([np.array([1.0])] * 8, 1.0)
