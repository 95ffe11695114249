"""What every policy keeps, as tests to inherit.

Say which policy it is about:

    from streamvla.testing.policy_contract import PolicyContract

    class TestMine(PolicyContract):
        def policy(self):
            return MyPolicy()
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import cast

import numpy as np

from streamvla.core.interfaces import (
    AnticipatingPolicy,
    FlowStart,
    Observation,
    Policy,
    begin_episode,
    cost_of,
    goal_of,
    rephrased_by,
    unclear_to,
)


class PolicyContract:
    """Inherit, and say which policy. It is shown random pictures."""

    instruction = "move"

    @abstractmethod
    def policy(self) -> Policy:
        """The policy under test; may be the same object for every test."""

    def observation(self, policy: Policy, seed: int = 0) -> Observation:
        """Random frames that fit the policy, two seconds into an episode."""
        spec, stream = policy.spec, np.random.default_rng(seed)
        shape = (*spec.image_size, 3)
        return Observation(
            {view: stream.integers(0, 256, shape, dtype=np.uint8) for view in spec.views},
            stream.normal(size=spec.state_dim).astype(np.float32),
            spec.action_space.clip(stream.normal(size=spec.action_space.dim)),
            self.instruction,
            2_000_000_000,
        )

    def actions(self, policy: Policy, start: FlowStart, seed: int = 0) -> list[np.ndarray]:
        """All actions of one generation."""
        return list(policy.generate(policy.encode(self.observation(policy, seed)), start))

    def start(self, policy: Policy, index: int = 0, age: int = 0) -> FlowStart:
        """From the action state of `observation`."""
        return FlowStart(self.observation(policy).action_state, index, age)

    def test_a_generation_gives_what_is_left_of_the_horizon(self) -> None:
        """H − index actions, each (d,) float64 and finite."""
        policy = self.policy()
        horizon = policy.spec.horizon
        for index in {0, horizon // 2, horizon - 1}:
            actions = self.actions(policy, self.start(policy, index))
            assert len(actions) == horizon - index
            for action in actions:
                assert action.shape == (policy.spec.action_space.dim,)
                assert action.dtype == np.float64
                assert np.isfinite(action).all()

    def test_generations_repeat_themselves(self) -> None:
        """The same observation and start give the same actions."""
        policy = self.policy()
        first, again = (self.actions(policy, self.start(policy)) for _ in range(2))
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))

    def test_actions_are_not_written_over(self) -> None:
        """An action that was given keeps its values while the next ones are made."""
        policy = self.policy()
        context = policy.encode(self.observation(policy))
        kept: list[np.ndarray] = []
        copies: list[np.ndarray] = []
        for action in policy.generate(context, self.start(policy)):
            kept.append(action)
            copies.append(action.copy())
        assert all(np.array_equal(a, b) for a, b in zip(kept, copies, strict=True))

    def test_two_generations_do_not_disturb_each_other(self) -> None:
        """One that is left and gone on with later gives what it would have given."""
        policy, start = self.policy(), self.start(self.policy())
        alone = self.actions(policy, start)
        context = policy.encode(self.observation(policy))
        paused: Iterator[np.ndarray] = iter(policy.generate(context, start))
        first = next(paused)
        self.actions(policy, start, seed=1)
        for action, expected in zip([first, *paused], alone, strict=True):
            assert np.array_equal(action, expected)

    def test_any_age_is_taken(self) -> None:
        """An observation may be as many actions old as there are in a generation."""
        policy = self.policy()
        for age in (0, 1, policy.spec.horizon):
            assert self.actions(policy, self.start(policy, age=age))

    def test_an_observation_is_not_changed(self) -> None:
        """Encoding writes to no array of the observation."""
        policy = self.policy()
        observation, untouched = self.observation(policy), self.observation(policy)
        policy.encode(observation)
        assert np.array_equal(observation.state, untouched.state)
        assert np.array_equal(observation.action_state, untouched.action_state)
        for view, image in observation.images.items():
            assert np.array_equal(image, untouched.images[view])

    def test_what_is_declared_can_be_asked(self) -> None:
        """An anticipating policy tells a saliency for each motion and view, and corrects for it."""
        policy = self.policy()
        if not policy.spec.anticipates:
            return
        foresees = cast(AnticipatingPolicy, policy)
        sight = foresees.look(self.observation(policy))
        motions = np.zeros((3, policy.spec.action_space.dim))
        foreseen = foresees.anticipate(sight, motions)
        assert foreseen.saliency.shape == (3, len(policy.spec.views))
        assert len(foreseen.changes) == 3
        context = foresees.contextualise(sight, foreseen.changes[0])
        assert len(list(policy.generate(context, self.start(policy)))) == policy.spec.horizon

    def test_a_goal_is_declared_and_is_an_action_state(self) -> None:
        """A policy with a method `goal` says so in its spec, and tells d finite numbers or None."""
        policy = self.policy()
        assert policy.spec.tells_goal == callable(getattr(policy, "goal", None))
        goal = goal_of(policy, policy.encode(self.observation(policy)))
        assert goal is None or np.isfinite(goal).all()

    def test_memory_is_declared_and_ends_with_the_episode(self) -> None:
        """A policy with a method `begin` says so in its spec; after it an observation gives the
        actions that it gave in the episode before."""
        policy = self.policy()
        assert policy.spec.remembers == callable(getattr(policy, "begin", None))
        observation, start = self.observation(policy), self.start(policy)

        def actions() -> np.ndarray:
            begin_episode(policy)
            return np.array(list(policy.generate(policy.encode(observation), start)))

        assert np.array_equal(actions(), actions())

    def test_costs_are_declared_and_counted(self) -> None:
        """A policy with a method `cost` says so in its spec, and counts every context."""
        policy = self.policy()
        assert policy.spec.counts == callable(getattr(policy, "cost", None))
        cost = cost_of(policy, policy.encode(self.observation(policy)))
        assert (cost is not None) == policy.spec.counts

    def test_a_clarity_is_told_for_any_words(self) -> None:
        """A policy with an `unclear_up_to` tells a number from 0 to 1, for no words too."""
        policy = self.policy()
        if policy.spec.unclear_up_to is None:
            return
        for instruction in ("", "flurb the wibble", self.instruction):
            unclear_to(policy, instruction)  # raises if it is no such number

    def test_what_is_read_instead_is_told_for_any_words(self) -> None:
        """A policy that `rephrases` tells a text and a finite number, for no words too."""
        policy = self.policy()
        if not policy.spec.rephrases:
            return
        for instruction in ("", "flurb the wibble", self.instruction):
            phrase, _ = rephrased_by(policy, instruction) or ("", 0.0)
            assert isinstance(phrase, str)

    def test_horizon_and_passes_make_sense(self) -> None:
        """At least one action a generation, and no negative number of passes."""
        spec = self.policy().spec
        assert spec.horizon >= 1
        assert spec.chunk_passes >= 0
        assert spec.control_period_ns > 0
