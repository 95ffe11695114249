"""A policy without a network for the suite `tempo-arm`: it chases the green thing that it sees.

    two views, now and 100 ms earlier ─► green pixels ─► rays ─► where they meet, and how it moves
    how old that is (`FlowStart.age`) ─► where it will be ─► H steps there and along with it

Told of a green ball it stays on it; told of a button it presses the one that glows. Else, or where
it sees nothing green, it holds still.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from streamvla.core.interfaces import FlowStart, Observation, PolicySpec
from streamvla.robots.sawyer import CAMERAS
from streamvla.robots.tempo.robot import ARM_SPEC

HORIZON, PERIOD_S, EARLIER_S = 10, ARM_SPEC.control_period_ns / 1e9, 0.1
STEP_M, CLOSED = 0.04, 1.0
"""How far a unit action moves the hand; a gripper command."""
GAIN = 0.6
"""Of the way that is left, in one action."""
GREENER, FEW_PIXELS = 1.7, 4
"""So many times as much green as red, and as blue, in so many pixels: as no other thing looks."""
TIPS_M = np.array((0.0, 0.0, -0.045))
"""From the hand to the fingertips."""
BESIDE_M = np.array((0.0, -0.01, 0.015))
"""From a ball to the fingertips that are on it and do not hide it from both cameras."""
HEIGHT_M = 0.1
"""Where a thing is about, for want of a second view."""
SAFE_M, DOWN_M, CENTRED_M = 0.13, 0.074, 0.02
"""Height over buttons, and of a pressed one; how near to its axis to come down."""


@dataclass(frozen=True)
class Seen:
    """At a capture: the thing and the fingertips (3,) m, its velocity (3,) m/s, action state."""

    place_m: np.ndarray
    moving_m_s: np.ndarray
    tips_m: np.ndarray
    action_state: np.ndarray
    is_button: bool

    def aim(self, tips_m: np.ndarray, ahead_s: float) -> np.ndarray:
        """(3,) metres: where fingertips that are at (3,) should be so much later."""
        if not self.is_button:
            return self.place_m + ahead_s * self.moving_m_s + BESIDE_M
        aside_m = np.linalg.norm(tips_m[:2] - self.place_m[:2])
        if aside_m > 2 * CENTRED_M and tips_m[2] < SAFE_M - 0.02:  # off another button first
            return np.array([*tips_m[:2], SAFE_M + 0.02])
        return np.array([*self.place_m[:2], DOWN_M if aside_m <= CENTRED_M else SAFE_M])


class Chase:
    """Implements `Policy`: it streams, one action a pass."""

    spec = PolicySpec(
        action_space=ARM_SPEC.action_space,
        horizon=HORIZON,
        views=ARM_SPEC.views,
        image_size=ARM_SPEC.image_size,
        state_dim=len(ARM_SPEC.state_names),
        control_period_ns=ARM_SPEC.control_period_ns,
    )

    def encode(self, observation: Observation) -> Seen | None:
        """None: nothing to do."""
        images, is_button = observation.images, "button" in observation.instruction
        now = locate({view: images[view] for view in CAMERAS})
        if now is None or not (is_button or "green ball" in observation.instruction):
            return None
        then = locate({view: images[f"{view}-earlier"] for view in CAMERAS})
        moving = np.zeros(3) if is_button or then is None else (now - then) / EARLIER_S
        tips = observation.state[:3] + TIPS_M
        return Seen(now, moving, tips, observation.action_state.copy(), is_button)

    def generate(self, context: Seen | None, start: FlowStart) -> Iterator[np.ndarray]:
        """Yield `H − start.index` actions (4,), from where the fingertips will be by then."""
        if context is None:
            yield from [self.spec.action_space.hold(start.action_state)] * (HORIZON - start.index)
            return
        tips = context.tips_m + STEP_M * (start.action_state - context.action_state)[:3]
        for index in range(start.index, HORIZON):
            way = context.aim(tips, (start.age + index + 1) * PERIOD_S) - tips
            action = self.spec.action_space.clip(np.array([*(GAIN / STEP_M * way), CLOSED]))
            tips = tips + STEP_M * action[:3]
            yield action


def locate(images: dict[str, np.ndarray]) -> np.ndarray | None:
    """(3,) metres: the point nearest to all rays to what is green; None: no view shows any."""
    left, right, shown = np.diag((0.0, 0.0, 1e-3)), np.array((0.0, 0.0, 1e-3 * HEIGHT_M)), False
    for view, image in images.items():
        red, green, blue = np.moveaxis(image.astype(float), 2, 0)
        rows, columns = np.nonzero(green > GREENER * np.maximum(red, blue) + 10.0)
        if len(rows) >= FEW_PIXELS:
            eye, ray = ray_of(view, rows.mean(), columns.mean(), len(image))
            across = np.eye(3) - np.outer(ray, ray)
            left, right, shown = left + across, right + across @ eye, True
    return np.linalg.solve(left, right) if shown else None


def ray_of(view: str, row: float, column: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(3,) metres: where the camera stands; (3,): unit vector to the middle of a pixel."""
    camera, middle, pixel = CAMERAS[view], (size - 1) / 2, 2 * np.tan(np.pi / 8) / size  # 45°
    turned, raised = np.radians((camera.azimuth, camera.elevation))
    level = np.array((np.cos(turned), np.sin(turned), 0.0))
    ahead, right = np.cos(raised) * level, np.array((level[1], -level[0], 0.0))
    ahead[2] = np.sin(raised)
    ray = ahead + pixel * ((column - middle) * right + (middle - row) * np.cross(right, ahead))
    return np.array(camera.lookat) - camera.distance * ahead, ray / np.linalg.norm(ray)


def make() -> Chase:
    """For `--policies streamvla_dots.chase:make`."""
    return Chase()
