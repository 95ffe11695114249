"""Two knobs on rails, each of another colour: slide the named one the named way."""

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
    pick_colours,
)

COUNT = 2
TRAVEL_M = 0.12
SLID_M = 0.08
HALF_THICKNESS_M = 0.02
HEIGHT_M = 0.08

WAYS = {"left": -1.0, "right": 1.0}


class Knobs:
    """Implements `Scene`; a goal is "colour-way", such as "red-left"."""

    def __init__(self, arm: Arm) -> None:
        self._arm = arm
        self._colours: tuple[str, ...] = ()

    @staticmethod
    def furnish(spec: MjSpec) -> None:
        mujoco = import_mujoco()
        box = mujoco.mjtGeom.mjGEOM_BOX
        for index in range(COUNT):
            rail = spec.worldbody.add_body(name=f"rail{index}")
            rail.add_geom(
                type=box,
                pos=(0.0, 0.0, 0.006),
                size=(TRAVEL_M + 0.03, 0.012, 0.006),
                rgba=GREY,
                contype=0,
                conaffinity=0,
            )
            knob = rail.add_body(
                name=f"knob{index}",
                pos=(0.0, 0.0, HEIGHT_M / 2),
                mass=0.2,
                inertia=(1e-3, 1e-3, 1e-3),
                explicitinertial=True,
            )
            knob.add_geom(
                name=f"knob{index}", type=box, size=(HALF_THICKNESS_M, 0.04, HEIGHT_M / 2 - 0.005)
            )
            knob.add_joint(
                name=f"knob{index}",
                type=mujoco.mjtJoint.mjJNT_SLIDE,
                axis=(1.0, 0.0, 0.0),
                limited=True,
                range=(-TRAVEL_M, TRAVEL_M),
                damping=10.0,
                frictionloss=0.5,
            )

    @property
    def goals(self) -> tuple[str, ...]:
        return tuple(f"{colour}-{way}" for colour in self._colours for way in WAYS)

    def place(self, stream: np.random.Generator) -> None:
        self._colours = pick_colours(stream, COUNT)
        near, between = stream.uniform((0.54, 0.17), (0.60, 0.22))
        across = stream.uniform(-0.1, 0.1, COUNT)
        starts = stream.uniform(-0.03, 0.03, COUNT)
        model, data = self._arm.model, self._arm.data
        for index, colour in enumerate(self._colours):
            model.body(f"rail{index}").pos[:2] = (across[index], near + index * between)
            model.geom(f"knob{index}").rgba[:] = COLOURS[colour]
            data.joint(f"knob{index}").qpos[0] = starts[index]

    def reached(self) -> str | None:
        for index, colour in enumerate(self._colours):
            slid = float(self._arm.data.joint(f"knob{index}").qpos[0])
            for way, sign in WAYS.items():
                if sign * slid >= SLID_M:
                    return f"{colour}-{way}"
        return None

    def knob_m(self, goal: str, slid_m: float | None = None) -> np.ndarray:
        """(3,) the top of a goal's knob, now or slid so far to the right: for experts."""
        index = self._colours.index(goal.split("-")[0])
        x, y, _ = self._arm.model.body(f"rail{index}").pos
        slid = self._arm.data.joint(f"knob{index}").qpos[0] if slid_m is None else slid_m
        return np.array([x + slid, y, HEIGHT_M])

    def places_m(self, goal: str) -> tuple[np.ndarray, np.ndarray]:
        way = WAYS[goal.split("-")[1]]
        return self.knob_m(goal), self.knob_m(goal, way * SLID_M)


FAMILY = Family(
    Knobs,
    {
        f"{colour}-{way}": Phrasings(
            (
                "slide the {colour} knob to the {way}",
                "push the {colour} knob {way}",
                "move the {colour} knob to the {way} side",
                "shift the knob that is {colour} to the {way}",
                "slide {way} with the {colour} knob",
            ),
            (
                "get the {colour} knob over to the {way}",
                "shove the {colour} knob to the {way} end",
            ),
        ).filled(colour=colour, way=way)
        for colour in COLOURS
        for way in WAYS
    },
)
