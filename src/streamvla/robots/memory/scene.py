"""What a memory task is: a cue, a wait, a lamp that says "go", and an answer.

    start ──── cue ──────── delay ──── go ──── the arm answers
          0.5–0.8 s                    ▲ the go lamp lights up, and stays on

The cue lasts as long whatever it tells, and from "go" on nothing in the pictures tells it. The
answer comes from a stream of its own: layout, words and distractors say nothing about it. In each
episode only the first answer counts, so who did not see the cue cannot try them all: of n answers
that are equally probable, no way to act finds more than one in n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from streamvla.core.errors import ConfigError
from streamvla.robots.tabletop.arm import Arm
from streamvla.robots.tabletop.scene import MjSpec

SUBSTEPS_PER_S = 80

REST_M = np.array((0.0, 0.60, 0.26))
"""Where the hand waits for "go"."""

MOST_DISTRACTORS = 4
LONGEST_DELAY_S = 30.0
MOST_CHOICES = 4

Answer = tuple[int, ...]


@dataclass(frozen=True)
class Dials:
    """How hard a memory task is.

    Attributes:
        delay_s: between the end of the cue and "go", 0 to 30.
        distractors: 0 to 4 other things: lamps that flash whenever they like, and blocks.
        choices: 2 to 4: of how many flashes, places, buttons or motions there may be; None for the
            task's own.

    Raises:
        ConfigError: a dial outside its range.
    """

    delay_s: float = 1.0
    distractors: int = 0
    choices: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.delay_s <= LONGEST_DELAY_S:
            raise ConfigError(
                f"delay {self.delay_s:g}: expected 0 to {LONGEST_DELAY_S:g} s between cue and go"
            )
        if not 0 <= self.distractors <= MOST_DISTRACTORS:
            raise ConfigError(
                f"distractors {self.distractors}: expected 0 to {MOST_DISTRACTORS} of them"
            )
        if self.choices is not None and not 2 <= self.choices <= MOST_CHOICES:
            raise ConfigError(f"choices {self.choices}: expected 2 to {MOST_CHOICES}")


class MemoryScene(Protocol):
    """The things of one task on the arm's table. Made with (arm, choices).

    Before "go", every sub-step of 12.5 ms is: `show`, physics. From "go" on: physics, `after`.
    """

    def __init__(self, arm: Arm, choices: int) -> None: ...

    @staticmethod
    def furnish(spec: MjSpec) -> None:
        """Add the bodies to the scene before it is compiled."""
        ...

    @staticmethod
    def cue_s(choices: int) -> float:
        """How long the cue lasts, whatever the answer."""
        ...

    @property
    def answers(self) -> tuple[Answer, ...]:
        """All that an episode can ask for, each as probable as the others."""
        ...

    def place(self, layout: np.random.Generator, cue: np.random.Generator) -> None:
        """Lay an episode out. What may tell the answer is drawn from `cue`, all else from
        `layout`."""
        ...

    def show(self, answer: Answer, step: int) -> None:
        """Put everything where it is at sub-step `step` of the cue: below 0 before it, from
        the end of `cue_s` on after it."""
        ...

    def go(self) -> None:
        """The go lamp lights up now."""
        ...

    def after(self, step: int) -> None:
        """Note what the arm did in sub-step `step` (0, 1, …) since "go"."""
        ...

    def score(self, answer: Answer) -> float:
        """0 to 10 at this instant, if that was the answer; 9 or more is a success."""
        ...

    def truth(self) -> np.ndarray:
        """(k,) float64: what the scene's future depends on besides the simulator's state and what
        `place` drew."""
        ...

    def assume(self, truth: np.ndarray) -> None:
        """Take over what `truth` told."""
        ...

    def act(self, answer: Answer) -> np.ndarray | None:
        """(4,) what an arm that believes in `answer` does now, after "go", not yet clipped: from
        the scene as it is, without a memory. None: it is done, and rests."""
        ...

    def places_m(self, answer: Answer) -> tuple[np.ndarray, np.ndarray]:
        """(3,) and (3,): the thing that matters now, and where to bring it or the hand."""
        ...


def substeps(seconds: float) -> int:
    """Sub-steps of 12.5 ms."""
    return round(seconds * SUBSTEPS_PER_S)
