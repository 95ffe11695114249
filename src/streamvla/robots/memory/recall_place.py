"""A block lies at one of three places; then boxes cover all of them: go to the right box.

block    ████████████──────────     for 1.5 s, then the boxes come down within 0.6 s
boxes    ────────────▼▼████████     equal ones; on "go" only the lamp changes
score    10 if the first box that the fingertips reach is the one over the block, else 0
"""

from __future__ import annotations

import numpy as np

from streamvla.robots.gl import import_mujoco
from streamvla.robots.instructions import Phrasings
from streamvla.robots.memory.lamps import Movable
from streamvla.robots.memory.robot import MemoryTask
from streamvla.robots.memory.scene import MOST_CHOICES, Answer, substeps
from streamvla.robots.tabletop.arm import Arm
from streamvla.robots.tabletop.scene import COLOURS, GREY, LIGHT, MjSpec, parked, scatter
from streamvla.robots.tempo.motion import CLOSED, come_down, tips_of

SEEN_S, COVERING_S = 1.5, 0.6
HOVER_M = 0.03
"""So near above a box its place counts as reached."""

_BOX_HALF_M, _BOX_HEIGHT_M = 0.05, 0.08
_BLOCK_HALF_M = 0.03
_TILE_HALF_M = 0.055
_ABOVE_M = 0.9
"""From where the boxes come down: above both views."""
_LOW_M, _HIGH_M = (-0.22, 0.60), (0.22, 0.80)
_GAP_M = 0.16
_SAFE_M = _BOX_HEIGHT_M + 0.09
_TOUCH_M = 0.01
_NONE = -1


class RecallPlace:
    """Implements `MemoryScene`; an answer is the number of a place."""

    def __init__(self, arm: Arm, choices: int) -> None:
        self._arm = arm
        self._count = choices
        self._block = Movable(arm, "hidden-block")
        self._boxes = [Movable(arm, f"box{i}") for i in range(MOST_CHOICES)]
        self._places_m = np.zeros((choices, 2))
        self._reached = _NONE

    @staticmethod
    def furnish(spec: MjSpec) -> None:
        half, low = _BOX_HEIGHT_M / 2, 0.002
        for i in range(MOST_CHOICES):
            _add_box(spec, f"tile{i}", (_TILE_HALF_M, _TILE_HALF_M, low), GREY, mocap=False)
            _add_box(spec, f"box{i}", (_BOX_HALF_M, _BOX_HALF_M, half), LIGHT, mocap=True)
        _add_box(spec, "hidden-block", (_BLOCK_HALF_M,) * 3, COLOURS["red"], mocap=True)

    @staticmethod
    def cue_s(choices: int) -> float:
        return SEEN_S + COVERING_S

    @property
    def answers(self) -> tuple[Answer, ...]:
        return tuple((place,) for place in range(self._count))

    def place(self, layout: np.random.Generator, cue: np.random.Generator) -> None:
        self._places_m = scatter(layout, self._count, _LOW_M, _HIGH_M, _GAP_M)
        for index in range(MOST_CHOICES):
            used = index < self._count
            where = self._places_m[index] if used else parked(index)
            self._arm.model.body(f"tile{index}").pos[:2] = where
            self._boxes[index].hide()
        self._reached = _NONE

    def show(self, answer: Answer, step: int) -> None:
        """Boxes come down at one speed; under them the block lies on."""
        self._block.put(np.array([*self._places_m[answer[0]], _BLOCK_HALF_M]))
        down = np.clip((step + 1 - substeps(SEEN_S)) / substeps(COVERING_S), 0.0, 1.0)
        height = _BOX_HEIGHT_M / 2 + (1.0 - down) * _ABOVE_M
        for box, place in zip(self._boxes, self._places_m, strict=False):
            box.put(np.array([*place, height])) if down > 0 else box.hide()

    def go(self) -> None:
        """Nothing counts before."""

    def after(self, step: int) -> None:
        tips = tips_of(self._arm)
        aside = np.abs(self._places_m - tips[:2]).max(axis=1)
        if self._reached == _NONE and tips[2] <= _BOX_HEIGHT_M + HOVER_M:
            over = np.flatnonzero(aside <= _BOX_HALF_M)
            self._reached = int(over[0]) if over.size else _NONE

    def score(self, answer: Answer) -> float:
        return 10.0 if (self._reached,) == answer else 0.0

    def truth(self) -> np.ndarray:
        return np.array([self._reached], np.float64)

    def assume(self, truth: np.ndarray) -> None:
        self._reached = int(truth[0])

    def act(self, answer: Answer) -> np.ndarray | None:
        """Down on the box, and stay on it."""
        return come_down(self._arm, self._top_m(answer, _TOUCH_M), _SAFE_M, CLOSED)

    def places_m(self, answer: Answer) -> tuple[np.ndarray, np.ndarray]:
        block = np.array([*self._places_m[answer[0]], _BLOCK_HALF_M])
        return block, self._top_m(answer)

    def _top_m(self, answer: Answer, above_m: float = 0.0) -> np.ndarray:
        return np.array([*self._places_m[answer[0]], _BOX_HEIGHT_M + above_m])


def _add_box(
    spec: MjSpec,
    name: str,
    size_m: tuple[float, ...],
    rgba: tuple[float, float, float, float],
    *,
    mocap: bool,
) -> None:
    """A box that touches nothing."""
    body = spec.worldbody.add_body(name=name, mocap=mocap)
    body.add_geom(
        type=import_mujoco().mjtGeom.mjGEOM_BOX, size=size_m, rgba=rgba, contype=0, conaffinity=0
    )


TASK = MemoryTask(
    RecallPlace,
    Phrasings(
        (
            "go to the box that hides the red block",
            "touch the box over the red block",
            "when the green lamp comes on, move to the box with the block under it",
            "remember where the red block lies and point at the box that covers it",
            "reach the cover under which the red block is",
        ),
        (
            "point at the box that covers the red block",
            "remember the place of the red block and go to its cover",
        ),
    ),
    choices=3,
    answer_s=5.0,
)
