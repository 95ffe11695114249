"""A function as a policy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamvla.adapters.functions import chunk_policy
from streamvla.core.actions import actions_of, as_action, require_action
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import FlowStart
from streamvla.testing import ScriptedPolicy, StillRobot, unit_space
from streamvla.testing.policy_contract import PolicyContract

ROBOT = StillRobot(unit_space(2), 20_000_000)
START = FlowStart(np.zeros(2))


class TestAFunction(PolicyContract):
    def policy(self):
        return chunk_policy(lambda observation: np.ones((8, 2)), ROBOT, horizon=8)


@pytest.mark.parametrize(
    "chunk",
    [
        np.array([[1, 2], [3, 4]]),
        np.array([[1, 2], [3, 4]], dtype=np.float32),
        torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.bfloat16, requires_grad=True),
        [[1, 2], [3, 4]],
    ],
)
def test_whatever_holds_numbers_becomes_float64(chunk):
    """Integers, float32, tensors and lists give the same float64 actions."""
    policy = chunk_policy(lambda observation: chunk, ROBOT, horizon=2)
    actions = list(policy.generate(None, START))  # pyright: ignore[reportArgumentType]
    assert [action.tolist() for action in actions] == [[1, 2], [3, 4]]
    assert all(action.dtype == np.float64 for action in actions)


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (np.zeros((5, 2)), "5 actions; expected"),
        (None, "NoneType; expected"),
    ],
)
def test_a_chunk_of_another_shape_is_named(chunk, message):
    """Too many, or nothing: the message says what came and what was expected."""
    policy = chunk_policy(lambda observation: chunk, ROBOT, horizon=2)
    with pytest.raises(ConfigError, match=message):
        list(policy.generate(None, START))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(3), r"shape \(3,\); expected \(2,\)"),
        (np.array([1, np.nan]), "expected finite numbers"),
        (["a", "b"], "list as an action; expected 2 numbers"),
    ],
)
def test_an_action_that_no_robot_takes_is_named(action, message):
    """Another number of dimensions, or a value that is not finite, is refused before motion."""
    with pytest.raises(ConfigError, match=message):
        require_action(as_action(action), 2)


def test_too_few_actions_are_named():
    """A generator that ends early is no StopIteration but a message with both numbers."""

    class Short(ScriptedPolicy):
        def generate(self, context, start):
            yield from np.zeros((3, 2))

    policy = Short(unit_space(2), 6, 20_000_000)
    with pytest.raises(ConfigError, match="gave 3 actions from flow step 0 on; expected 6"):
        list(actions_of(policy, None, START))


def test_an_array_that_is_used_again_is_copied():
    """Writing the next action into the same array leaves the last one as it was."""
    buffer = np.zeros(2)
    kept = as_action(buffer)
    buffer[:] = 7
    assert kept.tolist() == [0, 0]
