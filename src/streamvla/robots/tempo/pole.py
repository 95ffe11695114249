"""A pole stands on a hinge at the hand, and pushes come at random: keep it from falling.

           │   bob              falls along x, the front view's left and right
           │
    hand ──o   hinge
           █   counterweight    the nearer to the hinge, the faster the pole falls

No robot that halts can do it: while the hand stands still, a lean grows e-fold in every `TAU_S`.
"""

from __future__ import annotations

import numpy as np

from streamvla.core.clock import NS_PER_S
from streamvla.robots.gl import import_mujoco
from streamvla.robots.instructions import Phrasings
from streamvla.robots.sawyer import SUBSTEPS_PER_COMMAND
from streamvla.robots.tabletop.arm import REACH_PER_SUBSTEP_M, Arm
from streamvla.robots.tabletop.scene import COLOURS, GREY, LIGHT, MjSpec
from streamvla.robots.tempo.robot import TempoTask
from streamvla.robots.tempo.scene import SUBSTEP_NS

TAU_S = 0.3
"""At difficulty 1, the time in which a lean grows e-fold; TAU_S / difficulty at others."""
SECONDS = 6
FALLEN_RAD = 0.6
START_RAD = 0.02
"""At most so far from upright when it is let go."""
PUSH_SUBSTEPS = (64, 112)
"""Between two pushes: 0.8 to 1.4 s."""
PUSH_RAD = (0.008, 0.02)
"""The lean that a pole pushed while upright has `TAU_S` later, divided by sinh 1."""

_LENGTH_M = 0.26  # from the hinge to the bob
_BOB_KG, _WEIGHT_KG = 0.05, 0.10
_HINGE_IN_HAND = (-0.02, 0.13, 0.0)  # the hand's axes point down, along +y, along +x
_UPRIGHT_IN_HAND = (1.0, 0.0, -1.0, 0.0)
_SOMEWHERE_M = (0.0, 0.0, 0.1)
"""On the pole, until the difficulty says where; at its origin MuJoCo would take it for fixed."""
_GRAVITY_M_S2 = 9.81
_SUBSTEPS = SECONDS * NS_PER_S // SUBSTEP_NS
_TICK_M = SUBSTEPS_PER_COMMAND * REACH_PER_SUBSTEP_M
_TICK_S = SUBSTEPS_PER_COMMAND * SUBSTEP_NS / NS_PER_S
_CATCH_PER_S, _RETURN_PER_S = 5.0, 0.8
"""How fast the expert brings the pole upright, and the hand back to the middle."""


class Pole:
    """Implements `TempoScene`.

    Attributes:
        length_m: from the hinge to the bob.
    """

    def __init__(self, arm: Arm, difficulty: float) -> None:
        self._mujoco = import_mujoco()
        self._arm = arm
        self._tau_s = TAU_S / difficulty
        joint = arm.model.joint("pole")
        self._angle, self._turning = int(joint.qposadr[0]), int(joint.dofadr[0])
        self._latch = int(arm.model.equality("latch").id)
        self._body, self._hand = int(arm.model.body("pole").id), int(arm.model.body("hand").id)
        self.length_m = self._build()
        self._pushes: dict[int, float] = {}
        self._upright = 0
        self._fell = self._surprised = False

    @staticmethod
    def furnish(spec: MjSpec) -> None:
        mujoco = import_mujoco()
        hand, shape = spec.body("hand"), mujoco.mjtGeom
        show = {"contype": 0, "conaffinity": 0, "group": 1}
        down, out, _ = _HINGE_IN_HAND
        hand.add_geom(
            type=shape.mjGEOM_CAPSULE,
            size=(0.008, 0.0, 0.0),
            fromto=(down, 0.0, 0.0, down, out, 0.0),
            rgba=GREY,
            **show,
        )
        pole = hand.add_body(
            name="pole",
            pos=_HINGE_IN_HAND,
            quat=_UPRIGHT_IN_HAND,
            mass=_BOB_KG + _WEIGHT_KG,
            ipos=_SOMEWHERE_M,
            inertia=(1e-3, 1e-3, 1e-3),
            explicitinertial=True,
        )
        pole.add_joint(
            name="pole",
            type=mujoco.mjtJoint.mjJNT_HINGE,
            axis=(0.0, 1.0, 0.0),
            limited=True,
            range=(-1.8, 1.8),
            damping=0.0,
            armature=0.0,
        )
        for name, radius, rgba in (
            ("bob", 0.022, COLOURS["yellow"]),
            ("counterweight", 0.028, COLOURS["blue"]),
        ):
            pole.add_geom(
                name=name,
                type=shape.mjGEOM_SPHERE,
                size=(radius, 0.0, 0.0),
                pos=_SOMEWHERE_M,
                rgba=rgba,
                **show,
            )
        pole.add_geom(
            name="rod",
            type=shape.mjGEOM_CAPSULE,
            size=(0.008, 0.1, 0.0),
            pos=_SOMEWHERE_M,
            rgba=LIGHT,
            **show,
        )
        spec.add_equality(
            name="latch",
            type=mujoco.mjtEq.mjEQ_JOINT,
            name1="pole",
            objtype=mujoco.mjtObj.mjOBJ_JOINT,
            active=True,
        )

    def place(self, stream: np.random.Generator) -> None:
        start_rad = float(stream.uniform(-START_RAD, START_RAD))
        self._pushes, step = {}, 0
        while (step := step + int(stream.integers(*PUSH_SUBSTEPS))) < _SUBSTEPS:
            lean_rad = float(stream.uniform(*PUSH_RAD) * stream.choice((-1, 1)))
            self._pushes[step] = lean_rad / self._tau_s
        model, data = self._arm.model, self._arm.data
        model.eq_data[self._latch, :5] = (start_rad, 0.0, 0.0, 0.0, 0.0)
        data.eq_active[self._latch] = 1
        data.qpos[self._angle] = start_rad
        self._upright = 0
        self._fell = self._surprised = False

    def before(self, step: int) -> None:
        data = self._arm.data
        data.eq_active[self._latch] = 0
        push_rad_s = self._pushes.get(step)
        self._surprised = push_rad_s is not None
        if push_rad_s is not None:
            data.qvel[self._turning] += push_rad_s

    def after(self, step: int, contact_force_n: float) -> None:
        self._fell = self._fell or abs(self._lean_rad()) > FALLEN_RAD
        if step < _SUBSTEPS:
            self._upright += not self._fell

    @property
    def surprised(self) -> bool:
        return self._surprised

    @property
    def score(self) -> float:
        return 10.0 * self._upright / _SUBSTEPS

    @property
    def missed(self) -> int:
        return int(self._fell)

    def truth(self) -> np.ndarray:
        return np.array([self._upright, self._fell], dtype=np.float64)

    def assume(self, truth: np.ndarray) -> None:
        self._upright, self._fell = int(truth[0]), bool(truth[1])
        self._pushes = {}

    def act(self) -> np.ndarray:
        """Drive the hand under the pole and, slowly, to the middle.

        With c = 1 / (g tau²), a pole on a hand of velocity v obeys
            d(lean)/dt = turning,   d(turning + c v)/dt = lean / tau²
        so that divergence = lean + tau (turning + c v) grows by 1 / tau, and falls by c v. What the
        hand has still to go to the commanded place counts as done.
        """
        if self._fell:
            return np.array([0.0, 0.0, 0.0, 1.0])
        tau_s, hand_m = self._tau_s, float(self._arm.hand_m[0])
        aim_m = float(self._arm.data.mocap_pos[0, 0])
        c = 1.0 / (_GRAVITY_M_S2 * tau_s**2)
        momentum = float(self._arm.data.qvel[self._turning]) + c * self._hand_m_s()
        divergence = self._lean_rad() + tau_s * momentum - c * (aim_m - hand_m)
        gain = (1.0 / tau_s + _RETURN_PER_S + _CATCH_PER_S) / c
        velocity_m_s = gain * divergence + _RETURN_PER_S * aim_m
        return np.array([velocity_m_s * _TICK_S / _TICK_M, 0.0, 0.0, 1.0])

    def places_m(self) -> tuple[np.ndarray, np.ndarray]:
        data = self._arm.data
        upright_m = data.xpos[self._body] + np.array([0.0, 0.0, self.length_m])
        return data.geom("bob").xpos.copy(), upright_m

    def _lean_rad(self) -> float:
        """Of the pole from upright, towards +x."""
        up = self._arm.data.xmat[self._body].reshape(3, 3)[:, 2]
        return float(np.arctan2(up[0], up[2]))

    def _hand_m_s(self) -> float:
        """The hand's velocity along x."""
        mujoco, model, data = self._mujoco, self._arm.model, self._arm.data
        mujoco.mj_comPos(model, data)  # stepping leaves velocities of the instant before
        mujoco.mj_comVel(model, data)
        velocity = np.zeros(6)
        mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_BODY, self._hand, velocity, False)
        return float(velocity[3])

    def _build(self) -> float:
        """Put the counterweight where the pole falls as fast as it shall; where even a weight at
        the hinge is too slow, shorten the pole. Returns its length, metres."""
        model = self._arm.model
        reach = _GRAVITY_M_S2 * self._tau_s**2
        length, ratio = min(_LENGTH_M, reach), _WEIGHT_KG / _BOB_KG
        below = (np.sqrt(reach**2 + 4 * (reach - length) * length / ratio) - reach) / 2
        mass = _BOB_KG + _WEIGHT_KG
        centre = (_BOB_KG * length - _WEIGHT_KG * below) / mass
        inertia = _BOB_KG * length**2 + _WEIGHT_KG * below**2 - mass * centre**2
        model.body_ipos[self._body] = (0.0, 0.0, centre)
        model.body_iquat[self._body] = (1.0, 0.0, 0.0, 0.0)
        model.body_inertia[self._body] = (inertia, inertia, inertia / 10)
        model.geom_pos[model.geom("bob").id] = (0.0, 0.0, length)
        model.geom_pos[model.geom("counterweight").id] = (0.0, 0.0, -below)
        model.geom_pos[model.geom("rod").id] = (0.0, 0.0, (length - below) / 2)
        model.geom_size[model.geom("rod").id, 1] = (length + below) / 2
        self._mujoco.mj_setConst(model, self._arm.data)
        return float(length)


TASK = TempoTask(
    Pole,
    Pole.furnish,
    Phrasings(
        (
            "balance the pole on the hand",
            "keep the pole upright",
            "do not let the pole fall",
            "hold the pole in balance while it is pushed",
        ),
        ("keep the pole with the yellow ball standing",),
    ),
    stimulus="the pole was pushed",
    start_m=((-0.05, 0.50, 0.11), (0.05, 0.58, 0.15)),
)
