"""Robots by task name, and tasks by suite."""

from __future__ import annotations

from typing import Literal

from streamvla.core.errors import ConfigError, did_you_mean
from streamvla.core.interfaces import Robot
from streamvla.robots.instructions import Asked, Split
from streamvla.robots.metaworld.robot import REACH, MetaWorldRobot
from streamvla.robots.metaworld.tasks import TASKS
from streamvla.robots.point import PointRobot
from streamvla.robots.sawyer import SawyerRobot
from streamvla.robots.tabletop.robot import FAMILIES, TabletopRobot

POINT = "point"
MOVED = "-moved"
"""Behind a task's name: its goal is moved in the middle of the episode."""

Suite = Literal["metaworld", "language", "all"]

SUITES: dict[str, tuple[str, ...]] = {
    "metaworld": tuple(TASKS),
    "language": tuple(FAMILIES),
    "all": (*TASKS, *FAMILIES),
}
"""One arm, one spec: one policy drives every task of every suite."""


def suite_tasks(name: str) -> tuple[str, ...]:
    """The tasks of a suite.

    Raises:
        ConfigError: unknown suite.
    """
    if name not in SUITES:
        raise did_you_mean("suite", name, SUITES)
    return SUITES[name]


def task_names() -> tuple[str, ...]:
    """Every name `make_robot` knows: the tasks of all suites, the point, and moved goals."""
    return (*SUITES["all"], POINT, POINT + MOVED, REACH + MOVED)


def training_instructions(task: str) -> tuple[str, ...]:
    """All training phrasings of a task of a suite, over all the goals it can have.

    Raises:
        ConfigError: the task is in no suite.
    """
    if task in TASKS:
        return TASKS[task].phrasings.train
    if task in FAMILIES:
        said = FAMILIES[task].phrasings.values()
        return tuple(text for phrasings in said for text in phrasings.train)
    raise did_you_mean("task", task, SUITES["all"])


def make_robot(task: str, split: Split = "train", asked: Asked = "own") -> Robot:
    """The robot of a task; `reset` it before use and `close` it after.

    Args:
        task: one of `task_names()`.
        split: which instructions to draw from, "train", "heldout" or, of language scenes,
            "independent"; the point has only one.
        asked: the episode's own goal, another goal of the same scene ("swapped", language scenes
            only), or nothing ("blank").

    Raises:
        ConfigError: unknown task or split, or a task that cannot be asked so.
        RobotError: the simulator or an offscreen OpenGL library is missing.
    """
    if task in (POINT, POINT + MOVED):
        if asked != "own":
            raise ConfigError(f"asked {asked!r}: the point has one instruction, expected 'own'")
        return PointRobot(moved=task != POINT)
    if task == REACH + MOVED:
        return MetaWorldRobot(REACH, split, asked, moved=True)
    return make_sawyer(task, split, asked)


def make_sawyer(task: str, split: Split = "train", asked: Asked = "own") -> SawyerRobot:
    """The robot of a task of a suite; arguments and errors as for `make_robot`."""
    if task in TASKS:
        return MetaWorldRobot(task, split, asked)
    if task in FAMILIES:
        return TabletopRobot(task, split, asked)
    raise did_you_mean("task", task, task_names())
