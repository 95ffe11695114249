"""A target that glides over the table and turns at random: catch it, and stay on it.

target    ───────►  ↗  ↗        straight, and a turn every second or so, drawn beforehand
score     for the share of the last three seconds in which the fingertips were on it
"""

from __future__ import annotations

import numpy as np

from streamvla.robots.gl import import_mujoco
from streamvla.robots.instructions import Phrasings
from streamvla.robots.tabletop.arm import FINGER_LENGTH_M, Arm
from streamvla.robots.tabletop.scene import COLOURS, MjSpec
from streamvla.robots.tempo.robot import TempoTask

SPEED_M_S = 0.05
"""At difficulty 1."""
HEIGHT_M = 0.12
ON_TARGET_M = 0.035
TURN_SUBSTEPS = (64, 128)
"""Between two turns: 0.8 to 1.6 s."""
SECONDS = 8
SCORED_SUBSTEPS = 240
"""The last three seconds of the eight count."""

_LOW_M, _HIGH_M = np.array((-0.22, 0.52)), np.array((0.22, 0.80))
_SUBSTEPS_PER_S = 80
_GAIN_PER_M = 12.0


class Follow:
    """Implements `TempoScene`."""

    def __init__(self, arm: Arm, difficulty: float) -> None:
        self._arm = arm
        self._speed_m = SPEED_M_S * difficulty / _SUBSTEPS_PER_S
        self._mocap = int(arm.model.body("target").mocapid[0])
        self._position, self._heading = np.zeros(2), np.array((1.0, 0.0))
        self._turns: dict[int, float] = {}
        self._on = self._counted = 0
        self._surprised = False

    @staticmethod
    def furnish(spec: MjSpec) -> None:
        target = spec.worldbody.add_body(name="target", mocap=True)
        target.add_geom(
            type=import_mujoco().mjtGeom.mjGEOM_SPHERE,
            size=(0.025, 0.0, 0.0),
            rgba=COLOURS["green"],
            contype=0,
            conaffinity=0,
        )

    def place(self, stream: np.random.Generator) -> None:
        self._position = stream.uniform(_LOW_M, _HIGH_M)
        angle = stream.uniform(-np.pi, np.pi)
        self._heading = np.array((np.cos(angle), np.sin(angle)))
        self._turns, step = {}, 0
        while (step := step + int(stream.integers(*TURN_SUBSTEPS))) < SECONDS * _SUBSTEPS_PER_S:
            self._turns[step] = float(stream.uniform(np.pi / 3, np.pi) * stream.choice((-1, 1)))
        self._on = self._counted = 0
        self._surprised = False
        self._show()

    def before(self, step: int) -> None:
        turn = self._turns.get(step)
        self._surprised = turn is not None
        if turn is not None:
            cos, sin = np.cos(turn), np.sin(turn)
            self._heading = np.array(((cos, -sin), (sin, cos))) @ self._heading
        self._position = self._position + self._speed_m * self._heading
        for axis in range(2):  # it turns back at the edge, which anybody can foresee
            if not _LOW_M[axis] <= self._position[axis] <= _HIGH_M[axis]:
                self._heading[axis] *= -1.0
        self._position = np.clip(self._position, _LOW_M, _HIGH_M)
        self._show()

    def after(self, step: int, contact_force_n: float) -> None:
        first = SECONDS * _SUBSTEPS_PER_S - SCORED_SUBSTEPS
        if first <= step < first + SCORED_SUBSTEPS:
            self._counted += 1
            self._on += bool(np.linalg.norm(self._away_m()) <= ON_TARGET_M)

    @property
    def surprised(self) -> bool:
        return self._surprised

    @property
    def score(self) -> float:
        return 10.0 * self._on / SCORED_SUBSTEPS

    @property
    def missed(self) -> int:
        return 0

    def truth(self) -> np.ndarray:
        return np.array([*self._position, *self._heading, self._on, self._counted])

    def assume(self, truth: np.ndarray) -> None:
        self._position, self._heading = truth[0:2].copy(), truth[2:4].copy()
        self._on, self._counted = int(truth[4]), int(truth[5])
        self._turns = {}

    def act(self) -> np.ndarray:
        """Towards where the target will be when the command is over."""
        ahead = 4 * self._speed_m * self._heading
        return np.array([*(_GAIN_PER_M * (self._away_m() + np.array([*ahead, 0.0]))), 1.0])

    def places_m(self) -> tuple[np.ndarray, np.ndarray]:
        target = np.array([*self._position, HEIGHT_M])
        return target, target

    def _away_m(self) -> np.ndarray:
        """(3,) from the fingertips to the target."""
        tips = self._arm.hand_m - (0.0, 0.0, FINGER_LENGTH_M)
        return np.array([*self._position, HEIGHT_M]) - tips

    def _show(self) -> None:
        self._arm.data.mocap_pos[self._mocap] = (*self._position, HEIGHT_M)


TASK = TempoTask(
    Follow,
    Follow.furnish,
    Phrasings(
        (
            "follow the moving green ball",
            "stay on the green ball while it moves",
            "keep your fingertips on the green ball",
            "track the green ball with the gripper",
        ),
        ("chase the green ball and stay with it",),
    ),
    stimulus="the target turned",
)
