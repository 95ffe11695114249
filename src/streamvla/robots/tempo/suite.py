"""The tempo suite: tasks whose world moves on while the model thinks.

`NAME@1.5` is the task NAME at difficulty 1.5: faster, or with less tolerance.
"""

from __future__ import annotations

import numpy as np

from streamvla.core.errors import ConfigError
from streamvla.robots.instructions import Asked, Split
from streamvla.robots.sawyer import ACTION_SPACE
from streamvla.robots.suite import Suite, TaskRobot
from streamvla.robots.tempo import follow, peg, pole
from streamvla.robots.tempo.robot import ARM_SPEC, TempoRobot, TempoTask

ARM_TASKS: dict[str, TempoTask] = {
    "follow-moving-target": follow.TASK,
    "insert-peg": peg.TASK,
    "balance-pole": pole.TASK,
}


def _named(task: str) -> tuple[str, float | None]:
    """Name and difficulty; None for the one that is reported."""
    name, at, number = task.partition("@")
    try:
        return name, float(number) if at else None
    except ValueError:
        raise ConfigError(
            f"task {task}: {number!r} is no difficulty; expected a number, as in {name}@1.5"
        ) from None


def _make(task: str, split: Split, asked: Asked) -> TaskRobot:
    name, difficulty = _named(task)
    return TempoRobot(name, ARM_TASKS[name], split, asked, difficulty)


def _instructions(task: str) -> tuple[str, ...]:
    return ARM_TASKS[_named(task)[0]].phrasings.train


class ArmExpert:
    """The expert of a task on the arm: its scene's."""

    def __init__(self, robot: TempoRobot) -> None:
        self._robot = robot

    def act(self) -> np.ndarray:
        """(4,) the clean action, clipped to the action space."""
        return ACTION_SPACE.clip(self._robot.scene.act())


TEMPO = Suite(
    name="tempo",
    spec=ARM_SPEC,
    tasks=tuple(ARM_TASKS),
    make=_make,
    instructions=_instructions,
    expert=ArmExpert,
    dial=True,
)
