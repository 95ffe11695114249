"""The Meta-World tasks: how each is shown, and what it is called in words (`tasks.toml`).

Every task is there that Meta-World's scripted expert solves at least nine times in ten within 120
commands at 20 Hz (10 seeds; 50 where it failed once or twice). Left out, with the share solved:
bin-picking 3/10, hammer 36/50, handle-pull-side 4/10, lever-pull 36/50, shelf-place 43/50, soccer
39/50, stick-pull 7/10 and sweep-into 41/50. Meta-World ships no instruction strings, so we wrote
these.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamvla.robots.instructions import Phrasings

Colour = tuple[float, float, float, float]
GREEN: Colour = (0.0, 1.0, 0.0, 1.0)
BLUE: Colour = (0.1, 0.3, 1.0, 1.0)
HIDDEN: Colour = (0.0, 0.0, 0.0, 0.0)
_COLOURS = {"green": GREEN, "blue": BLUE}


@dataclass(frozen=True)
class MetaWorldTask:
    """One task.

    Attributes:
        name: our name; Meta-World's is `name-v3`.
        phrasings: what it is called in words.
        goal_marker: the site to show as a green ball of 3 cm radius, where the goal is. Stock
            Meta-World shows it 2 cm small and red like the arm: two pixels. None where the scene
            itself says what to do (a drawer, a button).
        recolour: geom name → colour of its whole body, for objects that do not stand out from the
            table (brown or dark red on brown in 96 pixels).
    """

    name: str
    phrasings: Phrasings
    goal_marker: str | None = None
    recolour: Mapping[str, Colour] = field(default_factory=dict)

    @property
    def environment(self) -> str:
        """Meta-World's name."""
        return f"{self.name}-v3"


def _task(name: str, entry: Mapping[str, Any]) -> MetaWorldTask:
    return MetaWorldTask(
        name,
        Phrasings(tuple(entry["train"]), tuple(entry["heldout"])),
        entry.get("goal_marker"),
        {geom: _COLOURS[colour] for geom, colour in entry.get("recolour", {}).items()},
    )


def _read() -> dict[str, MetaWorldTask]:
    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    return {name: _task(name, entry) for name, entry in tomllib.loads(text).items()}


TASKS: dict[str, MetaWorldTask] = _read()
