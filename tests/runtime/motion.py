"""An independent look at commanded motion: differences of what was sent, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.limits import MotionLimits

_ROUNDING = 1e-9


def violations(
    space: ActionSpace, limits: MotionLimits, commands: Sequence[np.ndarray]
) -> list[str]:
    """Every limit that the commands (each (d,)) exceed, and on which tick; from rest at zero."""
    state = np.zeros(space.dim)
    positions = [state, state, state]
    for command in commands:
        state = space.advance(state, np.asarray(command))
        positions.append(state)
    velocity = np.diff(positions, axis=0)
    acceleration = np.diff(velocity, axis=0)
    jerk = np.diff(acceleration, axis=0)
    found = []
    for name, motion, bound in (
        ("velocity", velocity, limits.velocity),
        ("acceleration", acceleration, limits.acceleration),
        ("jerk", jerk, limits.jerk),
    ):
        for tick, _ in np.argwhere(
            np.abs(motion) > np.asarray(bound) * (1 + _ROUNDING) + _ROUNDING
        ):
            found.append(f"{name} on tick {tick}: {motion[tick]} beyond {bound}")
    beyond = (np.asarray(positions) < np.asarray(limits.position_low) - _ROUNDING) | (
        np.asarray(positions) > np.asarray(limits.position_high) + _ROUNDING
    )
    return found + [
        f"position of tick {tick}: {positions[tick]}" for tick, _ in np.argwhere(beyond)
    ]
