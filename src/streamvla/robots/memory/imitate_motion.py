"""A ball draws a motion in the air, and disappears: repeat it with the hand.

ball     ─────▒▒▒▒▒▒▒▒▒▒──────     3 s along one of four closed paths; from and to the middle
hand                       ∿∿∿     from where it was at "go", through the way points in their order
score    10 if all its way points are passed, and those of no other motion before; else up to 8 for
         the share passed before the hand left the path by 11.5 cm
"""

from __future__ import annotations

import numpy as np

from streamvla.robots.gl import import_mujoco
from streamvla.robots.instructions import Phrasings
from streamvla.robots.memory.lamps import Movable
from streamvla.robots.memory.robot import MemoryTask
from streamvla.robots.memory.scene import REST_M, Answer, substeps
from streamvla.robots.tabletop.arm import FINGER_LENGTH_M, Arm
from streamvla.robots.tabletop.scene import MjSpec
from streamvla.robots.tempo.motion import CLOSED, towards

MOTION_S = 3.0
REACH_M = 0.17
"""How far a motion goes from the middle."""
NEAR_M = 0.05
"""A way point is passed at this distance."""
CORRIDOR_M = 0.115
"""Farther from its path than this, a motion is another one. Less than REACH_M − NEAR_M, so that no
hand passes the way points of one motion within the corridor of another."""

_CENTRE_LOW_M, _CENTRE_HIGH_M = (-0.06, 0.72, 0.21), (0.06, 0.77, 0.23)
PARTIAL_SCORE = 8.0
"""Of 10, before the last way point."""

_NONE = -1
_RADIUS_M = 0.035
_SPEED = 0.55
"""Of the hand at most, as a share of its fastest."""


def _circle() -> np.ndarray:
    """(11, 3) out to the right, once around, and back to the middle."""
    angles = np.linspace(0.0, 2 * np.pi, 9)
    around = np.stack([np.cos(angles), np.sin(angles), np.zeros(9)], axis=1)
    return np.concatenate([np.zeros((1, 3)), around, np.zeros((1, 3))])


def _there_and_back(axis: int) -> np.ndarray:
    """(5, 3) one way, through the middle, the other way, and back to the middle."""
    return np.array([0.0, 1.0, 0.0, -1.0, 0.0])[:, None] * np.eye(3)[axis]


MOTIONS: dict[str, np.ndarray] = {
    name: REACH_M * corners
    for name, corners in {
        "left-right": _there_and_back(0),
        "front-back": _there_and_back(1),
        "up-down": _there_and_back(2),
        "circle": _circle(),
    }.items()
}
"""(n, 3) metres from the middle, joined by straight lines; the first is where a motion begins, the
others are its way points."""


class ImitateMotion:
    """Implements `MemoryScene`; an answer is the number of a motion."""

    def __init__(self, arm: Arm, choices: int) -> None:
        self._arm = arm
        self._motions = list(MOTIONS.values())[:choices]
        self._ball = Movable(arm, "moving-ball")
        self._centre_m = np.zeros(3)
        self._origin_m = np.zeros(3)  # of the hand, at "go"
        self._given = _NONE
        self._passed = np.zeros(choices, int)
        self._left = np.zeros(choices, bool)

    @staticmethod
    def furnish(spec: MjSpec) -> None:
        ball = spec.worldbody.add_body(name="moving-ball", mocap=True)
        ball.add_geom(
            type=import_mujoco().mjtGeom.mjGEOM_SPHERE,
            size=(_RADIUS_M, 0.0, 0.0),
            rgba=(1.0, 0.45, 0.05, 1.0),
            contype=0,
            conaffinity=0,
        )

    @staticmethod
    def cue_s(choices: int) -> float:
        return MOTION_S

    @property
    def answers(self) -> tuple[Answer, ...]:
        return tuple((motion,) for motion in range(len(self._motions)))

    def place(self, layout: np.random.Generator, cue: np.random.Generator) -> None:
        self._centre_m = layout.uniform(_CENTRE_LOW_M, _CENTRE_HIGH_M)
        self._origin_m = REST_M.copy()
        self._given = _NONE
        self._passed[:] = 0
        self._left[:] = False

    def show(self, answer: Answer, step: int) -> None:
        share = (step + 1) / substeps(MOTION_S)
        if share > 1.0:
            self._ball.hide()
        else:
            self._ball.put(self._centre_m + _along(self._motions[answer[0]], max(share, 0.0)))

    def go(self) -> None:
        self._origin_m = self._arm.hand_m

    def after(self, step: int) -> None:
        if self._given != _NONE:
            return
        moved = self._arm.hand_m - self._origin_m
        for index, path in enumerate(self._motions):
            self._left[index] |= _distance_m(path, moved) > CORRIDOR_M
            passed = self._passed[index]
            if self._left[index] or passed == len(path) - 1:
                continue
            self._passed[index] += np.linalg.norm(path[passed + 1] - moved) <= NEAR_M
            if self._passed[index] == len(path) - 1:
                self._given = index
                return

    def score(self, answer: Answer) -> float:
        if (self._given,) == answer:
            return 10.0
        passed, path = self._passed[answer[0]], self._motions[answer[0]]
        return PARTIAL_SCORE * float(passed) / (len(path) - 1)

    def truth(self) -> np.ndarray:
        return np.array([self._given, *self._origin_m, *self._passed, *self._left], np.float64)

    def assume(self, truth: np.ndarray) -> None:
        count = len(self._motions)
        self._given, self._origin_m = int(truth[0]), truth[1:4].copy()
        self._passed[:] = truth[4 : 4 + count]
        self._left[:] = truth[4 + count :] > 0.5

    def act(self, answer: Answer) -> np.ndarray | None:
        """To the next way point, until all are passed."""
        path, passed = self._motions[answer[0]], self._passed[answer[0]]
        if self._given != _NONE or self._left[answer[0]]:
            return None
        tips = self._origin_m + path[passed + 1] - (0.0, 0.0, FINGER_LENGTH_M)
        action = towards(self._arm, tips, CLOSED)
        action[:3] *= min(1.0, _SPEED / max(float(np.linalg.norm(action[:3])), 1e-9))
        return action

    def places_m(self, answer: Answer) -> tuple[np.ndarray, np.ndarray]:
        path, passed = self._motions[answer[0]], self._passed[answer[0]]
        point = self._origin_m + path[min(passed + 1, len(path) - 1)]
        return self._arm.hand_m, point


def _along(path: np.ndarray, share: float) -> np.ndarray:
    """(3,) after that share of the length of (n, 3)."""
    lengths = np.linalg.norm(np.diff(path, axis=0), axis=1)
    reached = share * lengths.sum()
    at = np.concatenate([[0.0], np.cumsum(lengths)])
    return np.array([np.interp(reached, at, path[:, axis]) for axis in range(3)])


def _distance_m(path: np.ndarray, point: np.ndarray) -> float:
    """From (3,) to the nearest point of the lines through (n, 3)."""
    start, step = path[:-1], np.diff(path, axis=0)
    share = np.clip(((point - start) * step).sum(axis=1) / (step**2).sum(axis=1), 0.0, 1.0)
    return float(np.linalg.norm(start + share[:, None] * step - point, axis=1).min())


TASK = MemoryTask(
    ImitateMotion,
    Phrasings(
        (
            "repeat the motion of the orange ball",
            "move the hand as the orange ball moved",
            "when the green lamp comes on, imitate the motion of the ball",
            "watch how the ball moves and do the same with the gripper",
            "copy the path of the orange ball with the hand",
        ),
        (
            "imitate the path of the orange ball",
            "watch the motion of the ball and repeat it with the gripper",
        ),
    ),
    choices=4,
    answer_s=6.0,
)
