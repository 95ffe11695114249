"""Two or three blocks, each of another colour, between two bins: put the named one where told."""

from __future__ import annotations

import numpy as np

from streamvla.robots.gl import import_mujoco
from streamvla.robots.instructions import Phrasings
from streamvla.robots.tabletop.arm import Arm
from streamvla.robots.tabletop.scene import (
    COLOURS,
    LIGHT,
    Family,
    MjBody,
    MjSpec,
    parked,
    pick_colours,
    scatter,
)

MOST = 3
HALF_WIDTH_M = 0.022
HALF_HEIGHT_M = 0.03
SIDES = {"left": -1.0, "right": 1.0}

_BIN_HALF_M = 0.085
_WALL_M = 0.025
_FLOOR_M = 0.004
_LOW_M = 0.06
_RELEASED_OPENING = 0.7
_GROUND_M = -0.913
"""The floor that the table stands on."""


class Blocks:
    """Implements `Scene`; a goal is "colour-side", such as "red-left"."""

    def __init__(self, arm: Arm) -> None:
        self._arm = arm
        self._colours: tuple[str, ...] = ()

    @staticmethod
    def furnish(spec: MjSpec) -> None:
        mujoco = import_mujoco()
        for side in SIDES:
            _add_bin(spec.worldbody.add_body(name=f"{side}-bin"))
        half = (HALF_WIDTH_M, HALF_WIDTH_M, HALF_HEIGHT_M)
        for index in range(MOST):
            block = spec.worldbody.add_body(
                name=f"block{index}",
                mass=0.1,
                inertia=(6e-5, 6e-5, 4e-5),
                explicitinertial=True,
            )
            block.add_freejoint(name=f"block{index}")
            block.add_geom(
                name=f"block{index}",
                type=mujoco.mjtGeom.mjGEOM_BOX,
                size=half,
                friction=(1.0, 0.1, 0.002),
                condim=4,
                solref=(0.01, 1.0),
                solimp=(0.99, 0.99, 0.01, 0.5, 2.0),
            )

    @property
    def goals(self) -> tuple[str, ...]:
        return tuple(f"{colour}-{side}" for colour in self._colours for side in SIDES)

    def place(self, stream: np.random.Generator) -> None:
        count = int(stream.integers(2, MOST + 1))
        self._colours = pick_colours(stream, count)
        places = scatter(stream, count, (-0.11, 0.52), (0.11, 0.76), gap_m=0.12)
        bins = stream.uniform((0.23, 0.60), (0.27, 0.72), (len(SIDES), 2))
        model, data = self._arm.model, self._arm.data
        for (side, sign), (x, y) in zip(SIDES.items(), bins, strict=True):
            model.body(f"{side}-bin").pos[:2] = (sign * x, y)
        for index in range(MOST):
            used = index < count
            ground = 0.0 if used else _GROUND_M
            data.joint(f"block{index}").qpos[:3] = (
                *(places[index] if used else parked(index)),
                ground + HALF_HEIGHT_M,
            )
        for index, colour in enumerate(self._colours):
            model.geom(f"block{index}").rgba[:] = COLOURS[colour]

    def reached(self) -> str | None:
        if self._arm.opening < _RELEASED_OPENING:
            return None
        return next((goal for goal in self.goals if self.lies_in_bin(goal)), None)

    def lies_in_bin(self, goal: str) -> bool:
        """Whether a goal's block is down in that goal's bin."""
        offset = self.block_m(goal) - self.bin_m(goal)
        return bool((np.abs(offset[:2]) <= _BIN_HALF_M).all() and offset[2] <= _LOW_M)

    def block_m(self, goal: str) -> np.ndarray:
        """(3,) the middle of a goal's block."""
        index = self._colours.index(goal.split("-")[0])
        return self._arm.data.body(f"block{index}").xpos.copy()

    def bin_m(self, goal: str) -> np.ndarray:
        """(3,) the middle of a goal's bin, on the table."""
        return self._arm.model.body(f"{goal.split('-')[1]}-bin").pos.copy()

    def places_m(self, goal: str) -> tuple[np.ndarray, np.ndarray]:
        return self.block_m(goal), self.bin_m(goal)


def _add_bin(body: MjBody) -> None:
    """A square floor with four low walls."""
    box = import_mujoco().mjtGeom.mjGEOM_BOX
    half, wall = _BIN_HALF_M, _WALL_M / 2
    body.add_geom(
        type=box, pos=(0.0, 0.0, _FLOOR_M / 2), size=(half, half, _FLOOR_M / 2), rgba=LIGHT
    )
    for sign in (-1.0, 1.0):
        body.add_geom(
            type=box, pos=(sign * half, 0.0, wall), size=(_FLOOR_M, half, wall), rgba=LIGHT
        )
        body.add_geom(
            type=box, pos=(0.0, sign * half, wall), size=(half, _FLOOR_M, wall), rgba=LIGHT
        )


FAMILY = Family(
    Blocks,
    {
        f"{colour}-{side}": Phrasings(
            (
                "put the {colour} block into the {side} bin",
                "place the {colour} block in the {side} tray",
                "pick up the {colour} block and drop it in the {side} bin",
                "move the {colour} cube to the bin on the {side}",
                "carry the block that is {colour} to the {side} bin",
            ),
            (
                "get the {colour} cube into the {side} tray",
                "grab the {colour} block and take it to the {side} bin",
            ),
        ).filled(colour=colour, side=side)
        for colour in COLOURS
        for side in SIDES
    },
)
