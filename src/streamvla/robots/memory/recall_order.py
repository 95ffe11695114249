"""Buttons light up one after another: press them in that order.

lights    ─2██─1██─3██──          each 0.8 s, with 0.4 s between
pressed         ▲2  ▲1  ▲3        a wrong one, and it is over
score     10 for all; until then, and after a wrong one, the share of right presses
"""

from __future__ import annotations

import itertools

import numpy as np

from streamvla.robots.gl import import_mujoco
from streamvla.robots.instructions import Phrasings
from streamvla.robots.memory.buttons import Buttons
from streamvla.robots.memory.lamps import Movable, glow
from streamvla.robots.memory.robot import MemoryTask
from streamvla.robots.memory.scene import MOST_CHOICES, Answer, substeps
from streamvla.robots.tabletop import buttons as tabletop
from streamvla.robots.tabletop.arm import Arm
from streamvla.robots.tabletop.scene import MjSpec, scatter

ON_S, OFF_S = 0.8, 0.4

_LIT = (0.95, 0.7, 0.0, 1.0)
_SHELL_M = 0.043, 0.028
_CAP_HALF_M = 0.025
_LOW_M, _HIGH_M = (-0.22, 0.60), (0.22, 0.80)
_GAP_M = 0.16
_SLOT = substeps(ON_S + OFF_S)
_NONE = -1


class RecallOrder:
    """Implements `MemoryScene`; an answer names the buttons in their order."""

    def __init__(self, arm: Arm, choices: int) -> None:
        self._count = choices
        self._buttons = Buttons(arm, choices)
        self._light = Movable(arm, "button-light")
        self._pressed: list[int] = []

    @staticmethod
    def furnish(spec: MjSpec) -> None:
        tabletop.Buttons.furnish(spec)
        light = spec.worldbody.add_body(name="button-light", mocap=True)
        light.add_geom(
            type=import_mujoco().mjtGeom.mjGEOM_CYLINDER,
            size=(*_SHELL_M, 0.0),
            rgba=_LIT,
            material=glow(spec),
            contype=0,
            conaffinity=0,
        )

    @staticmethod
    def cue_s(choices: int) -> float:
        return choices * (ON_S + OFF_S)

    @property
    def answers(self) -> tuple[Answer, ...]:
        return tuple(itertools.permutations(range(self._count)))

    def place(self, layout: np.random.Generator, cue: np.random.Generator) -> None:
        self._buttons.place(scatter(layout, self._count, _LOW_M, _HIGH_M, _GAP_M))
        self._pressed = []

    def show(self, answer: Answer, step: int) -> None:
        """The light is a bright shell around a cap."""
        slot, within = divmod(step, _SLOT)
        if 0 <= slot < self._count and within < substeps(ON_S):
            self._light.put(self._buttons.cap_m(answer[slot]) - (0.0, 0.0, _CAP_HALF_M))
        else:
            self._light.hide()

    def go(self) -> None:
        self._buttons.newly_pressed()  # what was pressed before does not count

    def after(self, step: int) -> None:
        self._pressed += self._buttons.newly_pressed()
        del self._pressed[MOST_CHOICES:]

    def score(self, answer: Answer) -> float:
        return 10.0 * self._right(answer) / self._count

    def truth(self) -> np.ndarray:
        rest = [_NONE] * (MOST_CHOICES - len(self._pressed))
        return np.array([*self._pressed, *rest, *self._buttons.truth()], np.float64)

    def assume(self, truth: np.ndarray) -> None:
        self._pressed = [int(number) for number in truth[:MOST_CHOICES] if number != _NONE]
        self._buttons.assume(truth[MOST_CHOICES:])

    def act(self, answer: Answer) -> np.ndarray | None:
        """Down on the next one, until all are pressed or one was wrong."""
        right = self._right(answer)
        if right == len(self._pressed) < self._count:
            return self._buttons.press(answer[right])
        return self._buttons.rise() if self._buttons.is_any_down else None

    def places_m(self, answer: Answer) -> tuple[np.ndarray, np.ndarray]:
        top = self._buttons.top_m(answer[min(self._right(answer), self._count - 1)])
        return top, top - (0.0, 0.0, tabletop.TRAVEL_M)

    def _right(self, answer: Answer) -> int:
        """How many were pressed in the right order, before the first that was not."""
        pairs = zip(self._pressed, answer, strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


TASK = MemoryTask(
    RecallOrder,
    Phrasings(
        (
            "press the buttons in the order in which they light up",
            "push the buttons one after another, as they lit up",
            "when the green lamp comes on, press the buttons in the order of the lights",
            "remember the order of the lights and press the buttons in that order",
            "repeat the order in which the buttons light up",
        ),
        (
            "push the buttons in the order of their lights",
            "press the buttons as they lit up, one after another",
        ),
    ),
    choices=3,
    answer_s=7.0,
)
