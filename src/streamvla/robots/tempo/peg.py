"""A peg on a springy wrist, and a box with a hole that glides over the table: insert it gently.

    hand  ┌─┴─┐ springs along x, y and z
          │   │ peg
          └───┘
    ────┐       ┌────  a clearance on every side, and a turn at random every second or two
        │       │
        └───────┘

score   2 above the hole, 2 entered, 2 half deep, 4 fully deep for a tenth of a second; of these
        four, one less for every jam (three at most), and none once a contact force was too large
jam     the peg presses on something beside the hole
"""

from __future__ import annotations

import numpy as np

from streamvla.core.clock import NS_PER_S
from streamvla.robots.gl import import_mujoco
from streamvla.robots.instructions import Phrasings
from streamvla.robots.sawyer import SUBSTEPS_PER_COMMAND
from streamvla.robots.tabletop.arm import REACH_PER_SUBSTEP_M, Arm
from streamvla.robots.tabletop.scene import COLOURS, MjSpec
from streamvla.robots.tempo.robot import TempoTask
from streamvla.robots.tempo.scene import SUBSTEP_NS

SPEED_M_S = 0.08
"""At difficulty 1, as is the clearance; harder is faster and tighter."""
CLEARANCE_M = 0.003
TURN_SUBSTEPS = (100, 200)
"""Between two turns: 1.25 to 2.5 s."""
SECONDS = 10
"""What is reached later does not count."""
FORCE_LIMIT_N = 40.0
JAM_N = 5.0
JAM_SUBSTEPS = 4
"""So long a force above `JAM_N`, beside the hole, is one jam."""
HELD_SUBSTEPS = 8

_RADIUS_M, _TIP_BELOW_HAND_M = 0.014, 0.115
_RIM_M, _FLOOR_M, _WALL_M = 0.065, 0.010, 0.035  # heights of rim and floor, thickness of the walls
_WALLS = {"east": (1.0, 0.0), "west": (-1.0, 0.0), "north": (0.0, 1.0), "south": (0.0, -1.0)}
_ENTERED_M = _RADIUS_M / 2
_DEEP_M = _RIM_M - _FLOOR_M - 0.008
_SLACK_M = 0.002  # contacts give a little
_ABOVE_M = (0.01, 0.03)  # so near to the axis, and to the rim, is above the hole
_PEG_KG, _DAMPING_RATIO, _SPRING_RANGE_M = 0.1, 0.7, 0.05
_STIFFNESS_N_M = {"peg_x": 1000.0, "peg_y": 1000.0, "peg_z": 1500.0}
_FRICTION = (0.2, 0.005, 0.0001)
_LOW_M, _HIGH_M = np.array((-0.18, 0.56)), np.array((0.18, 0.76))
_SUBSTEPS_PER_S = NS_PER_S // SUBSTEP_NS
_SUBSTEPS = SECONDS * _SUBSTEPS_PER_S
_TICK_M = SUBSTEPS_PER_COMMAND * REACH_PER_SUBSTEP_M
_HAND_LAG_SUBSTEPS = 3.2  # by which it follows the commanded place
_HOVER_M, _FUNNEL, _DOWN_PER_TICK = 0.025, 4.0, 0.25
"""The expert: how high it waits beside the hole, how steeply it comes down from there, how fast."""


class Peg:
    """Implements `TempoScene`."""

    def __init__(self, arm: Arm, difficulty: float) -> None:
        model = arm.model
        self._arm = arm
        self._speed_m = SPEED_M_S * difficulty / _SUBSTEPS_PER_S
        self._clearance_m = CLEARANCE_M / difficulty
        self._mocap = int(model.body("hole").mocapid[0])
        for name, side in _WALLS.items():
            model.geom_pos[model.geom(name).id, :2] = _wall_m(self._clearance_m) * np.array(side)
        # bounds of the compiled box do not follow its walls
        model.opt.disableflags |= import_mujoco().mjtDisableBit.mjDSBL_MIDPHASE
        self._position, self._heading = np.zeros(2), np.array((1.0, 0.0))
        self._turns: dict[int, float] = {}
        self._pressed = self._jams = self._held = 0
        self._points = 0.0
        self._overloaded = self._surprised = False

    @staticmethod
    def furnish(spec: MjSpec) -> None:
        _add_peg(spec)
        _add_hole(spec)

    def place(self, stream: np.random.Generator) -> None:
        self._position = stream.uniform(_LOW_M, _HIGH_M)
        angle = stream.uniform(-np.pi, np.pi)
        self._heading = np.array((np.cos(angle), np.sin(angle)))
        self._turns, step = {}, 0
        while (step := step + int(stream.integers(*TURN_SUBSTEPS))) < _SUBSTEPS:
            self._turns[step] = float(stream.uniform(np.pi / 3, np.pi) * stream.choice((-1, 1)))
        self._pressed = self._jams = self._held = 0
        self._points = 0.0
        self._overloaded = self._surprised = False
        self._show()

    def before(self, step: int) -> None:
        turn = self._turns.get(step)
        self._surprised = turn is not None
        if turn is not None:
            cos, sin = np.cos(turn), np.sin(turn)
            self._heading = np.array(((cos, -sin), (sin, cos))) @ self._heading
        self._position, self._heading = self._ahead(1)
        self._show()

    def after(self, step: int, contact_force_n: float) -> None:
        if step >= _SUBSTEPS:
            return
        depth_m, inside = self._depth_m(), self._inside()
        self._overloaded = self._overloaded or contact_force_n > FORCE_LIMIT_N
        self._pressed = 0 if inside or contact_force_n <= JAM_N else self._pressed + 1
        self._jams += self._pressed == JAM_SUBSTEPS
        self._held = self._held + 1 if inside and depth_m > _DEEP_M else 0
        near_m, low_m = _ABOVE_M
        above = self._aside_m() < near_m and depth_m > -low_m
        points = 2.0 * (above + inside + (inside and depth_m > _DEEP_M / 2))
        if self._held >= HELD_SUBSTEPS and not self._overloaded:
            points += 4.0 - min(self._jams, 3)
        self._points = max(self._points, points)

    @property
    def surprised(self) -> bool:
        return self._surprised

    @property
    def score(self) -> float:
        return self._points

    @property
    def missed(self) -> int:
        return int(self._overloaded)

    def truth(self) -> np.ndarray:
        counted = (self._pressed, self._jams, self._held, self._overloaded)
        return np.array([*self._position, *self._heading, *counted, self._points])

    def assume(self, truth: np.ndarray) -> None:
        self._position, self._heading = truth[0:2].copy(), truth[2:4].copy()
        self._pressed, self._jams, self._held = (int(value) for value in truth[4:7])
        self._overloaded, self._points = bool(truth[7]), float(truth[8])
        self._turns = {}

    def act(self) -> np.ndarray:
        """Keep above where the hole will be, come down the nearer the tip is to its axis, and lift
        where the peg has missed it."""
        hole, _ = self._ahead(SUBSTEPS_PER_COMMAND + _HAND_LAG_SUBSTEPS)
        away_m = float(np.linalg.norm(self._tip_m()[:2] - self._position)) - self._clearance_m
        free = away_m < 0.0 or self._inside()
        above_rim_m = -_DEEP_M - _SLACK_M if free else min(_FUNNEL * away_m, _HOVER_M)
        goal = np.array([*hole, _RIM_M + above_rim_m + _TIP_BELOW_HAND_M])
        step = (goal - self._arm.data.mocap_pos[0]) / _TICK_M
        return np.array([step[0], step[1], max(step[2], -_DOWN_PER_TICK), 1.0])

    def places_m(self) -> tuple[np.ndarray, np.ndarray]:
        return self._tip_m(), np.array([*self._position, _RIM_M])

    def _tip_m(self) -> np.ndarray:
        """(3,) the lowest point of the peg."""
        return self._arm.data.site("peg_tip").xpos.copy()

    def _depth_m(self) -> float:
        return _RIM_M - float(self._tip_m()[2])

    def _aside_m(self) -> float:
        """The larger of the peg's distances from the hole's axis along x and along y."""
        return float(np.abs(self._tip_m()[:2] - self._position).max())

    def _inside(self) -> bool:
        """Whether the tip is in the hole."""
        return self._aside_m() < self._clearance_m + _SLACK_M and self._depth_m() > _ENTERED_M

    def _ahead(self, substeps: float) -> tuple[np.ndarray, np.ndarray]:
        """(2,) and (2,) position and heading of the hole so much later, without a turn; at the
        edge it turns back, which anybody can foresee."""
        position, heading = self._position + substeps * self._speed_m * self._heading, self._heading
        outside = (position < _LOW_M) | (position > _HIGH_M)
        bounced = np.where(outside, -heading, heading)
        mirrored = 2 * np.clip(position, _LOW_M, _HIGH_M) - position
        return np.where(outside, mirrored, position), bounced

    def _show(self) -> None:
        self._arm.data.mocap_pos[self._mocap] = (*self._position, 0.0)


def _wall_m(clearance_m: float) -> float:
    """From the hole's axis to the middle of a wall."""
    return _RADIUS_M + clearance_m + _WALL_M / 2


def _add_peg(spec: MjSpec) -> None:
    """Held by the hand through three springs; it touches all but the hand and its fingers."""
    mujoco = import_mujoco()
    hand = spec.body("hand")
    peg = hand.add_body(
        name="peg",
        quat=(1.0, 0.0, -1.0, 0.0),  # the world's axes while the hand points down
        mass=_PEG_KG,
        ipos=(0.0, 0.0, -_TIP_BELOW_HAND_M / 2),
        inertia=(1e-4, 1e-4, 1e-5),
        explicitinertial=True,
    )
    for axis, (name, stiffness) in enumerate(_STIFFNESS_N_M.items()):
        peg.add_joint(
            name=name,
            type=mujoco.mjtJoint.mjJNT_SLIDE,
            axis=np.eye(3)[axis],
            limited=True,
            range=(-_SPRING_RANGE_M, _SPRING_RANGE_M),
            stiffness=stiffness,
            damping=2 * _DAMPING_RATIO * np.sqrt(stiffness * _PEG_KG),
            armature=0.0,
        )
    peg.add_geom(
        name="peg",
        type=mujoco.mjtGeom.mjGEOM_CAPSULE,
        size=(_RADIUS_M, 0.0, 0.0),
        fromto=(0.0, 0.0, -_TIP_BELOW_HAND_M + _RADIUS_M, 0.0, 0.0, -0.01),
        rgba=COLOURS["yellow"],
        contype=1,
        conaffinity=1,
        condim=3,
        friction=_FRICTION,
        group=1,
    )
    peg.add_site(name="peg_tip", pos=(0.0, 0.0, -_TIP_BELOW_HAND_M), rgba=(0.0, 0.0, 0.0, 0.0))
    for other in ("right_hand", "right_l6", "rightclaw", "rightpad", "leftclaw", "leftpad"):
        spec.add_exclude(bodyname1="peg", bodyname2=other)


def _add_hole(spec: MjSpec) -> None:
    """Four walls, at nominal clearance, and a floor."""
    shape = import_mujoco().mjtGeom.mjGEOM_BOX
    hole = spec.worldbody.add_body(name="hole", mocap=True)
    away, outer = _wall_m(CLEARANCE_M), _wall_m(CLEARANCE_M) + _WALL_M / 2
    for name, (x, y) in _WALLS.items():
        hole.add_geom(
            name=name,
            type=shape,
            size=(_WALL_M / 2 if x else outer, _WALL_M / 2 if y else outer, _RIM_M / 2),
            pos=(x * away, y * away, _RIM_M / 2),
            rgba=COLOURS["blue"],
            friction=_FRICTION,
        )
    hole.add_geom(
        name="hole_floor",
        type=shape,
        size=(outer, outer, _FLOOR_M / 2),
        pos=(0.0, 0.0, _FLOOR_M / 2),
        rgba=(0.02, 0.02, 0.02, 1.0),
    )


TASK = TempoTask(
    Peg,
    Peg.furnish,
    Phrasings(
        (
            "insert the peg into the moving hole",
            "put the yellow peg into the hole of the blue box",
            "push the peg into the hole without force",
            "insert the yellow peg gently",
        ),
        ("fit the peg into the blue box",),
    ),
    stimulus="the hole turned",
)
