"""A robot with its suite and its expert: a point on a table goes to the dot that it is asked for.

Commands are places, not steps: both dimensions are absolute, and the point stands somewhere when an
episode begins. So the robot measures where it stands. Nobody tells where the dots are: pictures do.
"""

from __future__ import annotations

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import ConfigError, RobotError
from streamvla.core.interfaces import ArraySpec, Capture, Frames, RobotSpec
from streamvla.core.limits import MotionLimits
from streamvla.robots.instructions import Asked, Phrasings, Split, check_asked, check_split
from streamvla.robots.schedule import CommandSchedule
from streamvla.robots.suite import Suite

PERIOD_NS = 50_000_000
SPEED_M = 0.08
"""How far the point can go in one command."""
NEAR_M = 0.06
SPACE = ActionSpace(("x_m", "y_m"), ("absolute", "absolute"), (0.0, 0.0), (1.0, 1.0))
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0)}
SPEC = RobotSpec(
    name="dots",
    action_space=SPACE,
    views=("top",),
    image_size=(32, 32),
    state_names=("x_m", "y_m"),
    control_period_ns=PERIOD_NS,
    limits=MotionLimits.from_si(
        SPACE,
        PERIOD_NS,
        unit=(1.0, 1.0),
        velocity=(3.2, 3.2),  # m/s
        acceleration=(60.0, 60.0),  # m/s²
        jerk=(2400.0, 2400.0),  # m/s³
    ),
    capture=tuple(ArraySpec(name, (2,)) for name in (*COLOURS, "point")),
    measures_standing=True,
)
SAID = {
    colour: Phrasings((f"go to the {colour} dot", f"{colour} dot"), (f"reach {colour}",))
    for colour in COLOURS
}


class Dots:
    """Implements `TaskRobot`.

    Args:
        split: which phrasings of the instruction to draw from.
        asked: the episode's own dot, the other one ("swapped"), or nothing ("blank").
    """

    task = "go-to-dot"

    def __init__(self, split: Split = "train", asked: Asked = "own") -> None:
        check_split(split)
        check_asked(asked)
        self._split: Split = split
        self._asked = asked
        self._schedule: CommandSchedule | None = None
        self._seed = 0
        self.success = False

    @property
    def spec(self) -> RobotSpec:
        return SPEC

    def reset(self, seed: int, now_ns: int, command_duration_ns: int) -> None:
        if seed < 0:
            raise ConfigError(f"episode seed {seed}: expected an integer ≥ 0")
        stream = np.random.default_rng(seed)
        self._point, *dots = stream.uniform(0.1, 0.9, (3, 2))
        self._dots = dict(zip(COLOURS, dots, strict=True))
        self._schedule = CommandSchedule(SPACE, 1, now_ns, command_duration_ns, self._point)
        self._seed, self.success = seed, False

    @property
    def goal(self) -> str:
        """The colour that is asked for."""
        other = self._asked == "swapped"
        return list(COLOURS)[(self._seed + other) % 2]

    @property
    def phrasings(self) -> Phrasings:
        return SAID[self.goal]

    @property
    def instruction(self) -> str:
        if self._asked == "blank":
            return ""
        return self.phrasings.choose(self._seed, self._split)

    def standing(self) -> np.ndarray:
        """(2,) metres: where the point is."""
        return self._point

    def to_goal_m(self) -> np.ndarray:
        """(2,) metres from the point to the dot that is asked for: for the expert alone."""
        return self._dots[self.goal] - self._point

    def command(self, values: np.ndarray, now_ns: int) -> None:
        self.advance_to(now_ns)
        self._running().put(values)

    def advance_to(self, now_ns: int) -> None:
        for target in self._running().due(now_ns):
            self._point = self._point + np.clip(target - self._point, -SPEED_M, SPEED_M)
            self.success |= bool(np.linalg.norm(self.to_goal_m()) < NEAR_M)

    def capture(self) -> Capture:
        self._running()
        return {**self._dots, "point": self._point}

    def observe(self, capture: Capture) -> Frames:
        image = np.zeros((32, 32, 3), np.uint8)
        for name in ("point", *COLOURS):  # a dot is seen on the point, too
            row, column = (capture[name] * 28).astype(int)
            image[row : row + 4, column : column + 4] = COLOURS.get(name, 255)
        return Frames({"top": image}, capture["point"].astype(np.float32))

    def close(self) -> None:
        self._schedule = None

    def _running(self) -> CommandSchedule:
        if self._schedule is None:
            raise RobotError("the robot has no episode yet: call reset(seed, …) first")
        return self._schedule


class DotsExpert:
    """Straight to the dot, as fast as the point can."""

    def __init__(self, robot: Dots) -> None:
        self._robot = robot

    def act(self) -> np.ndarray:
        """(2,) metres: where to be next."""
        step = np.clip(self._robot.to_goal_m(), -SPEED_M, SPEED_M)
        return SPACE.clip(self._robot.standing() + step)


def make_table() -> Dots:
    """The robot alone, for who has no use for tasks."""
    return Dots()


def _make(task: str, split: Split, asked: Asked) -> Dots:
    return Dots(split, asked)


def _instructions(task: str) -> tuple[str, ...]:
    return tuple(text for said in SAID.values() for text in said.train)


DOTS = Suite(
    name="dots",
    spec=SPEC,
    tasks=(Dots.task,),
    make=_make,
    instructions=_instructions,
    expert=DotsExpert,
    policy="dots:follow",
)
