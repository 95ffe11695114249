"""A function as a policy: observation → a chunk of actions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from streamvla.core.actions import as_action
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import FlowStart, Observation, PolicySpec, Robot, RobotSpec

ChunkFunction = Callable[[Observation], Any]
"""Observation → (H, d) actions: an array, a tensor, or a list of them."""


class ChunkPolicy:
    """Implements `Policy`; made by `chunk_policy`."""

    def __init__(self, function: ChunkFunction, spec: PolicySpec) -> None:
        self.spec = spec
        self._function = function

    def encode(self, observation: Observation) -> Observation:
        """The observation itself: all the work is one call, and that is the generation."""
        return observation

    def generate(self, context: Observation, start: FlowStart) -> Iterator[np.ndarray]:
        """Yield the actions of the chunk from `start.index` on, each (d,) float64.

        Raises:
            ConfigError: the function gave another number of actions than the horizon.
        """
        chunk = self._function(context)
        horizon, dim = self.spec.horizon, self.spec.action_space.dim
        length = len(chunk) if hasattr(chunk, "__len__") else None
        if length != horizon:
            found = f"{length} actions" if length is not None else type(chunk).__name__
            raise ConfigError(
                f"the chunk function gave {found}; expected (H, d) = ({horizon}, {dim}). Return "
                "that many, or state the horizon that it has"
            )
        for index in range(start.index, horizon):
            yield as_action(chunk[index])


def chunk_policy(function: ChunkFunction, robot: Robot | RobotSpec, *, horizon: int) -> ChunkPolicy:
    """The policy that calls `function` once an observation.

        policy = chunk_policy(lambda seen: model(seen.images["top"]), robot, horizon=32)

    Args:
        function: observation → (H, d) actions in the robot's units; torch tensors are taken, too.
            The first is for the instant of the observation, the next one control period later.
        robot: for which it was made: its cameras, state, rate and action space.
        horizon: H.

    Raises:
        ConfigError: a horizon below 1.
    """
    spec = robot if isinstance(robot, RobotSpec) else robot.spec
    if horizon < 1:
        raise ConfigError(f"horizon {horizon}: expected at least 1 action")
    return ChunkPolicy(
        function,
        PolicySpec(
            action_space=spec.action_space,
            horizon=horizon,
            views=spec.views,
            image_size=spec.image_size,
            state_dim=len(spec.state_names),
            control_period_ns=spec.control_period_ns,
            chunk_passes=1,
        ),
    )
