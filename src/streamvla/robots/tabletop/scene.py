"""What the language scenes have in common: goals, colours, and how things are laid out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from streamvla.robots.instructions import Phrasings
from streamvla.robots.tabletop.arm import Arm

MjSpec = Any
MjBody = Any

COLOURS: dict[str, tuple[float, float, float, float]] = {
    "red": (0.95, 0.05, 0.05, 1.0),
    "green": (0.1, 0.75, 0.1, 1.0),
    "blue": (0.1, 0.25, 1.0, 1.0),
    "yellow": (1.0, 0.85, 0.0, 1.0),
}
GREY = (0.35, 0.35, 0.38, 1.0)
LIGHT = (0.6, 0.6, 0.62, 1.0)

HAND_START_LOW_M = (-0.1, 0.5, 0.20)
HAND_START_HIGH_M = (0.1, 0.65, 0.26)


class Scene(Protocol):
    """One family of scenes, laid out anew for every episode.

    Left and right are the robot's own: it looks along +y, so right is +x.
    """

    def __init__(self, arm: Arm) -> None: ...

    @staticmethod
    def furnish(spec: MjSpec) -> None:
        """Add everything the family may need, before the scene is compiled."""
        ...

    @property
    def goals(self) -> tuple[str, ...]:
        """What can be asked for in this episode, two to six names."""
        ...

    def place(self, stream: np.random.Generator) -> None:
        """Lay out an episode; everything random comes from `stream`."""
        ...

    def places_m(self, goal: str) -> tuple[np.ndarray, np.ndarray]:
        """Where a goal's thing is, and where it shall be: (3,) and (3,) metres."""
        ...

    def reached(self) -> str | None:
        """The goal that is reached at this instant, if any."""
        ...


@dataclass(frozen=True)
class Family:
    """A kind of scene, and how each goal it can have is said."""

    scene: type[Scene]
    phrasings: Mapping[str, Phrasings]


def per_colour(template: Phrasings) -> dict[str, Phrasings]:
    """Colour → the template with {colour} filled."""
    return {colour: template.filled(colour=colour) for colour in COLOURS}


def pick_colours(stream: np.random.Generator, count: int) -> tuple[str, ...]:
    """`count` different colours in random order."""
    names = list(COLOURS)
    return tuple(names[index] for index in stream.permutation(len(names))[:count])


def scatter(
    stream: np.random.Generator,
    count: int,
    low_m: tuple[float, float],
    high_m: tuple[float, float],
    gap_m: float,
) -> np.ndarray:
    """(count, 2) points of a rectangle, uniform among those at least `gap_m` apart.

    The rectangle must leave room for them: it draws until they fit.
    """
    while True:
        points = stream.uniform(low_m, high_m, (count, 2))
        between = np.linalg.norm(points[:, None] - points[None], axis=-1)
        if between[np.triu_indices(count, 1)].min(initial=np.inf) >= gap_m:
            return points


def parked(index: int) -> tuple[float, float]:
    """(x, y) in metres for what this episode does not use: behind the robot, out of both views."""
    return (0.3 * index, -2.0)
