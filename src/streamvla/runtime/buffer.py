"""The rolling action buffer: what will be sent next, in order, and what a late action does."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

Alignment = Literal["order", "time"]


@dataclass(frozen=True, slots=True)
class PlannedAction:
    """One generated action on its way to the robot, with where it came from.

    Attributes:
        values: (d,) in robot units.
        generation, index: which generation, and which flow step of it.
        observation: the observation behind it.
        captured_ns: when that observation was captured.
        due_tick: the control tick it was planned for; None when only its order matters.
    """

    values: np.ndarray
    generation: int
    index: int
    observation: int
    captured_ns: int
    due_tick: int | None = None


class RollingBuffer:
    """First in, first out, with an explicit rule for actions that come too late.

    - `"order"`: every action is sent, in order; a late one shifts all behind it. This is right
      for streamed delta actions: dropping one would leave its displacement out for good.
    - `"time"`: an action is sent on its tick or not at all. This is right for time-stamped chunk
      actions, where a late chunk must start at the elapsed index, not at 0.

          tick         7    8    9
          "order"      –    a7   a8      (a7 came one tick late)
          "time"       –    a8   a9      (a7 dropped)
    """

    __slots__ = ("_actions", "_alignment")

    def __init__(self, alignment: Alignment) -> None:
        self._alignment: Alignment = alignment
        self._actions: deque[PlannedAction] = deque()

    def __len__(self) -> int:
        return len(self._actions)

    def __iter__(self) -> Iterator[PlannedAction]:
        return iter(self._actions)

    def push(self, action: PlannedAction) -> None:
        """Append an action; under "time" it must name its `due_tick`."""
        if self._alignment == "time" and action.due_tick is None:
            raise ValueError("a time-aligned buffer needs the due_tick of every action")
        self._actions.append(action)

    def clear(self) -> tuple[PlannedAction, ...]:
        """Take everything out, and say what it was."""
        actions = tuple(self._actions)
        self._actions.clear()
        return actions

    def pop(self, tick: int) -> tuple[PlannedAction | None, tuple[PlannedAction, ...]]:
        """The action for `tick` (None: nothing is due), and those dropped because they are late."""
        if self._alignment == "order":
            return (self._actions.popleft() if self._actions else None), ()
        late = []
        while self._actions and _due(self._actions[0]) < tick:
            late.append(self._actions.popleft())
        due_now = bool(self._actions) and _due(self._actions[0]) == tick
        return (self._actions.popleft() if due_now else None), tuple(late)


def _due(action: PlannedAction) -> int:
    assert action.due_tick is not None
    return action.due_tick
