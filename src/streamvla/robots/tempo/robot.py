"""A tempo task on the arm as a robot: the world runs while the model thinks.

Two instants a capture, so that speed can be seen: `side` and `front` show the world at the capture,
`side-earlier` and `front-earlier` 100 ms before it.

The seed chooses the appearance, ten trials in turn as ManipArena (arXiv 2603.28545) has them:

    seed mod 10    0 1 2 3      4 5 6 7      8 9
    appearance     in domain    shifted      out of domain
                   as built     light and    light, and other colours of
                                a tint       arm and table
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from streamvla.core.clock import NS_PER_S
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import Capture, Frames
from streamvla.robots.instructions import Asked, Phrasings, Split
from streamvla.robots.rendering import POSE, pose_of
from streamvla.robots.sawyer import CAMERAS, SPEC, SUBSTEPS_PER_COMMAND, SawyerRobot
from streamvla.robots.tabletop.arm import Arm
from streamvla.robots.tabletop.scene import HAND_START_HIGH_M, HAND_START_LOW_M, MjSpec
from streamvla.robots.tempo.appearance import Appearance
from streamvla.robots.tempo.forces import ArmForces
from streamvla.robots.tempo.scene import SUBSTEP_NS, SUCCESS_SCORE, TempoScene

EARLIER_SUBSTEPS = 8
"""The earlier views are so many sub-steps old: 100 ms."""

MEASURES = (
    "hand_x_m",
    "hand_y_m",
    "hand_z_m",
    "contact_force_n",
    "energy_j",
    "score",
    "missed",
)

ARM_SPEC = replace(
    SPEC,
    name="tempo-arm",
    views=(*CAMERAS, *(f"{view}-earlier" for view in CAMERAS)),
    measures=MEASURES,
    knows_stimulus=True,
    gaze=None,  # its earlier views show where the hand was, which the state does not tell
)


@dataclass(frozen=True)
class TempoTask:
    """One task.

    Attributes:
        scene: makes its scene from (arm, difficulty).
        furnish: the scene's own.
        phrasings: of its instruction.
        difficulty: the one that is reported; 1 is nominal speed and tolerance, more is harder.
        stimulus: what the robot should react to, in words.
        start_m: (3,) and (3,), between which the hand starts.
    """

    scene: Callable[[Arm, float], TempoScene]
    furnish: Callable[[MjSpec], None]
    phrasings: Phrasings
    difficulty: float = 1.0
    stimulus: str = "the world changed"
    start_m: tuple[tuple[float, float, float], tuple[float, float, float]] = (
        HAND_START_LOW_M,
        HAND_START_HIGH_M,
    )


class TempoRobot(SawyerRobot):
    """One tempo task on the arm. Implements `Robot`, `robots.truth.TruthRobot`.

    Args:
        name: of the task.
        task: what it is.
        split: which phrasings of the instruction to draw from, "train" or "heldout".
        asked: "own" or "blank".
        difficulty: > 0; None for the one that is reported.

    Raises:
        ConfigError: unknown split, `asked` is "swapped", or a difficulty that is not > 0.
        RobotError: the simulator or an offscreen OpenGL library is missing.
    """

    def __init__(
        self,
        name: str,
        task: TempoTask,
        split: Split = "train",
        asked: Asked = "own",
        difficulty: float | None = None,
    ) -> None:
        if asked == "swapped":
            raise ConfigError(
                f"task {name!r} has one goal, so its instruction cannot be swapped: expected asked "
                "'own' or 'blank'"
            )
        difficulty = task.difficulty if difficulty is None else difficulty
        if not (np.isfinite(difficulty) and difficulty > 0):
            raise ConfigError(f"difficulty {difficulty} of task {name}: expected a number > 0")
        self._kind = task
        self._arm = Arm(task.furnish)
        self._scene = task.scene(self._arm, difficulty)
        super().__init__(name, self._arm.model, self._arm.data, split, asked)
        earlier = tuple(
            replace(array, name=_earlier(array.name))
            for array in self._spec.capture
            if array.name in POSE
        )
        self._spec = replace(
            ARM_SPEC, capture=(*self._spec.capture, *earlier), stimulus=task.stimulus
        )
        self._appearance = Appearance(self._arm)
        self._forces = ArmForces(self._arm)
        self._poses: deque[Mapping[str, np.ndarray]] = deque(maxlen=EARLIER_SUBSTEPS + 1)
        self._force_n = 0.0  # the largest since it was measured last
        self._energy_j = 0.0
        self._timing = (0, 1)  # of the episode: start, and how long a command acts
        self._step = 0  # of the world; that of an assumed one goes on from the true one's

    @property
    def phrasings(self) -> Phrasings:
        return self._kind.phrasings

    @property
    def success(self) -> bool:
        self._running()
        return self._scene.score >= SUCCESS_SCORE

    @property
    def scene(self) -> TempoScene:
        """For the expert only."""
        return self._scene

    def places(self) -> np.ndarray:
        thing, target = self._scene.places_m()
        return np.concatenate([thing, np.zeros(3), target])

    def measure(self) -> np.ndarray:
        """(7,) `MEASURES`."""
        self._running()
        force_n, self._force_n = self._force_n, 0.0
        scene = self._scene
        return np.array([*self._arm.hand_m, force_n, self._energy_j, scene.score, scene.missed])

    def reset(self, seed: int, now_ns: int, command_duration_ns: int) -> None:
        self._timing = (now_ns, command_duration_ns)
        super().reset(seed, now_ns, command_duration_ns)

    def capture(self) -> Capture:
        now = super().capture()
        return {**now, **{_earlier(name): array for name, array in self._poses[0].items()}}

    def observe(self, capture: Capture) -> Frames:
        """Render both cameras at both instants.

        Raises:
            RobotError: no OpenGL context could be made.
        """
        now = super().observe(capture)
        before = {**capture, **{name: capture[_earlier(name)] for name in POSE}}
        then = super().observe(before).images
        return replace(
            now, images={**now.images, **{f"{view}-earlier": then[view] for view in then}}
        )

    def _begin(self, seed: int) -> None:
        layout = np.random.default_rng([seed, 0])
        self._appearance.restore()
        self._arm.reset()
        self._scene.place(layout)
        self._appearance.dress(seed)
        self._arm.settle(layout.uniform(*self._kind.start_m))
        self._step = 0
        self._poses.clear()
        self._poses.append(pose_of(self._arm.data))
        self._force_n = self._energy_j = 0.0

    def _substep(self, command: np.ndarray) -> None:
        scene, arm = self._scene, self._arm
        scene.before(self._step)
        arm.act(command)
        force_n = self._forces.contact_n()
        self._force_n = max(self._force_n, force_n)
        self._energy_j += self._forces.power_w() * SUBSTEP_NS / NS_PER_S
        scene.after(self._step, force_n)
        self._step += 1
        self._poses.append(pose_of(arm.data))
        if scene.surprised:
            start_ns, duration_ns = self._timing
            instant_ns = start_ns + (self._steps + 1) * duration_ns // SUBSTEPS_PER_COMMAND
            self._surprise(instant_ns)

    def _measured(self) -> np.ndarray:
        return np.array([*self._arm.hand_m, self._arm.opening])

    def _scene_truth(self) -> np.ndarray:
        return np.array([self._step, *self._scene.truth()], dtype=np.float64)

    def _assume_scene(self, truth: np.ndarray) -> None:
        self._step = int(truth[0])
        self._scene.assume(truth[1:])
        self._poses.clear()
        self._poses.append(pose_of(self._arm.data))


def _earlier(name: str) -> str:
    return f"earlier_{name}"
