"""Two to four buttons, each of another colour: press the named one."""

from __future__ import annotations

import numpy as np

from streamvla.robots.gl import import_mujoco
from streamvla.robots.instructions import Phrasings
from streamvla.robots.tabletop.arm import Arm
from streamvla.robots.tabletop.scene import (
    COLOURS,
    GREY,
    Family,
    MjSpec,
    parked,
    per_colour,
    pick_colours,
    scatter,
)

MOST = 4
TRAVEL_M = 0.03
PRESSED_M = 0.02
TOP_M = 0.1

_PLATE_HALF_M = 0.02
_CAP_HALF_M = 0.025
_CAP_RADIUS_M = 0.04


class Buttons:
    """Implements `Scene`; a goal is the colour of a button."""

    def __init__(self, arm: Arm) -> None:
        self._arm = arm
        self._colours: tuple[str, ...] = ()

    @staticmethod
    def furnish(spec: MjSpec) -> None:
        mujoco = import_mujoco()
        for index in range(MOST):
            box = spec.worldbody.add_body(name=f"button{index}")
            box.add_geom(
                type=mujoco.mjtGeom.mjGEOM_BOX,
                pos=(0.0, 0.0, _PLATE_HALF_M),
                size=(0.055, 0.055, _PLATE_HALF_M),
                rgba=GREY,
                contype=0,
                conaffinity=0,
            )
            cap = box.add_body(
                name=f"cap{index}",
                pos=(0.0, 0.0, TOP_M - _CAP_HALF_M),
                mass=0.1,
                inertia=(1e-4, 1e-4, 1e-4),
                explicitinertial=True,
                gravcomp=1.0,
            )
            cap.add_geom(
                name=f"cap{index}",
                type=mujoco.mjtGeom.mjGEOM_CYLINDER,
                size=(_CAP_RADIUS_M, _CAP_HALF_M, 0.0),
            )
            cap.add_joint(
                name=f"cap{index}",
                type=mujoco.mjtJoint.mjJNT_SLIDE,
                axis=(0.0, 0.0, 1.0),
                limited=True,
                range=(-TRAVEL_M, 0.0),
                stiffness=50.0,
                damping=5.0,
            )

    @property
    def goals(self) -> tuple[str, ...]:
        return self._colours

    def place(self, stream: np.random.Generator) -> None:
        count = int(stream.integers(2, MOST + 1))
        self._colours = pick_colours(stream, count)
        places = scatter(stream, count, (-0.22, 0.55), (0.22, 0.82), gap_m=0.15)
        model = self._arm.model
        for index in range(MOST):
            model.body(f"button{index}").pos[:2] = places[index] if index < count else parked(index)
        for index, colour in enumerate(self._colours):
            model.geom(f"cap{index}").rgba[:] = COLOURS[colour]

    def reached(self) -> str | None:
        for index, colour in enumerate(self._colours):
            if self._arm.data.joint(f"cap{index}").qpos[0] <= -PRESSED_M:
                return colour
        return None

    def top_m(self, goal: str) -> np.ndarray:
        """(3,) the middle of a button's top when it is not pressed: for experts."""
        x, y = self._arm.model.body(f"button{self._colours.index(goal)}").pos[:2]
        return np.array([x, y, TOP_M])

    def places_m(self, goal: str) -> tuple[np.ndarray, np.ndarray]:
        top = self.top_m(goal)
        return top, top - (0.0, 0.0, TRAVEL_M)


FAMILY = Family(
    Buttons,
    per_colour(
        Phrasings(
            (
                "press the {colour} button",
                "push the {colour} button down",
                "press down on the button that is {colour}",
                "choose the {colour} button and press it",
                "go to the {colour} button and push it",
            ),
            (
                "hit the {colour} button",
                "find the {colour} button and press it down",
            ),
        )
    ),
)
