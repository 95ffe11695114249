"""Scripted experts of the language scenes: proportional control towards the next way point.

Each is a pure function of the scene's present poses, so it also answers at states that noise or
another policy led to. Where the hand must not sweep through things it comes down from above:

    far to the side ─► over the place at safe height ─► down ─► (close, carry | pull | push)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from streamvla.robots.sawyer import ACTION_SPACE
from streamvla.robots.tabletop.arm import FINGER_LENGTH_M, Arm
from streamvla.robots.tabletop.balls import HIGHEST_M, Balls
from streamvla.robots.tabletop.blocks import HALF_HEIGHT_M, Blocks
from streamvla.robots.tabletop.buttons import TOP_M, TRAVEL_M, Buttons
from streamvla.robots.tabletop.drawers import OPENED_M, Drawers
from streamvla.robots.tabletop.knobs import HALF_THICKNESS_M, HEIGHT_M, SLID_M, WAYS, Knobs
from streamvla.robots.tabletop.robot import TabletopRobot

GAIN_PER_M = 12.0
OPEN, CLOSED = -1.0, 1.0

CLEARANCE_M = 0.05
"""How far the fingertips pass above what they must not touch."""
CENTRED_M = 0.02
"""How near to the vertical through a point the fingertips come down on it."""
BEYOND_M = 0.02
"""How far past the threshold of success an expert goes before it holds."""
GRASPED_OPENING = 0.62
"""The gripper is closed on a block below this (0.56 with pads touching it)."""


class TabletopExpert:
    """The scripted expert for the goal that a language scene asks for at this instant."""

    def __init__(self, robot: TabletopRobot) -> None:
        self._robot = robot

    def act(self) -> np.ndarray:
        """The clean action, clipped to ±1: (4,) float64."""
        robot = self._robot
        return ACTION_SPACE.clip(_EXPERTS[robot.task](robot.scene, robot.arm, robot.goal))


def press(scene: Buttons, arm: Arm, goal: str) -> np.ndarray:
    """Close the gripper, come down on the button and stay on it."""
    nearly_down = scene.top_m(goal) + _up(0.004 - TRAVEL_M)
    return _come_down(arm, nearly_down, TOP_M + CLEARANCE_M, CLOSED)


def reach(scene: Balls, arm: Arm, goal: str) -> np.ndarray:
    """Come down on the ball from above all of them, and stay."""
    return _come_down(arm, scene.centre_m(goal), HIGHEST_M + 2 * CLEARANCE_M, OPEN)


def pull(scene: Drawers, arm: Arm, goal: str) -> np.ndarray:
    """Put the open fingers astride the handle, pull until well open, and stay."""
    handle = scene.handle_m(goal)
    across, along, above = arm.fingertips_m - handle
    astride = abs(across) <= 0.03 and abs(along) <= 0.055 and above <= 0.0
    if not astride:
        return _come_down(arm, handle + _up(-0.01), handle[2] + CLEARANCE_M, OPEN)
    # The rear finger hooks the handle 4 cm behind the hand's centre.
    end = scene.handle_m(goal, OPENED_M + 2 * BEYOND_M) - (0.0, 0.04, 0.01)
    return _towards(arm, end, OPEN)


def slide(scene: Knobs, arm: Arm, goal: str) -> np.ndarray:
    """Come down beside the knob, closed, push it until well past the mark, and stay."""
    way = WAYS[goal.split("-")[1]]
    knob = scene.knob_m(goal)
    low = _up(0.03 - HEIGHT_M)
    across, along, above = arm.fingertips_m - knob
    behind = way * across < -HALF_THICKNESS_M and abs(along) <= 0.03 and above <= -0.02
    if not behind:
        beside = knob - (way * 0.065, 0.0, 0.0)
        return _come_down(arm, beside + low, HEIGHT_M + CLEARANCE_M, CLOSED)
    finger = (way * (HALF_THICKNESS_M + 0.015), 0.0, 0.0)
    return _towards(arm, scene.knob_m(goal, way * (SLID_M + BEYOND_M)) - finger + low, CLOSED)


def put(scene: Blocks, arm: Arm, goal: str) -> np.ndarray:
    """Pick up the block, carry it over the bin, lower it, let go and rise."""
    block, bin_m = scene.block_m(goal), scene.bin_m(goal)
    if scene.lies_in_bin(goal):
        return _towards(arm, np.array([*arm.fingertips_m[:2], 0.12]), OPEN)
    aside = float(np.linalg.norm(arm.hand_m[:2] - block[:2]))
    above = float(arm.fingertips_m[2] - block[2])
    around = aside <= 0.025 and abs(above + 0.01) <= 0.025
    if not around:
        return _come_down(arm, block + _up(-0.01), 2 * HALF_HEIGHT_M + CLEARANCE_M, OPEN)
    if arm.opening > GRASPED_OPENING:
        return np.array([0.0, 0.0, 0.0, CLOSED])
    if np.abs(block[:2] - bin_m[:2]).max() <= 0.03:
        return _towards(arm, bin_m + _up(0.02), CLOSED)
    safe = 3 * HALF_HEIGHT_M + CLEARANCE_M  # over the other blocks with one in hand
    if block[2] < safe - 0.05:
        return _towards(arm, np.array([*arm.fingertips_m[:2], safe]), CLOSED)
    return _towards(arm, bin_m + _up(safe), CLOSED)


def _come_down(arm: Arm, tips: np.ndarray, safe_m: float, gripper: float) -> np.ndarray:
    """Fingertips to a point (3,), from above: sideways only at `safe_m` or higher."""
    aside = float(np.linalg.norm(arm.fingertips_m[:2] - tips[:2]))
    if aside <= CENTRED_M:
        return _towards(arm, tips, gripper)
    if arm.fingertips_m[2] < safe_m - 0.02 and aside > 2 * CENTRED_M:
        return _towards(arm, np.array([*arm.fingertips_m[:2], safe_m]), gripper)
    return _towards(arm, np.array([*tips[:2], safe_m]), gripper)


def _towards(arm: Arm, tips: np.ndarray, gripper: float) -> np.ndarray:
    """Fingertips straight to a point (3,)."""
    step = GAIN_PER_M * (tips + _up(FINGER_LENGTH_M) - arm.hand_m)
    return np.array([*step, gripper])


def _up(height_m: float) -> np.ndarray:
    return np.array([0.0, 0.0, height_m])


_EXPERTS: dict[str, Callable[[Any, Arm, str], np.ndarray]] = {
    "press-named-button": press,
    "reach-named-ball": reach,
    "open-named-drawer": pull,
    "slide-named-knob": slide,
    "put-named-block": put,
}
"""Family of scenes → (scene, arm, goal) → the action (4,), not yet clipped, that brings the scene
nearer to the goal."""
