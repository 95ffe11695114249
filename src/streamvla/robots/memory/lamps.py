"""Lamps and distractors: what changes is a motion-capture body, whose place is in every capture."""

from __future__ import annotations

import numpy as np

from streamvla.robots.gl import import_mujoco
from streamvla.robots.memory.scene import MOST_DISTRACTORS, substeps
from streamvla.robots.tabletop.arm import Arm
from streamvla.robots.tabletop.scene import MjSpec, parked

RADIUS_M = 0.04
HEIGHT_M = 0.04
OFF_M = (0.0, -2.0, -0.8)
"""Where things are that are not to be seen."""

GO_COLOUR = (0.15, 1.0, 0.2, 1.0)
DARK = (0.10, 0.11, 0.16, 1.0)

_SHELL_M = 0.004
_GLOW = "glow"


def add_lamp(spec: MjSpec, name: str, colour: tuple[float, float, float, float]) -> None:
    """A dark disk 8 cm wide, and its light: a bright shell that comes over it."""
    cylinder = import_mujoco().mjtGeom.mjGEOM_CYLINDER
    base = spec.worldbody.add_body(name=f"{name}-base", pos=OFF_M)
    base.add_geom(
        type=cylinder,
        pos=(0.0, 0.0, HEIGHT_M / 2),
        size=(RADIUS_M, HEIGHT_M / 2, 0.0),
        rgba=DARK,
        contype=0,
        conaffinity=0,
    )
    light = spec.worldbody.add_body(name=name, mocap=True, pos=OFF_M)
    light.add_geom(
        type=cylinder,
        pos=(0.0, 0.0, HEIGHT_M / 2),
        size=(RADIUS_M + _SHELL_M, HEIGHT_M / 2 + _SHELL_M, 0.0),
        rgba=colour,
        material=glow(spec),
        contype=0,
        conaffinity=0,
    )


def glow(spec: MjSpec) -> str:
    """The name of the material of all lights, made when it is asked for first."""
    if spec.material(_GLOW) is None:
        spec.add_material(name=_GLOW, emission=1.0)
    return _GLOW


class Lamp:
    """One that `add_lamp` added."""

    def __init__(self, arm: Arm, name: str) -> None:
        self._arm = arm
        self._base = f"{name}-base"
        self._light = Movable(arm, name)
        self._place_m = np.array(OFF_M)

    def put(self, place_m: np.ndarray | tuple[float, float]) -> None:
        """Stand on the table at (2,), dark."""
        self._place_m = np.array([*place_m, 0.0])
        self._arm.model.body(self._base).pos[:] = self._place_m
        self.show(False)

    def remove(self) -> None:
        """Out of both views."""
        self._arm.model.body(self._base).pos[:] = OFF_M
        self._light.hide()

    def show(self, on: bool) -> None:
        """Shine, or not."""
        self._light.put(self._place_m) if on else self._light.hide()


class Movable:
    """A motion-capture body."""

    def __init__(self, arm: Arm, name: str) -> None:
        self._data = arm.data
        self._index = int(arm.model.body(name).mocapid[0])

    def put(self, where_m: np.ndarray) -> None:
        """At (3,) metres."""
        self._data.mocap_pos[self._index] = where_m

    def hide(self) -> None:
        """Out of both views."""
        self._data.mocap_pos[self._index] = OFF_M


_LAMPS = ((0.05, 0.15, 0.75, 1.0), (0.4, 0.4, 0.42, 1.0))
_BLOCKS = ((0.6, 0.15, 0.8, 1.0), (0.1, 0.6, 0.7, 1.0))
_SPOTS_M = ((-0.32, 0.60), (0.32, 0.60), (-0.32, 0.80), (0.32, 0.80))
_JITTER_M = 0.015
_BLOCK_HALF_M = 0.03
_FLASH_S, _DARK_S = (0.4, 1.2), (0.4, 2.0)
_LASTING_S = 60.0
"""Flashes are drawn for so long; then the lamps stay dark."""


class Distractors:
    """Up to four things at the sides that have nothing to do with the task, lamps and blocks in
    turn."""

    def __init__(self, arm: Arm, count: int) -> None:
        self._arm = arm
        self._count = count
        self._lamps = [Lamp(arm, f"other-lamp{i}") for i in range(len(_LAMPS))]
        self._flashes: list[list[int]] = []

    @staticmethod
    def furnish(spec: MjSpec) -> None:
        for i, colour in enumerate(_LAMPS):
            add_lamp(spec, f"other-lamp{i}", colour)
        for i, colour in enumerate(_BLOCKS):
            block = spec.worldbody.add_body(name=f"other-block{i}", pos=OFF_M)
            block.add_geom(
                type=import_mujoco().mjtGeom.mjGEOM_BOX,
                size=(_BLOCK_HALF_M,) * 3,
                rgba=colour,
                contype=0,
                conaffinity=0,
            )

    def place(self, stream: np.random.Generator) -> None:
        """Where they stand, and when the lamps flash."""
        spots = np.array(_SPOTS_M)[stream.permutation(MOST_DISTRACTORS)]
        spots += stream.uniform(-_JITTER_M, _JITTER_M, spots.shape)
        self._flashes = [_switches(stream) for _ in _LAMPS]
        for i in range(MOST_DISTRACTORS):
            used, which = i < self._count, i // 2
            if i % 2 == 0:
                self._lamps[which].put(spots[i]) if used else self._lamps[which].remove()
            else:
                at = (*spots[i], _BLOCK_HALF_M) if used else (*parked(which), -0.8)
                self._arm.model.body(f"other-block{which}").pos[:] = at

    def show(self, step: int) -> None:
        """The lamps at sub-step `step` of the episode."""
        for which, lamp in enumerate(self._lamps):
            if 2 * which < self._count:
                past = int(np.searchsorted(self._flashes[which], step, side="right"))
                lamp.show(past % 2 == 1)


def _switches(stream: np.random.Generator) -> list[int]:
    """Sub-steps at which a lamp goes on, off, on, …"""
    steps = [substeps(stream.uniform(*_DARK_S) + 0.5)]
    while steps[-1] < substeps(_LASTING_S):
        span = _FLASH_S if len(steps) % 2 == 1 else _DARK_S
        steps.append(steps[-1] + substeps(stream.uniform(*span)))
    return steps
