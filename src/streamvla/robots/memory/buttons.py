"""Grey buttons of the tabletop, and what counts as a press of one."""

from __future__ import annotations

import numpy as np

from streamvla.robots.tabletop.arm import Arm
from streamvla.robots.tabletop.buttons import MOST, PRESSED_M, TOP_M, TRAVEL_M
from streamvla.robots.tabletop.scene import parked
from streamvla.robots.tempo.motion import CLOSED, come_down, tips_of, towards

RELEASED_M = 0.006
"""Below the top: from there on a cap that was pressed can be pressed again."""
SAFE_M = TOP_M + 0.04
"""Fingertips pass over buttons at this height."""
CAP = (0.55, 0.55, 0.6, 1.0)

_NEARLY_M = TRAVEL_M - 0.004


class Buttons:
    """The first `count` of the tabletop's buttons; the others are out of sight."""

    def __init__(self, arm: Arm, count: int) -> None:
        self._arm = arm
        self._caps = [int(arm.model.joint(f"cap{i}").qposadr[0]) for i in range(count)]
        self._places_m = np.zeros((count, 2))
        self._down = np.zeros(count, bool)

    def place(self, places_m: np.ndarray) -> None:
        """(count, 2) metres."""
        self._places_m = places_m
        self._down = np.zeros(len(places_m), bool)
        model = self._arm.model
        for index in range(MOST):
            used = index < len(places_m)
            model.body(f"button{index}").pos[:2] = places_m[index] if used else parked(index)
            model.geom(f"cap{index}").rgba[:] = CAP

    def newly_pressed(self) -> list[int]:
        """Which went down in this sub-step; ask once a sub-step."""
        depth = -self._arm.data.qpos[self._caps]
        down = np.where(self._down, depth > RELEASED_M, depth >= PRESSED_M)
        pressed, self._down = down & ~self._down, down
        return [int(index) for index in np.flatnonzero(pressed)]

    def top_m(self, index: int) -> np.ndarray:
        """(3,) the middle of a button's top when it is not pressed."""
        return np.array([*self._places_m[index], TOP_M])

    def cap_m(self, index: int) -> np.ndarray:
        """(3,) the middle of its top as it is."""
        sunk_m = -self._arm.data.qpos[self._caps[index]]
        return self.top_m(index) - (0.0, 0.0, sunk_m)

    def press(self, index: int) -> np.ndarray:
        """(4,) down on a button; up first if it is down already."""
        if self._down[index]:
            return self.rise()
        return come_down(self._arm, self.top_m(index) - (0.0, 0.0, _NEARLY_M), SAFE_M, CLOSED)

    def rise(self) -> np.ndarray:
        """(4,) straight up to where nothing is touched."""
        tips = tips_of(self._arm)
        return towards(self._arm, np.array([*tips[:2], SAFE_M]), CLOSED)

    @property
    def is_any_down(self) -> bool:
        """Whether one was pressed and did not come up yet."""
        return bool(self._down.any())

    def truth(self) -> np.ndarray:
        """(count,) which are down."""
        return self._down.astype(np.float64)

    def assume(self, truth: np.ndarray) -> None:
        self._down = truth > 0.5
