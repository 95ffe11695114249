"""What a tempo scene is: things that move by themselves, a score, and an expert's view of both."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from streamvla.robots.tabletop.scene import MjSpec

SUBSTEP_NS = 12_500_000
"""Of the scene's time; a command of 50 ms has four."""

SUCCESS_SCORE = 9.0
"""Of 10, as ManipArena (arXiv 2603.28545) counts it."""


class TempoScene(Protocol):
    """The things of one task on the arm's table. Made with (arm, difficulty).

    One sub-step of 12.5 ms is: `before`, physics, `after`. Random events are drawn in `place` from
    the episode's stream, with the sub-step at which each happens; `surprised` says that one did.
    """

    @staticmethod
    def furnish(spec: MjSpec) -> None:
        """Add the bodies to the scene before it is compiled."""
        ...

    def place(self, stream: np.random.Generator) -> None:
        """Lay an episode out: where things are, how they will move, what will happen when."""
        ...

    def before(self, step: int) -> None:
        """Move what moves by itself to where it is at the end of sub-step `step` (0, 1, …)."""
        ...

    def after(self, step: int, contact_force_n: float) -> None:
        """Note what was reached in it. Force: between the arm and everything else, its largest."""
        ...

    @property
    def surprised(self) -> bool:
        """Whether something happened in this sub-step that the robot should react to."""
        ...

    @property
    def score(self) -> float:
        """0 to 10 so far; never falls. Success is 9 or more."""
        ...

    @property
    def missed(self) -> int:
        """What is lost for good so far, such as blocks or lights (docs/tempo.md, by task)."""
        ...

    def truth(self) -> np.ndarray:
        """(k,) float64: what the scene's future depends on besides the simulator's state and what
        `place` drew; nothing of events still to come."""
        ...

    def assume(self, truth: np.ndarray) -> None:
        """Take over what `truth` told. What nobody could know yet will then not happen: things move
        on as they do now."""
        ...

    def act(self) -> np.ndarray:
        """(4,) what the expert does now, not yet clipped: from the scene as it is, without a
        memory, so that it can go on from anywhere."""
        ...

    def places_m(self) -> tuple[np.ndarray, np.ndarray]:
        """(3,) and (3,): the thing that matters now, and where to bring it."""
        ...
