"""The observations of an episode, kept to be encoded again by other policies (`bench budget`,
`bench observation`).

    driven      encode 0 ── generate ────── encode 1 ── generate …    the recorder keeps both
    measured    encode 0                    encode 1                  nothing is generated again

What was made and not yet executed is kept beside each observation: the learned gate of skipping
asks for it, and without it would decide otherwise than on a robot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from streamvla.core.interfaces import FlowStart, Observation, Policy, begin_episode
from streamvla.studies.dial import MOST_SKIPS

if TYPE_CHECKING:  # it needs torch
    from streamvla.policy.skipping import SkippingPolicy


@dataclass(frozen=True, slots=True)
class Seen:
    """One observation of an episode.

    Attributes:
        planned: (d,) the action state that the actions made before it lead to; None: none was made.
    """

    observation: Observation
    planned: np.ndarray | None = None

    def encode(self, policy: Policy) -> Any:
        """The context that a policy makes of it, with the same actions pending."""
        if MOST_SKIPS in policy.spec.settings:
            cast("SkippingPolicy", policy).continue_from(self.planned)
        return policy.encode(self.observation)


class Recorder:
    """A policy that keeps the observations of an episode. Implements `Policy`.

    It encodes every observation as a whole: it does not anticipate or count, and tells nothing of
    instructions.

    Attributes:
        seen: in order, with pictures of their own.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.spec = replace(
            policy.spec,
            anticipates=False,
            thresholds=(),
            longest_lead=None,
            tells_goal=False,
            counts=False,
            remembers=True,
            unclear_up_to=None,
            rephrases=False,
        )
        self.seen: list[Seen] = []
        self._planned: np.ndarray | None = None

    def begin(self) -> None:
        """An episode begins."""
        self.seen.clear()
        self._planned = None
        begin_episode(self._policy)

    def encode(self, observation: Observation) -> Any:
        """As the policy inside."""
        images = {view: image.copy() for view, image in observation.images.items()}
        self.seen.append(Seen(replace(observation, images=images), self._planned))
        return self._policy.encode(observation)

    def generate(self, context: Any, start: FlowStart) -> Iterator[np.ndarray]:
        """As the policy inside."""
        planned = start.action_state
        for action in self._policy.generate(context, start):
            self._planned = planned = self.spec.action_space.advance(planned, action)
            yield action
