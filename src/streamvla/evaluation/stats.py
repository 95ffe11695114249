"""Statistics the figures need: intervals for success rates, paired comparisons, distributions."""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np

from streamvla.core.errors import ConfigError

SAMPLE_LIMIT = 1 << 18


def wilson_interval(
    successes: int, trials: int, confidence: float = 0.95
) -> tuple[float, float] | None:
    """The Wilson score interval for a success probability, or None without trials.

    Source: E. B. Wilson, JASA 22 (1927), 209–212. Unlike `p ± z·s` it stays inside [0, 1] and
    has a width where all trials succeed: 50 of 50 gives (0.929, 1).
    """
    if not 0 <= successes <= trials:
        raise ConfigError(
            f"{successes} successes of {trials} trials: expected 0 ≤ successes ≤ trials"
        )
    if trials == 0:
        return None
    z2 = _normal_quantile(confidence) ** 2
    rate = successes / trials
    centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    spread = math.sqrt(z2 * (rate * (1 - rate) / trials + z2 / (4 * trials**2))) / (1 + z2 / trials)
    low = 0.0 if successes == 0 else centre - spread
    high = 1.0 if successes == trials else centre + spread
    return low, high


@dataclass(frozen=True)
class PairedComparison:
    """Two ways of driving the same episodes (same seeds), compared.

    Attributes:
        difference: success rate of the second minus that of the first.
        low, high: Newcombe's interval for the difference.
        p_value: exact McNemar test (two-sided) of "no difference".
        only_first, only_second: episodes on which exactly one of the two succeeded.
        episodes: pairs.
    """

    difference: float
    low: float
    high: float
    p_value: float
    only_first: int
    only_second: int
    episodes: int


def compare_paired(
    first: Sequence[bool], second: Sequence[bool], confidence: float = 0.95
) -> PairedComparison:
    """Compare success on the same episodes.

    The interval is Newcombe's square-and-add of two Wilson intervals with the pairs' correlation
    (Statistics in Medicine 17 (1998), 2635–2650, method 10): it keeps a width where a bootstrap of
    the pairs has none, as when both ways succeed everywhere.

    Raises:
        ConfigError: the two differ in length, or are empty.
    """
    if len(first) != len(second) or not first:
        raise ConfigError(
            f"paired comparison of {len(first)} and {len(second)} episodes: expected the same "
            "episodes, at least one, in the same order"
        )
    pairs = list(zip(map(bool, first), map(bool, second), strict=True))
    both, neither = pairs.count((True, True)), pairs.count((False, False))
    only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
    low, high = _newcombe(both, only_second, only_first, neither, confidence)
    return PairedComparison(
        difference=(only_second - only_first) / len(pairs),
        low=low,
        high=high,
        p_value=mcnemar_exact(only_first, only_second),
        only_first=only_first,
        only_second=only_second,
        episodes=len(pairs),
    )


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided p-value that discordant pairs fall either way with probability one half."""
    discordant = only_first + only_second
    tail = sum(math.comb(discordant, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**discordant)


def bootstrap_paired(
    first: Sequence[float],
    second: Sequence[float],
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Mean of `second − first` over the same episodes, with its percentile bootstrap interval.

    Returns:
        (mean difference, low, high), in the units of the input.
    """
    differences = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    if differences.ndim != 1 or differences.size == 0:
        raise ConfigError("paired bootstrap: expected two equally long lists of at least one value")
    return bootstrap_mean(differences, resamples=resamples, confidence=confidence, seed=seed)


def bootstrap_mean(
    values: Sequence[float] | np.ndarray,
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Mean of the values, with its percentile bootstrap interval.

    Returns:
        (mean, low, high), in the units of the input.

    Raises:
        ConfigError: no value.
    """
    sample = np.asarray(values, dtype=float)
    if sample.ndim != 1 or sample.size == 0:
        raise ConfigError("bootstrap of a mean: expected a list of at least one value")
    return _bootstrap(lambda rows: sample[rows].mean(), sample.size, resamples, confidence, seed)


def slope_interval(
    x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Slope of the least-squares line through points, with its Student-t interval.

    Of successive measurements take means or medians of parts: the interval is for points whose
    errors do not depend on each other.

    Returns:
        (slope, low, high), units of y over x.

    Raises:
        ConfigError: fewer than six points, for which the quantile is not exact enough, or all at
            one x.

    >>> slope, low, high = slope_interval(range(6), [1, 3, 5, 7, 9, 11])
    >>> round(slope, 9), round(high - low, 9)
    (2.0, 0.0)
    """
    first, second = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if first.shape != second.shape or first.size < 6 or np.ptp(first) == 0:
        raise ConfigError("slope: expected at least six points, not all at one place")
    away = first - first.mean()
    spread = float(away @ away)
    slope = float(away @ second) / spread
    rest = second - second.mean() - slope * away
    degrees = first.size - 2
    error = float(np.sqrt(rest @ rest / degrees / spread)) * _t_quantile(confidence, degrees)
    return slope, slope - error, slope + error


def bootstrap_ratio(
    first: Sequence[float],
    second: Sequence[float],
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Sum of the second over sum of the first, such as times of the same episodes, with the
    percentile bootstrap interval over the pairs.

    Returns:
        (ratio, low, high).

    Raises:
        ConfigError: the two differ in length, are empty, or the first is not positive.
    """
    pairs = np.array([first, second], dtype=float) if len(first) == len(second) else np.empty(0)
    if pairs.size == 0 or not (pairs[0] > 0).all():
        raise ConfigError(
            f"ratio of {len(second)} values to {len(first)}: expected as many of each, at least "
            "one, and the latter above 0"
        )
    below, above = pairs[0], pairs[1]
    return _bootstrap(
        lambda rows: above[rows].sum() / below[rows].sum(), len(first), resamples, confidence, seed
    )


def _bootstrap(
    figure: Callable[[np.ndarray], float],
    size: int,
    resamples: int,
    confidence: float,
    seed: int,
) -> tuple[float, float, float]:
    """A figure of so many values, and its percentile bootstrap interval.

    Args:
        figure: of the values at these indices, one or more times each.
    """
    rng = np.random.default_rng(seed)
    found = [figure(rng.integers(0, size, size)) for _ in range(resamples)]
    tail = 50 * (1 - confidence)
    low, high = np.percentile(found, [tail, 100 - tail])
    return float(figure(np.arange(size))), float(low), float(high)


@dataclass(frozen=True)
class Distribution:
    """What a list of measurements looked like. Figures are None when there were none.

    Attributes:
        count: measurements taken.
        mean, std, maximum: exact over all of them; `std` is the population's.
        p50, p99: over `sample`, linear interpolation between order statistics.
        sample: the measurements kept (all of them up to `SAMPLE_LIMIT`).
    """

    count: int
    mean: float | None
    std: float | None
    p50: float | None
    p99: float | None
    maximum: float | None
    sample: np.ndarray = field(repr=False, compare=False)

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Distribution:
        """The distribution of a list."""
        sample = np.asarray(values, dtype=float)
        if sample.size == 0:
            return cls(0, None, None, None, None, None, sample)
        p50, p99 = np.percentile(sample, [50, 99])
        return cls(
            count=int(sample.size),
            mean=float(sample.mean()),
            std=float(sample.std()),
            p50=float(p50),
            p99=float(p99),
            maximum=float(sample.max()),
            sample=sample,
        )

    @classmethod
    def pooled(cls, parts: Sequence[Distribution]) -> Distribution:
        """All measurements of several runs as one list.

        Percentiles are exact while every run kept all of its measurements.
        """
        if not any(part.count for part in parts):
            return cls.of([])
        counts = np.array([part.count for part in parts if part.count])
        means = np.array(_present(part.mean for part in parts))
        mean = float(np.average(means, weights=counts))
        spreads = np.array(_present(part.std for part in parts)) ** 2 + (means - mean) ** 2
        kept = cls.of(np.concatenate([part.sample for part in parts]))
        return cls(
            count=int(counts.sum()),
            mean=mean,
            std=math.sqrt(np.average(spreads, weights=counts)),
            p50=kept.p50,
            p99=kept.p99,
            maximum=max(_present(part.maximum for part in parts)),
            sample=kept.sample,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "mean": self.mean,
            "std": self.std,
            "p50": self.p50,
            "p99": self.p99,
            "max": self.maximum,
            "count": self.count,
        }


class Samples:
    """A growing list of measurements in bounded memory.

    All are kept up to `limit`; beyond it a uniform random subset of that size (Vitter's
    algorithm R, fixed seed), from which percentiles are estimated. Count, mean, spread and
    maximum stay exact (Welford's update).
    """

    __slots__ = ("_kept", "_limit", "_maximum", "_mean", "_rng", "_squares", "count")

    def __init__(self, limit: int = SAMPLE_LIMIT) -> None:
        self.count: int = 0
        self._limit = limit
        self._kept = array("d")
        self._mean = 0.0
        self._squares = 0.0
        self._maximum = -math.inf
        self._rng = random.Random(0)

    def add(self, value: float) -> None:
        self.count += 1
        if self.count <= self._limit:
            self._kept.append(value)
        elif (slot := self._rng.randrange(self.count)) < self._limit:
            self._kept[slot] = value
        step = value - self._mean
        self._mean += step / self.count
        self._squares += step * (value - self._mean)
        self._maximum = max(self._maximum, value)

    def distribution(self) -> Distribution:
        kept = Distribution.of(np.array(self._kept))
        if self.count == 0:
            return kept
        return Distribution(
            count=self.count,
            mean=self._mean,
            std=math.sqrt(self._squares / self.count),
            p50=kept.p50,
            p99=kept.p99,
            maximum=self._maximum,
            sample=kept.sample,
        )


def _present(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _t_quantile(confidence: float, degrees: int) -> float:
    """Two-sided, of Student's t distribution: to 1 % from 4 degrees of freedom on
    (Abramowitz and Stegun, 26.7.5)."""
    z = _normal_quantile(confidence)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, start=1))


def _normal_quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ConfigError(
            f"confidence {confidence}: expected a value between 0 and 1, such as 0.95"
        )
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def _newcombe(
    both: int, only_a: int, only_b: int, neither: int, confidence: float
) -> tuple[float, float]:
    """Method 10 for `rate(a) − rate(b)`; letters e, f, g, h of the paper are the four counts."""
    trials = both + only_a + only_b + neither
    rate_a, rate_b = (both + only_a) / trials, (both + only_b) / trials
    low_a, high_a = wilson_interval(both + only_a, trials, confidence) or (0.0, 1.0)
    low_b, high_b = wilson_interval(both + only_b, trials, confidence) or (0.0, 1.0)
    phi = _correlation(both, only_a, only_b, neither)

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    difference = rate_a - rate_b
    low = difference - reach(rate_a - low_a, high_b - rate_b)
    high = difference + reach(high_a - rate_a, rate_b - low_b)
    return low, high


def _correlation(both: int, only_a: int, only_b: int, neither: int) -> float:
    """Correlation of the pairs, continuity-corrected towards 0 when positive."""
    trials = both + only_a + only_b + neither
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if margins == 0:
        return 0.0
    excess = both * neither - only_a * only_b
    if excess > 0:
        excess = max(excess - trials / 2, 0.0)
    return excess / math.sqrt(margins)
