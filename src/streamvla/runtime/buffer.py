"""The rolling action buffer: what will be sent next, in order, and what a late action does."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from streamvla.core.errors import ConfigError
from streamvla.trace import Parent


@dataclass(frozen=True, slots=True)
class PlannedAction:
    """One generated action on its way to the robot, with where it came from.

    Attributes:
        values: (d,) in robot units.
        generation, index: which generation, and which flow step of it.
        observation: the observation behind it.
        captured_ns: when that observation was captured.
        due_tick: the control tick it was planned for; None when only its order matters.
        valid_until_ns: it is never sent after this instant; None for no such instant.
        parents: of a merged action (`merged`), all the generated ones in it, the oldest capture
            first; it then goes by the name of the youngest. Empty otherwise.
    """

    values: np.ndarray
    generation: int
    index: int
    observation: int
    captured_ns: int
    due_tick: int | None = None
    valid_until_ns: int | None = None
    parents: tuple[Parent, ...] = ()

    @property
    def sources(self) -> tuple[Parent, ...]:
        """Every generated action in it, the oldest capture first; itself if it was not merged."""
        if self.parents:
            return self.parents
        return (Parent(self.observation, self.generation, self.index, self.captured_ns),)


def merged(action: PlannedAction, into: PlannedAction, weight: float) -> PlannedAction:
    """`weight · action + (1 − weight) · into`, in the place of `into`.

    It has the parents of both. It is as valid as the older one, and carries the name of the
    younger: that is how old it may be, and what the robot reacts to with it.
    """
    younger = action if _youth(action) >= _youth(into) else into
    windows = [each.valid_until_ns for each in (action, into) if each.valid_until_ns is not None]
    parents = sorted((*into.sources, *action.sources), key=lambda parent: parent.captured_ns)
    return replace(
        younger,
        values=weight * action.values + (1 - weight) * into.values,
        due_tick=into.due_tick,
        valid_until_ns=min(windows, default=None),
        parents=tuple(parents),
    )


def _youth(action: PlannedAction) -> tuple[int, int, int]:
    return action.captured_ns, action.generation, action.index


@dataclass(frozen=True)
class Shift:
    """A late action is sent late, and all behind it shift.

    Right for streamed delta actions: leaving one out would leave its displacement out for good.
    """


@dataclass(frozen=True)
class Replace:
    """An action is sent on its tick or not at all: the one due now replaces those that are late.

    Right for time-stamped chunk actions: a late chunk starts at the elapsed index, not at 0.
    """


@dataclass(frozen=True)
class Blend:
    """The newest late action is mixed into the one due now; with none due now it goes out itself.

    `newer · due + (1 − newer) · late`, SmolVLA's (arXiv 2506.01844) weights at overlapping steps.
    Smoother than `Replace`, and keeps the timeline, but part of the displacement is left out.

    Attributes:
        newer: in (0, 1), the weight of the action due now.
    """

    newer: float = 0.7

    def __post_init__(self) -> None:
        if not 0 < self.newer < 1:
            raise ConfigError(
                f"blend: weight {self.newer} of the newer action must lie strictly between 0 and "
                "1; for 1 use Replace"
            )


LateRule = Shift | Replace | Blend


class Popped(NamedTuple):
    """What a tick gets from the buffer.

    Attributes:
        action: to be sent; None: nothing is due.
        late: those that will never be sent because their tick went by.
    """

    action: PlannedAction | None
    late: tuple[PlannedAction, ...] = ()


class RollingBuffer:
    """First in, first out, with an explicit rule for actions that come too late.

        tick         7    8             9        a7 came one tick late, a8 and a9 in time
        Shift        –    a7            a8
        Replace      –    a8            a9       (a7 dropped)
        Blend        –    .7a8 + .3a7   a9       (a7 used up)

    Under `Replace` and `Blend` every action must name its `due_tick`.
    """

    __slots__ = ("_actions", "_rule")

    def __init__(self, rule: LateRule) -> None:
        self._rule = rule
        self._actions: deque[PlannedAction] = deque()

    def __len__(self) -> int:
        return len(self._actions)

    def __iter__(self) -> Iterator[PlannedAction]:
        return iter(self._actions)

    def push(self, action: PlannedAction) -> None:
        """Append an action.

        Raises:
            ValueError: the rule goes by ticks and the action names none.
        """
        if not isinstance(self._rule, Shift) and action.due_tick is None:
            raise ValueError(f"{self._rule} needs the due_tick of every action")
        self._actions.append(action)

    def exchange(self, planned: PlannedAction, by: PlannedAction) -> None:
        """Put one action in the place of another.

        Raises:
            ValueError: `planned` is not in the buffer (any more).
        """
        for place, action in enumerate(self._actions):
            if action is planned:
                self._actions[place] = by
                return
        raise ValueError(
            f"action {planned.index} of generation {planned.generation} is not planned: it was "
            "sent, dropped or merged before"
        )

    def clear(self) -> tuple[PlannedAction, ...]:
        """Take everything out, and say what it was."""
        actions = tuple(self._actions)
        self._actions.clear()
        return actions

    def keep_first(self, count: int) -> tuple[PlannedAction, ...]:
        """Take out all but the first `count`, and say what they were."""
        dropped = tuple(self._actions)[count:]
        for _ in dropped:
            self._actions.pop()
        return dropped

    def pop(self, tick: int) -> Popped:
        """What `tick` gets."""
        if isinstance(self._rule, Shift):
            return Popped(self._actions.popleft() if self._actions else None)
        late: list[PlannedAction] = []
        while self._actions and _due(self._actions[0]) < tick:
            late.append(self._actions.popleft())
        due_now = bool(self._actions) and _due(self._actions[0]) == tick
        action = self._actions.popleft() if due_now else None
        if isinstance(self._rule, Blend) and late:
            newest = late.pop()
            action = newest if action is None else _blend(newest, action, self._rule.newer)
        return Popped(action, tuple(late))


def _due(action: PlannedAction) -> int:
    assert action.due_tick is not None
    return action.due_tick


def _blend(late: PlannedAction, due: PlannedAction, newer: float) -> PlannedAction:
    return replace(merged(due, late, newer), valid_until_ns=due.valid_until_ns)
