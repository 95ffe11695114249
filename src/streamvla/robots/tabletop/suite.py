"""The language scenes as a suite."""

from __future__ import annotations

from streamvla.robots.sawyer import SPEC
from streamvla.robots.suite import Suite
from streamvla.robots.tabletop.experts import TabletopExpert
from streamvla.robots.tabletop.robot import FAMILIES, TabletopRobot


def _instructions(task: str) -> tuple[str, ...]:
    said = FAMILIES[task].phrasings.values()
    return tuple(text for phrasings in said for text in phrasings.train)


LANGUAGE = Suite(
    name="language",
    spec=SPEC,
    tasks=tuple(FAMILIES),
    make=TabletopRobot,
    instructions=_instructions,
    expert=TabletopExpert,
    policy="shipped",
)
