"""LIBERO (arXiv 2306.03310), where it is installed: `pip install streamvla[libero]`.

A task is called after its suite and its place in it, in LIBERO's order: "libero-object-3". LIBERO
ships no expert, and no policy of ours is trained on it: name one with `--policy`.
"""

from __future__ import annotations

from functools import partial

from streamvla.robots.instructions import Asked, Split
from streamvla.robots.libero.package import REMEDY, language_of, task_titles
from streamvla.robots.libero.robot import SPEC, LiberoRobot
from streamvla.robots.suite import Suite, TaskRobot, join


def _make(suite: str, task: str, split: Split, asked: Asked) -> TaskRobot:
    return LiberoRobot(task, suite, _index(task), split, asked)


def _instructions(suite: str, task: str) -> tuple[str, ...]:
    return (language_of(task_titles(suite)[_index(task)]),)


def _index(task: str) -> int:
    return int(task.rpartition("-")[2])


def _suite(suite: str) -> Suite:
    name = suite.replace("_", "-")
    return Suite(
        name=name,
        spec=SPEC,
        tasks=tuple(f"{name}-{index}" for index in range(len(task_titles(suite)))),
        make=partial(_make, suite),
        instructions=partial(_instructions, suite),
        remedy=REMEDY,
    )


SPATIAL = _suite("libero_spatial")
OBJECT = _suite("libero_object")
GOAL = _suite("libero_goal")
LONG = _suite("libero_10")
NINETY = _suite("libero_90")

LIBERO = join("libero", SPATIAL, OBJECT, GOAL, LONG)
"""The four suites of ten tasks that are usually reported."""
