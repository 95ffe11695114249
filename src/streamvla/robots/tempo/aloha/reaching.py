"""One tick of a bimanual expert's motion: from the command in force towards a pose."""

from __future__ import annotations

import numpy as np

from streamvla.robots.tempo.aloha.arms import Arms, Side
from streamvla.robots.tempo.aloha.kinematics import HandPose

STEP_M = 0.008
"""A tick at most: 0.4 m/s."""
STEP_RAD = 0.06
"""Of any joint, a tick at most: 3 rad/s, about what these servos can do."""
LEAD_S = 0.10
"""How far a hand lags behind what it follows: the gain below and the motors."""

_GAIN = 0.3  # of the way left, a tick


def step_towards(
    arms: Arms, side: Side, goal: HandPose, opening: float, pace: float = 1.0
) -> np.ndarray:
    """(7,) one arm's next command: no jump, whatever the goal, and at that share of its speed."""
    now = arms.commanded_pose(side)
    way_m = goal.tip_m - now.tip_m
    pitch, roll = goal.pitch_rad - now.pitch_rad, goal.roll_rad - now.roll_rad
    pose = HandPose(
        now.tip_m + _share(float(np.linalg.norm(way_m)), pace * STEP_M) * way_m,
        now.pitch_rad + _share(abs(pitch), STEP_RAD) * pitch,
        now.roll_rad + _share(abs(roll), STEP_RAD) * roll,
    )
    joints = arms.commanded_joints(side)
    way = arms.joints_for(side, pose) - joints
    largest = float(np.abs(way).max())
    return np.array([*(joints + way * min(1.0, STEP_RAD / max(largest, 1e-9))), opening])


def _share(length: float, longest: float) -> float:
    """Of a way of that length, for one tick."""
    return min(_GAIN, longest / max(length, 1e-9))
