"""What the arm feels: contact forces and mechanical power, from MuJoCo's own solution."""

from __future__ import annotations

import numpy as np

from streamvla.robots.gl import import_mujoco
from streamvla.robots.tabletop.arm import Arm


class ArmForces:
    """Forces on one arm at the present instant."""

    def __init__(self, arm: Arm) -> None:
        self._mujoco = import_mujoco()
        self._model, self._data = arm.model, arm.data
        model = arm.model
        root = model.body_rootid[model.body("hand").id]
        self._of_arm = model.body_rootid[model.geom_bodyid] == root
        self._dofs = model.body_rootid[model.dof_bodyid] == root
        self._force = np.zeros(6)

    def contact_n(self, of: np.ndarray | None = None) -> float:
        """The largest normal force, newtons, between arm and anything that is not the arm.

        Args:
            of: (geoms,) bool, other geoms than the arm's, such as those of what it holds.
        """
        chosen = self._of_arm if of is None else of
        largest = 0.0
        pairs = chosen[self._data.contact.geom[: self._data.ncon]]
        for index in np.flatnonzero(pairs[:, 0] != pairs[:, 1]):
            self._mujoco.mj_contactForce(self._model, self._data, int(index), self._force)
            largest = max(largest, float(self._force[0]))
        return largest

    def power_w(self) -> float:
        """Mechanical power, watts, that constraints (the weld to the commanded pose, contacts) put
        into the arm's joints, without its sign: what a motor would have to give or take."""
        return float(abs(self._data.qfrc_constraint[self._dofs] @ self._data.qvel[self._dofs]))
