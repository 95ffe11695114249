"""Robots by name."""

from __future__ import annotations

from streamvla.core.errors import did_you_mean
from streamvla.core.interfaces import Robot
from streamvla.robots.instructions import Split
from streamvla.robots.metaworld import TASKS, MetaWorldRobot
from streamvla.robots.point import PointRobot

POINT = "point"


def task_names() -> tuple[str, ...]:
    """Every name `make_robot` knows: the Meta-World tasks, then the point."""
    return (*TASKS, POINT)


def make_robot(task: str, split: Split = "train") -> Robot:
    """The robot of a task; `reset` it before use and `close` it after.

    Args:
        task: one of `task_names()`.
        split: which instructions to draw from, "train" or "heldout"; the point has only one.

    Raises:
        ConfigError: unknown task or split.
        RobotError: the simulator or an offscreen OpenGL library is missing.
    """
    if task == POINT:
        return PointRobot()
    if task not in TASKS:
        raise did_you_mean("task", task, task_names())
    return MetaWorldRobot(task, split)
