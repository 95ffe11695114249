"""Two to four balls, each of another colour: reach the named one."""

from __future__ import annotations

import numpy as np

from streamvla.robots.gl import import_mujoco
from streamvla.robots.instructions import Phrasings
from streamvla.robots.tabletop.arm import Arm
from streamvla.robots.tabletop.scene import (
    COLOURS,
    Family,
    MjSpec,
    parked,
    per_colour,
    pick_colours,
    scatter,
)

MOST = 4
REACHED_M = 0.04
LOWEST_M, HIGHEST_M = 0.04, 0.10

_RADIUS_M = 0.035


class Balls:
    """Implements `Scene`; a goal is the colour of a ball. Balls float and do not collide."""

    def __init__(self, arm: Arm) -> None:
        self._arm = arm
        self._colours: tuple[str, ...] = ()

    @staticmethod
    def furnish(spec: MjSpec) -> None:
        mujoco = import_mujoco()
        for index in range(MOST):
            body = spec.worldbody.add_body(name=f"ball{index}")
            body.add_geom(
                name=f"ball{index}",
                type=mujoco.mjtGeom.mjGEOM_SPHERE,
                size=(_RADIUS_M, 0.0, 0.0),
                contype=0,
                conaffinity=0,
            )

    @property
    def goals(self) -> tuple[str, ...]:
        return self._colours

    def place(self, stream: np.random.Generator) -> None:
        count = int(stream.integers(2, MOST + 1))
        self._colours = pick_colours(stream, count)
        places = scatter(stream, count, (-0.24, 0.52), (0.24, 0.84), gap_m=0.16)
        heights = stream.uniform(LOWEST_M, HIGHEST_M, count)
        for index in range(MOST):
            used = index < count
            self._arm.model.body(f"ball{index}").pos[:] = (
                (*places[index], heights[index]) if used else (*parked(index), 0.0)
            )
        for index, colour in enumerate(self._colours):
            self._arm.model.geom(f"ball{index}").rgba[:] = COLOURS[colour]

    def reached(self) -> str | None:
        for colour in self._colours:
            if np.linalg.norm(self._arm.fingertips_m - self.centre_m(colour)) <= REACHED_M:
                return colour
        return None

    def centre_m(self, goal: str) -> np.ndarray:
        """(3,) the middle of a ball: for experts."""
        return self._arm.model.body(f"ball{self._colours.index(goal)}").pos.copy()

    def places_m(self, goal: str) -> tuple[np.ndarray, np.ndarray]:
        return self.centre_m(goal), self.centre_m(goal)


FAMILY = Family(
    Balls,
    per_colour(
        Phrasings(
            (
                "reach for the {colour} ball",
                "move the gripper to the {colour} ball",
                "bring the hand to the {colour} sphere",
                "go to the ball that is {colour}",
                "put the fingers at the {colour} ball",
            ),
            (
                "touch the {colour} sphere",
                "get the hand to the {colour} ball",
            ),
        )
    ),
)
