"""Every policy that ships keeps the contract; one that breaks it is found."""

from __future__ import annotations

import numpy as np
import pytest

from streamvla.model.methods.registry import METHODS
from streamvla.policy import load_policy, resolve_checkpoint
from streamvla.testing import AnticipatingPolicy, ScriptedPolicy, unit_space
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
