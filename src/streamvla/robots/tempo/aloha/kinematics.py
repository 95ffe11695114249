"""Where a ViperX arm's fingertips are, and which joints bring them somewhere, in closed form.

With the forearm's roll at zero an arm is a waist that turns a planar chain of three links, and the
last joint rolls the gripper about its own axis:

                elbow ─── forearm ─── wrist
                  │                      ╲  pitch: how steeply the gripper points down
      upper arm   │                       ╲
               shoulder                    fingertips
                waist

In the arm's own frame x points forward from its base, z up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SHOULDER_HEIGHT_M = 0.12705
FOREARM_M = 0.3
HAND_M = 0.069744 + 0.142
"""From the wrist to the point between the fingers with which an arm grasps."""

_UPPER_M = float(np.hypot(0.05955, 0.3))
_UPPER_RAD = float(np.arctan2(0.3, 0.05955))  # above the horizontal at shoulder 0
_REACH_M = 0.999 * (_UPPER_M + FOREARM_M)


@dataclass(frozen=True)
class HandPose:
    """Of one hand: point between the fingertips (3,) metres in the arm's frame, and radians."""

    tip_m: np.ndarray
    pitch_rad: float
    roll_rad: float


def hand_pose(joints: np.ndarray) -> HandPose:
    """Of joints (6,) radians: waist, shoulder, elbow, forearm roll (taken as 0), wrist angle, wrist
    rotation."""
    waist, shoulder, elbow, _, wrist, rotation = joints
    forearm, pitch = shoulder + elbow, shoulder + elbow + wrist
    upper = _UPPER_RAD - shoulder
    out = _UPPER_M * np.cos(upper) + FOREARM_M * np.cos(forearm) + HAND_M * np.cos(pitch)
    up = _UPPER_M * np.sin(upper) - FOREARM_M * np.sin(forearm) - HAND_M * np.sin(pitch)
    tip = np.array([out * np.cos(waist), out * np.sin(waist), SHOULDER_HEIGHT_M + up])
    return HandPose(tip, float(pitch), float(rotation))


def joints_of(pose: HandPose) -> np.ndarray:
    """(6,) radians, elbow up; a point out of reach gives the joints that come nearest to it."""
    x, y, z = pose.tip_m
    out = np.hypot(x, y) - HAND_M * np.cos(pose.pitch_rad)
    up = z - SHOULDER_HEIGHT_M + HAND_M * np.sin(pose.pitch_rad)
    distance = float(np.clip(np.hypot(out, up), 0.05, _REACH_M))
    direction = np.arctan2(up, out)
    upper = direction + _angle(_UPPER_M, distance, FOREARM_M)
    forearm = _angle(FOREARM_M, distance, _UPPER_M) - direction
    shoulder = _UPPER_RAD - upper
    elbow = forearm - shoulder
    waist, wrist = np.arctan2(y, x), pose.pitch_rad - forearm
    return np.array([waist, shoulder, elbow, 0.0, wrist, pose.roll_rad])


def _angle(one: float, other: float, opposite: float) -> float:
    """Between two sides of a triangle, radians."""
    cosine = (one**2 + other**2 - opposite**2) / (2 * one * other)
    return float(np.arccos(np.clip(cosine, -1.0, 1.0)))
