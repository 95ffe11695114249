"""Every policy that ships keeps the contract; one that breaks it is found."""

from __future__ import annotations

import numpy as np
import pytest

from streamvla.model.methods.registry import METHODS
from streamvla.policy import load_policy, resolve_checkpoint
from streamvla.testing import AnticipatingPolicy, ScriptedPolicy, unit_space
from streamvla.testing.fakes import GoalPolicy
from streamvla.testing.policy_contract import PolicyContract

LOADED = {}


class TestShipped(PolicyContract):
    instruction = "reach the green ball"

    @pytest.fixture(autouse=True, params=list(METHODS))
    def which(self, request):
        self.method = request.param

    def policy(self):
        if self.method not in LOADED:
            LOADED[self.method] = load_policy(resolve_checkpoint(method=self.method))
        return LOADED[self.method]


class TestScripted(PolicyContract):
    def policy(self):
        return ScriptedPolicy(unit_space(3), 8, 50_000_000)


class TestAnticipating(PolicyContract):
    def policy(self):
        return AnticipatingPolicy(unit_space(3), 8, 50_000_000)


class TestGoal(PolicyContract):
    def policy(self):
        return GoalPolicy(unit_space(3), 8, 50_000_000, lambda observation: np.ones(3))


def test_a_goal_that_is_not_declared_is_found():
    """A policy with a method `goal` whose spec does not say so fails."""

    class Undeclared(ScriptedPolicy):
        def goal(self, context):
            return None

    class Contract(PolicyContract):
        def policy(self):
            return Undeclared(unit_space(2), 4, 50_000_000)

    with pytest.raises(AssertionError):
        Contract().test_a_goal_is_declared_and_is_an_action_state()


def test_an_action_that_is_written_over_is_found():
    """A policy that gives the same array again and again fails."""
    buffer = np.zeros(2)

    def script(observation, start, index):
        buffer[:] = index
        return buffer

    class Contract(PolicyContract):
        def policy(self):
            return ScriptedPolicy(unit_space(2), 4, 50_000_000, script)

    with pytest.raises(AssertionError):
        Contract().test_actions_are_not_written_over()
