"""Independent paraphrases of what the language scenes ask for.

`paraphrases.json` was written from a description of each scene, without sight of the training and
held-out phrasings; those that happened to be a training phrasing were left out. Colours and sides
are named by the same words as in training, all other words are free.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

from streamvla.robots.tabletop.scene import Family

_LEVELS = {"upper": ("upper", "top"), "lower": ("lower", "bottom")}


def paraphrased(name: str, family: Family) -> Family:
    """The family with the independent paraphrases of every goal it can have."""
    phrasings = {
        goal: replace(said, independent=_filled(_templates()[name], goal))
        for goal, said in family.phrasings.items()
    }
    return replace(family, phrasings=phrasings)


@cache
def _templates() -> dict[str, list[str]]:
    path = Path(__file__).with_name("paraphrases.json")
    return json.loads(path.read_text(encoding="utf-8"))


def _filled(templates: list[str], goal: str) -> tuple[str, ...]:
    """`red-left` fills {colour} and {way} or {side}; a drawer's two names take turns in {level}."""
    first, _, side = goal.partition("-")
    names = _LEVELS.get(goal, (goal,))
    return tuple(
        template.format(colour=first, way=side, side=side, level=names[index % len(names)])
        for index, template in enumerate(templates)
    )
