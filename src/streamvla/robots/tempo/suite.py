"""The tempo suite: tasks whose world moves on while the model thinks.

`NAME@1.5` is the task NAME at difficulty 1.5: faster, or with less tolerance.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np

from streamvla.core.errors import ConfigError
from streamvla.robots.instructions import Asked, Split
from streamvla.robots.suite import Suite, TaskRobot
from streamvla.robots.tempo import ball, conveyor, follow, lit_buttons, peg, pole
from streamvla.robots.tempo.aloha import meet, transfer
from streamvla.robots.tempo.aloha.robot import ALOHA_SPEC, AlohaRobot, AlohaTask
from streamvla.robots.tempo.robot import ARM_SPEC, TempoRobot, TempoTask

ARM_TASKS: dict[str, TempoTask] = {
    "pick-from-conveyor": conveyor.TASK,
    "follow-moving-target": follow.TASK,
    "press-lit-button": lit_buttons.TASK,
    "intercept-rolling-ball": ball.TASK,
    "insert-peg": peg.TASK,
    "balance-pole": pole.TASK,
}

ALOHA_TASKS: dict[str, AlohaTask] = {
    "transfer-cube": transfer.TASK,
    "meet-in-time": meet.TASK,
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
    if name in ALOHA_TASKS:
        return AlohaRobot(name, ALOHA_TASKS[name], split, asked, difficulty)
    return TempoRobot(name, ARM_TASKS[name], split, asked, difficulty)


def _instructions(task: str) -> tuple[str, ...]:
    name, _ = _named(task)
    return {**ARM_TASKS, **ALOHA_TASKS}[name].phrasings.train


class ActingScene(Protocol):
    """What a task's scene does for the expert."""

    def act(self) -> np.ndarray: ...


class SceneRobot(TaskRobot, Protocol):
    """A robot of a tempo task, on whichever arms."""

    @property
    def scene(self) -> ActingScene: ...


class SceneExpert:
    """The expert of a task: its scene's."""

    def __init__(self, robot: SceneRobot) -> None:
        self._robot = robot

    def act(self) -> np.ndarray:
        """(d,) the clean action, clipped to the action space."""
        return self._robot.spec.action_space.clip(self._robot.scene.act())


TEMPO_ARM = Suite(
    name="tempo-arm",
    spec=ARM_SPEC,
    tasks=tuple(ARM_TASKS),
    make=_make,
    instructions=_instructions,
    expert=SceneExpert,
    dial=True,
)

TEMPO_ALOHA = Suite(
    name="tempo-aloha",
    spec=ALOHA_SPEC,
    tasks=tuple(ALOHA_TASKS),
    make=_make,
    instructions=_instructions,
    expert=SceneExpert,
    dial=True,
)

TEMPO = replace(
    TEMPO_ARM,
    name="tempo",
    tasks=(*TEMPO_ARM.tasks, *TEMPO_ALOHA.tasks),
    parts=(TEMPO_ARM.name, TEMPO_ALOHA.name),
    other_robots=dict.fromkeys(ALOHA_TASKS, ALOHA_SPEC),
)
