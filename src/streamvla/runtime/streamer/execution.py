"""What the robot was sent, where that leaves it, and when it takes the next command."""

from __future__ import annotations

from collections import deque
from itertools import islice

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.trace.spans import Pacing

KEPT = 256
"""Commands that are remembered: 12.8 s at 20 Hz."""


class Execution:
    """The commands of one episode, counted, and the latest of them.

    Attributes:
        action_state: (d,) the action state after everything sent.
        sent: commands so far, the governor's own included.
        actions_sent: those of them that were the policy's.
        next_tick: the control tick that comes next (grid pacing).
        free_since_ns: event pacing: the robot idles since then; None: it executes.
    """

    def __init__(self, space: ActionSpace, pacing: Pacing) -> None:
        self.action_state: np.ndarray = space.initial_state()
        self.sent: int = 0
        self.actions_sent: int = 0
        self.next_tick = 0
        self.free_since_ns: int | None = None
        self._space = space
        self._pacing = pacing
        self._latest: deque[np.ndarray] = deque(maxlen=KEPT)
        self._action_sent_ns = 0  # of the latest action of the policy
        self._last_due: tuple[int, int] | None = None  # tick and instant of the tick before

    @property
    def executing(self) -> bool:
        """Event pacing: whether the robot is carrying a command out."""
        return self._pacing == "event" and self.free_since_ns is None

    def commit(self, values: np.ndarray) -> None:
        """This command (d,) leaves."""
        self.action_state = self._space.advance(self.action_state, values)
        self.sent += 1
        self._latest.append(np.array(values, dtype=float))

    def commit_action(self, values: np.ndarray, now_ns: int) -> None:
        """This command (d,) of the policy leaves."""
        self.commit(values)
        self.actions_sent += 1
        self._action_sent_ns = now_ns

    def since(self, sent: int) -> np.ndarray:
        """(k, d) the commands after the first `sent`; the latest of them if those are too many."""
        count = min(self.sent - sent, len(self._latest))
        rows = list(islice(self._latest, len(self._latest) - count, None))
        return np.stack(rows) if rows else np.empty((0, self._space.dim))

    def period_ns(self, tick: int, due_ns: int) -> int | None:
        """How far this tick is from the one before, per tick; None for the first."""
        last, self._last_due = self._last_due, (tick, due_ns)
        if last is None or tick <= last[0]:
            return None
        return (due_ns - last[1]) // (tick - last[0])

    def took_ns(self, now_ns: int) -> int:
        """How long the latest action of the policy took, if the robot is free now."""
        return now_ns - self._action_sent_ns

    def until_next_ns(self, now_ns: int, period_ns: int) -> int:
        """How long until the robot takes its next action."""
        if self._pacing == "grid" and self._last_due is not None:
            tick, due_ns = self._last_due
            next_ns = due_ns + period_ns if self.next_tick > tick else due_ns
        else:
            next_ns = now_ns if self.free_since_ns is not None else self._action_sent_ns + period_ns
        return max(0, next_ns - now_ns)
