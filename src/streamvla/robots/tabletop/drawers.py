"""A chest with an upper and a lower drawer, stepped like stairs: open the named one."""

from __future__ import annotations

import numpy as np

from streamvla.robots.gl import import_mujoco
from streamvla.robots.instructions import Phrasings
from streamvla.robots.tabletop.arm import Arm
from streamvla.robots.tabletop.scene import (
    COLOURS,
    GREY,
    LIGHT,
    Family,
    MjBody,
    MjSpec,
    pick_colours,
)

TRAVEL_M = 0.15
OPENED_M = 0.1

LEVELS = ("upper", "lower")
# Level → (y, z) in metres of a drawer's front, from the chest's place on the table. The lower one
# stands out by 12 cm, so that the hand comes down on either handle without touching the other.
_FRONT_M = {"upper": (0.0, 0.165), "lower": (-0.12, 0.055)}
_DEPTH_M = {"upper": 0.16, "lower": 0.28}
_HALF_HEIGHT_M = 0.05
_HALF_WIDTH_M = 0.13
_HANDLE_OUT_M = 0.075
_HANDLE_HALF_M = 0.05


class Drawers:
    """Implements `Scene`; a goal is the level of a drawer. Colours say nothing about it."""

    def __init__(self, arm: Arm) -> None:
        self._arm = arm

    @staticmethod
    def furnish(spec: MjSpec) -> None:
        chest = spec.worldbody.add_body(name="chest")
        for level in LEVELS:
            _add_drawer(chest, level)

    @property
    def goals(self) -> tuple[str, ...]:
        return LEVELS

    def place(self, stream: np.random.Generator) -> None:
        model = self._arm.model
        model.body("chest").pos[:2] = stream.uniform((-0.15, 0.77), (0.15, 0.83))
        for level, colour in zip(LEVELS, pick_colours(stream, len(LEVELS)), strict=True):
            for geom in ("front", "tray"):
                model.geom(f"{level}-{geom}").rgba[:] = COLOURS[colour]

    def reached(self) -> str | None:
        for level in LEVELS:
            if self._arm.data.joint(level).qpos[0] <= -OPENED_M:
                return level
        return None

    def handle_m(self, goal: str, opened_m: float | None = None) -> np.ndarray:
        """(3,) the middle of a handle, now or at another opening: for experts."""
        x, y, _ = self._arm.model.body("chest").pos
        front_y, z = _FRONT_M[goal]
        out = -self._arm.data.joint(goal).qpos[0] if opened_m is None else opened_m
        return np.array([x, y + front_y - _HANDLE_OUT_M - out, z])

    def places_m(self, goal: str) -> tuple[np.ndarray, np.ndarray]:
        return self.handle_m(goal), self.handle_m(goal, OPENED_M)


def _add_drawer(chest: MjBody, level: str) -> None:
    """A grey case, which stays, and a drawer with a handle, which slides along -y."""
    box = import_mujoco().mjtGeom.mjGEOM_BOX
    y, z = _FRONT_M[level]
    half_depth = _DEPTH_M[level] / 2
    chest.add_geom(
        type=box,
        pos=(0.0, y + 0.01 + half_depth, z),
        size=(_HALF_WIDTH_M, half_depth, _HALF_HEIGHT_M + 0.005),
        rgba=GREY,
        contype=0,
        conaffinity=0,
    )
    drawer = chest.add_body(
        name=level,
        pos=(0.0, y, z),
        mass=0.3,
        inertia=(1e-3, 1e-3, 1e-3),
        explicitinertial=True,
    )
    drawer.add_joint(
        name=level,
        type=import_mujoco().mjtJoint.mjJNT_SLIDE,
        axis=(0.0, 1.0, 0.0),
        limited=True,
        range=(-TRAVEL_M, 0.0),
        damping=5.0,
    )
    drawer.add_geom(
        name=f"{level}-front", type=box, size=(_HALF_WIDTH_M - 0.01, 0.008, _HALF_HEIGHT_M)
    )
    drawer.add_geom(
        name=f"{level}-tray",
        type=box,
        pos=(0.0, TRAVEL_M / 2, -0.005),
        size=(_HALF_WIDTH_M - 0.015, TRAVEL_M / 2, _HALF_HEIGHT_M - 0.01),
        contype=0,
        conaffinity=0,
    )
    _add_handle(drawer)


def _add_handle(drawer: MjBody) -> None:
    """A bar along x on two posts."""
    capsule = import_mujoco().mjtGeom.mjGEOM_CAPSULE
    left, right = -_HANDLE_HALF_M, _HANDLE_HALF_M
    out = -_HANDLE_OUT_M
    for start, end in (
        ((left, out, 0.0), (right, out, 0.0)),
        ((left, out, 0.0), (left, 0.0, 0.0)),
        ((right, out, 0.0), (right, 0.0, 0.0)),
    ):
        drawer.add_geom(type=capsule, fromto=(*start, *end), size=(0.009, 0.0, 0.0), rgba=LIGHT)


FAMILY = Family(
    Drawers,
    {
        level: Phrasings(
            (
                "open the {level} drawer",
                "pull the {level} drawer open",
                "open the {other} drawer",
                "slide out the drawer that is {place}",
                "pull the handle of the {level} drawer",
            ),
            (
                "draw the {level} drawer out",
                "get the {other} drawer open",
            ),
        ).filled(level=level, other=other, place=place)
        for level, other, place in (("upper", "top", "above"), ("lower", "bottom", "below"))
    },
)
