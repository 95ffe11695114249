"""gym-aloha's two ViperX arms and table, with furniture of our own.

XML and meshes come from the installed `gym_aloha` at run time, motors included; scenes add their
bodies through MuJoCo's `MjSpec`. A command is gym-aloha's: six joint angles and an opening a side,
left before right.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

import numpy as np

from streamvla.core.errors import RobotError
from streamvla.robots.gl import import_mujoco
from streamvla.robots.tabletop.scene import MjSpec
from streamvla.robots.tempo.aloha.kinematics import HandPose, hand_pose, joints_of

Side = Literal["left", "right"]
SIDES: tuple[Side, ...] = ("left", "right")

JOINT_NAMES = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
JOINT_LOW_RAD = (-3.14158, -1.85005, -1.76278, -3.14158, -1.8675, -3.14158)
JOINT_HIGH_RAD = (3.14158, 1.25664, 1.6057, 3.14158, 2.23402, 3.14158)
HOME_RAD = (0.0, -0.96, 1.16, 0.0, -0.3, 0.0)
HOME_OPENING = 0.1

FINGER_CLOSED_M, FINGER_OPEN_M = 0.01844, 0.058
"""Of a finger's joint at the openings 0 and 1; its stops lie a little inside."""

PHYSICS_STEPS_PER_SUBSTEP = 5
"""Of 2 ms; two sub-steps make a command."""

_BASE_M = {"left": (-0.469, 0.5, 0.0), "right": (0.469, 0.5, 0.0)}
_FORWARD = {"left": np.array((1.0, 1.0, 1.0)), "right": np.array((-1.0, -1.0, 1.0))}
_DIM = 7  # of one arm's command
_DOFS = 8  # of one arm: its joints and two fingers, before everything else in the state
_SETTLING_STEPS = 150

_HALF_OPEN_M = 0.5 * (FINGER_CLOSED_M + FINGER_OPEN_M)
_RESTING_M_S = 0.06
_AIR, _SNUG, _STARTING = 0.3, 0.66, 0.88
"""Openings with nothing in between, around a cube of 4 cm, and of fingers that begin to close."""


class Arms:
    """Both arms in a furnished scene.

    Args:
        furnish: adds bodies to the scene before it is compiled; their joints come after the arms'.

    Attributes:
        model, data: of the compiled scene.

    Raises:
        RobotError: MuJoCo or gym-aloha is missing.
    """

    def __init__(self, furnish: Callable[[MjSpec], None]) -> None:
        self._mujoco = import_mujoco()
        spec = self._mujoco.MjSpec.from_string(_scene_xml(_assets()))
        furnish(spec)
        self.model: Any = spec.compile()
        self.data: Any = self._mujoco.MjData(self.model)
        roots = {side: self.model.body(f"vx300s_{side}").id for side in SIDES}
        owner = self.model.body_rootid[self.model.geom_bodyid]
        self._geoms = {side: owner == root for side, root in roots.items()}
        self._force = np.zeros(6)

    def joints(self) -> np.ndarray:
        """(14,) where joints (radians) and openings (0 to 1) are."""
        return _from_motors(self.data.qpos[: 2 * _DOFS])

    def commanded_joints(self, side: Side) -> np.ndarray:
        """(6,) radians: one arm's part of the command in force."""
        start = _DOFS * SIDES.index(side)
        return self.data.ctrl[start : start + 6].copy()

    def commanded_pose(self, side: Side) -> HandPose:
        """Where the command in force brings a hand, in the frame of the world."""
        pose = hand_pose(self.commanded_joints(side))
        return HandPose(_to_world(side, pose.tip_m), pose.pitch_rad, pose.roll_rad)

    def joints_for(self, side: Side, pose: HandPose) -> np.ndarray:
        """(6,) radians that bring a hand to a pose in the frame of the world."""
        tip = _FORWARD[side] * (pose.tip_m - _BASE_M[side])
        joints = joints_of(HandPose(tip, pose.pitch_rad, pose.roll_rad))
        return np.clip(joints, JOINT_LOW_RAD, JOINT_HIGH_RAD)

    def tip_m(self, side: Side) -> np.ndarray:
        """(3,) the point between a hand's fingertips, measured."""
        start = _DIM * SIDES.index(side)
        return _to_world(side, hand_pose(self.joints()[start : start + 6]).tip_m)

    def opening(self, side: Side) -> float:
        """0 to 1, measured, of both fingers together."""
        left, right = self.data.qpos[_DOFS * SIDES.index(side) + 6 :][:2]
        return float((0.5 * (left - right) - FINGER_CLOSED_M) / (FINGER_OPEN_M - FINGER_CLOSED_M))

    def squeezes(self, side: Side) -> bool:
        """Whether a hand was told to close and its fingers came to rest on something."""
        told = self.data.ctrl[_DOFS * SIDES.index(side) + 6] < _HALF_OPEN_M
        speeds = self.data.qvel[_DOFS * SIDES.index(side) + 6 :][:2]
        slow = bool(np.abs(speeds[0] - speeds[1]) < _RESTING_M_S)
        opening = self.opening(side)
        return bool(told) and opening > _AIR and (opening < _SNUG or (slow and opening < _STARTING))

    def reset(self, joints: np.ndarray) -> None:
        """Arms at (14,) and at rest, everything else as compiled."""
        self._mujoco.mj_resetData(self.model, self.data)
        motors = _to_motors(joints)
        self.data.qpos[: 2 * _DOFS] = motors
        self.data.ctrl[:] = motors

    def settle(self, steps: int = _SETTLING_STEPS) -> None:
        """Let everything come to rest under the command in force, in steps of 2 ms."""
        self._mujoco.mj_step(self.model, self.data, nstep=steps)
        self._mujoco.mj_forward(self.model, self.data)

    def act(self, command: np.ndarray) -> None:
        """One sub-step of 10 ms under a command (14,)."""
        self.data.ctrl[:] = _to_motors(command)
        self._mujoco.mj_step(self.model, self.data, nstep=PHYSICS_STEPS_PER_SUBSTEP)
        self._mujoco.mj_forward(self.model, self.data)  # poses and contacts of the new positions

    def touch(self, side: Side, geom: int) -> int:
        """With how many of its fingers a hand touches a geom: 0 to 2."""
        pairs = self.data.contact.geom[: self.data.ncon]
        others = {int(pair[0] if pair[1] == geom else pair[1]) for pair in pairs if geom in pair}
        fingers = [f"vx300s_{side}/10_{finger}_gripper_finger" for finger in SIDES]
        return sum(self.model.geom(name).id in others for name in fingers)

    def contact_n(self) -> float:
        """The largest normal force, newtons, between an arm and anything that is not the same arm
        (the other arm, table, what it holds)."""
        largest = 0.0
        pairs = self.data.contact.geom[: self.data.ncon]
        for index in range(len(pairs)):
            if any(mask[pairs[index, 0]] != mask[pairs[index, 1]] for mask in self._geoms.values()):
                self._mujoco.mj_contactForce(self.model, self.data, index, self._force)
                largest = max(largest, float(self._force[0]))
        return largest

    def power_w(self) -> float:
        """Mechanical power of all motors, watts, each without its sign."""
        dofs = slice(2 * _DOFS)
        return float(np.abs(self.data.qfrc_actuator[dofs] * self.data.qvel[dofs]).sum())


def _to_world(side: Side, tip_m: np.ndarray) -> np.ndarray:
    return _FORWARD[side] * tip_m + _BASE_M[side]


def _to_motors(command: np.ndarray) -> np.ndarray:
    """(14,) → (16,): an opening is a position of two fingers."""
    sides = []
    for side in np.split(np.asarray(command, dtype=np.float64), 2):
        finger = FINGER_CLOSED_M + side[6] * (FINGER_OPEN_M - FINGER_CLOSED_M)
        sides.append(np.array([*side[:6], finger, -finger]))
    return np.concatenate(sides)


def _from_motors(motors: np.ndarray) -> np.ndarray:
    """(16,) → (14,); the left finger tells the opening, as in gym-aloha."""
    sides = []
    for side in np.split(motors, 2):
        opening = (side[6] - FINGER_CLOSED_M) / (FINGER_OPEN_M - FINGER_CLOSED_M)
        sides.append(np.array([*side[:6], opening]))
    return np.concatenate(sides)


def _assets() -> Path:
    """Where the installed `gym_aloha` keeps its XML and meshes."""
    package = find_spec("gym_aloha")
    if package is None or package.origin is None:
        raise RobotError(
            "cannot find gym_aloha, whose arms the bimanual tempo tasks use. Install it with "
            "pip install 'streamvla[sim,aloha]'."
        )
    return Path(package.origin).parent / "assets"


def _scene_xml(assets: Path) -> str:
    """Arms, motors, table and light; everything by reference to the installed files."""
    files = ("scene", "vx300s_dependencies", "vx300s_left", "vx300s_right")
    scene, meshes, left, right = (quoteattr(str(assets / f"{name}.xml")) for name in files)
    motors = ElementTree.parse(assets / "bimanual_viperx_transfer_cube.xml").find("actuator")
    if motors is None:
        raise RobotError(
            f"gym_aloha's model in {assets} has no motors: expected the one of version 0.1; "
            "install it again with pip install 'streamvla[sim,aloha]'"
        )
    return f"""
    <mujoco>
      <compiler meshdir={quoteattr(str(assets))} angle="radian"/>
      <include file={scene}/>
      <include file={meshes}/>
      <worldbody><include file={left}/><include file={right}/></worldbody>
      {ElementTree.tostring(motors, encoding="unicode")}
    </mujoco>
    """
