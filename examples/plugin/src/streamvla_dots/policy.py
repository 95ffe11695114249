"""A policy without a network: it finds the dot in the picture, and gives a chunk of places."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import FlowStart, Observation, PolicySpec
from streamvla.policy.sources import FoundPolicy
from streamvla_dots.chase import Chase
from streamvla_dots.robot import COLOURS, SPEC, SPEED_M

HORIZON = 6


class Follow:
    """Implements `Policy`: one pass gives the whole chunk. It goes where the words say, if they
    name a colour, and stays where it is if they do not."""

    spec = PolicySpec(
        action_space=SPEC.action_space,
        horizon=HORIZON,
        views=SPEC.views,
        image_size=SPEC.image_size,
        state_dim=len(SPEC.state_names),
        control_period_ns=SPEC.control_period_ns,
        chunk_passes=1,
        vocabulary=frozenset(COLOURS),
    )

    def encode(self, observation: Observation) -> np.ndarray | None:
        """(2,) metres: the dot that is asked for; None: there is none to be seen."""
        for name, colour in COLOURS.items():
            if name in observation.instruction:
                shown = (observation.images["top"] == colour).all(axis=2)
                if shown.any():
                    return (np.argwhere(shown).mean(axis=0) - 1.5) / 28
        return None

    def generate(self, context: np.ndarray | None, start: FlowStart) -> Iterator[np.ndarray]:
        """Yield `H − start.index` places (2,), each a step nearer."""
        place = start.action_state
        goal = place if context is None else context
        for _ in range(start.index, HORIZON):
            place = self.spec.action_space.clip(place + np.clip(goal - place, -SPEED_M, SPEED_M))
            yield place.copy()


def make() -> Follow:
    """For `--policy streamvla_dots.policy:make`."""
    return Follow()


def find(rest: str) -> FoundPolicy:
    """For `--policy dots:follow` and `--policy dots:chase`."""
    makers = {"follow": Follow, "chase": Chase}
    name = rest or "follow"
    if name not in makers:
        raise ConfigError(f"policy dots:{rest}: expected dots:follow or dots:chase")
    return FoundPolicy(name, {"source": f"dots:{name}"}, lambda settings: makers[name]())
