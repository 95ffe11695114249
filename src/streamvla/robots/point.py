"""A point on a table: the smallest robot with a picture, for tests and fast simulations.

Two delta dimensions move the point, one absolute dimension opens its gripper; a green dot is the
goal. No simulator, no OpenGL: NumPy draws 32 × 32 pixels in microseconds. With its expert and its
suite it is also an example of a robot in one file.
"""

from __future__ import annotations

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.clock import ms_to_ns
from streamvla.core.errors import ConfigError, RobotError
from streamvla.core.interfaces import ArraySpec, Capture, Frames, RobotSpec
from streamvla.core.limits import MotionLimits
from streamvla.robots.instructions import Asked, Phrasings, Split, check_asked, check_split
from streamvla.robots.jump import GoalJump, farthest
from streamvla.robots.schedule import CommandSchedule
from streamvla.robots.suite import Suite

SUBSTEPS_PER_COMMAND = 4
REACH_M = 0.05
"""How far the point moves in one command of 1."""
SUCCESS_RADIUS_M = 0.05

ACTION_SPACE = ActionSpace(
    names=("dx", "dy", "gripper"),
    kinds=("delta", "delta", "absolute"),
    low=(-1.0, -1.0, -1.0),
    high=(1.0, 1.0, 1.0),
)
CONTROL_PERIOD_NS = ms_to_ns(50)

SPEC = RobotSpec(
    name="point",
    action_space=ACTION_SPACE,
    views=("top",),
    image_size=(32, 32),
    state_names=("x_m", "y_m", "gripper"),
    control_period_ns=CONTROL_PERIOD_NS,
    limits=MotionLimits.from_si(
        ACTION_SPACE,
        CONTROL_PERIOD_NS,
        unit=(REACH_M, REACH_M, 1.0),
        velocity=(1.0, 1.0, 40.0),  # m/s, and 1/s
        acceleration=(5.0, 5.0, 1600.0),  # m/s², and 1/s²
        jerk=(80.0, 80.0, 64_000.0),  # m/s³, and 1/s³
    ),
    capture=(ArraySpec("position", (2,)), ArraySpec("goal", (2,)), ArraySpec("gripper", (1,))),
    place_names=("goal_x_m", "goal_y_m"),
    start=(0.0, 0.0, 0.0),
    knows_stimulus=True,
)

TASK, MOVED = "point", "point-moved"
PHRASINGS = Phrasings(("move to the green dot",), ("go to the green spot",))


class PointRobot:
    """A point in the unit square (metres) that should reach a dot. Implements `Robot`.

    Args:
        moved: the dot is moved once in the middle of the episode, and only then counts.
        split: which phrasing of the instruction, "train" or "heldout".
        asked: "own", or "blank" for no instruction.

    Attributes:
        stimulus_ns: when the dot was moved; None: not yet, or never.
    """

    def __init__(
        self, *, moved: bool = False, split: Split = "train", asked: Asked = "own"
    ) -> None:
        check_split(split)
        check_asked(asked)
        if asked == "swapped":
            raise ConfigError(
                "the point has one goal, so no other can be asked for: expected 'own'"
            )
        self._instruction = "" if asked == "blank" else PHRASINGS.of(split)[0]
        self.stimulus_ns: int | None = None
        self._moved = moved
        self._jump: GoalJump | None = None
        self._steps = 0
        self._schedule: CommandSchedule | None = None
        self._position = np.zeros(2)
        self._goal = np.zeros(2)
        self._gripper = 0.0
        self._success = False

    @property
    def spec(self) -> RobotSpec:
        return SPEC

    @property
    def task(self) -> str:
        return MOVED if self._moved else TASK

    @property
    def phrasings(self) -> Phrasings:
        return PHRASINGS

    @property
    def instruction(self) -> str:
        return self._instruction

    @property
    def success(self) -> bool:
        return self._success

    def reset(self, seed: int, now_ns: int, command_duration_ns: int) -> None:
        """Start the episode `seed`: point and goal are drawn from it.

        Raises:
            ConfigError: a negative seed, or a duration shorter than its four sub-steps.
        """
        if seed < 0:
            raise ConfigError(f"episode seed {seed}: expected an integer ≥ 0")
        self._schedule = CommandSchedule(
            SPEC.action_space, SUBSTEPS_PER_COMMAND, now_ns, command_duration_ns
        )
        stream = np.random.default_rng(seed)
        self._position, self._goal = stream.uniform(0.1, 0.9, size=(2, 2))
        self._gripper = 0.0
        self._success = False
        self._steps, self.stimulus_ns = 0, None
        self._jump = (
            GoalJump.draw(seed, now_ns, command_duration_ns, SUBSTEPS_PER_COMMAND)
            if self._moved
            else None
        )

    def command(self, values: np.ndarray, now_ns: int) -> None:
        """Put one command (3,) in force for the next four sub-steps.

        Raises:
            RobotError: not (3,), not finite, or before `reset`.
        """
        self.advance_to(now_ns)
        self._running().put(values)

    def advance_to(self, now_ns: int) -> None:
        """Run the sub-steps that end at or before `now_ns`.

        Raises:
            RobotError: before `reset`, or `now_ns` lies before an earlier call's.
        """
        for command in self._running().due(now_ns):
            step = command[:2] * REACH_M / SUBSTEPS_PER_COMMAND
            self._position = np.clip(self._position + step, 0.0, 1.0)
            self._gripper = float(command[2])
            distance = np.linalg.norm(self._position - self._goal)
            reached = bool(distance <= SUCCESS_RADIUS_M) and self._jump is None
            self._success = self._success or reached
            self._steps += 1
            if self._jump is not None and self._steps == self._jump.step:
                self._move_goal(self._jump)

    def _move_goal(self, jump: GoalJump) -> None:
        candidates = jump.stream.uniform(0.1, 0.9, size=(8, 2))
        self._goal = farthest(self._goal, candidates)
        self.stimulus_ns, self._jump = jump.instant_ns, None

    def places(self) -> np.ndarray:
        """(2,) metres: where the dot is."""
        return self._goal.copy()

    def towards_goal_m(self) -> np.ndarray:
        """(2,) metres from the point to the dot: for the expert only."""
        return self._goal - self._position

    def truth(self) -> np.ndarray:
        """(14,) point and goal, metres; gripper; whether the goal was reached; and commands that
        did not act yet."""
        backlog = self._running().backlog()
        now = [*self._position, *self._goal, self._gripper, self._success]
        return np.array([*now, *backlog], np.float64)

    def assume(self, truth: np.ndarray, action_state: np.ndarray) -> int:
        """As `robots.truth.TruthRobot` says; a goal that would be moved stays where it is."""
        self._schedule = CommandSchedule(
            SPEC.action_space, SUBSTEPS_PER_COMMAND, 0, CONTROL_PERIOD_NS, action_state
        )
        self._position, self._goal = np.array(truth[0:2]), np.array(truth[2:4])
        self._gripper, self._success = float(truth[4]), bool(truth[5])
        self._steps, self.stimulus_ns, self._jump = 0, None, None
        return self._schedule.resume(truth[6:])

    def capture(self) -> Capture:
        """Point and goal (2,) metres within the unit square, and the gripper (1,)."""
        self._running()
        gripper = np.array([self._gripper])
        return {"position": self._position.copy(), "goal": self._goal.copy(), "gripper": gripper}

    def observe(self, capture: Capture) -> Frames:
        """Draw a capture; a pure function of it."""
        gripper = float(capture["gripper"][0])
        image = np.full((*SPEC.image_size, 3), 40, dtype=np.uint8)
        _draw_dot(image, capture["goal"], (0, 255, 0))
        _draw_dot(image, capture["position"], (255, round(127 * (1 + gripper)), 0))
        state = np.array([*capture["position"], gripper], dtype=np.float32)
        return Frames(images={"top": image}, state=state)

    def close(self) -> None:
        self._schedule = None

    def _running(self) -> CommandSchedule:
        if self._schedule is None:
            raise RobotError("the robot has no episode yet: call reset(seed, …) first")
        return self._schedule


def _draw_dot(image: np.ndarray, position: np.ndarray, colour: tuple[int, int, int]) -> None:
    """A 3 × 3 pixel dot; x goes right, y goes up."""
    height, width = image.shape[:2]
    column = round(float(position[0]) * (width - 1))
    row = round((1.0 - float(position[1])) * (height - 1))
    image[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = colour


class PointExpert:
    """Straight to the dot, gripper open."""

    def __init__(self, robot: PointRobot) -> None:
        self._robot = robot

    def act(self) -> np.ndarray:
        """(3,) the clean action, clipped to ±1."""
        return ACTION_SPACE.clip(np.array([*self._robot.towards_goal_m() / REACH_M, 0.0]))


def _make(task: str, split: Split, asked: Asked) -> PointRobot:
    return PointRobot(moved=task == MOVED, split=split, asked=asked)


POINT = Suite(
    name="point",
    spec=SPEC,
    tasks=(TASK,),
    make=_make,
    instructions=lambda task: PHRASINGS.train,
    expert=PointExpert,
    variants=(MOVED,),
)
