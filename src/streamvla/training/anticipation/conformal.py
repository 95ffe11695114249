"""A threshold whose miss rate is bounded without assumptions on the predictor or the data.

Conformal risk control (Angelopoulos et al., arXiv 2208.02814), of which split-conformal prediction
is the case of one score an episode: the loss of an episode is the share of its scores that would be
missed, so frames of one episode may depend on each other in any way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from streamvla.core.errors import ConfigError


def least_episodes(miss_rate: float) -> int:
    """How many episodes a threshold at this miss rate needs at least: 9 at 10 %."""
    return math.ceil(1 / miss_rate - 1e-9) - 1


def risk_controlled_threshold(scores: Sequence[np.ndarray], miss_rate: float) -> float:
    """The largest η with E[share of a new episode's scores ≤ η] ≤ `miss_rate`.

    With n exchangeable episodes and the share L_i(η) of episode i's scores below η, it is the
    largest η with (Σ L_i(η) + 1)/(n + 1) ≤ α: the 1 stands for the new episode, whose share is at
    most that. The expectation is over calibration and new episode together.

    Args:
        scores: of each episode, at least one each, all to be kept above η.

    Raises:
        ConfigError: a rate outside (0, 1), or fewer than `least_episodes`.
    """
    if not 0 < miss_rate < 1:
        raise ConfigError(f"miss rate {miss_rate} must lie between 0 and 1")
    n = len(scores)
    if n < least_episodes(miss_rate):
        raise ConfigError(
            f"{n} episodes cannot bound a miss rate of {miss_rate:g}: at least "
            f"{least_episodes(miss_rate)} are needed"
        )
    values = np.concatenate([np.asarray(each, dtype=np.float64) for each in scores])
    shares = np.concatenate([np.full(len(each), 1 / len(each)) for each in scores])
    order = np.argsort(values, kind="stable")
    missed = (shares[order].cumsum() + 1) / (n + 1)  # once η has passed each score
    first = int(np.searchsorted(missed, miss_rate * (1 + 1e-12), side="right"))
    return float(np.nextafter(values[order][first], -np.inf))  # just short of the first too many
