"""A LIBERO task as a robot: its own robosuite environment, whose world moves with the clock.

LIBERO (arXiv 2306.03310) steps its world when a policy asks it to, 50 ms a step. Here the same 25
physics steps of 2 ms, with the same controller and the same check of success, run when the clock
says so, in five parts:

    clock     0 ─ 10 ─ 20 ─ 30 ─ 40 ─ 50 ─ 60 ─ 70 ms
    command   a0                      (a1 is late)  a1
    world     ├─────── a0 ───────────┤├─ zeros ────┤├── a1 …

Without a command the controller gets what LIBERO's evaluations send while they wait: no motion,
the gripper as it is. Its goal is then where the hand is, not where it was to go: a halt loses the
rest of a motion, as it does there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.clock import NS_PER_S
from streamvla.core.errors import ConfigError, RobotError, did_you_mean
from streamvla.core.interfaces import ArraySpec, Capture, Frames, RobotSpec
from streamvla.robots.instructions import Asked, Phrasings, Split, check_asked
from streamvla.robots.libero.package import CONTROL_HZ, language_of, make_environment, task_titles
from streamvla.robots.rendering import LAYOUT, SceneRenderer, layout_of, pose_of
from streamvla.robots.schedule import CommandSchedule

PARTS = 5
"""Of a command, and physics steps in each: 5 × 5 × 2 ms."""

SETTLING_COMMANDS = 10
"""Things fall into place for so long after a reset, as in the evaluations of OpenVLA and openpi."""

VIEWS = ("agentview", "robot0_eye_in_hand")

MEASURES = ("hand_x_m", "hand_y_m", "hand_z_m", "energy_j")

ACTION_SPACE = ActionSpace(
    names=("dx", "dy", "dz", "dax", "day", "daz", "gripper"),
    kinds=("delta",) * 6 + ("absolute",),
    low=(-1.0,) * 7,
    high=(1.0,) * 7,
)
"""Of robosuite's OSC_POSE: 1 is 5 cm, or an axis-angle component of 0.5 rad; gripper 1 closes."""

OPEN = (0.0,) * 6 + (-1.0,)

SPEC = RobotSpec(
    name="libero-panda",
    action_space=ACTION_SPACE,
    views=VIEWS,
    image_size=(256, 256),
    state_names=(
        *("hand_x_m", "hand_y_m", "hand_z_m"),
        *("hand_ax_rad", "hand_ay_rad", "hand_az_rad"),
        *("left_finger_m", "right_finger_m"),
    ),
    control_period_ns=NS_PER_S // CONTROL_HZ,
    start=OPEN,
    draws_captures=True,
    measures=MEASURES,
)

_LAYOUT = (*LAYOUT, "site_rgba")
"""What is switched on shows by the colour of a site."""

_COLLISION_MESHES = 0


class LiberoRobot:
    """One LIBERO task. Implements `Robot`.

    Pictures are upright and not mirrored. Most policies for LIBERO were trained on its raw pictures
    turned by 180°, which is ours mirrored: `image[:, ::-1]`. The state has 8 dimensions: position
    and axis-angle of the hand, and both fingers.

    The seed chooses the initial state, seed mod 50, and where fixtures stand (within LIBERO's
    tolerances), which LIBERO's evaluations draw from a stream that runs on from episode to episode.

    Args:
        task: its name here, such as "libero-object-3".
        suite: LIBERO's name, such as "libero_object".
        index: of the task in it.
        split: "train"; a task has one instruction.
        asked: "own" or "blank".
        faithful: pictures as LIBERO draws them; without shadows and anti-aliasing they are drawn in
            a fraction of the time, but no policy was trained on them.

    Raises:
        ConfigError: another split, or `asked` is "swapped".
        RobotError: LIBERO, its simulator or an offscreen OpenGL library is missing.
    """

    def __init__(
        self,
        task: str,
        suite: str,
        index: int,
        split: Split = "train",
        asked: Asked = "own",
        *,
        faithful: bool = True,
    ) -> None:
        check_asked(asked)
        if split != "train" or asked == "swapped":
            raise ConfigError(
                f"task {task} has one instruction and one goal, so none of split {split!r} and "
                f"asked {asked!r}: expected 'train', and 'own' or 'blank'"
            )
        self._environment, self._states = make_environment(suite, index)
        self._task = task
        self._phrasings = Phrasings((language_of(task_titles(suite)[index]),), ())
        self._asked: Asked = asked
        robosuite = self._environment.env
        self._arm: Any = robosuite.robots[0]
        self._simulation: Any = robosuite.sim
        self._model: Any = self._simulation.model._model
        self._data: Any = self._simulation.data._data
        self._renderer = SceneRenderer(
            self._model, layout=_LAYOUT, faithful=faithful, hidden=(_COLLISION_MESHES,)
        )
        self._schedule: CommandSchedule | None = None
        self._acting = np.array(OPEN)
        self._parts_done = 0
        self._energy_j = 0.0
        self._success = False
        arrays = {**self._frozen(), "state": np.zeros(len(SPEC.state_names), np.float32)}
        capture = tuple(ArraySpec.of(name, array) for name, array in arrays.items())
        self._spec = replace(SPEC, capture=capture)

    @property
    def spec(self) -> RobotSpec:
        return self._spec

    @property
    def task(self) -> str:
        return self._task

    @property
    def phrasings(self) -> Phrasings:
        return self._phrasings

    @property
    def instruction(self) -> str:
        return "" if self._asked == "blank" else self._phrasings.train[0]

    @property
    def success(self) -> bool:
        """Whether LIBERO's goal held at the end of any command since `reset`."""
        return self._success

    def reset(self, seed: int, now_ns: int, command_duration_ns: int) -> None:
        """Start the episode `seed`.

        Raises:
            ConfigError: a negative seed, or a duration shorter than its five parts.
        """
        if seed < 0:
            raise ConfigError(f"episode seed {seed}: expected an integer ≥ 0")
        schedule = CommandSchedule(ACTION_SPACE, PARTS, now_ns, command_duration_ns, np.array(OPEN))
        stream = np.random.get_state()  # robosuite draws from the global one
        np.random.seed(seed % 2**32)
        try:
            self._environment.reset()
        finally:
            np.random.set_state(stream)
        self._environment.set_init_state(self._states[seed % len(self._states)])
        self._arm.gripper.current_action[:] = 0
        self._acting = np.array(OPEN)
        self._parts_done = PARTS
        for _ in range(SETTLING_COMMANDS * PARTS):
            self._part(self._acting)
        self._energy_j, self._success = 0.0, False
        self._schedule = schedule

    def command(self, values: np.ndarray, now_ns: int) -> None:
        """Put one command (7,) in force for the next five parts.

        Raises:
            RobotError: not (7,), not finite, or before `reset`.
        """
        self.advance_to(now_ns)
        self._running().put(values)

    def advance_to(self, now_ns: int) -> None:
        """Run the parts that end at or before `now_ns`.

        Raises:
            RobotError: before `reset`, or `now_ns` lies before an earlier call's.
        """
        for command in self._running().due(now_ns):
            self._part(command)

    def capture(self) -> Capture:
        self._running()
        return {**self._frozen(), "state": self._measured()}

    def observe(self, capture: Capture) -> Frames:
        """Draw both views of a capture. Thread-safe to everything else.

        Raises:
            RobotError: no OpenGL context could be made.
        """
        images = self._renderer.render(capture, VIEWS, SPEC.image_size)
        return Frames(dict(zip(VIEWS, images, strict=True)), capture["state"])

    def render_capture(
        self, capture: Capture, view: str = VIEWS[0], size: tuple[int, int] = (240, 240)
    ) -> np.ndarray:
        """(height, width, 3) uint8 image of a capture, for videos made after the fact.

        Raises:
            ConfigError: unknown view.
        """
        if view not in VIEWS:
            raise did_you_mean("view", view, VIEWS)
        return self._renderer.render(capture, (view,), size)[0]

    def measure(self) -> np.ndarray:
        """(4,) `MEASURES`."""
        self._running()
        return np.array([*self._data.site_xpos[self._arm.eef_site_id], self._energy_j])

    def close(self) -> None:
        """Safe to call twice."""
        self._renderer.close()
        self._schedule = None

    def _part(self, command: np.ndarray) -> None:
        """Let a command act for 10 ms: a fifth of LIBERO's `step`, whose controller gets a goal at
        its beginning."""
        robosuite, dofs = self._environment.env, self._arm._ref_joint_vel_indexes
        begins = self._parts_done >= PARTS or not np.array_equal(command, self._acting)
        self._acting = command
        self._parts_done = 1 if begins else self._parts_done + 1
        for _ in range(PARTS):
            self._simulation.forward()
            robosuite._pre_action(command, begins)
            self._simulation.step()
            begins = False
            power_w = np.abs(self._data.qfrc_actuator[dofs] * self._data.qvel[dofs]).sum()
            self._energy_j += float(power_w) * robosuite.model_timestep
        if self._parts_done == PARTS:
            self._environment._post_process()
            self._success = self._success or bool(self._environment.check_success())

    def _frozen(self) -> Capture:
        return {**layout_of(self._model, _LAYOUT), **pose_of(self._data)}

    def _measured(self) -> np.ndarray:
        """(8,) float32 `SPEC.state_names`."""
        from robosuite.utils.transform_utils import (  # pyright: ignore[reportMissingImports]
            convert_quat,
            quat2axisangle,
        )

        arm, data = self._arm, self._simulation.data
        turn = quat2axisangle(convert_quat(data.get_body_xquat(arm.robot_model.eef_name), "xyzw"))
        fingers = self._data.qpos[arm._ref_gripper_joint_pos_indexes]
        hand_m = self._data.site_xpos[arm.eef_site_id]
        return np.concatenate([hand_m, turn, fingers]).astype(np.float32)

    def _running(self) -> CommandSchedule:
        if self._schedule is None:
            raise RobotError("the robot has no episode yet: call reset(seed, …) first")
        return self._schedule
