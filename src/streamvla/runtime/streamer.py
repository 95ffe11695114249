"""The streamer: one pure state machine that decides when to observe, generate and send.

It takes timed events and returns commands; it owns no thread, no socket, no clock. Two drivers
run it: `simulated` (virtual time) and `realtime` (the system clock), so what is studied in
simulation is what runs on the robot.

    events in   Started  Tick | Free   Observed   Generated   StageFailed   Interrupted
    commands    StartObserve   StartGenerate   CancelGenerate   Send   Stop
    out

Every observation leads to at most one generation. A generation starts where the plan before it
ends, so the actions of consecutive generations form one continuous flow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import StageFailedError
from streamvla.core.interfaces import FlowStart
from streamvla.runtime.buffer import PlannedAction, RollingBuffer
from streamvla.runtime.executors import Executor
from streamvla.runtime.governor import Fallback, Governor, Hold
from streamvla.trace import (
    ActionReady,
    Dropped,
    Failed,
    Finished,
    GenerateRequested,
    ObserveReady,
    ObserveRequested,
    Rejected,
    Sent,
    TraceSink,
)
from streamvla.trace.spans import Pacing

MAX_BAD_GENERATIONS = 3
"""After so many generations in a row with an unusable action, the policy counts as dead."""


# --- events in -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """The episode begins: the robot stands ready at `now_ns`."""

    now_ns: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Grid pacing: control tick number `tick`, due at `due_ns`, is being served at `now_ns`."""

    now_ns: int
    due_ns: int
    tick: int


@dataclass(frozen=True, slots=True)
class Free:
    """Event pacing: the robot finished its command at `due_ns`; it is noticed at `now_ns`."""

    now_ns: int
    due_ns: int


@dataclass(frozen=True, slots=True)
class Observed:
    """The context of an observation is ready."""

    now_ns: int
    observation: int


@dataclass(frozen=True, slots=True)
class Generated:
    """One flow step is done; the accelerator worked on it since `started_ns`."""

    now_ns: int
    started_ns: int
    generation: int
    index: int
    values: np.ndarray  # (d,)


@dataclass(frozen=True, slots=True)
class StageFailed:
    """A stage raised: "observe" or "generate"."""

    now_ns: int
    stage: str
    message: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The owner wants to stop now (Ctrl-C): the robot shall hold."""

    now_ns: int


Event = Started | Tick | Free | Observed | Generated | StageFailed | Interrupted


# --- commands out ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartObserve:
    """Capture the world now and encode it; `action_state` (d,) belongs into the observation."""

    observation: int
    action_state: np.ndarray


@dataclass(frozen=True, slots=True)
class StartGenerate:
    """Generate from a ready context, one action after another."""

    generation: int
    observation: int
    start: FlowStart


@dataclass(frozen=True, slots=True)
class CancelGenerate:
    """Stop a generation; what still arrives from it is ignored."""

    generation: int


@dataclass(frozen=True, slots=True)
class Send:
    """Put this command (d,) in force on the robot."""

    values: np.ndarray


@dataclass(frozen=True, slots=True)
class Stop:
    """The robot was brought to its safe stop; end the run and raise `error` to the owner."""

    error: StageFailedError


Command = StartObserve | StartGenerate | CancelGenerate | Send | Stop


# --- the machine -----------------------------------------------------------------------------


@dataclass(slots=True)
class _Generation:
    """A generation under way: its next expected flow step, and what waits for release."""

    number: int
    observation: int
    captured_ns: int
    next_index: int
    held: list[PlannedAction]


class Streamer:
    """See the module's docstring.

    Args:
        space: of the robot.
        horizon: `H`, actions per generation.
        executor: the method.
        pacing: "event": the robot takes the next action the moment it is free and one is there;
            "grid": one command on every control tick, from the buffer or from the governor.
        trace: gets every event.
        fallback: what the governor sends when no action is due (grid pacing).
        max_observations: observe no more than this often; None for no limit.
    """

    def __init__(
        self,
        space: ActionSpace,
        horizon: int,
        executor: Executor,
        pacing: Pacing,
        trace: TraceSink,
        *,
        fallback: Fallback | None = None,
        max_observations: int | None = None,
    ) -> None:
        self._space = space
        self._horizon = horizon
        self._executor = executor
        self._executed = executor.executed(horizon)
        self._pacing: Pacing = pacing
        self._trace = trace
        self._governor = Governor(space, fallback or Hold())
        self._max_observations = max_observations

        self._buffer = RollingBuffer("order")
        self._action_state = space.initial_state()  # (d,) after everything sent
        self._observations = 0
        self._captured_ns: dict[int, int] = {}
        self._encoding: int | None = None  # the observation being encoded
        self._ready: int | None = None  # the observation whose context waits to be used
        self._generation: _Generation | None = None
        self._generations = 0
        self._bad_generations = 0
        self._free_since_ns: int | None = None  # event pacing: idle since then; None: executing
        self._sent = 0
        self._failure: StageFailedError | None = None

    @property
    def action_state(self) -> np.ndarray:
        """(d,) the action state after every command sent so far."""
        return self._action_state

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do: the observation limit is reached, all was executed."""
        executing = self._pacing == "event" and self._free_since_ns is None
        return (
            not executing
            and self._max_observations is not None
            and self._observations >= self._max_observations
            and self._encoding is None
            and self._ready is None
            and self.pending() == 0
        )

    def pending(self) -> int:
        """Actions of the present plan that were not sent yet, made or still to be made."""
        unmade = 0
        if self._generation is not None:
            waiting = len(self._generation.held)
            unmade = max(0, self._executed - self._generation.next_index) + waiting
        return len(self._buffer) + unmade

    def handle(self, event: Event) -> list[Command]:
        """Take one event and return what to do now, in order.

        Events must come in the order of their instants. An event of a cancelled generation is
        ignored.
        """
        match event:
            case Tick():
                return self._on_tick(event)
            case Generated():
                return self._on_generated(event)
            case Free():
                return self._on_free(event)
            case Observed():
                return self._on_observed(event)
            case StageFailed():
                return self._on_failed(event)
            case Interrupted():
                return self._on_interrupted(event)
            case Started():
                if self._pacing == "event":
                    self._free_since_ns = event.now_ns
                return self._observe_if_wanted(event.now_ns)

    # --- control instants ----------------------------------------------------------------------

    def _on_tick(self, event: Tick) -> list[Command]:
        """Exactly one command leaves, whatever the model does."""
        if self._failure is not None:
            return self._safe_stop(event.now_ns, event.due_ns, event.tick)
        observe = self._observe_if_wanted(event.now_ns)
        action, late = self._buffer.pop(event.tick)
        for dropped in late:
            self._drop(event.now_ns, dropped.generation, dropped.index, "past due")
        if action is None:
            may_move = self._generation is None  # its flow starts from the state as it is now
            rung, values = self._governor.fallback(self._action_state, may_move=may_move)
            send = self._send_governed(rung, values, event.now_ns, event.due_ns, event.tick)
        else:
            send = self._send_action(action, event.now_ns, event.due_ns, event.tick)
        return [send, *observe]

    def _on_free(self, event: Free) -> list[Command]:
        """The robot takes the next action if there is one, and idles otherwise."""
        self._trace.record(Finished(event.now_ns))
        self._free_since_ns = event.due_ns
        if self._failure is not None:
            return self._safe_stop(event.now_ns, event.due_ns, self._sent)
        observe = self._observe_if_wanted(event.now_ns)
        return [*self._send_if_free(event.now_ns), *observe]

    def _send_if_free(self, now_ns: int) -> list[Command]:
        if self._free_since_ns is None:
            return []
        action, _ = self._buffer.pop(self._sent)
        if action is None:
            return []
        due_ns, self._free_since_ns = self._free_since_ns, None
        return [self._send_action(action, now_ns, due_ns, self._sent)]

    def _send_action(self, action: PlannedAction, now_ns: int, due_ns: int, tick: int) -> Send:
        values = self._governor.passed(action.values)
        self._commit(values)
        self._trace.record(
            Sent(
                now_ns,
                due_ns,
                tick,
                "policy",
                action.generation,
                action.observation,
                action.index,
                action.captured_ns,
                len(self._buffer),
                tuple(values.tolist()),
            )
        )
        return Send(values)

    def _send_governed(
        self, rung: str, values: np.ndarray, now_ns: int, due_ns: int, tick: int
    ) -> Send:
        """Send a command that is the governor's own, not the policy's."""
        self._commit(values)
        depth = len(self._buffer)
        sent = Sent(now_ns, due_ns, tick, rung, -1, -1, -1, -1, depth, tuple(values.tolist()))
        self._trace.record(sent)
        return Send(values)

    def _commit(self, values: np.ndarray) -> None:
        self._action_state = self._space.advance(self._action_state, values)
        self._sent += 1

    # --- observing -----------------------------------------------------------------------------

    def _observe_if_wanted(self, now_ns: int) -> list[Command]:
        """Observe when no more than `lead` actions are pending and no other context is due."""
        if self._encoding is not None or self._ready is not None:
            return []
        if self._max_observations is not None and self._observations >= self._max_observations:
            return []
        pending = self.pending()
        if pending > self._executor.lead:
            return []
        number = self._observations
        self._observations += 1
        self._encoding = number
        self._captured_ns[number] = now_ns
        self._trace.record(ObserveRequested(now_ns, number, pending))
        return [StartObserve(number, self._action_state)]

    def _on_observed(self, event: Observed) -> list[Command]:
        captured_ns = self._captured_ns[event.observation]
        self._trace.record(ObserveReady(event.now_ns, event.observation, captured_ns))
        self._encoding = None
        if self._failure is not None:
            return []
        self._ready = event.observation
        return self._generate_if_possible(event.now_ns)

    # --- generating ----------------------------------------------------------------------------

    def _generate_if_possible(self, now_ns: int) -> list[Command]:
        """Start on the waiting context once the generation before it has made its last action."""
        if self._ready is None or self._generation is not None:
            return []
        observation, self._ready = self._ready, None
        number = self._generations
        self._generations += 1
        captured_ns = self._captured_ns.pop(observation)
        start = FlowStart(self._planned_state())
        self._generation = _Generation(number, observation, captured_ns, start.index, [])
        self._trace.record(
            GenerateRequested(now_ns, number, observation, start.index, len(self._buffer))
        )
        return [StartGenerate(number, observation, start)]

    def _planned_state(self) -> np.ndarray:
        """(d,) the action state after everything sent and everything buffered."""
        state = self._action_state
        for action in self._buffer:
            state = self._space.advance(state, self._space.clip(action.values))
        return state

    def _on_generated(self, event: Generated) -> list[Command]:
        generation = self._generation
        if generation is None or event.generation != generation.number:
            self._drop(event.now_ns, event.generation, event.index, "cancelled")
            return []
        if event.index != generation.next_index:
            raise ValueError(
                f"generation {event.generation}: flow step {event.index} arrived, "
                f"{generation.next_index} was next; steps must come in order"
            )
        self._trace.record(
            ActionReady(
                event.now_ns,
                event.started_ns,
                event.generation,
                generation.observation,
                event.index,
            )
        )
        cause = self._governor.check(event.values)
        if cause is not None:
            return self._reject(event, cause)
        return self._accept(event, generation)

    def _accept(self, event: Generated, generation: _Generation) -> list[Command]:
        generation.next_index += 1
        last = generation.next_index == self._horizon
        if event.index < self._executed:
            generation.held.append(
                PlannedAction(
                    event.values,
                    generation.number,
                    event.index,
                    generation.observation,
                    generation.captured_ns,
                )
            )
        else:
            self._drop(event.now_ns, event.generation, event.index, "beyond execute horizon")
        if self._executor.streams or last:
            self._release(generation)
        if last:
            self._generation = None
            self._bad_generations = 0
        generate = self._generate_if_possible(event.now_ns) if last else []
        return [*self._send_if_free(event.now_ns), *generate]

    def _release(self, generation: _Generation) -> None:
        for action in generation.held:
            self._buffer.push(action)
        generation.held.clear()

    def _reject(self, event: Generated, cause: str) -> list[Command]:
        """Drop the rest of a generation that gave an unusable action, and look again."""
        self._trace.record(Rejected(event.now_ns, event.generation, event.index, cause))
        self._abandon_generation(event.now_ns, "its generation was rejected")
        self._bad_generations += 1
        cancel: list[Command] = [CancelGenerate(event.generation)]
        if self._bad_generations >= MAX_BAD_GENERATIONS:
            message = f"{self._bad_generations} generations in a row unusable, last: {cause}"
            return [*cancel, *self._on_failed(StageFailed(event.now_ns, "generate", message))]
        waiting = self._generate_if_possible(event.now_ns)
        return [*cancel, *(waiting or self._observe_when_idle(event.now_ns))]

    def _observe_when_idle(self, now_ns: int) -> list[Command]:
        """In event pacing an idle robot brings no `Free` to look again on: look at once."""
        return self._observe_if_wanted(now_ns) if self._free_since_ns is not None else []

    # --- failing -------------------------------------------------------------------------------

    def _on_failed(self, event: StageFailed) -> list[Command]:
        """Stop planning; the safe stop leaves on the next control instant (at once if idle)."""
        if self._failure is not None:
            return []
        self._trace.record(Failed(event.now_ns, event.stage, event.message))
        self._failure = StageFailedError(
            f"the {event.stage} stage failed: {event.message}. The robot was told to hold; "
            "the trace has every event up to here"
        )
        self._abandon_plan(event.now_ns, "stopped")
        if self._free_since_ns is not None:
            return self._safe_stop(event.now_ns, self._free_since_ns, self._sent)
        return []

    def _safe_stop(self, now_ns: int, due_ns: int, tick: int) -> list[Command]:
        assert self._failure is not None
        hold = self._space.hold(self._action_state)
        return [self._send_governed("hold", hold, now_ns, due_ns, tick), Stop(self._failure)]

    def _on_interrupted(self, event: Interrupted) -> list[Command]:
        """One last hold command, and no plan any more."""
        self._abandon_plan(event.now_ns, "interrupted")
        hold = self._space.hold(self._action_state)
        return [self._send_governed("hold", hold, event.now_ns, event.now_ns, self._sent)]

    def _abandon_plan(self, now_ns: int, reason: str) -> None:
        """Drop everything that was planned and not sent."""
        for action in self._buffer.clear():
            self._drop(now_ns, action.generation, action.index, reason)
        self._abandon_generation(now_ns, reason)
        self._ready = None

    def _abandon_generation(self, now_ns: int, reason: str) -> None:
        if self._generation is not None:
            for action in self._generation.held:
                self._drop(now_ns, action.generation, action.index, reason)
        self._generation = None

    def _drop(self, now_ns: int, generation: int, index: int, reason: str) -> None:
        self._trace.record(Dropped(now_ns, generation, index, reason))
