"""The Meta-World tasks as a suite."""

from __future__ import annotations

from streamvla.robots.instructions import Asked, Split
from streamvla.robots.metaworld.expert import MetaWorldExpert
from streamvla.robots.metaworld.robot import REACH, MetaWorldRobot
from streamvla.robots.metaworld.tasks import TASKS
from streamvla.robots.sawyer import SPEC
from streamvla.robots.suite import Suite

REACH_MOVED = "reach-moved"
"""Reach, with a goal that is moved in the middle of the episode."""


def _make(task: str, split: Split, asked: Asked) -> MetaWorldRobot:
    if task == REACH_MOVED:
        return MetaWorldRobot(REACH, split, asked, moved=True)
    return MetaWorldRobot(task, split, asked)


def _instructions(task: str) -> tuple[str, ...]:
    return TASKS[REACH if task == REACH_MOVED else task].phrasings.train


METAWORLD = Suite(
    name="metaworld",
    spec=SPEC,
    tasks=tuple(TASKS),
    make=_make,
    instructions=_instructions,
    expert=MetaWorldExpert,
    policy="shipped",
    variants=(REACH_MOVED,),
)
