"""What policies give, made what the runtime needs: (d,) float64 arrays of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard

import numpy as np

from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import FlowStart, Policy


def is_array(value: object) -> TypeGuard[np.ndarray]:
    """`isinstance(value, np.ndarray)`, after which a type checker knows what its attributes are."""
    return isinstance(value, np.ndarray)


def as_action(values: Any) -> Any:
    """float64, a copy: of an array of any type, a list, or a tensor on any device.

    A copy, so that a policy may write its next action into the same array. Another shape than (d,),
    values that are not finite, and what holds no numbers pass as they are: while the robot moves
    the governor refuses them by name and goes on; before motion `require_action` does.

    >>> as_action([1, 2])
    array([1., 2.])
    """
    if not is_array(values) and hasattr(values, "detach"):  # without importing torch
        values = values.detach().cpu().float().numpy()
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        return values


def require_action(action: Any, dim: int) -> None:
    """Raise `ConfigError` unless an action is (d,) and finite."""
    if not is_array(action):
        raise ConfigError(
            f"the policy gave {type(action).__name__} as an action; expected {dim} numbers"
        )
    if action.shape != (dim,):
        raise ConfigError(
            f"the policy gave an action of shape {action.shape}; expected ({dim},), one number for "
            "each dimension of its action space"
        )
    if not np.isfinite(action).all():
        raise ConfigError(f"the policy gave the action {action.tolist()}; expected finite numbers")


def actions_of(policy: Policy, context: Any, start: FlowStart) -> Iterator[np.ndarray]:
    """The `H − start.index` actions of a generation, each (d,) float64, as they are made.

    The policy is called when the first one is asked for, and no action is made before it is.

    Raises:
        ConfigError: it gave fewer actions.
    """
    spec = policy.spec
    wanted = spec.horizon - start.index
    actions = iter(policy.generate(context, start))
    for count in range(wanted):
        try:
            action = next(actions)
        except StopIteration:
            raise ConfigError(
                f"the policy gave {count} actions from flow step {start.index} on; expected "
                f"{wanted}: its specification says horizon {spec.horizon}"
            ) from None
        yield as_action(action)
