"""What the experts of moving scenes share: go somewhere, or along with something."""

from __future__ import annotations

import numpy as np

from streamvla.robots.tabletop.arm import FINGER_LENGTH_M, REACH_PER_SUBSTEP_M, Arm
from streamvla.robots.tempo.scene import SUBSTEP_NS

OPEN, CLOSED = -1.0, 1.0
GAIN_PER_M = 12.0
CENTRED_M = 0.02
"""How near to the vertical through a point the fingertips come down on it."""

_FULL_SPEED_M_S = REACH_PER_SUBSTEP_M / (SUBSTEP_NS / 1e9)
_STILL = np.zeros(3)


def tips_of(arm: Arm) -> np.ndarray:
    """(3,) the point between the fingertips, with the gripper straight down."""
    return arm.hand_m - (0.0, 0.0, FINGER_LENGTH_M)


def towards(
    arm: Arm, tips_m: np.ndarray, gripper: float, moving_m_s: np.ndarray = _STILL
) -> np.ndarray:
    """(4,) fingertips straight to a point (3,) that moves at (3,) m/s, and on with it."""
    step = GAIN_PER_M * (tips_m - tips_of(arm)) + moving_m_s / _FULL_SPEED_M_S
    return np.array([*step, gripper])


def come_down(
    arm: Arm,
    tips_m: np.ndarray,
    safe_m: float,
    gripper: float,
    moving_m_s: np.ndarray = _STILL,
) -> np.ndarray:
    """(4,) to a point (3,) from above: sideways only at the height `safe_m` or higher."""
    tips = tips_of(arm)
    aside = float(np.linalg.norm(tips[:2] - tips_m[:2]))
    if aside <= CENTRED_M:
        return towards(arm, tips_m, gripper, moving_m_s)
    if tips[2] < safe_m - 0.02 and aside > 2 * CENTRED_M:
        return towards(arm, np.array([*tips[:2], safe_m + 0.02]), gripper)
    return towards(arm, np.array([*tips_m[:2], safe_m]), gripper, moving_m_s)
