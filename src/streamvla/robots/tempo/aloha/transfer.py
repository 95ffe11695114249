"""A red cube rides on a tray that glides about and turns at random: the right arm takes it and
hands it over to the left one.

tray     ──►  ↗ ↗      under the right arm, and a turn every second or so, drawn beforehand
score    3 lifted, 5 at the meeting place, 8 in the left hand alone, 10 held there for 0.4 s
"""

from __future__ import annotations

import numpy as np

from streamvla.robots.gl import import_mujoco
from streamvla.robots.instructions import Phrasings
from streamvla.robots.tabletop.scene import COLOURS, MjBody, MjSpec
from streamvla.robots.tempo.aloha.arms import Arms, Side
from streamvla.robots.tempo.aloha.kinematics import HandPose
from streamvla.robots.tempo.aloha.reaching import LEAD_S, step_towards
from streamvla.robots.tempo.aloha.robot import AlohaTask

SPEED_M_S = 0.08
"""Of the tray at difficulty 1."""
TURN_SUBSTEPS = (80, 160)
"""Between two turns: 0.8 to 1.6 s."""
SECONDS = 12
HELD_SUBSTEPS = 40
MEETING_M = np.array((0.0, 0.5, 0.25))

_HALF_CUBE_M = 0.02
_TRAY_TOP_M = 0.010
_LOW_M, _HIGH_M = np.array((0.02, 0.42)), np.array((0.20, 0.58))
_STEP_S = 0.01
_ACCELERATION_M_S2 = 1.0
_LIFTED_M = 0.08
_AT_MEETING_M = 0.03
_HEAVY_KG = 1000.0  # nothing that the arms do moves the tray

# The expert's.
_OPEN, _CLOSED = 0.95, 0.0
_STEEP_RAD = 1.3
_ROLL_RAD = np.pi / 2
_HOVER_M = 0.07
_FUNNEL_M = 0.010  # aside, from which a hand comes no nearer
_GRASP_M = 0.012
_IN_HAND_M = 0.025
_CARRYING_PACE = 0.6
_WAIT_M = np.array((-0.14, 0.5, 0.25))
_AWAY_M = np.array((0.16, 0.5, 0.32))
_GOAL_M = np.array((-0.16, 0.5, 0.25))


class Transfer:
    """Implements `AlohaScene`."""

    def __init__(self, arms: Arms, difficulty: float) -> None:
        self._arms = arms
        self._speed_m_s = SPEED_M_S * difficulty
        model = arms.model
        self._cube = int(model.joint("cube").qposadr[0]), int(model.joint("cube").dofadr[0])
        tray = model.joint("tray_x")
        self._tray = int(tray.qposadr[0]), int(tray.dofadr[0])
        self._geom = model.geom("cube").id
        self._wanted = np.zeros(2)  # the tray's velocity, m/s, but for the slowness of its turns
        self._turns: dict[int, float] = {}
        self._score, self._held, self._drops = 0.0, 0, 0
        self._in_hand = self._surprised = False

    @staticmethod
    def furnish(spec: MjSpec) -> None:
        mujoco = import_mujoco()
        box = mujoco.mjtGeom.mjGEOM_BOX
        tray = spec.worldbody.add_body(name="tray", pos=(0.0, 0.0, _TRAY_TOP_M - 0.004))
        for axis, direction in (("x", (1, 0, 0)), ("y", (0, 1, 0))):
            slide = mujoco.mjtJoint.mjJNT_SLIDE
            tray.add_joint(name=f"tray_{axis}", type=slide, axis=direction)
        _weigh(tray, _HEAVY_KG, 1.0)
        tray.add_geom(
            type=box,
            size=(0.05, 0.05, 0.004),
            rgba=(0.85, 0.85, 0.8, 1.0),
            contype=0,
            conaffinity=2,  # of the cube, not of table and arms
        )
        cube = spec.worldbody.add_body(name="cube")
        cube.add_freejoint(name="cube")
        _weigh(cube, 0.05, 0.002)  # as in gym-aloha
        cube.add_geom(
            name="cube",
            type=box,
            size=(_HALF_CUBE_M,) * 3,
            rgba=COLOURS["red"],
            contype=3,
            conaffinity=3,
            condim=4,
            friction=(1.0, 0.005, 0.0001),
            solref=(0.01, 1.0),
        )

    def place(self, stream: np.random.Generator) -> None:
        position = stream.uniform(_LOW_M, _HIGH_M)
        angle = stream.uniform(-np.pi, np.pi)
        self._wanted = self._speed_m_s * np.array((np.cos(angle), np.sin(angle)))
        self._turns, step = {}, 0
        while (step := step + int(stream.integers(*TURN_SUBSTEPS))) < SECONDS * 100:
            self._turns[step] = float(stream.uniform(np.pi / 3, np.pi) * stream.choice((-1, 1)))
        self._score, self._held, self._drops = 0.0, 0, 0
        self._in_hand = self._surprised = False
        qpos, at = self._arms.data.qpos, self._cube[0]
        qpos[self._tray[0] : self._tray[0] + 2] = position
        qpos[at : at + 7] = (*position, _TRAY_TOP_M + _HALF_CUBE_M, 1.0, 0.0, 0.0, 0.0)

    def before(self, step: int) -> None:
        turn = self._turns.get(step)
        self._surprised = turn is not None
        if turn is not None:
            cos, sin = np.cos(turn), np.sin(turn)
            self._wanted = np.array(((cos, -sin), (sin, cos))) @ self._wanted
        data, (at, dof) = self._arms.data, self._tray
        place, velocity = data.qpos[at : at + 2], data.qvel[dof : dof + 2]
        inwards = np.sign(0.5 * (_LOW_M + _HIGH_M) - place)
        outside = (place < _LOW_M) | (place > _HIGH_M)  # it turns back, which anybody can foresee
        self._wanted = np.where(outside, inwards * np.abs(self._wanted), self._wanted)
        change = self._wanted - velocity
        most = _ACCELERATION_M_S2 * _STEP_S
        velocity += change * min(1.0, most / max(float(np.linalg.norm(change)), 1e-9))

    def after(self, step: int) -> None:
        right, left = self._holds("right"), self._holds("left")
        cube = self._cube_m()
        high = bool(cube[2] > _LIFTED_M)
        self._drops += self._in_hand and not high
        self._in_hand = high
        if high and right:
            self._reached(3.0)
            if np.linalg.norm(cube - MEETING_M) <= _AT_MEETING_M:
                self._reached(5.0)
        alone = high and left and not self._arms.touch("right", self._geom)
        self._held = self._held + 1 if alone else 0
        if self._held:
            self._reached(8.0 + 2.0 * min(1.0, self._held / HELD_SUBSTEPS))

    @property
    def surprised(self) -> bool:
        return self._surprised

    @property
    def score(self) -> float:
        return self._score

    @property
    def missed(self) -> int:
        """How often the cube fell."""
        return self._drops

    def truth(self) -> np.ndarray:
        return np.array([*self._wanted, self._score, self._held, self._drops, self._in_hand])

    def assume(self, truth: np.ndarray) -> None:
        self._wanted, self._score = truth[0:2].copy(), float(truth[2])
        self._held, self._drops, self._in_hand = int(truth[3]), int(truth[4]), bool(truth[5])
        self._turns, self._surprised = {}, False

    def act(self) -> np.ndarray:
        right, left = self._holds("right"), self._holds("left")
        return np.concatenate([self._left(left, right), self._right(left, right)])

    def _right(self, left_holds: bool, right_holds: bool) -> np.ndarray:
        """(7,) takes the cube from the tray, brings it to the meeting place, leaves it."""
        if left_holds:
            stuck = self._far_m("right") < 0.05 and self._arms.opening("right") < 0.75
            here = self._arms.commanded_pose("right").tip_m
            return self._to("right", here if stuck else _AWAY_M, _OPEN)
        if right_holds:
            return self._to("right", MEETING_M, _CLOSED)
        cube, velocity = self._cube_m(), self._cube_velocity_m_s()
        aside = float(np.linalg.norm((self._arms.tip_m("right") - cube)[:2]))
        above = np.clip(8.0 * (aside - _FUNNEL_M), 0.0, _HOVER_M)
        opening = self._grip("right")
        if opening == _OPEN and self._arms.opening("right") < 0.85:
            above = _HOVER_M
        goal = cube + LEAD_S * velocity + np.array((0.0, 0.0, 0.004 + above))
        return self._to("right", goal, opening)

    def _left(self, left_holds: bool, right_holds: bool) -> np.ndarray:
        """(7,) waits beside the meeting place, comes when the cube is there, and takes it."""
        if left_holds:
            still_right = self._arms.touch("right", self._geom) > 0
            here = self._arms.commanded_pose("left").tip_m
            return self._to("left", here if still_right else _GOAL_M, _CLOSED)
        cube = self._cube_m()
        there = right_holds and np.linalg.norm(cube - MEETING_M) <= _AT_MEETING_M
        if not there and self._far_m("left") > _IN_HAND_M:
            return self._to("left", _WAIT_M, _OPEN)
        aside = float(np.linalg.norm((self._arms.tip_m("left") - cube)[1:]))
        before = np.clip(3.0 * (aside - _FUNNEL_M), 0.0, 0.10)
        return self._to("left", cube - np.array((before, 0.0, 0.0)), self._grip("left"))

    def _holds(self, side: Side) -> bool:
        """Whether a hand is closed on the cube; contacts would flicker."""
        return self._far_m(side) < _IN_HAND_M and self._arms.squeezes(side)

    def _far_m(self, side: Side) -> float:
        return float(np.linalg.norm(self._arms.tip_m(side) - self._cube_m()))

    def _grip(self, side: Side) -> float:
        """The opening: closed around the cube, once it has begun to close a little longer."""
        closing = self._arms.opening(side) < 0.85
        return _CLOSED if self._far_m(side) < (_IN_HAND_M if closing else _GRASP_M) else _OPEN

    def _to(self, side: Side, tip_m: np.ndarray, opening: float) -> np.ndarray:
        pitch, roll = (0.0, _ROLL_RAD) if side == "left" else (_STEEP_RAD, 0.0)
        pace = _CARRYING_PACE if self._holds(side) else 1.0
        return step_towards(self._arms, side, HandPose(tip_m, pitch, roll), opening, pace)

    def _cube_m(self) -> np.ndarray:
        """(3,) its centre."""
        return self._arms.data.qpos[self._cube[0] : self._cube[0] + 3].copy()

    def _cube_velocity_m_s(self) -> np.ndarray:
        return self._arms.data.qvel[self._cube[1] : self._cube[1] + 3].copy()

    def _reached(self, score: float) -> None:
        self._score = max(self._score, score)


def _weigh(body: MjBody, mass_kg: float, inertia_kg_m2: float) -> None:
    """gym-aloha's model takes no mass from shapes."""
    body.mass, body.inertia, body.ipos = mass_kg, (inertia_kg_m2,) * 3, (0.0, 0.0, 0.0)
    body.explicitinertial = True


TASK = AlohaTask(
    Transfer,
    Transfer.furnish,
    Phrasings(
        (
            "pick up the red cube with the right arm and hand it over to the left arm",
            "take the cube from the moving tray and pass it from right to left",
            "transfer the red cube from the right gripper to the left gripper",
            "give the red cube to the left hand",
        ),
        (
            "move the red cube from the tray into the left hand",
            "let the right arm fetch the cube and the left arm take it over",
        ),
    ),
    stimulus="the tray turned",
)
