"""The streamer: one pure state machine that decides when to observe, generate and send.

It takes timed events and returns commands; it owns no thread, no socket, no clock. Two drivers
run it: `simulated` (virtual time) and `realtime` (the system clock), so what is studied in
simulation is what runs on the robot.

    events in   Started  Tick | Free   Observed   Generated
                StageFailed   Interrupted   SafeStop   Rearm
    commands    StartObserve   StartGenerate   CancelGenerate   Send   Stop
    out

Every observation leads to at most one generation. A generation starts where the plan before it
ends, so the actions of consecutive generations form one continuous flow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import ConfigError, StageFailedError
from streamvla.core.interfaces import FlowStart
from streamvla.runtime.buffer import LateRule, PlannedAction, RollingBuffer, Shift
from streamvla.runtime.executors import Executor
from streamvla.runtime.governor import Fallback, Governor, Hold, Ruling, SimpleGovernor, unusable
from streamvla.runtime.health import Health, HealthState, HealthThresholds
from streamvla.runtime.interventions import InterventionLog
from streamvla.runtime.ladder import Ladder, LadderGovernor
from streamvla.trace import (
    ActionReady,
    CameraFrozen,
    CameraThawed,
    Dropped,
    Failed,
    Finished,
    GenerateRequested,
    HealthChanged,
    ObserveReady,
    ObserveRequested,
    Rearmed,
    Rejected,
    Sent,
    TraceSink,
)
from streamvla.trace.spans import Pacing

MAX_BAD_GENERATIONS = 3
"""After so many generations in a row with an unusable action, the policy counts as dead."""

_STILL = 1e-9
"""A change of the action state below this, in action units, is rounding."""


# --- events in -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """The episode begins: the robot stands ready at `now_ns`.

    `action_state` (d,) is where (`core.interfaces.standing_at`); None for all zeros.
    """

    now_ns: int
    action_state: np.ndarray | None = None


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
    """The context of an observation is ready.

    `goal` (d,) is the action state at which it says the motion should end; None if it does not.
    `frozen` names the views whose camera is frozen (`runtime.cameras`).
    """

    now_ns: int
    observation: int
    goal: np.ndarray | None = None
    frozen: tuple[str, ...] = ()


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
    """The owner wants to stop now (Ctrl-C): the robot shall hold, or come to rest first."""

    now_ns: int


@dataclass(frozen=True, slots=True)
class SafeStop:
    """An operator wants the robot to stop: latched until `Rearm`."""

    now_ns: int
    cause: str


@dataclass(frozen=True, slots=True)
class Rearm:
    """Somebody looked at the robot and ends a latched safe stop; without one it does nothing."""

    now_ns: int


Event = Started | Tick | Free | Observed | Generated | StageFailed | Interrupted | SafeStop | Rearm


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
    """Put this command (d,) in force on the robot; after `valid_until_ns`, if set, not any more."""

    values: np.ndarray
    valid_until_ns: int | None = None


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
    first_tick: int | None = None  # the control tick its first action was planned for


class Streamer:
    """See the module's docstring.

    Args:
        space: of the robot.
        horizon: `H`, actions per generation.
        executor: the method.
        pacing: "event": the robot takes the next action the moment it is free and one is there;
            "grid": one command on every control tick, from the buffer or from the governor.
        trace: gets every event.
        fallback: the governor's rule: `Hold` or `Decelerate` when no action is due, or a `Ladder`
            (grid pacing only).
        max_observations: observe no more than this often; None for no limit.
        late: what an action does that comes after its tick (grid pacing; event pacing shifts).
        validity_ns: how long after the capture behind it an action may still be sent; None: it
            never expires, which is right where leaving a step out is worse than sending it late.
        health: when the action stream counts as degraded or stalled (grid pacing).
    """

    def __init__(
        self,
        space: ActionSpace,
        horizon: int,
        executor: Executor,
        pacing: Pacing,
        trace: TraceSink,
        *,
        fallback: Fallback | Ladder | None = None,
        max_observations: int | None = None,
        late: LateRule | None = None,
        validity_ns: int | None = None,
        health: HealthThresholds | None = None,
    ) -> None:
        late = late or Shift()
        _check_settings(pacing, late, validity_ns)
        self._space = space
        self._horizon = horizon
        self._executor = executor
        self._executed = executor.executed(horizon)
        self._pacing: Pacing = pacing
        self._trace = trace
        self._governor = _make_governor(space, fallback or Hold(), pacing)
        self._max_observations = max_observations

        self._by_tick = not isinstance(late, Shift)
        self._validity_ns = validity_ns
        self._health = Health(health or HealthThresholds())
        self._interventions = InterventionLog(trace)

        self._buffer = RollingBuffer(late)
        self._next_tick = 0
        self._planned_until = 0  # the first control tick that no action was planned for yet
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
        self._frozen: tuple[str, ...] = ()  # views whose camera is frozen
        self._latched = False  # the safe stop is on; only `Rearm` ends it
        self._outdated: int | None = None  # an observation from before the safe stop

    @property
    def latched(self) -> bool:
        """Whether the robot is in a safe stop that waits for `Rearm`."""
        return self._latched

    @property
    def at_rest(self) -> bool:
        """Whether the last command left the robot standing."""
        return self._governor.at_rest

    @property
    def health(self) -> HealthState:
        """The state of the action stream (grid pacing)."""
        return self._health.state

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
            case SafeStop():
                return self._latch(event.now_ns, event.cause, "safe stop")
            case Rearm():
                return self._on_rearm(event)
            case Started():
                return self._on_started(event)

    def _on_started(self, event: Started) -> list[Command]:
        if event.action_state is not None:
            self._action_state = event.action_state
        self._governor.begin(self._action_state)
        if self._pacing == "event":
            self._free_since_ns = event.now_ns
        return self._observe_if_wanted(event.now_ns)

    def close(self, now_ns: int) -> None:
        """The episode is over: write what was only counted so far."""
        self._interventions.flush(now_ns)

    # --- control instants ----------------------------------------------------------------------

    def _on_tick(self, event: Tick) -> list[Command]:
        """Exactly one command leaves, whatever the model does."""
        observe = self._observe_if_wanted(event.now_ns)
        self._next_tick = event.tick + 1
        action = self._next_action(event.now_ns, event.tick)
        before = self._action_state
        ruling = self._governor.rule(
            None if action is None else action.values,
            before,
            may_move=self._generation is None,  # a generation starts from the state as it is now
        )
        self._interventions.note(event.now_ns, event.tick, ruling.interventions)
        if action is not None and ruling.source == "policy":
            send = self._send_action(action, ruling, event.now_ns, event.due_ns, event.tick)
        else:
            if action is not None:
                self._drop(event.now_ns, action.generation, action.index, "refused")
            send = self._send_governed(ruling, event.now_ns, event.due_ns, event.tick)
        self._note_health(event, supplied=ruling.source == "policy")
        if self._failure is not None:
            return [send, Stop(self._failure)] if self._governor.at_rest else [send]
        if self._governor.latched and not self._latched:
            return [send, *self._latch(event.now_ns, "the governor's own", "safe stop")]
        if ruling.source == "fallback" and self._moved_from(before):
            observe += self._abandon_generation(event.now_ns, "a fallback controller took over")
        return [send, *observe]

    def _moved_from(self, state: np.ndarray) -> bool:
        return not np.allclose(self._action_state, state, rtol=0, atol=_STILL)

    def _next_action(self, now_ns: int, tick: int) -> PlannedAction | None:
        """The action for a control instant; what is late or expired on the way is dropped."""
        while True:
            action, late = self._buffer.pop(tick)
            for dropped in late:
                self._drop(now_ns, dropped.generation, dropped.index, "past due")
            if action is None or action.valid_until_ns is None:
                return action
            if now_ns <= action.valid_until_ns:
                return action
            self._drop(now_ns, action.generation, action.index, "expired")

    def _note_health(self, event: Tick, *, supplied: bool) -> None:
        transition = self._health.tick(
            supplied=supplied, latched=self._governor.latched, seeing=not self._frozen
        )
        if transition is not None:
            self._trace.record(HealthChanged(event.now_ns, event.tick, *transition))

    def _on_free(self, event: Free) -> list[Command]:
        """The robot takes the next action if there is one, and idles otherwise."""
        self._trace.record(Finished(event.now_ns))
        self._free_since_ns = event.due_ns
        if self._failure is not None:
            return self._stop_at_once(event.now_ns, event.due_ns)
        observe = self._observe_if_wanted(event.now_ns)
        return [*self._send_if_free(event.now_ns), *observe]

    def _send_if_free(self, now_ns: int) -> list[Command]:
        if self._free_since_ns is None:
            return []
        action = self._next_action(now_ns, self._sent)
        if action is None:
            return self._observe_if_wanted(now_ns)  # all that was pending may just have expired
        due_ns, self._free_since_ns = self._free_since_ns, None
        ruling = self._governor.rule(action.values, self._action_state)
        return [self._send_action(action, ruling, now_ns, due_ns, self._sent)]

    def _send_action(
        self, action: PlannedAction, ruling: Ruling, now_ns: int, due_ns: int, tick: int
    ) -> Send:
        values = ruling.values
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
                -1 if action.valid_until_ns is None else action.valid_until_ns,
            )
        )
        return Send(values, action.valid_until_ns)

    def _send_governed(self, ruling: Ruling, now_ns: int, due_ns: int, tick: int) -> Send:
        """Send a command that is the governor's own, not the policy's."""
        rung, values, _ = ruling
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
        if self._latched or self._encoding is not None or self._ready is not None:
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
        self._note_cameras(event)
        self._encoding = None
        if self._latched:
            return []
        if event.observation == self._outdated:
            return self._observe_if_wanted(event.now_ns)
        self._governor.aim(event.goal)
        self._ready = event.observation
        return self._generate_if_possible(event.now_ns)

    def _note_cameras(self, event: Observed) -> None:
        for view in event.frozen:
            if view not in self._frozen:
                self._trace.record(CameraFrozen(event.now_ns, event.observation, view))
        for view in self._frozen:
            if view not in event.frozen:
                self._trace.record(CameraThawed(event.now_ns, event.observation, view))
        self._frozen = event.frozen

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
        cause = unusable(self._space, event.values)
        if cause is not None:
            return self._reject(event, cause)
        return self._accept(event, generation)

    def _accept(self, event: Generated, generation: _Generation) -> list[Command]:
        generation.next_index += 1
        last = generation.next_index == self._horizon
        if event.index < self._executed:
            generation.held.append(self._plan(event, generation))
        else:
            self._drop(event.now_ns, event.generation, event.index, "beyond execute horizon")
        if self._executor.streams or last:
            self._release(generation)
        if last:
            self._generation = None
            self._bad_generations = 0
        generate = self._generate_if_possible(event.now_ns) if last else []
        return [*self._send_if_free(event.now_ns), *generate]

    def _plan(self, event: Generated, generation: _Generation) -> PlannedAction:
        captured_ns, window_ns = generation.captured_ns, self._validity_ns
        return PlannedAction(
            np.array(event.values, dtype=float),  # a policy may use its array again
            generation.number,
            event.index,
            generation.observation,
            captured_ns,
            valid_until_ns=None if window_ns is None else captured_ns + window_ns,
        )

    def _release(self, generation: _Generation) -> None:
        """Hand over what is ready. By-tick rules: action i is due i ticks after the first one.

        The first one is due on the next tick, or behind the plan that is still being executed.
        """
        for action in generation.held:
            if self._by_tick:
                if generation.first_tick is None:
                    first = max(self._next_tick, self._planned_until)
                    generation.first_tick = first - action.index
                action = replace(action, due_tick=generation.first_tick + action.index)
                self._planned_until = generation.first_tick + action.index + 1
            self._buffer.push(action)
        generation.held.clear()

    def _reject(self, event: Generated, cause: str) -> list[Command]:
        """Drop the rest of a generation that gave an unusable action, and look again."""
        self._trace.record(Rejected(event.now_ns, event.generation, event.index, cause))
        cancel = self._abandon_generation(event.now_ns, "its generation was rejected")
        self._bad_generations += 1
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
        cancel = self._latch(event.now_ns, f"{event.stage} stage failed", "stopped")
        if self._free_since_ns is not None:
            return [*cancel, *self._stop_at_once(event.now_ns, self._free_since_ns)]
        return cancel

    def _latch(self, now_ns: int, cause: str, reason: str) -> list[Command]:
        """Give up the plan, for `reason`, and let the governor bring the robot to its safe stop."""
        self._governor.stop(cause)
        self._latched = True
        for action in self._buffer.clear():
            self._drop(now_ns, action.generation, action.index, reason)
        self._ready = None
        self._outdated = self._encoding
        return self._abandon_generation(now_ns, reason)

    def _abandon_generation(self, now_ns: int, reason: str) -> list[Command]:
        """Cancel the generation under way, if there is one; what it made and holds is dropped."""
        generation, self._generation = self._generation, None
        if generation is None:
            return []
        for action in generation.held:
            self._drop(now_ns, action.generation, action.index, reason)
        return [CancelGenerate(generation.number)]

    def _on_interrupted(self, event: Interrupted) -> list[Command]:
        """No plan any more, and one last hold; a robot that moves gets its stop tick by tick."""
        cancel = self._latch(event.now_ns, "interrupted", "interrupted")
        if not self._governor.at_rest:
            return cancel
        ruling = self._governor.rule(None, self._action_state)
        tick = max(self._next_tick, self._sent)  # event pacing counts commands
        self._interventions.note(event.now_ns, tick, ruling.interventions)
        return [*cancel, self._send_governed(ruling, event.now_ns, event.now_ns, tick)]

    def _on_rearm(self, event: Rearm) -> list[Command]:
        """The policy may move the robot again: from a fresh look, not from what it had planned.

        A dead stage stays dead: after one, only a new episode moves the robot.
        """
        if not self._latched or self._failure is not None:
            return []
        self._trace.record(Rearmed(event.now_ns))
        self._governor.rearm()
        self._latched = False
        return self._observe_if_wanted(event.now_ns)

    def _stop_at_once(self, now_ns: int, due_ns: int) -> list[Command]:
        """Event pacing: the hold, and the end."""
        assert self._failure is not None
        ruling = self._governor.rule(None, self._action_state)
        return [self._send_governed(ruling, now_ns, due_ns, self._sent), Stop(self._failure)]

    def _drop(self, now_ns: int, generation: int, index: int, reason: str) -> None:
        self._trace.record(Dropped(now_ns, generation, index, reason))


def _check_settings(pacing: Pacing, late: LateRule, validity_ns: int | None) -> None:
    if validity_ns is not None and validity_ns <= 0:
        raise ConfigError(
            f"validity {validity_ns} ns must be > 0, or None for actions that never expire"
        )
    if pacing == "event" and not isinstance(late, Shift):
        raise ConfigError(
            f"{late} goes by control ticks, and event pacing has none: use Shift or grid pacing"
        )


def _make_governor(space: ActionSpace, rule: Fallback | Ladder, pacing: Pacing) -> Governor:
    if not isinstance(rule, Ladder):
        return SimpleGovernor(space, rule)
    if pacing == "event":
        raise ConfigError(
            "a ladder needs grid pacing: it steps in on control ticks, and event pacing sends "
            "nothing while no action is there; use --pacing grid or a Hold"
        )
    return LadderGovernor(space, rule)
