"""The memory suite: tasks that what is seen now does not solve, and what was seen before does.

`NAME@10` is the task NAME with 10 s between cue and "go"; `NAME@delay=10,distractors=2,choices=4`
sets every dial (`scene.Dials`).
"""

from __future__ import annotations

import numpy as np

from streamvla.core.errors import ConfigError, did_you_mean
from streamvla.robots.instructions import Asked, Split
from streamvla.robots.memory import count_flashes, imitate_motion, recall_order, recall_place
from streamvla.robots.memory.robot import MemoryRobot, MemoryTask
from streamvla.robots.memory.scene import Answer, Dials
from streamvla.robots.sawyer import ACTION_SPACE, SPEC
from streamvla.robots.suite import Suite

TASKS: dict[str, MemoryTask] = {
    "count-flashes": count_flashes.TASK,
    "recall-place": recall_place.TASK,
    "recall-order": recall_order.TASK,
    "imitate-motion": imitate_motion.TASK,
}

_DIALS = {"delay": float, "distractors": int, "choices": int}


def dials_of(task: str) -> Dials:
    """What a task's name says after its "@".

    >>> dials_of("recall-place@delay=10,distractors=2")
    Dials(delay_s=10.0, distractors=2, choices=None)

    Raises:
        ConfigError: an unknown dial, one that is given twice, or a value outside its range.
    """
    _, at, text = task.partition("@")
    given: dict[str, float] = {}
    for part in text.split(",") if at else ():
        name, _, value = part.rpartition("=")
        name = name or "delay"
        if name not in _DIALS:
            raise did_you_mean(f"dial of task {task}", name, _DIALS)
        try:
            number = _DIALS[name](value)
        except ValueError:
            number = None
        if number is None or name in given:
            raise ConfigError(
                f"task {task}: {part!r} is no number of seconds, and sets no dial once; expected "
                "such as NAME@10 or NAME@delay=10,distractors=2,choices=4"
            )
        given[name] = number
    delay_s = {"delay_s": given.pop("delay")} if "delay" in given else {}
    return Dials(**delay_s, **given)  # type: ignore[arg-type]


def make_memory_robot(task: str, split: Split = "train", asked: Asked = "own") -> MemoryRobot:
    """The robot of a task, with its dials; errors as of `MemoryRobot` and `dials_of`."""
    name = task.partition("@")[0]
    if name not in TASKS:
        raise did_you_mean("task", name, TASKS)
    return MemoryRobot(task, TASKS[name], split, asked, dials_of(task))


def _instructions(task: str) -> tuple[str, ...]:
    return TASKS[task.partition("@")[0]].phrasings.train


def _longest_s(task: str) -> float:
    return TASKS[task.partition("@")[0]].longest_s(dials_of(task))


class MemoryExpert:
    """Waits for "go", and gives the answer: the episode's, which it knows, or any other.

    Args:
        robot: whose task it is.
        answer: what it believes in; None: what the cue tells.
    """

    def __init__(self, robot: MemoryRobot, answer: Answer | None = None) -> None:
        self._robot = robot
        self._answer = answer

    def act(self) -> np.ndarray:
        """(4,) the clean action, clipped to ±1."""
        return ACTION_SPACE.clip(self._robot.act(self._answer or self._robot.answer))


MEMORY = Suite(
    name="memory",
    spec=SPEC,
    tasks=tuple(TASKS),
    make=make_memory_robot,
    instructions=_instructions,
    expert=MemoryExpert,
    dial=True,
    seconds=_longest_s,
)
