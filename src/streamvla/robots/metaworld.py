"""Meta-World as a robot: a Sawyer arm at 20 Hz, two cameras, a world that moves with the clock.

One command acts for four environment steps (12.5 ms each at nominal speed), then the arm holds
with the gripper as it is (`robots.schedule`).
Source: Meta-World (arXiv 1910.10897), the V3 environments of the package `metaworld`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.clock import ms_to_ns
from streamvla.core.errors import ConfigError, RobotError, did_you_mean
from streamvla.core.interfaces import Frames, RobotSpec
from streamvla.core.limits import MotionLimits
from streamvla.robots.gl import import_mujoco
from streamvla.robots.instructions import Split, choose_instruction, phrasings
from streamvla.robots.rendering import Camera, SceneLayout, ScenePose, SceneRenderer
from streamvla.robots.schedule import CommandSchedule

Colour = tuple[float, float, float, float]
GREEN: Colour = (0.0, 1.0, 0.0, 1.0)
BLUE: Colour = (0.1, 0.3, 1.0, 1.0)
HIDDEN: Colour = (0.0, 0.0, 0.0, 0.0)

GOAL_RADIUS_M = 0.03
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

SPEC = RobotSpec(
    name="metaworld",
    action_space=ACTION_SPACE,
    views=tuple(CAMERAS),
    image_size=(96, 96),
    state_names=("hand_x_m", "hand_y_m", "hand_z_m", "gripper_opening"),
    control_period_ns=CONTROL_PERIOD_NS,
    limits=LIMITS,
)


@dataclass(frozen=True)
class MetaWorldTask:
    """One task.

    Attributes:
        name: our name; Meta-World's is `name-v3`.
        goal_marker: show the goal as a green ball of 3 cm radius. Stock Meta-World shows it 2 cm
            small and red like the arm: two pixels. Where the scene itself says what to do
            (a drawer, a button) the marker is hidden.
        recolour: geom name → colour, for objects that do not stand out from the table.
    """

    name: str
    goal_marker: bool = False
    recolour: Mapping[str, Colour] = field(default_factory=dict)

    @property
    def environment(self) -> str:
        """Meta-World's name."""
        return f"{self.name}-v3"


TASKS: dict[str, MetaWorldTask] = {
    task.name: task
    for task in (
        MetaWorldTask("reach", goal_marker=True),
        MetaWorldTask("push", goal_marker=True, recolour={"objGeom": BLUE}),
        MetaWorldTask("button-press-topdown"),
        MetaWorldTask("drawer-open"),
        MetaWorldTask("drawer-close"),
        MetaWorldTask("window-open"),
        MetaWorldTask("window-close"),
        MetaWorldTask("button-press"),
        MetaWorldTask("door-open"),
        MetaWorldTask("door-close"),
        MetaWorldTask("faucet-open"),
        MetaWorldTask("faucet-close"),
        MetaWorldTask("plate-slide"),
        MetaWorldTask("handle-press"),
        MetaWorldTask("coffee-button"),
    )
}


@dataclass(frozen=True, slots=True)
class MetaWorldCapture:
    """One frozen instant: what rendering needs, and the (4,) float32 measured state."""

    pose: ScenePose
    state: np.ndarray


class MetaWorldRobot:
    """One Meta-World task behind the `Robot` interface.

    The poses of object and goal are hidden: the policy gets pixels and its own state.

    Args:
        task: a name of `TASKS`.
        split: which phrasings of the instruction to draw from, "train" or "heldout".

    Raises:
        ConfigError: unknown task or split.
        RobotError: the simulator or an offscreen OpenGL library is missing.
    """

    def __init__(self, task: str, split: Split = "train") -> None:
        if task not in TASKS:
            raise did_you_mean("task", task, TASKS)
        phrasings(task, split)
        self._task = TASKS[task]
        self._split: Split = split
        self._environment = _make_environment(self._task)
        self._renderer = SceneRenderer(self._environment.model)
        self._episode: _Episode | None = None

    @property
    def spec(self) -> RobotSpec:
        return SPEC

    @property
    def task(self) -> str:
        """The name of the task."""
        return self._task.name

    @property
    def instruction(self) -> str:
        return self._running().instruction

    @property
    def success(self) -> bool:
        """Meta-World's own success flag, true from the first environment step that set it."""
        return self._running().success

    @property
    def privileged_observation(self) -> np.ndarray:
        """(39,) Meta-World's own state, poses included: for scripted experts only."""
        return self._running().observation

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
        self._environment.np_random = np.random.default_rng(seed)
        observation, _ = self._environment.reset()
        self._episode = _Episode(
            instruction=choose_instruction(self.task, seed, self._split),
            layout=SceneLayout.of(self._environment.model),
            schedule=schedule,
            observation=observation,
        )

    def command(self, values: np.ndarray, now_ns: int) -> None:
        """Put one command (4,) in force: it acts for the next four sub-steps.

        Values beyond ±1 are clipped. A command that comes before its predecessor's four
        sub-steps are over replaces it.

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
        episode = self._running()
        for command in episode.schedule.due(now_ns):
            episode.observation, _, _, _, info = self._environment.step(command)
            episode.success = episode.success or bool(info["success"])

    def capture(self) -> MetaWorldCapture:
        """Freeze this instant (tens of microseconds; no rendering)."""
        episode = self._running()
        return MetaWorldCapture(
            pose=ScenePose.of(self._environment.data, episode.layout),
            state=episode.observation[:4].astype(np.float32),
        )

    def observe(self, capture: MetaWorldCapture) -> Frames:
        """Render both views of a capture. Thread-safe to everything else.

        Raises:
            RobotError: no OpenGL context could be made.
        """
        images = self._renderer.render(capture.pose, tuple(CAMERAS.values()), SPEC.image_size)
        return Frames(images=dict(zip(CAMERAS, images, strict=True)), state=capture.state)

    def render_capture(
        self, capture: MetaWorldCapture, view: str = "side", size: tuple[int, int] = (240, 240)
    ) -> np.ndarray:
        """(height, width, 3) uint8 image of a capture, for videos made after the fact.

        Raises:
            ConfigError: unknown view.
        """
        if view not in CAMERAS:
            raise did_you_mean("view", view, CAMERAS)
        return self._renderer.render(capture.pose, (CAMERAS[view],), size)[0]

    def close(self) -> None:
        self._renderer.close()
        self._environment.close()

    def _running(self) -> _Episode:
        if self._episode is None:
            raise RobotError("the robot has no episode yet: call reset(seed, …) first")
        return self._episode


@dataclass(slots=True)
class _Episode:
    """What lives from one reset to the next."""

    instruction: str
    layout: SceneLayout
    schedule: CommandSchedule
    observation: np.ndarray
    success: bool = False


def _make_environment(task: MetaWorldTask) -> Any:
    """The Meta-World environment, fully observable, randomised from its own seeded stream."""
    import_mujoco()
    try:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    except ImportError as error:
        raise RobotError(
            f"cannot import metaworld: {error}. Install it with pip install 'streamvla[sim]'."
        ) from error
    environment = ALL_V3_ENVIRONMENTS[task.environment]()
    environment._set_task_called = True
    environment._freeze_rand_vec = False
    environment.seeded_rand_vec = True
    environment.max_path_length = sys.maxsize
    # The expert needs the goal; the cached observation space would clip it to zero.
    environment._partially_observable = False
    del environment.sawyer_observation_space
    _make_visible(environment.model, task)
    return environment


def _make_visible(model: Any, task: MetaWorldTask) -> None:
    """Colour goal and objects so that they can be found in 96 pixels (see `MetaWorldTask`)."""
    for index in range(model.nsite):
        if "goal" in model.site(index).name:
            model.site_rgba[index] = GREEN if task.goal_marker else HIDDEN
            model.site_size[index] = GOAL_RADIUS_M
    for name, colour in task.recolour.items():
        geom = model.geom(name).id
        model.geom_matid[geom] = -1
        model.geom_rgba[geom] = colour
