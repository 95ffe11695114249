"""A policy drives first, the expert takes over: labels at the states the policy itself gets into.

    reset ─ policy drives ─ handover, at a random step ─ expert + bursts of noise ─ success ─ …
            labels: what the expert would have done       labels: what the expert does

Source: DAgger (arXiv 1011.0686), with one handover an episode instead of a coin at every step, as
HG-DAgger (arXiv 1810.02890) has it: the policy's own mistakes build up over several chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from streamvla.core.interfaces import FlowStart, Observation, Policy, Robot, check_fit
from streamvla.robots.sawyer import SPEC

LATEST_HANDOVER = 60
"""The expert takes over at a step drawn evenly from 0 to this."""


class Pilot:
    """A policy in closed loop, one chunk an observation, while the world waits.

    Args:
        policy: must fit the robots it drives.
        identity: what tells this policy from another, for the dataset's header.

    Raises:
        SpecMismatchError: the policy was made for another robot.
    """

    def __init__(self, policy: Policy, identity: Mapping[str, str]) -> None:
        check_fit(policy.spec, SPEC)
        self.identity = dict(identity)
        self._policy = policy
        self._state = policy.spec.action_space.initial_state()
        self._coming: Iterator[np.ndarray] = iter(())

    def reset(self) -> None:
        """Forget the last episode."""
        self._state = self._policy.spec.action_space.initial_state()
        self._coming = iter(())

    def act(self, robot: Robot, capture: Any, now_ns: int) -> np.ndarray:
        """The next action (d,), for a robot at the instant of `capture`."""
        action = next(self._coming, None)
        if action is None:
            frames = robot.observe(capture)
            seen = Observation(frames.images, frames.state, self._state, robot.instruction, now_ns)
            context = self._policy.encode(seen)
            self._coming = iter(self._policy.generate(context, FlowStart(self._state)))
            action = next(self._coming)
        space = self._policy.spec.action_space
        action = space.clip(action)
        self._state = space.advance(self._state, action)
        return action
