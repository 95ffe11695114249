"""The motion that an episode's commands ask for: jumps from one to the next, and smoothness."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Final

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.clock import NS_PER_S
from streamvla.evaluation.smoothness import Smoothness, commanded_velocity, motion_dims, smoothness
from streamvla.evaluation.stats import SAMPLE_LIMIT, Samples
from streamvla.trace.events import Sent
from streamvla.trace.spans import Pacing


class CommandedMotion:
    """What the commands asked the robot to do; `add` them in order.

    Attributes:
        seams, steps: distance between two policy actions in a row, of two generations and of one.
    """

    def __init__(self, space: ActionSpace, period_ns: int, pacing: Pacing) -> None:
        self._space = space
        self._period_ns = period_ns
        self._on_grid = pacing == "grid"
        self._dims = motion_dims(space).tolist()
        self._starts = array("q")
        self._values = array("d")
        self._previous: Sent | None = None
        self.seams: Final = Samples()
        self.steps: Final = Samples()

    def add(self, command: Sent) -> None:
        if len(self._starts) < SAMPLE_LIMIT:
            self._starts.append(command.due_ns if self._on_grid else command.t_ns)
            self._values.extend(command.values)
        if command.source != "policy":
            return
        previous, self._previous = self._previous, command
        if previous is not None:
            jump = math.dist(self._pick(command.values), self._pick(previous.values))
            same = command.generation == previous.generation
            (self.steps if same else self.seams).add(jump)

    def smoothness(self) -> Smoothness:
        starts = np.array(self._starts, dtype=np.int64)
        values = np.array(self._values).reshape(len(starts), self._space.dim)
        velocity = commanded_velocity(starts, values, self._period_ns, self._space)
        return smoothness(velocity, self._period_ns / NS_PER_S)

    def _pick(self, values: Sequence[float]) -> list[float]:
        return [values[dim] for dim in self._dims]
