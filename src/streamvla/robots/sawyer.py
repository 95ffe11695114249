"""The Sawyer arm that all our MuJoCo scenes share: one spec, two cameras, one sense of time.

One command acts for four sub-steps (12.5 ms each at nominal speed), then the arm holds with the
gripper as it is (`robots.schedule`). A policy trained on one of these robots fits all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.cameras import Gaze
from streamvla.core.clock import ms_to_ns
from streamvla.core.errors import ConfigError, RobotError, did_you_mean
from streamvla.core.interfaces import ArraySpec, Capture, Frames, RobotSpec
from streamvla.core.limits import MotionLimits
from streamvla.robots.instructions import Asked, Phrasings, Split, check_asked, check_split
from streamvla.robots.jump import GoalJump
from streamvla.robots.rendering import (
    Camera,
    SceneRenderer,
    full_state,
    layout_of,
    pose_of,
    set_full_state,
)
from streamvla.robots.schedule import CommandSchedule
from streamvla.robots.tabletop.arm import FINGER_LENGTH_M

SUBSTEPS_PER_COMMAND = 4

ACTION_SPACE = ActionSpace(
    names=("dx", "dy", "dz", "gripper"),
    kinds=("delta", "delta", "delta", "absolute"),
    low=(-1.0, -1.0, -1.0, -1.0),
    high=(1.0, 1.0, 1.0, 1.0),
)

CONTROL_PERIOD_NS = ms_to_ns(50)

# A unit action moves the hand's target by 1 cm in each of four environment steps: 0.04 m. The
# gripper is a force command without a unit, free to close from one tick to the next.
LIMITS = MotionLimits.from_si(
    ACTION_SPACE,
    CONTROL_PERIOD_NS,
    unit=(0.04, 0.04, 0.04, 1.0),
    velocity=(0.8, 0.8, 0.8, 40.0),  # m/s, and 1/s
    acceleration=(6.4, 6.4, 6.4, 1600.0),  # m/s², and 1/s²
    jerk=(128.0, 128.0, 128.0, 64_000.0),  # m/s³, and 1/s³
)

# Chosen by looking at 96-pixel frames of every task: from the side one reads y and z, from the
# front (facing the robot, looking steeply down) x and y; handles and goals show in both.
CAMERAS: dict[str, Camera] = {
    "side": Camera(lookat=(0.0, 0.68, 0.13), distance=1.0, azimuth=150.0, elevation=-25.0),
    "front": Camera(lookat=(0.0, 0.69, 0.10), distance=0.95, azimuth=-90.0, elevation=-58.0),
}

IMAGE_SIZE = (96, 96)

GAZE = Gaze(
    state_indices=(0, 1, 2),
    offset=(0.0, 0.0, -FINGER_LENGTH_M),
    views=tuple(camera.view(IMAGE_SIZE) for camera in CAMERAS.values()),
)
"""The point between the fingertips, in both views, when the cameras stand where they should."""

CAMERA_OFFSET = "camera_offset"
"""Name of an array (2, 3) that a capture may have besides: by how many degrees of azimuth and of
elevation and how many metres of distance each of `CAMERAS` is off."""

PLACE_NAMES = tuple(f"{thing}_{axis}_m" for thing in ("first", "second", "goal") for axis in "xyz")
"""What `SawyerRobot.places` tells: first and second object of the task, and where to bring them."""

SPEC = RobotSpec(
    name="metaworld",
    action_space=ACTION_SPACE,
    views=tuple(CAMERAS),
    image_size=IMAGE_SIZE,
    state_names=("hand_x_m", "hand_y_m", "hand_z_m", "gripper_opening"),
    control_period_ns=CONTROL_PERIOD_NS,
    limits=LIMITS,
    place_names=PLACE_NAMES,
    start=(0.0, 0.0, 0.0, 0.0),
    draws_captures=True,
    knows_stimulus=True,
    gaze=GAZE,
)
"""Shared by Meta-World and by our own scenes: whoever drives one drives the other. What a capture
holds depends on the scene, so every robot's own specification says that."""


def cameras_of(capture: Capture) -> dict[str, Camera]:
    """Where the cameras stood at a capture."""
    if CAMERA_OFFSET not in capture:
        return CAMERAS
    moved = zip(CAMERAS.items(), capture[CAMERA_OFFSET].tolist(), strict=True)
    return {name: camera.moved(*offset) for (name, camera), offset in moved}


class SawyerRobot(ABC):
    """The part of the `Robot` interface that does not depend on the scene.

    Args:
        task: its name.
        model, data: of the MuJoCo scene; `_begin` and `_substep` move them.
        split: which phrasings of the instruction to draw from.
        asked: what to ask for: the episode's own goal, another one, or nothing.
        moved: the goal is moved once in the middle of the episode, and only then counts.

    Attributes:
        stimulus_ns: when the goal was moved; None: not yet, or never.

    Raises:
        ConfigError: unknown split, or unknown value of `asked`.
    """

    def __init__(
        self,
        task: str,
        model: Any,
        data: Any,
        split: Split,
        asked: Asked,
        *,
        moved: bool = False,
    ) -> None:
        check_split(split)
        check_asked(asked)
        self._task = task
        self._model = model
        self._data = data
        self._split: Split = split
        self._asked: Asked = asked
        self._renderer = SceneRenderer(model)
        layout, pose = layout_of(model), pose_of(data)
        arrays = {**layout, **pose, "state": np.zeros(len(SPEC.state_names), np.float32)}
        capture = tuple(ArraySpec.of(name, array) for name, array in arrays.items())
        self._spec = replace(SPEC, capture=capture)
        self._episode: _Episode | None = None
        self._moved = moved
        self._jump: GoalJump | None = None
        self._steps = 0
        self.stimulus_ns: int | None = None

    @abstractmethod
    def _begin(self, seed: int) -> None:
        """Set the scene of the episode `seed`."""

    @abstractmethod
    def _substep(self, command: np.ndarray) -> None:
        """Let a command (4,) act for 12.5 ms of the scene's time, and note what it reached."""

    def _move_goal(self, stream: np.random.Generator) -> None:
        """Put the goal elsewhere, and forget that it was reached."""
        raise ConfigError(f"task {self._task!r} has no goal that can be moved; expected 'reach'")

    @abstractmethod
    def _measured(self) -> np.ndarray:
        """(4,) hand position in metres, gripper opening in [0, 1]."""

    @abstractmethod
    def places(self) -> np.ndarray:
        """(9,) metres, `PLACE_NAMES`: for experts and training targets, never for a policy.

        A task with fewer things has zeros there.
        """

    def _scene_truth(self) -> np.ndarray:
        """(k,) what else the scene's future depends on, besides the simulator's own state."""
        return np.zeros(0)

    def _assume_scene(self, truth: np.ndarray) -> None:  # noqa: B027 (nothing is a fine default)
        """Take over (k,) what `_scene_truth` told; the simulator's state is there already."""

    @property
    @abstractmethod
    def phrasings(self) -> Phrasings:
        """All the ways to say the present goal."""

    @property
    @abstractmethod
    def success(self) -> bool:
        """Whether the goal asked for was reached at any time since `reset`."""

    @property
    def spec(self) -> RobotSpec:
        return self._spec

    @property
    def task(self) -> str:
        """The name of the task."""
        return self._task

    @property
    def physics(self) -> Any:
        """The MjModel of its world, for stress only (`robots.stress`)."""
        return self._model

    @property
    def movable_cameras(self) -> int:
        """How many cameras `CAMERA_OFFSET` moves."""
        return len(CAMERAS)

    @property
    def state_arrays(self) -> tuple[str, ...]:
        """What of a capture is proprioception; all else is the picture, and neither needs the
        other."""
        return ("state",)

    @property
    def instruction(self) -> str:
        """The present goal in words; empty when asked for nothing."""
        seed = self._running().seed
        return "" if self._asked == "blank" else self.phrasings.choose(seed, self._split)

    def reset(self, seed: int, now_ns: int, command_duration_ns: int) -> None:
        """Start the episode `seed`: same seed, same objects, goal and instruction.

        Args:
            seed: any integer ≥ 0.
            now_ns: the instant the episode starts.
            command_duration_ns: how long one command acts; 50 ms is nominal speed, less runs the
                same motion faster on the clock.

        Raises:
            ConfigError: a negative seed, or a duration shorter than its four sub-steps.
        """
        if seed < 0:
            raise ConfigError(f"episode seed {seed}: expected an integer ≥ 0")
        schedule = CommandSchedule(ACTION_SPACE, SUBSTEPS_PER_COMMAND, now_ns, command_duration_ns)
        self._begin(seed)
        self._episode = _Episode(seed, layout_of(self._model), schedule)
        self._steps, self.stimulus_ns = 0, None
        self._jump = (
            GoalJump.draw(seed, now_ns, command_duration_ns, SUBSTEPS_PER_COMMAND)
            if self._moved
            else None
        )

    def command(self, values: np.ndarray, now_ns: int) -> None:
        """Put one command (4,) in force: it acts for the next four sub-steps.

        Values beyond ±1 are clipped. A command that comes before its predecessor's four
        sub-steps are over waits for them.

        Raises:
            RobotError: not (4,), not finite, or before `reset`.
        """
        self.advance_to(now_ns)
        self._running().schedule.put(values)

    def advance_to(self, now_ns: int) -> None:
        """Run the sub-steps that end at or before `now_ns`.

        Raises:
            RobotError: before `reset`, or `now_ns` lies before an earlier call's.
        """
        for command in self._running().schedule.due(now_ns):
            self._substep(command)
            self._steps += 1
            if self._jump is not None and self._steps == self._jump.step:
                self._jump_now(self._jump)

    def _jump_now(self, jump: GoalJump) -> None:
        self._move_goal(jump.stream)
        self._surprise(jump.instant_ns)
        self._jump = None

    def _surprise(self, instant_ns: int) -> None:
        """Something happened that the robot should react to; the model may have been edited."""
        self._episode = replace(self._running(), layout=layout_of(self._model))
        self.stimulus_ns = instant_ns

    def capture(self) -> Capture:
        """Freeze this instant (tens of microseconds; no rendering)."""
        layout = self._running().layout
        state = self._measured().astype(np.float32)
        return {**layout, **pose_of(self._data), "state": state}

    def observe(self, capture: Capture) -> Frames:
        """Render both views of a capture. Thread-safe to everything else.

        A capture with the array `CAMERA_OFFSET` was seen by cameras that stood elsewhere.

        Raises:
            RobotError: no OpenGL context could be made.
        """
        cameras = tuple(cameras_of(capture).values())
        images = self._renderer.render(capture, cameras, SPEC.image_size)
        return Frames(images=dict(zip(CAMERAS, images, strict=True)), state=capture["state"])

    def render_capture(
        self, capture: Capture, view: str = "side", size: tuple[int, int] = (240, 240)
    ) -> np.ndarray:
        """(height, width, 3) uint8 image of a capture, for videos made after the fact.

        Raises:
            ConfigError: unknown view.
        """
        if view not in CAMERAS:
            raise did_you_mean("view", view, CAMERAS)
        return self._renderer.render(capture, (cameras_of(capture)[view],), size)[0]

    def truth(self) -> np.ndarray:
        """(n,) the episode's seed, the simulator's state, commands that did not act yet, and what
        the scene adds."""
        episode, state = self._running(), full_state(self._model, self._data)
        backlog = episode.schedule.backlog()
        return np.concatenate([[episode.seed], state, backlog, self._scene_truth()])

    def assume(self, truth: np.ndarray, action_state: np.ndarray) -> int:
        """As `robots.truth.TruthRobot` says; a goal that would be moved stays where it is."""
        seed = int(truth[0])
        if self._episode is None or self._episode.seed != seed:
            self.reset(seed, 0, CONTROL_PERIOD_NS)
        self._jump = None
        schedule = CommandSchedule(
            ACTION_SPACE, SUBSTEPS_PER_COMMAND, 0, CONTROL_PERIOD_NS, action_state
        )
        rest = truth[1 + set_full_state(self._model, self._data, truth[1:]) :]
        size = len(schedule.backlog())
        self._assume_scene(rest[size:])
        self._episode = _Episode(seed, layout_of(self._model), schedule)
        self._steps = 0
        return schedule.resume(rest[:size])

    def close(self) -> None:
        self._renderer.close()

    def _running(self) -> _Episode:
        if self._episode is None:
            raise RobotError("the robot has no episode yet: call reset(seed, …) first")
        return self._episode


@dataclass(frozen=True, slots=True)
class _Episode:
    """What is fixed from one reset to the next."""

    seed: int
    layout: Capture
    schedule: CommandSchedule
