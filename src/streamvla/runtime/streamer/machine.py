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
from streamvla.core.clock import NS_PER_S
from streamvla.core.errors import ConfigError, StageFailedError
from streamvla.core.interfaces import FlowStart
from streamvla.runtime.buffer import LateRule, PlannedAction, RollingBuffer, Shift
from streamvla.runtime.executors.action_flow import ActionFlow, Compensation, Executor
from streamvla.runtime.executors.early import (
    Adaptive,
    Always,
    EarlyObserver,
    Foresee,
    Never,
    Saliency,
    leads_to_cover,
    smaller_lead,
)
from streamvla.runtime.executors.lead import LeadPlanner
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
    EarlyDecided,
    Failed,
    Finished,
    GenerateRequested,
    HealthChanged,
    LeadChosen,
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


@dataclass(slots=True)
class _Capture:
    """An observation: when it was captured, after which commands, with how much pending."""

    now_ns: int
    action_state: np.ndarray  # (d,)
    actions_sent: int  # of the policy
    pending: int


@dataclass(slots=True)
class _Generation:
    """A generation under way: its next expected flow step, and what waits for release."""

    number: int
    observation: int
    captured_ns: int
    requested_ns: int
    first_index: int
    next_index: int
    held: list[PlannedAction]
    step_since_ns: int  # since when it is at its present step
    replaces: bool = False  # one whose last step had to end first
    closing: bool = False  # cancelled, but the step under way is still to come
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
        _check_replanning(executor, late)
        self._space = space
        self._horizon = horizon
        self._executor = executor
        self._executed = executor.executed(horizon)
        self._compensation = _compensation_of(executor)
        self._early = _make_early(executor, space)
        self._planner = _make_planner(executor, horizon)
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
        self._captures: dict[int, _Capture] = {}
        self._lead = -1  # aimed at in this cycle
        self._next_lead = self._planner.lead  # lower than that after a refusal
        self._last_due: tuple[int, int] | None = None  # tick and instant of the tick before
        self._doubted = False  # the present context only bridges the time until a second look
        self._second_look: int | None = None  # the latest observation that was one
        self._encoding: int | None = None  # the observation being encoded
        self._ready: int | None = None  # the observation whose context waits to be used
        self._generation: _Generation | None = None
        self._generations = 0
        self._bad_generations = 0
        self._bad_since_ns = 0
        self._free_since_ns: int | None = None  # event pacing: idle since then; None: executing
        self._sent = 0
        self._sent_ns = 0  # of the latest action
        self._sent_at_capture = -1  # commands, at the latest one
        self._failure: StageFailedError | None = None
        self._frozen: tuple[str, ...] = ()  # views whose camera is frozen
        self._latched = False  # the safe stop is on; only `Rearm` ends it
        self._outdated: int | None = None  # an observation from before the safe stop
        self._supplied = False  # grid pacing: the latest tick had an action

    @property
    def anticipates(self) -> bool:
        """Whether the policy must be an `AnticipatingPolicy`."""
        return self._executor.anticipates

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
                self._drop(event.now_ns, action.generation, action.index, "refused")
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
                self._planner.executed((event.due_ns - due_ns) // (event.tick - tick))
        self._last_due = event.tick, event.due_ns

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
        self._planner.executed(event.now_ns - self._sent_ns)
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
        if self._executor.replans:
            return self._replan(now_ns) if self._may_replan(now_ns) else []
        pending = self.pending()
        if pending == 0:
            return self._observe(now_ns, pending)
        if self._doubted and self._may_replan(now_ns):
            self._second_look = self._observations
            return self._replan(now_ns)
        return self._observe_early(now_ns, pending) if pending <= self._next_lead else []

    def _observe_early(self, now_ns: int, pending: int) -> list[Command]:
        """Ask the rule. Pending actions that are not made yet are taken to repeat the last one."""
        actions: list[np.ndarray] = []
        if self._early.needs_plan:
            if not self._buffer:
                return []
            actions = [self._space.clip(each.values) for each in self._buffer]
            actions += actions[-1:] * (pending - len(actions))
        answer = self._early.ask(actions)
        if answer.look:
            number = self._observations if answer.cause else -1
            if answer.cause:
                self._decided(now_ns, number, pending, answer.cause, accepted=True)
            return self._observe(now_ns, pending, answer.foresee)
        self._next_lead = answer.next_lead
        self._decided(now_ns, -1, pending, answer.cause, accepted=False)
        return []

    def _observe(self, now_ns: int, pending: int, foresee: Foresee | None = None) -> list[Command]:
        number = self._observations
        self._observations += 1
        self._encoding = number
        self._doubted = False
        self._sent_at_capture = self._sent
        self._captures[number] = _Capture(now_ns, self._action_state, self._actions_sent, pending)
        self._trace.record(ObserveRequested(now_ns, number, pending, number == self._second_look))
        return [StartObserve(number, self._action_state, foresee)]

    def _decided(
        self,
        now_ns: int,
        observation: int,
        lead: int,
        cause: str,
        *,
        accepted: bool,
        saliency: Saliency = (),
        second_look: bool = False,
    ) -> None:
        rule = self._early.rule
        threshold = rule.threshold if isinstance(rule, Adaptive) else ()
        next_lead = lead if accepted or second_look else self._next_lead
        told = (accepted, cause, next_lead, saliency, threshold, second_look)
        self._trace.record(EarlyDecided(now_ns, observation, lead, *told))

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
        self._planner.observed(event.now_ns - capture.now_ns, refused=False)
        self._judge(event, capture)
        self._governor.aim(event.goal)
        self._ready = event.observation
        if self._executor.replans or event.observation == self._second_look:
            return self._take_over(event.now_ns)
        return self._generate_if_possible(event.now_ns)

    def _judge(self, event: Observed, capture: _Capture) -> None:
        """Whether an observation that will be used calls for a second look."""
        rule = self._early.rule
        if not event.saliency or not isinstance(rule, Adaptive):
            return
        objection = rule.objection(event.saliency[0])
        self._doubted = rule.second_look and objection is not None
        self._decided(
            event.now_ns,
            event.observation,
            capture.pending,
            objection or "saliency within its threshold",
            accepted=objection is None,
            saliency=event.saliency[0],
            second_look=self._doubted,
        )

    def _on_refused(self, event: Observed, capture: _Capture, outdated: bool) -> list[Command]:
        """Schedule the largest smaller lead that passes; look at once only if nothing is left.

        Otherwise the next look is on a control instant, when exactly that many are pending.
        """
        rule = self._early.rule
        if not isinstance(rule, Adaptive):
            raise ValueError(f"observation {event.observation} was refused under {rule}")
        self._refused += 1
        self._planner.observed(event.now_ns - capture.now_ns, refused=True)
        least = self._planner.least_lead_to_look
        self._next_lead = smaller_lead(rule, event.saliency, self.pending(), least)
        cause = rule.objection(event.saliency[0]) or "refused"
        self._decided(
            event.now_ns,
            event.observation,
            capture.pending,
            cause,
            accepted=False,
            saliency=event.saliency[0],
        )
        idle = not self._supplied if self._pacing == "grid" else self._free_since_ns is not None
        return self._observe_if_wanted(event.now_ns) if idle or outdated else []

    # --- replanning as fast as possible --------------------------------------------------------

    def _may_replan(self, now_ns: int) -> bool:
        """Whether the encoder can be spared: a command was sent since the last capture, every
        context gives an action first, and what is made can bridge the next observation if
        generating must wait for it."""
        if self._sent == self._sent_at_capture:
            return False
        generation = self._generation
        if generation is None:
            return True
        if generation.next_index == generation.first_index:
            return False
        return not self._shared or self._bridged(now_ns)

    @property
    def _shared(self) -> bool:
        return isinstance(self._executor, ActionFlow) and self._executor.shared_accelerator

    def _bridged(self, now_ns: int) -> bool:
        """Whether what is made, the step under way included, covers that step, observing and a
        first action."""
        observe_ns, first_ns, period_ns = self._planner.times
        if observe_ns is None or first_ns is None or not period_ns:
            return len(self._buffer) >= self._planner.lead
        made = len(self._buffer) + 1
        covered_ns = self._until_next_ns(now_ns, period_ns) + made * period_ns
        return covered_ns >= self._step_left_ns(now_ns, first_ns) + observe_ns + first_ns

    def _replan(self, now_ns: int) -> list[Command]:
        """Look; on a shared accelerator right after the step under way: what the generation would
        still make would only be in the way."""
        stop: list[Command] = []
        if self._shared and self._generation is not None:
            self._generation.closing = True
            stop = [CancelGenerate(self._generation.number)]
        return [*stop, *self._observe(now_ns, self.pending())]

    def _take_over(self, now_ns: int) -> list[Command]:
        """The newest context plans anew behind the actions that are due before its first one."""
        committed = self._committed(now_ns)
        commands = self._abandon_generation(now_ns, "replaced by a newer context")
        for action in self._buffer.keep_first(committed):
            self._drop(now_ns, action.generation, action.index, "replaced by a newer context")
        started = self._generate_if_possible(now_ns)
        if commands and self._generation is not None:
            self._generation.replaces = True
        return [*commands, *started]

    def _committed(self, now_ns: int) -> int:
        """How many actions are due before a generation that starts now can have made its first.

        The one under way is cancelled, but the step it is at still has to end.
        """
        _, first_ns, period_ns = self._planner.times
        if first_ns is None or not period_ns:
            return len(self._buffer)
        needed_ns = first_ns + self._step_left_ns(now_ns, first_ns)
        return leads_to_cover(needed_ns - self._until_next_ns(now_ns, period_ns), period_ns)

    def _step_left_ns(self, now_ns: int, step_ns: int) -> int:
        """How long the step that a generation is at may still take; it cannot be called back."""
        if self._generation is None:
            return 0
        return min(max(0, self._generation.step_since_ns + step_ns - now_ns), step_ns)

    def _until_next_ns(self, now_ns: int, period_ns: int) -> int:
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
        start = self._start(capture)
        index = start.index
        self._generation = _Generation(
            number, observation, capture.now_ns, now_ns, index, index, [], now_ns
        )
        self._trace.record(GenerateRequested(now_ns, number, observation, index, len(self._buffer)))
        self._begin_cycle(now_ns)
        return [StartGenerate(number, observation, start)]

    def _start(self, capture: _Capture) -> FlowStart:
        """Where the flow starts, given what was executed and is pending since the capture."""
        since = self._actions_sent + len(self._buffer) - capture.actions_sent
        parts = self._compensation
        index = min(since, self._horizon - 1) if parts.clock_shift else 0
        if not parts.state:
            return FlowStart(capture.action_state, index)
        return FlowStart(self._planned_state(), index, 0 if index else since)

    def _begin_cycle(self, now_ns: int) -> None:
        self._next_lead = self._planner.lead
        if self._next_lead != self._lead:
            self._lead = self._next_lead
            times = (-1 if each is None else each for each in self._planner.times)
            if isinstance(self._executor, ActionFlow) and self._executor.measured_lead:
                self._trace.record(LeadChosen(now_ns, self._lead, *times))

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
        if generation.next_index == generation.first_index:
            since_ns = event.started_ns if generation.replaces else generation.requested_ns
            self._planner.first_action_made(event.now_ns - since_ns)
        generation.next_index += 1
        generation.step_since_ns = event.now_ns
        last = generation.closing or generation.next_index == self._horizon
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
        if self._executor.replans or self._doubted:
            generate += self._observe_if_wanted(event.now_ns)
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
            self._drop(now_ns, action.generation, action.index, reason)
        self._ready = None
        self._doubted = False
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


def _check_replanning(executor: Executor, late: LateRule) -> None:
    looks_again = isinstance(executor, ActionFlow) and executor.looks_again
    if (executor.replans or looks_again) and not isinstance(late, Shift):
        raise ConfigError(
            f"{late} plans by control ticks; replanning at any time, as after a second look, "
            "needs Shift"
        )


def _compensation_of(executor: Executor) -> Compensation:
    return executor.compensation if isinstance(executor, ActionFlow) else Compensation()


def _make_early(executor: Executor, space: ActionSpace) -> EarlyObserver:
    rule = executor.early if isinstance(executor, ActionFlow) else Always()
    return EarlyObserver(rule, space, correct=_compensation_of(executor).context)


def _make_planner(executor: Executor, horizon: int) -> LeadPlanner:
    if not isinstance(executor, ActionFlow) or isinstance(executor.early, Never):
        return LeadPlanner(0)
    most = min(executor.most_lead, horizon - 1)
    return LeadPlanner(executor.lead, most if executor.measured_lead or executor.replans else None)


def _make_governor(space: ActionSpace, rule: Fallback | Ladder, pacing: Pacing) -> Governor:
    if not isinstance(rule, Ladder):
        return SimpleGovernor(space, rule)
    if pacing == "event":
        raise ConfigError(
            "a ladder needs grid pacing: it steps in on control ticks, and event pacing sends "
            "nothing while no action is there; use --pacing grid or a Hold"
        )
    return LadderGovernor(space, rule)
