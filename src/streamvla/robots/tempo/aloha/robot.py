"""A tempo task on two arms as a robot: 14 absolute joints at 50 Hz.

A command acts for two sub-steps of 10 ms, then the joints are held. Two instants a capture, so that
speed can be seen, and an appearance by the seed, as on the one arm (`tempo.robot`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.clock import NS_PER_S, ms_to_ns
from streamvla.core.errors import ConfigError, RobotError, did_you_mean
from streamvla.core.interfaces import ArraySpec, Capture, Frames, RobotSpec
from streamvla.core.limits import MotionLimits
from streamvla.robots.instructions import Asked, Phrasings, Split, check_asked, check_split
from streamvla.robots.rendering import (
    POSE,
    Camera,
    SceneRenderer,
    full_state,
    layout_of,
    pose_of,
    set_full_state,
)
from streamvla.robots.schedule import CommandSchedule
from streamvla.robots.tabletop.scene import MjSpec
from streamvla.robots.tempo.aloha.arms import (
    HOME_OPENING,
    HOME_RAD,
    JOINT_HIGH_RAD,
    JOINT_LOW_RAD,
    JOINT_NAMES,
    SIDES,
    Arms,
)
from streamvla.robots.tempo.appearance import Appearance
from streamvla.robots.tempo.scene import SUCCESS_SCORE

SUBSTEPS_PER_COMMAND = 2
CONTROL_PERIOD_NS = ms_to_ns(20)
SUBSTEP_NS = CONTROL_PERIOD_NS // SUBSTEPS_PER_COMMAND
EARLIER_SUBSTEPS = 10
"""The earlier views are so many sub-steps old: 100 ms."""

ACTION_SPACE = ActionSpace(
    names=tuple(f"{side}_{name}" for side in SIDES for name in (*JOINT_NAMES, "gripper")),
    kinds=("absolute",) * 14,
    low=(*JOINT_LOW_RAD, 0.0) * 2,
    high=(*JOINT_HIGH_RAD, 1.0) * 2,
)

# Of a joint, 0.08 rad a tick; grippers are free to close from one tick to the next.
LIMITS = MotionLimits.from_si(
    ACTION_SPACE,
    CONTROL_PERIOD_NS,
    unit=(1.0,) * 14,
    velocity=(*(4.0,) * 6, 50.0) * 2,  # rad/s, and 1/s
    acceleration=(*(250.0,) * 6, 5000.0) * 2,  # rad/s², and 1/s²
    jerk=(*(20_000.0,) * 6, 500_000.0) * 2,  # rad/s³, and 1/s³
)

# Chosen by looking at 96-pixel frames of both tasks: from the front one reads x and z, from above
# x and y; the arms come from the left and the right.
CAMERAS: dict[str, Camera] = {
    "front": Camera(lookat=(0.0, 0.5, 0.16), distance=0.75, azimuth=90.0, elevation=-25.0),
    "top": Camera(lookat=(0.0, 0.5, 0.10), distance=0.7, azimuth=90.0, elevation=-70.0),
}

MEASURES = (
    *(f"{side}_hand_{axis}_m" for side in SIDES for axis in "xyz"),
    "contact_force_n",
    "energy_j",
    "score",
    "missed",
)

ALOHA_SPEC = RobotSpec(
    name="tempo-aloha",
    action_space=ACTION_SPACE,
    views=(*CAMERAS, *(f"{view}-earlier" for view in CAMERAS)),
    image_size=(96, 96),
    state_names=ACTION_SPACE.names,
    control_period_ns=CONTROL_PERIOD_NS,
    limits=LIMITS,
    measures_standing=True,
    draws_captures=True,
    knows_stimulus=True,
    measures=MEASURES,
)

_START = np.array((*HOME_RAD, HOME_OPENING) * 2)
_START_SPREAD = np.array((*(0.04,) * 3, 0.0, 0.04, 0.0, 0.0) * 2)
_FURNITURE = ("vx300s_left", "vx300s_right", "table")


class AlohaScene(Protocol):
    """The things of one task between the arms: a `TempoScene` whose sub-steps last 10 ms and whose
    expert moves two arms. Made with (arms, difficulty)."""

    def place(self, stream: np.random.Generator) -> None:
        """As `TempoScene.place`."""
        ...

    def before(self, step: int) -> None:
        """Move what moves by itself during sub-step `step` (0, 1, …)."""
        ...

    def after(self, step: int) -> None:
        """Note what was reached in it."""
        ...

    @property
    def surprised(self) -> bool:
        """As `TempoScene.surprised`."""
        ...

    @property
    def score(self) -> float:
        """0 to 10 so far; never falls. Success is 9 or more."""
        ...

    @property
    def missed(self) -> int:
        """As `TempoScene.missed`."""
        ...

    def truth(self) -> np.ndarray:
        """As `TempoScene.truth`."""
        ...

    def assume(self, truth: np.ndarray) -> None:
        """As `TempoScene.assume`."""
        ...

    def act(self) -> np.ndarray:
        """(14,) what the expert commands now, not yet clipped: from the scene as it is and the
        command in force, without a memory."""
        ...


@dataclass(frozen=True)
class AlohaTask:
    """One task; attributes as of `tempo.robot.TempoTask`."""

    scene: Callable[[Arms, float], AlohaScene]
    furnish: Callable[[MjSpec], None]
    phrasings: Phrasings
    difficulty: float = 1.0
    stimulus: str = "the world changed"


class AlohaRobot:
    """One tempo task on two arms. Implements `Robot`, `StandingRobot`, `robots.truth.TruthRobot`.

    Args:
        name: of the task.
        task: what it is.
        split: which phrasings of the instruction to draw from, "train" or "heldout".
        asked: "own" or "blank".
        difficulty: > 0; None for the one that is reported.

    Attributes:
        scene: for the expert only.
        stimulus_ns: when something happened last that the robot should react to; None: not yet.

    Raises:
        ConfigError: unknown split, `asked` is "swapped", or a difficulty that is not > 0.
        RobotError: the simulator, gym-aloha or an offscreen OpenGL library is missing.
    """

    def __init__(
        self,
        name: str,
        task: AlohaTask,
        split: Split = "train",
        asked: Asked = "own",
        difficulty: float | None = None,
    ) -> None:
        check_split(split)
        check_asked(asked)
        if asked == "swapped":
            raise ConfigError(
                f"task {name!r} has one goal, so its instruction cannot be swapped: expected asked "
                "'own' or 'blank'"
            )
        difficulty = task.difficulty if difficulty is None else difficulty
        if not (np.isfinite(difficulty) and difficulty > 0):
            raise ConfigError(f"difficulty {difficulty} of task {name}: expected a number > 0")
        self._task, self._kind = name, task
        self._split: Split = split
        self._asked: Asked = asked
        self._arms = Arms(task.furnish)
        self.scene = task.scene(self._arms, difficulty)
        self._appearance = Appearance(self._arms, _FURNITURE)
        self._renderer = SceneRenderer(self._arms.model)
        self._spec = replace(ALOHA_SPEC, capture=_arrays(self._arms), stimulus=task.stimulus)
        self._poses: deque[Mapping[str, np.ndarray]] = deque(maxlen=EARLIER_SUBSTEPS + 1)
        self._episode: _Episode | None = None
        self._step = 0  # of the world; that of an assumed one goes on from the true one's
        self._force_n = 0.0  # the largest since it was measured last
        self._energy_j = 0.0
        self.stimulus_ns: int | None = None

    @property
    def spec(self) -> RobotSpec:
        return self._spec

    @property
    def task(self) -> str:
        """The name of the task."""
        return self._task

    @property
    def phrasings(self) -> Phrasings:
        return self._kind.phrasings

    @property
    def instruction(self) -> str:
        """The task in words; empty when asked for nothing."""
        seed = self._running().seed
        return "" if self._asked == "blank" else self.phrasings.choose(seed, self._split)

    @property
    def success(self) -> bool:
        self._running()
        return self.scene.score >= SUCCESS_SCORE

    def reset(self, seed: int, now_ns: int, command_duration_ns: int) -> None:
        """Start the episode `seed`: same seed, same scene, events and instruction.

        Args:
            seed: any integer ≥ 0.
            now_ns: the instant the episode starts.
            command_duration_ns: how long one command acts; 20 ms is nominal speed.

        Raises:
            ConfigError: a negative seed, or a duration shorter than its two sub-steps.
        """
        if seed < 0:
            raise ConfigError(f"episode seed {seed}: expected an integer ≥ 0")
        self._begin(seed)
        standing, arms = self._arms.joints(), self._arms
        schedule = CommandSchedule(
            ACTION_SPACE, SUBSTEPS_PER_COMMAND, now_ns, command_duration_ns, standing
        )
        timing = (now_ns, command_duration_ns)
        self._episode = _Episode(seed, layout_of(arms.model), schedule, timing, self._step)
        self.stimulus_ns = None

    def command(self, values: np.ndarray, now_ns: int) -> None:
        """Put one command (14,) in force: radians, and openings from 0 to 1; clipped to the action
        space. One that comes before its predecessor's two sub-steps are over waits for them.

        Raises:
            RobotError: not (14,), not finite, or before `reset`.
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

    def standing(self) -> np.ndarray:
        """(14,) where joints and openings are at this instant, within the action space."""
        self._running()
        return ACTION_SPACE.clip(self._arms.joints())

    def capture(self) -> Capture:
        """Freeze this instant (tens of microseconds; no rendering)."""
        layout = self._running().layout
        earlier = {_earlier(name): array for name, array in self._poses[0].items()}
        state = self._arms.joints().astype(np.float32)
        return {**layout, **pose_of(self._arms.data), **earlier, "state": state}

    def observe(self, capture: Capture) -> Frames:
        """Render both cameras at both instants. Thread-safe to everything else.

        Raises:
            RobotError: no OpenGL context could be made.
        """
        before = {**capture, **{name: capture[_earlier(name)] for name in POSE}}
        images = [
            image
            for instant in (capture, before)
            for image in self._renderer.render(
                instant, tuple(CAMERAS.values()), ALOHA_SPEC.image_size
            )
        ]
        return Frames(dict(zip(ALOHA_SPEC.views, images, strict=True)), capture["state"])

    def render_capture(
        self, capture: Capture, view: str = "front", size: tuple[int, int] = (240, 240)
    ) -> np.ndarray:
        """(height, width, 3) uint8 image of a capture, for videos made after the fact.

        Raises:
            ConfigError: unknown view.
        """
        if view not in CAMERAS:
            raise did_you_mean("view", view, CAMERAS)
        return self._renderer.render(capture, (CAMERAS[view],), size)[0]

    def measure(self) -> np.ndarray:
        """(10,) `MEASURES`."""
        self._running()
        force_n, self._force_n = self._force_n, 0.0
        tips = [self._arms.tip_m(side) for side in SIDES]
        return np.array(
            [*np.concatenate(tips), force_n, self._energy_j, self.scene.score, self.scene.missed]
        )

    def truth(self) -> np.ndarray:
        """(n,) the episode's seed, the simulator's state, commands that did not act yet, the
        sub-step, and what the scene adds."""
        episode, arms = self._running(), self._arms
        state, backlog = full_state(arms.model, arms.data), episode.schedule.backlog()
        return np.concatenate([[episode.seed], state, backlog, [self._step], self.scene.truth()])

    def assume(self, truth: np.ndarray, action_state: np.ndarray) -> int:
        """As `robots.truth.TruthRobot` says."""
        seed, arms = int(truth[0]), self._arms
        if self._episode is None or self._episode.seed != seed:
            self.reset(seed, 0, CONTROL_PERIOD_NS)
        rest = truth[1 + set_full_state(arms.model, arms.data, truth[1:]) :]
        schedule = CommandSchedule(
            ACTION_SPACE, SUBSTEPS_PER_COMMAND, 0, CONTROL_PERIOD_NS, action_state
        )
        size = len(schedule.backlog())
        self._step = int(rest[size])
        self.scene.assume(rest[size + 1 :])
        self._poses.clear()
        self._poses.append(pose_of(arms.data))
        timing = (0, CONTROL_PERIOD_NS)
        self._episode = _Episode(seed, layout_of(arms.model), schedule, timing, self._step)
        return schedule.resume(rest[:size])

    def close(self) -> None:
        self._renderer.close()

    def _begin(self, seed: int) -> None:
        layout = np.random.default_rng([seed, 0])
        self._appearance.restore()
        self._arms.reset(_START + layout.uniform(-_START_SPREAD, _START_SPREAD))
        self.scene.place(layout)
        self._appearance.dress(seed)
        self._arms.settle()
        self._step = 0
        self._poses.clear()
        self._poses.append(pose_of(self._arms.data))
        self._force_n = self._energy_j = 0.0

    def _substep(self, command: np.ndarray) -> None:
        scene, arms = self.scene, self._arms
        scene.before(self._step)
        arms.act(command)
        self._force_n = max(self._force_n, arms.contact_n())
        self._energy_j += arms.power_w() * SUBSTEP_NS / NS_PER_S
        scene.after(self._step)
        self._step += 1
        self._poses.append(pose_of(arms.data))
        if scene.surprised:
            self._surprise()

    def _surprise(self) -> None:
        """Something happened that the robot should react to; the model may have been edited."""
        episode = self._running()
        start_ns, duration_ns = episode.timing
        steps = self._step - episode.first_step
        self.stimulus_ns = start_ns + steps * duration_ns // SUBSTEPS_PER_COMMAND
        self._episode = replace(episode, layout=layout_of(self._arms.model))

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
    timing: tuple[int, int]  # start, and how long a command acts
    first_step: int


def _arrays(arms: Arms) -> tuple[ArraySpec, ...]:
    """Of a capture."""
    pose = pose_of(arms.data)
    arrays = {
        **layout_of(arms.model),
        **pose,
        **{_earlier(name): array for name, array in pose.items()},
        "state": np.zeros(ACTION_SPACE.dim, np.float32),
    }
    return tuple(ArraySpec.of(name, array) for name, array in arrays.items())


def _earlier(name: str) -> str:
    return f"earlier_{name}"
