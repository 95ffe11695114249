"""A goal that is moved in the middle of an episode: a stimulus whose instant is known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

EARLIEST, LATEST = 20, 60
"""Commands after the reset between which the goal is moved."""


@dataclass(frozen=True)
class GoalJump:
    """When an episode's goal is moved, and what draws where to.

    The instant is uniform on the grid of sub-steps and independent of everything else, so no phase
    of an observation cycle is favoured.

    Attributes:
        step: the goal is elsewhere after this many sub-steps.
        instant_ns: of the end of that sub-step.
        stream: for the new place.
    """

    step: int
    instant_ns: int
    stream: np.random.Generator

    @classmethod
    def draw(cls, seed: int, start_ns: int, duration_ns: int, substeps: int) -> GoalJump:
        """Of the episode `seed`, whose commands of `duration_ns` have `substeps` each."""
        stream = np.random.default_rng([seed, 4])
        step = int(stream.integers(EARLIEST * substeps, LATEST * substeps))
        return cls(step, start_ns + step * duration_ns // substeps, stream)


def farthest(here: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """The one of (n, d) candidates that is farthest from (d,): a jump worth reacting to."""
    return candidates[np.linalg.norm(candidates - here, axis=1).argmax()]
