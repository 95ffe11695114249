"""Meta-World's Sawyer arm and table, with furniture of our own.

The arm's XML, meshes and textures come from the installed `metaworld` package at run time; scenes
add their bodies through MuJoCo's `MjSpec`. Control is Meta-World's: the hand is welded to a
motion-capture body that moves up to 1 cm per axis and sub-step, and fingers are driven by force.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from streamvla.core.errors import RobotError
from streamvla.robots.gl import import_mujoco

PHYSICS_STEPS_PER_SUBSTEP = 5
REACH_PER_SUBSTEP_M = 0.01
HAND_LOW_M = (-0.5, 0.40, 0.05)
HAND_HIGH_M = (0.5, 1.0, 0.5)
HOME_M = (0.0, 0.6, 0.2)
FINGER_LENGTH_M = 0.045
"""From the hand's centre down to the fingertips."""

_HAND_DOWN = (1.0, 0.0, 1.0, 0.0)
_OPEN = (-1.0, 1.0)
_WIDEST_OPENING_M = 0.1
_HOMING_STEPS = 250
_SETTLING_STEPS = 150

# Weld of motion-capture body and hand, as in Meta-World: no offset, torque scale 5.
_WELD = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 5.0)

MjSpec = Any


class Arm:
    """The arm in a furnished scene.

    Args:
        furnish: adds bodies to the scene before it is compiled.

    Attributes:
        model, data: of the compiled scene.

    Raises:
        RobotError: MuJoCo or Meta-World is missing.
    """

    def __init__(self, furnish: Callable[[MjSpec], None]) -> None:
        self._mujoco = import_mujoco()
        spec = self._mujoco.MjSpec.from_string(_arm_xml(_assets()))
        furnish(spec)
        self.model: Any = spec.compile()
        self.data: Any = self._mujoco.MjData(self.model)
        welds = self.model.eq_type == self._mujoco.mjtEq.mjEQ_WELD
        self.model.eq_data[welds] = _WELD
        self._home = self._homed()

    @property
    def hand_m(self) -> np.ndarray:
        """(3,) the hand's centre."""
        return self.data.body("hand").xpos.copy()

    @property
    def fingertips_m(self) -> np.ndarray:
        """(3,) the point between the fingertips."""
        tips = [self.data.site(f"{side}EndEffector").xpos for side in ("left", "right")]
        return np.mean(tips, axis=0)

    @property
    def opening(self) -> float:
        """Between the fingers, 0 to 1 for 10 cm."""
        right, left = self.data.body("rightclaw").xpos, self.data.body("leftclaw").xpos
        return float(np.clip(np.linalg.norm(right - left) / _WIDEST_OPENING_M, 0.0, 1.0))

    def reset(self) -> None:
        """Bring the arm home and everything else to where the scene was compiled."""
        self._mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = self._home
        self._aim(HOME_M)

    def settle(self, hand_m: np.ndarray) -> None:
        """Open the gripper, move the hand to (3,) and let everything come to rest."""
        self._aim(hand_m)
        self.data.ctrl[:] = _OPEN
        self._step(_SETTLING_STEPS)

    def act(self, command: np.ndarray) -> None:
        """One sub-step of 12.5 ms: (4,) hand step in units of 1 cm, gripper from -1 (open) to 1."""
        target = self.data.mocap_pos[0] + REACH_PER_SUBSTEP_M * command[:3]
        self._aim(np.clip(target, HAND_LOW_M, HAND_HIGH_M))
        self.data.ctrl[:] = (command[3], -command[3])
        self._step(PHYSICS_STEPS_PER_SUBSTEP)

    def _homed(self) -> np.ndarray:
        """Generalised positions with the hand at home, the scene otherwise as compiled."""
        compiled = self.data.qpos.copy()
        self._aim(HOME_M)
        self.data.ctrl[:] = _OPEN
        self._step(_HOMING_STEPS)
        joints = [self.model.joint(index) for index in range(self.model.njnt)]
        of_arm = [joint.qposadr[0] for joint in joints if joint.name.startswith(("right_", "r_"))]
        of_arm += [joint.qposadr[0] for joint in joints if joint.name == "l_close"]
        compiled[of_arm] = self.data.qpos[of_arm]
        return compiled

    def _aim(self, hand_m: np.ndarray | tuple[float, ...]) -> None:
        self.data.mocap_pos[0] = hand_m
        self.data.mocap_quat[0] = _HAND_DOWN

    def _step(self, count: int) -> None:
        self._mujoco.mj_step(self.model, self.data, nstep=count)
        self._mujoco.mj_kinematics(self.model, self.data)  # poses of the new positions


def _assets() -> Path:
    """Where the installed `metaworld` keeps its XML and meshes."""
    package = find_spec("metaworld")
    if package is None or package.origin is None:
        raise RobotError(
            "cannot find metaworld, whose arm the language scenes use. Install it with "
            "pip install 'streamvla[sim]'."
        )
    return Path(package.origin).parent / "assets"


def _arm_xml(assets: Path) -> str:
    """Arm, table and light; everything by reference to the installed files."""
    folder = quoteattr(str(assets / "sawyer_xyz"))
    scene = quoteattr(str(assets / "scene" / "basic_scene.xml"))
    dependencies = quoteattr(str(assets / "objects" / "assets" / "xyz_base_dependencies.xml"))
    arm = quoteattr(str(assets / "objects" / "assets" / "xyz_base.xml"))
    return f"""
    <mujoco>
      <compiler meshdir={folder} texturedir={folder}/>
      <include file={scene}/>
      <include file={dependencies}/>
      <worldbody><include file={arm}/></worldbody>
      <actuator>
        <position ctrllimited="true" ctrlrange="-1 1" joint="r_close" kp="400"/>
        <position ctrllimited="true" ctrlrange="-1 1" joint="l_close" kp="400"/>
      </actuator>
      <equality><weld body1="mocap" body2="hand" solref="0.02 1"/></equality>
    </mujoco>
    """
