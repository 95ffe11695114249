"""Loose things of a scene (bodies on a free joint): thrown in, felt, and taken away."""

from __future__ import annotations

import numpy as np

from streamvla.robots.tabletop.arm import Arm
from streamvla.robots.tabletop.scene import parked

_GROUND_M = -0.913
"""The floor that the table stands on."""


class Loose:
    """One body, whose free joint and whose geom have its name.

    Args:
        arm: of the compiled scene.
        name: of body, joint and geom.
        place: where it waits, a number of its own.
        rest_m: how high its middle is when it lies.
    """

    def __init__(self, arm: Arm, name: str, place: int, rest_m: float) -> None:
        model = arm.model
        self._data = arm.data
        joint = model.joint(name)
        self._at = slice(int(joint.qposadr[0]), int(joint.qposadr[0]) + 7)
        self._moving = slice(int(joint.dofadr[0]), int(joint.dofadr[0]) + 6)
        self._waiting = (*parked(place), _GROUND_M + rest_m)
        geom = model.geom(name).id
        root = model.body_rootid[model.body("hand").id]
        self._is_it = np.arange(model.ngeom) == geom
        self._of_arm = model.body_rootid[model.geom_bodyid] == root

    @property
    def position_m(self) -> np.ndarray:
        """(3,) of its middle."""
        return self._data.qpos[self._at][:3].copy()

    @property
    def velocity_m_s(self) -> np.ndarray:
        """(3,) of its middle."""
        return self._data.qvel[self._moving][:3].copy()

    @property
    def touched(self) -> bool:
        """Whether the arm touches it."""
        pairs = self._data.contact.geom[: self._data.ncon]
        one, other = pairs[:, 0], pairs[:, 1]
        touching = (self._is_it[one] & self._of_arm[other]) | (
            self._is_it[other] & self._of_arm[one]
        )
        return bool(touching.any())

    def put(self, position_m: np.ndarray, velocity: np.ndarray) -> None:
        """Upright at (3,), moving at (6,): m/s, and rad/s about its own axes."""
        self._data.qpos[self._at] = (*position_m, 1.0, 0.0, 0.0, 0.0)
        self._data.qvel[self._moving] = velocity

    def park(self) -> None:
        """Out of both views, behind the robot."""
        self.put(np.array(self._waiting), np.zeros(6))
