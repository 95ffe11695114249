"""The plan: actions made and not sent, in order, and the generation that makes more of them.

generation under way    made ─► held ─► placed ─► buffer ─► sent
                                 └───────┴──────────┴─────► dropped, with a reason, in the trace
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.interfaces import FlowStart
from streamvla.runtime.buffer import LateRule, PlannedAction, RollingBuffer, Shift, merged
from streamvla.runtime.executors.base import Capture, Generation, Placement
from streamvla.runtime.streamer.execution import Execution
from streamvla.runtime.streamer.messages import Generated
from streamvla.trace import Dropped, TraceSink
from streamvla.trace.spans import Pacing


class RollingPlan:
    """The plan of one episode. Implements `executors.base.Plan`, all that executors see of it.

    Attributes:
        generation: under way; None: none is.
        generations: begun so far.
        next_observation: the number that a capture now would get.
    """

    def __init__(
        self,
        space: ActionSpace,
        horizon: int,
        executed: int,
        pacing: Pacing,
        late: LateRule,
        validity_ns: int | None,
        execution: Execution,
        trace: TraceSink,
    ) -> None:
        self.space = space
        self.horizon = horizon
        self.generation: Generation | None = None
        self.generations: int = 0
        self.next_observation = 0
        self._executed = executed
        self._pacing = pacing
        self._by_tick = not isinstance(late, Shift)
        self._validity_ns = validity_ns
        self._execution = execution
        self._trace = trace
        self._buffer = RollingBuffer(late)
        self._planned_until = 0  # the first control tick that no action was planned for yet

    def __len__(self) -> int:
        """Actions made and not sent."""
        return len(self._buffer)

    # --- what executors see --------------------------------------------------------------------

    @property
    def buffered(self) -> Sequence[PlannedAction]:
        return tuple(self._buffer)

    @property
    def pending(self) -> int:
        """Actions that were not sent yet, made or still to be made."""
        unmade = 0
        if self.generation is not None:
            waiting = len(self.generation.held)
            unmade = max(0, self._executed - self.generation.next_index) + waiting
            if self.generation.closing:
                unmade = 1
        return len(self._buffer) + unmade

    @property
    def sent(self) -> int:
        return self._execution.sent

    @property
    def actions_sent(self) -> int:
        return self._execution.actions_sent

    def planned_state(self) -> np.ndarray:
        """(d,) the action state after everything sent and everything buffered."""
        state = self._execution.action_state
        for action in self._buffer:
            state = self.space.advance(state, self.space.clip(action.values))
        return state

    def until_next_ns(self, now_ns: int, period_ns: int) -> int:
        return self._execution.until_next_ns(now_ns, period_ns)

    # --- taking out ----------------------------------------------------------------------------

    def take(self, now_ns: int, tick: int) -> PlannedAction | None:
        """The action for a control instant; what is late or expired on the way is dropped."""
        while True:
            action, late = self._buffer.pop(tick)
            for dropped in late:
                self.drop(now_ns, dropped, "past due")
            if action is None or action.valid_until_ns is None:
                return action
            if now_ns <= action.valid_until_ns:
                return action
            self.drop(now_ns, action, "expired")

    def clear(self, now_ns: int, reason: str) -> None:
        """Drop what is buffered."""
        for action in self._buffer.clear():
            self.drop(now_ns, action, reason)

    def keep_first(self, now_ns: int, count: int, reason: str) -> None:
        """Drop what is buffered behind the first `count`."""
        for action in self._buffer.keep_first(count):
            self.drop(now_ns, action, reason)

    def drop(self, now_ns: int, action: PlannedAction, reason: str) -> None:
        """Record that an action, or all that were merged into it, will never leave."""
        for source in action.sources:
            self._trace.record(Dropped(now_ns, source.generation, source.index, reason))

    # --- generating ----------------------------------------------------------------------------

    def begin(self, capture: Capture, start: FlowStart, now_ns: int) -> Generation:
        """A generation on this capture is requested."""
        prefix, ticks = self._prefix(start)
        self.generation = Generation(
            self.generations,
            capture.number,
            capture.frames_ns,
            now_ns,
            start,
            start.index,
            [],
            now_ns,
            prefix,
            ticks,
            requested_tick=max(self._execution.next_tick, self._planned_until),
        )
        self.generations += 1
        return self.generation

    def _prefix(self, start: FlowStart) -> tuple[tuple[PlannedAction, ...], tuple[int, ...] | None]:
        """The planned actions that a generation takes as given, and the ticks they are due on."""
        count = 0 if start.prefix is None else len(start.prefix)
        if count > min(len(self._buffer), self.horizon):
            raise ValueError(
                f"a prefix of {count} actions: {len(self._buffer)} are pending, and a generation "
                f"has {self.horizon}; take it from Plan.buffered (prefix_of)"
            )
        prefix = tuple(islice(self._buffer, count))
        if self._pacing == "event":
            return prefix, None
        ordered = range(self._execution.next_tick, self._execution.next_tick + count)
        return prefix, tuple(
            tick if each.due_tick is None else each.due_tick
            for tick, each in zip(ordered, prefix, strict=True)
        )

    def hold(self, generation: Generation, event: Generated) -> None:
        """Keep an action that was made until it is placed."""
        captured_ns, window_ns = generation.captured_ns, self._validity_ns
        action = PlannedAction(
            np.array(event.values, dtype=float),  # a policy may use its array again
            generation.number,
            event.index,
            generation.observation,
            captured_ns,
            valid_until_ns=None if window_ns is None else captured_ns + window_ns,
        )
        generation.next_index += 1
        generation.step_since_ns = event.now_ns
        generation.held.append(action)

    def place(self, now_ns: int, generation: Generation, placement: Placement) -> None:
        """Do with the actions made what the executor says. By-tick rules: action i is due i ticks
        after the first one, which is due on the tick after the request, or behind the plan that is
        being executed then. So what comes late starts at the elapsed index."""
        if placement.drop_older is not None:
            self.clear(now_ns, placement.drop_older)
        placed = {id(merge.action) for merge in placement.merge}
        for merge in placement.merge:
            self._buffer.exchange(merge.into, merged(merge.action, merge.into, merge.weight))
        for action, reason in placement.discard:
            placed.add(id(action))
            self.drop(now_ns, action, reason)
        for action in placement.append:
            placed.add(id(action))
            self._buffer.push(self._due(action, generation) if self._by_tick else action)
        generation.held[:] = [each for each in generation.held if id(each) not in placed]

    def _due(self, action: PlannedAction, generation: Generation) -> PlannedAction:
        if generation.first_tick is None:
            generation.first_tick = generation.requested_tick - generation.first_index
        self._planned_until = generation.first_tick + action.index + 1
        return replace(action, due_tick=generation.first_tick + action.index)

    def abandon(self, now_ns: int, reason: str) -> Generation | None:
        """Give up the generation under way, if there is one; what it holds is dropped."""
        generation, self.generation = self.generation, None
        if generation is not None:
            for action in generation.held:
                self.drop(now_ns, action, reason)
        return generation
