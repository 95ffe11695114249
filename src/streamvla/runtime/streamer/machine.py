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

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.clock import NS_PER_S
from streamvla.core.errors import ConfigError, StageFailedError
from streamvla.core.interfaces import FlowStart
from streamvla.runtime.buffer import LateRule, PlannedAction, RollingBuffer, Shift, merged
from streamvla.runtime.executors.base import (
    Capture,
    Executor,
    Generation,
    Placement,
    Plan,
)
from streamvla.runtime.governor.governor import (
    Fallback,
    Governor,
    Hold,
    Ruling,
    SimpleGovernor,
    unusable,
)
from streamvla.runtime.governor.health import Health, HealthState, HealthThresholds
from streamvla.runtime.governor.interventions import InterventionLog
from streamvla.runtime.governor.ladder import Ladder, LadderGovernor
from streamvla.runtime.streamer.messages import (
    CancelGenerate,
    Command,
    Event,
    Free,
    Generated,
    Interrupted,
    Observed,
    Rearm,
    SafeStop,
    Send,
    StageFailed,
    Started,
    StartGenerate,
    StartObserve,
    Stop,
    Tick,
)
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

BAD_GENERATIONS, BAD_FOR_NS = 3, NS_PER_S
"""After so many generations in a row with an unusable action, over so long, the policy counts as
dead: a fast model makes three within a burst that passes."""

_MOST_BAD_GENERATIONS = 100
"""And after so many however short the time: a stage without duration would go on for ever."""

_STILL = 1e-9
"""A change of the action state below this, in action units, is rounding."""


# --- the machine -----------------------------------------------------------------------------


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
        executor.require_late_rule(late)
        self._space = space
        self._horizon = horizon
        self._anticipates = executor.anticipates
        self._executed = executor.executed(horizon)
        self._decisions = executor.begin(space, horizon, trace)
        self._plan: Plan = _View(self)
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
        self._actions_sent = 0  # of the policy
        self._observations = 0
        self._refused = 0  # observations that were looked at and refused
        self._captures: dict[int, Capture] = {}
        self._last_due: tuple[int, int] | None = None  # tick and instant of the tick before
        self._encoding: int | None = None  # the observation being encoded
        self._ready: int | None = None  # the observation whose context waits to be used
        self._generation: Generation | None = None
        self._generations = 0
        self._bad_generations = 0
        self._bad_since_ns = 0
        self._free_since_ns: int | None = None  # event pacing: idle since then; None: executing
        self._sent = 0
        self._sent_ns = 0  # of the latest action
        self._failure: StageFailedError | None = None
        self._frozen: tuple[str, ...] = ()  # views whose camera is frozen
        self._latched = False  # the safe stop is on; only `Rearm` ends it
        self._outdated: int | None = None  # an observation from before the safe stop
        self._supplied = False  # grid pacing: the latest tick had an action

    @property
    def anticipates(self) -> bool:
        """Whether the policy must be an `AnticipatingPolicy`."""
        return self._anticipates

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
            and self._observations - self._refused >= self._max_observations
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
            if self._generation.closing:
                unmade = 1
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
        self._note_period(event)
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
                self._drop(event.now_ns, action, "refused")
            send = self._send_governed(ruling, event.now_ns, event.due_ns, event.tick)
        self._supplied = ruling.source == "policy"
        self._note_health(event, supplied=self._supplied)
        if self._failure is not None:
            return [send, Stop(self._failure)] if self._governor.at_rest else [send]
        if self._governor.latched and not self._latched:
            return [send, *observe, *self._latch(event.now_ns, "the governor's own", "safe stop")]
        if ruling.source == "fallback" and self._moved_from(before):
            observe += self._abandon_generation(event.now_ns, "a fallback controller took over")
        return [send, *observe]

    def _note_period(self, event: Tick) -> None:
        if self._last_due is not None:
            tick, due_ns = self._last_due
            if event.tick > tick:
                self._decisions.command_took((event.due_ns - due_ns) // (event.tick - tick))
        self._last_due = event.tick, event.due_ns

    def _moved_from(self, state: np.ndarray) -> bool:
        return not np.allclose(self._action_state, state, rtol=0, atol=_STILL)

    def _next_action(self, now_ns: int, tick: int) -> PlannedAction | None:
        """The action for a control instant; what is late or expired on the way is dropped."""
        while True:
            action, late = self._buffer.pop(tick)
            for dropped in late:
                self._drop(now_ns, dropped, "past due")
            if action is None or action.valid_until_ns is None:
                return action
            if now_ns <= action.valid_until_ns:
                return action
            self._drop(now_ns, action, "expired")

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
        self._decisions.command_took(event.now_ns - self._sent_ns)
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
        self._actions_sent += 1
        self._sent_ns = now_ns
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
                action.parents,
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
        """Observe when no context is due already, and the executor wants to look now."""
        if self._latched or self._encoding is not None or self._ready is not None:
            return []
        made = self._observations - self._refused
        if self._max_observations is not None and made >= self._max_observations:
            return []
        look = self._decisions.look(self._plan, now_ns)
        if look is None:
            return []
        stop: list[Command] = []
        if look.stop_generating and self._generation is not None:
            self._generation.closing = True
            stop = [CancelGenerate(self._generation.number)]
        number, pending = self._observations, self.pending()
        self._observations += 1
        self._encoding = number
        self._captures[number] = Capture(
            number, now_ns, self._action_state, self._actions_sent, pending
        )
        self._decisions.looked(self._plan)
        self._trace.record(ObserveRequested(now_ns, number, pending, look.again))
        return [*stop, StartObserve(number, self._action_state, look.foresee)]

    def _on_observed(self, event: Observed) -> list[Command]:
        capture = self._captures[event.observation]
        self._encoding = None
        self._note_cameras(event)
        outdated = self._latched or event.observation == self._outdated
        if event.refused or outdated:
            del self._captures[event.observation]
        if event.refused:
            return self._on_refused(event, capture, outdated)
        self._trace.record(ObserveReady(event.now_ns, event.observation, capture.now_ns))
        if outdated:
            return self._observe_if_wanted(event.now_ns)
        takeover = self._decisions.observed(self._plan, capture, event.saliency, event.now_ns)
        self._governor.aim(event.goal)
        self._ready = event.observation
        if takeover is not None:
            return self._take_over(event.now_ns, takeover.keep)
        return self._generate_if_possible(event.now_ns)

    def _on_refused(self, event: Observed, capture: Capture, outdated: bool) -> list[Command]:
        """Look again at once only if the robot is idle: the next look is on a control instant."""
        self._refused += 1
        self._decisions.refused(self._plan, capture, event.saliency, event.now_ns)
        idle = not self._supplied if self._pacing == "grid" else self._free_since_ns is not None
        return self._observe_if_wanted(event.now_ns) if idle or outdated else []

    def _take_over(self, now_ns: int, keep: int) -> list[Command]:
        """The newest context plans anew behind the first `keep` actions of the buffer."""
        commands = self._abandon_generation(now_ns, "replaced by a newer context")
        for action in self._buffer.keep_first(keep):
            self._drop(now_ns, action, "replaced by a newer context")
        started = self._generate_if_possible(now_ns)
        if commands and self._generation is not None:
            self._generation.replaces = True
        return [*commands, *started]

    def until_next_ns(self, now_ns: int, period_ns: int) -> int:
        """How long until the robot takes its next action."""
        if self._pacing == "grid" and self._last_due is not None:
            tick, due_ns = self._last_due
            next_ns = due_ns + period_ns if self._next_tick > tick else due_ns
        else:
            next_ns = now_ns if self._free_since_ns is not None else self._sent_ns + period_ns
        return max(0, next_ns - now_ns)

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
        capture = self._captures.pop(observation)
        start = self._decisions.start(self._plan, capture, now_ns)
        index = start.index
        prefix, ticks = self._prefix(start)
        self._generation = Generation(
            number, observation, capture.now_ns, now_ns, start, index, [], now_ns, prefix, ticks
        )
        self._generation.requested_tick = max(self._next_tick, self._planned_until)
        self._trace.record(GenerateRequested(now_ns, number, observation, index, len(self._buffer)))
        self._decisions.begun(now_ns)
        return [StartGenerate(number, observation, start)]

    def _prefix(self, start: FlowStart) -> tuple[tuple[PlannedAction, ...], tuple[int, ...] | None]:
        """The planned actions that a generation takes as given, and the ticks they are due on."""
        count = 0 if start.prefix is None else len(start.prefix)
        if count > min(len(self._buffer), self._horizon):
            raise ValueError(
                f"a prefix of {count} actions: {len(self._buffer)} are pending, and a generation "
                f"has {self._horizon}; take it from Plan.buffered (prefix_of)"
            )
        prefix = tuple(islice(self._buffer, count))
        if self._pacing == "event":
            return prefix, None
        ordered = range(self._next_tick, self._next_tick + count)
        return prefix, tuple(
            tick if each.due_tick is None else each.due_tick
            for tick, each in zip(ordered, prefix, strict=True)
        )

    def _planned_state(self) -> np.ndarray:
        """(d,) the action state after everything sent and everything buffered."""
        state = self._action_state
        for action in self._buffer:
            state = self._space.advance(state, self._space.clip(action.values))
        return state

    def _on_generated(self, event: Generated) -> list[Command]:
        generation = self._generation
        if generation is None or event.generation != generation.number:
            self._trace.record(Dropped(event.now_ns, event.generation, event.index, "cancelled"))
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

    def _accept(self, event: Generated, generation: Generation) -> list[Command]:
        self._decisions.made(generation, event.started_ns, event.now_ns)
        generation.next_index += 1
        generation.step_since_ns = event.now_ns
        last = generation.closing or generation.next_index == self._horizon
        generation.held.append(self._planned(event, generation))
        placement = self._decisions.place(self._plan, generation, last=last)
        self._place(event.now_ns, generation, placement)
        if last:
            self._generation = None
            self._bad_generations = 0
        generate = self._generate_if_possible(event.now_ns) if last else []
        if self._decisions.looks_between:
            generate += self._observe_if_wanted(event.now_ns)
        return [*self._send_if_free(event.now_ns), *generate]

    def _planned(self, event: Generated, generation: Generation) -> PlannedAction:
        captured_ns, window_ns = generation.captured_ns, self._validity_ns
        return PlannedAction(
            np.array(event.values, dtype=float),  # a policy may use its array again
            generation.number,
            event.index,
            generation.observation,
            captured_ns,
            valid_until_ns=None if window_ns is None else captured_ns + window_ns,
        )

    def _place(self, now_ns: int, generation: Generation, placement: Placement) -> None:
        """Do with the actions made what the executor says. By-tick rules: action i is due i ticks
        after the first one, which is due on the tick after the request, or behind the plan that is
        being executed then. So what comes late starts at the elapsed index."""
        if placement.drop_older is not None:
            for action in self._buffer.clear():
                self._drop(now_ns, action, placement.drop_older)
        placed = {id(merge.action) for merge in placement.merge}
        for merge in placement.merge:
            self._buffer.exchange(merge.into, merged(merge.action, merge.into, merge.weight))
        for action, reason in placement.discard:
            placed.add(id(action))
            self._drop(now_ns, action, reason)
        for action in placement.append:
            placed.add(id(action))
            self._buffer.push(self._due(action, generation) if self._by_tick else action)
        generation.held[:] = [each for each in generation.held if id(each) not in placed]

    def _due(self, action: PlannedAction, generation: Generation) -> PlannedAction:
        if generation.first_tick is None:
            generation.first_tick = generation.requested_tick - generation.first_index
        self._planned_until = generation.first_tick + action.index + 1
        return replace(action, due_tick=generation.first_tick + action.index)

    def _reject(self, event: Generated, cause: str) -> list[Command]:
        """Drop the rest of a generation that gave an unusable action, and look again."""
        self._trace.record(Rejected(event.now_ns, event.generation, event.index, cause))
        cancel = self._abandon_generation(event.now_ns, "its generation was rejected")
        if self._bad_generations == 0:
            self._bad_since_ns = event.now_ns
        self._bad_generations += 1
        lasting = event.now_ns - self._bad_since_ns >= BAD_FOR_NS
        if (
            self._bad_generations >= BAD_GENERATIONS and lasting
        ) or self._bad_generations >= _MOST_BAD_GENERATIONS:
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
            self._drop(now_ns, action, reason)
        self._ready = None
        self._decisions.stopped()
        self._outdated = self._encoding
        return self._abandon_generation(now_ns, reason)

    def _abandon_generation(self, now_ns: int, reason: str) -> list[Command]:
        """Cancel the generation under way, if there is one; what it made and holds is dropped."""
        generation, self._generation = self._generation, None
        if generation is None:
            return []
        for action in generation.held:
            self._drop(now_ns, action, reason)
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

    def _drop(self, now_ns: int, action: PlannedAction, reason: str) -> None:
        for source in action.sources:
            self._trace.record(Dropped(now_ns, source.generation, source.index, reason))


class _View:
    """The streamer's plan as executors see it. Implements `Plan`."""

    def __init__(self, streamer: Streamer) -> None:
        self._streamer = streamer
        self.space = streamer._space
        self.horizon = streamer._horizon

    @property
    def buffered(self) -> Sequence[PlannedAction]:
        return tuple(self._streamer._buffer)

    @property
    def pending(self) -> int:
        return self._streamer.pending()

    @property
    def generation(self) -> Generation | None:
        return self._streamer._generation

    @property
    def next_observation(self) -> int:
        return self._streamer._observations

    @property
    def sent(self) -> int:
        return self._streamer._sent

    @property
    def actions_sent(self) -> int:
        return self._streamer._actions_sent

    def planned_state(self) -> np.ndarray:
        return self._streamer._planned_state()

    def until_next_ns(self, now_ns: int, period_ns: int) -> int:
        return self._streamer.until_next_ns(now_ns, period_ns)


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
