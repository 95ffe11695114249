"""A lamp flashes one to three times: press the button as often.

slots    ──█──────█──          one of 1.6 s for every flash there could be; which are used is random
pressed           ─ ▲ ▲ ────   and none for 1.5 s after
score    8 for the number of presses, less for each that is missing or too many; 2 for the end
"""

from __future__ import annotations

import numpy as np

from streamvla.robots.instructions import Phrasings
from streamvla.robots.memory.buttons import Buttons
from streamvla.robots.memory.lamps import Lamp, add_lamp
from streamvla.robots.memory.robot import MemoryTask
from streamvla.robots.memory.scene import Answer, substeps
from streamvla.robots.tabletop import buttons as tabletop
from streamvla.robots.tabletop.arm import Arm
from streamvla.robots.tabletop.scene import MjSpec

ON_S, OFF_S = 0.8, 0.8
QUIET_S = 1.5
"""No press for so long after the last: the count is final, whatever is pressed later."""

COUNT_SCORE = 8.0
"""Of 10, for the right number so far."""

_YELLOW = (0.95, 0.7, 0.0, 1.0)
_LOW_M, _HIGH_M = (-0.06, 0.64), (0.06, 0.74)
_ASIDE_M = 0.15
_SLOT = substeps(ON_S + OFF_S)
_NONE = -1


class CountFlashes:
    """Implements `MemoryScene`; an answer is the number of flashes."""

    def __init__(self, arm: Arm, choices: int) -> None:
        self._most = choices
        self._lamp = Lamp(arm, "flashing-lamp")
        self._button = Buttons(arm, 1)
        self._slots = np.arange(choices)
        self._presses, self._last, self._final = 0, _NONE, False

    @staticmethod
    def furnish(spec: MjSpec) -> None:
        tabletop.Buttons.furnish(spec)
        add_lamp(spec, "flashing-lamp", _YELLOW)

    @staticmethod
    def cue_s(choices: int) -> float:
        return choices * (ON_S + OFF_S)

    @property
    def answers(self) -> tuple[Answer, ...]:
        return tuple((count,) for count in range(1, self._most + 1))

    def place(self, layout: np.random.Generator, cue: np.random.Generator) -> None:
        place = layout.uniform(_LOW_M, _HIGH_M)
        aside = np.array((layout.choice((-_ASIDE_M, _ASIDE_M)), layout.uniform(-0.03, 0.03)))
        self._button.place(place[None])
        self._lamp.put(place + aside)
        self._slots = cue.permutation(self._most)
        self._presses, self._last, self._final = 0, _NONE, False

    def show(self, answer: Answer, step: int) -> None:
        slot, within = divmod(step, _SLOT)
        used = slot in self._slots[: answer[0]]
        self._lamp.show(used and within < substeps(ON_S))

    def go(self) -> None:
        self._button.newly_pressed()  # what was pressed before does not count

    def after(self, step: int) -> None:
        pressed = len(self._button.newly_pressed())
        if self._final:
            return
        if pressed:
            self._presses, self._last = self._presses + pressed, step
        quiet = self._presses > 0 and step - self._last >= substeps(QUIET_S)
        self._final = quiet and not self._button.is_any_down

    def score(self, answer: Answer) -> float:
        off = abs(self._presses - answer[0]) / answer[0]
        right = off == 0 and self._final
        return COUNT_SCORE * max(0.0, 1.0 - off) + (10.0 - COUNT_SCORE) * right

    def truth(self) -> np.ndarray:
        return np.array([self._presses, self._last, self._final, *self._button.truth()], np.float64)

    def assume(self, truth: np.ndarray) -> None:
        self._presses, self._last = int(truth[0]), int(truth[1])
        self._final = bool(truth[2])
        self._button.assume(truth[3:])

    def act(self, answer: Answer) -> np.ndarray | None:
        """Down and up again until the presses are enough."""
        if self._presses < answer[0]:
            return self._button.press(0)
        return self._button.rise() if self._button.is_any_down else None

    def places_m(self, answer: Answer) -> tuple[np.ndarray, np.ndarray]:
        top = self._button.top_m(0)
        return top, top - (0.0, 0.0, tabletop.TRAVEL_M)


TASK = MemoryTask(
    CountFlashes,
    Phrasings(
        (
            "press the button as many times as the lamp flashes",
            "count the flashes of the lamp, then press the button that often",
            "when the green lamp comes on, push the button once for every flash",
            "push the button as often as the yellow lamp flashed",
            "remember how many times the lamp flashes and press the button that many times",
        ),
        (
            "press the button once for every flash of the lamp",
            "watch the lamp, then push the button as many times as it flashed",
        ),
    ),
    choices=3,
    answer_s=6.5,
)
