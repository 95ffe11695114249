"""Latency estimates from measurements, in which the past fades and warm-up does not count."""

from __future__ import annotations

import math
from collections import deque

from streamvla.core.errors import ConfigError

WARM_UP = 1
"""Measurements left out at first: rendering contexts, compilation and caches are cold."""


class DecayingEstimate:
    """Mean and deviation of a latency in which the past fades: one spike is forgotten.

    Each measurement weighs half as much after `half_life` more of them, so a spike of S above the
    rest lifts the mean by about S·ln2/half_life at first and by half of that a half-life later
    (the deviation, a root, takes two half-lives for that).

    Args:
        half_life: measurements, > 0.
        warm_up: how many are left out at first.
    """

    def __init__(self, half_life: float = 16.0, warm_up: int = WARM_UP) -> None:
        if not half_life > 0 or warm_up < 0:
            raise ConfigError(
                f"decaying estimate: half-life {half_life} must be > 0 and warm-up {warm_up} ≥ 0"
            )
        self._keep = 0.5 ** (1 / half_life)
        self._skip = warm_up
        self._weight = 0.0
        self._mean = 0.0
        self._variance = 0.0

    def add(self, duration_ns: int) -> None:
        """Take one measurement."""
        if self._skip > 0:
            self._skip -= 1
            return
        self._weight = self._keep * self._weight + 1
        share = 1 / self._weight
        surprise = duration_ns - self._mean
        self._mean += share * surprise
        self._variance = (1 - share) * (self._variance + share * surprise**2)

    @property
    def known(self) -> bool:
        """Whether anything but warm-up was measured."""
        return self._weight > 0

    @property
    def mean_ns(self) -> float:
        return self._mean

    @property
    def cautious_ns(self) -> int:
        """Mean plus two deviations: what a schedule should leave room for."""
        return round(self._mean + 2 * math.sqrt(self._variance))


class WindowQuantile:
    """A high quantile of the latest measurements: what a schedule should leave room for.

    Unlike mean and deviation it does not move at all for one spike once the window has ten
    measurements, and it forgets everything after `window` of them.

    Args:
        share: of the measurements in the window that lie at or below the estimate.
        window: how many count.
        warm_up: how many are left out at first.
    """

    def __init__(self, share: float = 0.9, window: int = 15, warm_up: int = WARM_UP) -> None:
        if not 0 < share <= 1 or window < 1 or warm_up < 0:
            raise ConfigError(
                f"window quantile: share {share} must be in (0, 1], window {window} ≥ 1 and "
                f"warm-up {warm_up} ≥ 0"
            )
        self._share = share
        self._skip = warm_up
        self._latest: deque[int] = deque(maxlen=window)

    def add(self, duration_ns: int) -> None:
        """Take one measurement."""
        if self._skip > 0:
            self._skip -= 1
        else:
            self._latest.append(duration_ns)

    @property
    def estimate_ns(self) -> int | None:
        """None while nothing but warm-up was measured."""
        if not self._latest:
            return None
        return sorted(self._latest)[math.ceil(self._share * len(self._latest)) - 1]
