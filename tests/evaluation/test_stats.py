"""Intervals and distributions against values known from elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from streamvla.core.errors import ConfigError
from streamvla.evaluation.stats import (
    Distribution,
    Samples,
    bootstrap_paired,
    bootstrap_ratio,
    compare_paired,
    mcnemar_exact,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "trials", "expected"),
    [
        (81, 263, (0.2553, 0.3662)),  # Newcombe 1998 (Stat. Med. 17, 857–872), table I, method 3
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
        (50, 50, (0.9287, 1.0)),
    ],
)
def test_wilson_interval(successes: int, trials: int, expected: tuple[float, float]) -> None:
    """The interval is the published one, also at the ends."""
    assert wilson_interval(successes, trials) == pytest.approx(expected, abs=5e-5)


def test_no_trials_have_no_interval() -> None:
    """Nothing was tried, so nothing is known; more successes than trials is an error."""
    assert wilson_interval(0, 0) is None
    with pytest.raises(ConfigError, match="5 successes of 4 trials"):
        wilson_interval(5, 4)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        wilson_interval(1, 4, confidence=95)


def test_paired_difference_is_newcombes() -> None:
    """Counts 36/12/2/0 (Newcombe 1998, Stat. Med. 17, 2635–2650) give 0.20 (0.0569 to 0.3404)."""
    second = [True] * 36 + [True] * 12 + [False] * 2
    first = [True] * 36 + [False] * 12 + [True] * 2
    found = compare_paired(first, second)
    assert (found.only_first, found.only_second, found.episodes) == (2, 12, 50)
    assert found.difference == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0569, 0.3404), abs=5e-5)
    swapped = compare_paired(second, first)
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low))


def test_equal_runs_still_have_an_interval_with_a_width() -> None:
    """Fifty of fifty both ways does not prove the two to be equal."""
    found = compare_paired([True] * 50, [True] * 50)
    assert found.difference == 0
    assert found.low == pytest.approx(-0.0713, abs=1e-4)
    assert found.high == pytest.approx(0.0713, abs=1e-4)
    assert found.p_value == 1.0


def test_mcnemar_exact() -> None:
    """2 against 12 discordant pairs: 2·(1 + 14 + 91)/2¹⁴."""
    assert mcnemar_exact(2, 12) == pytest.approx(2 * 106 / 2**14)
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(5, 5) == 1.0


def test_paired_runs_must_be_the_same_episodes() -> None:
    """Unequal lengths cannot be pairs."""
    with pytest.raises(ConfigError, match="3 and 2 episodes"):
        compare_paired([True] * 3, [True] * 2)


def test_bootstrap_of_a_ratio_is_that_of_the_sums() -> None:
    """Long episodes count for more than short ones; equal shares leave no width, and what has no
    ratio is refused."""
    assert bootstrap_ratio([10, 1], [5, 2]) == (pytest.approx(7 / 11), 0.5, 2.0)
    assert bootstrap_ratio([8, 2, 4], [4, 1, 2]) == (0.5, 0.5, 0.5)
    for first, second in (([], []), ([1], [1, 2]), ([0], [1])):
        with pytest.raises(ConfigError, match="ratio"):
            bootstrap_ratio(first, second)


def test_bootstrap_covers_the_mean_difference() -> None:
    """The interval is near the normal one for many pairs, and the same on every call."""
    rng = np.random.default_rng(1)
    first = rng.normal(5, 1, 400)
    second = first + rng.normal(0.3, 0.2, 400)
    mean, low, high = bootstrap_paired(first.tolist(), second.tolist(), resamples=2000)
    assert mean == pytest.approx(0.3, abs=0.05)
    assert (high - low) / 2 == pytest.approx(1.96 * 0.2 / 20, rel=0.15)
    assert bootstrap_paired(first.tolist(), second.tolist(), resamples=2000) == (mean, low, high)


def test_samples_beyond_the_limit_keep_exact_moments() -> None:
    """Memory stops growing; count, mean, spread and maximum do not notice."""
    values = np.random.default_rng(0).exponential(10, 20_000)
    bounded = Samples(limit=1000)
    for value in values:
        bounded.add(value)
    found, exact = bounded.distribution(), Distribution.of(values)
    assert len(found.sample) == 1000
    assert (found.count, found.maximum) == (exact.count, exact.maximum)
    assert found.mean == pytest.approx(exact.mean)
    assert found.std == pytest.approx(exact.std)
    assert found.p50 == pytest.approx(exact.p50, rel=0.15)


def test_pooling_is_measuring_all_together() -> None:
    """Pooled figures are those of the joined list; runs without a measurement do not count."""
    a, b = np.arange(10.0), np.array([100.0, 3.5])
    pooled = Distribution.pooled([Distribution.of(a), Distribution.of([]), Distribution.of(b)])
    exact = Distribution.of(np.concatenate([a, b]))
    assert pooled.to_json() == pytest.approx(exact.to_json())
    assert set(Distribution.pooled([]).to_json().values()) == {None, 0}
