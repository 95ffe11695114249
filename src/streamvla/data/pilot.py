"""A policy drives first, the expert takes over: labels at the states the policy itself gets into.

    reset ─ policy drives ─ handover, at a random step ─ expert + bursts of noise ─ success ─ …
            labels: what the expert would have done       labels: what the expert does

Source: DAgger (arXiv 1011.0686), with one handover an episode instead of a coin at every step, as
HG-DAgger (arXiv 1810.02890) has it: the policy's own mistakes build up over several chunks.

A policy that observes early gets into states of its own, too: it sees what it is about to do, and
may take it for what has to be done. So it may drive with a lead, another one in every episode.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import (
    Capture,
    FlowStart,
    Observation,
    Policy,
    Robot,
    RobotSpec,
    check_fit,
)

LATEST_HANDOVER = 60
"""The expert takes over at a step drawn evenly from 0 to this."""


class Pilot:
    """A policy in closed loop, one chunk an observation, while the world waits.

    Args:
        policy: must fit the robots it drives.
        robot: their specification.
        most_lead: it looks with 0 to so many actions still to be executed.

    Raises:
        SpecMismatchError: the policy was made for another robot.
        ConfigError: a lead below 0, or not below the policy's horizon.
    """

    def __init__(self, policy: Policy, robot: RobotSpec, most_lead: int = 0) -> None:
        check_fit(policy.spec, robot)
        if not 0 <= most_lead < policy.spec.horizon:
            raise ConfigError(
                f"most lead {most_lead} must be at least 0 and below H = {policy.spec.horizon}"
            )
        self._most_lead = most_lead
        self._policy = policy
        self.reset(0, policy.spec.action_space.initial_state())

    def reset(self, seed: int, action_state: np.ndarray) -> None:
        """Forget the last episode, and draw the lead of the next, which starts in the action state
        (d,) in which the robot stands."""
        self._state = action_state
        self._plan: deque[np.ndarray] = deque()
        self._context: Any = None
        self._age: int | None = None  # of the context; None: there is none
        self._lead = int(np.random.default_rng([seed, 5]).integers(self._most_lead + 1))

    def act(self, robot: Robot, capture: Capture, now_ns: int) -> np.ndarray:
        """The next action (d,), for a robot at the instant of `capture`."""
        pending = len(self._plan)
        if self._age is None and pending <= self._lead:
            frames = robot.observe(capture)
            seen = Observation(frames.images, frames.state, self._state, robot.instruction, now_ns)
            self._context, self._age = self._policy.encode(seen), pending
        space = self._policy.spec.action_space
        if not self._plan:
            start = FlowStart(self._state, age=self._age or 0)
            self._plan.extend(self._policy.generate(self._context, start))
            self._age = None
        action = space.clip(self._plan.popleft())
        self._state = space.advance(self._state, action)
        return action
