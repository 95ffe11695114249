"""The streamer: one pure state machine that decides when to observe, generate and send.

It takes timed events and returns commands; it owns no thread, no socket, no clock. One control loop
(`drivers.loop`) runs it in virtual time and on the system clock, so what is studied in simulation
is what runs on the robot.

    events in   Started  Tick | Free   Observed   Generated
                StageFailed   Interrupted   SafeStop   Rearm
    commands    StartObserve   StartGenerate   CancelGenerate   Send   Stop
    out

An event goes from here to the executor (what to do), to the plan (what is due) and to the governor
(what leaves), once each.

Every observation leads to at most one generation. A generation starts where the plan before it
ends, so the actions of consecutive generations form one continuous flow.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.clock import NS_PER_S
from streamvla.core.errors import ConfigError, StageFailedError
from streamvla.runtime.buffer import LateRule, PlannedAction, Shift
from streamvla.runtime.executors.base import Capture, Executor, Generation
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
from streamvla.runtime.streamer.execution import Execution
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
from streamvla.runtime.streamer.plan import RollingPlan
from streamvla.trace import (
    ActionReady,
    CameraFrozen,
    CameraThawed,
    Dropped,
    Failed,
    Finished,
    GenerateRequested,
    HealthChanged,
    InstructionRephrased,
    InstructionUnclear,
    ObserveReady,
    ObserveRequested,
    Rearmed,
    Rejected,
    Sent,
    TicksSkipped,
    TraceSink,
)
from streamvla.trace.spans import Pacing

BAD_GENERATIONS, BAD_FOR_NS = 3, NS_PER_S
"""After so many generations in a row with an unusable action, over so long, the policy counts as
dead: a fast model makes three within a burst that passes."""

_MOST_BAD_GENERATIONS = 100
"""And after so many however short the time: a stage without duration would go on for ever."""

GAP_TICKS = 10
"""After so many ticks without a command in a row a robot stands."""

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
        self._pacing: Pacing = pacing
        self._trace = trace
        self._anticipates = executor.anticipates
        self._max_observations = max_observations

        self._decisions = executor.begin(space, horizon, trace)
        self._execution = Execution(space, pacing)
        executed = executor.executed(horizon)
        self._plan = RollingPlan(
            space, horizon, executed, pacing, late, validity_ns, self._execution, trace
        )
        self._governor = _make_governor(space, fallback or Hold(), pacing)
        self._health = Health(health or HealthThresholds())
        self._interventions = InterventionLog(trace)

        self._refused = 0  # observations that were looked at and refused
        self._captures: dict[int, Capture] = {}
        self._encoding: int | None = None  # the observation being encoded
        self._ready: int | None = None  # the observation whose context waits to be used
        self._bad_generations = 0
        self._bad_since_ns = 0
        self._failure: StageFailedError | None = None
        self._frozen: tuple[str, ...] = ()  # views whose camera is frozen
        self._unclear: set[str] = set()  # instructions that were
        self._rephrased: set[str] = set()
        self._latched = False  # the safe stop is on; only `Rearm` ends it
        self._outdated: int | None = None  # an observation from before the safe stop
        self._fresh_from_ns: int | None = None  # frames from before a stop or gap are outdated too
        self._supplied = False  # grid pacing: the latest tick had an action

    @property
    def space(self) -> ActionSpace:
        return self._space

    @property
    def horizon(self) -> int:
        return self._horizon

    @property
    def pacing(self) -> Pacing:
        return self._pacing

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
        return self._execution.action_state

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do: the observation limit is reached, all was executed."""
        return (
            not self._execution.executing
            and self._max_observations is not None
            and self._plan.next_observation - self._refused >= self._max_observations
            and self._encoding is None
            and self._ready is None
            and self._plan.pending == 0
        )

    def pending(self) -> int:
        """Actions of the present plan that were not sent yet, made or still to be made."""
        return self._plan.pending

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
            self._execution.action_state = event.action_state
        self._governor.begin(self._execution.action_state)
        if self._pacing == "event":
            self._execution.free_since_ns = event.now_ns
        return self._observe_if_wanted(event.now_ns)

    def close(self, now_ns: int) -> None:
        """The episode is over: write what was only counted so far."""
        self._interventions.flush(now_ns)

    # --- control instants ----------------------------------------------------------------------

    def _on_tick(self, event: Tick) -> list[Command]:
        """Exactly one command leaves, whatever the model does."""
        period_ns = self._execution.period_ns(event.tick, event.due_ns)
        if period_ns is not None:
            self._decisions.command_took(period_ns)
        skipped = max(0, event.tick - self._execution.next_tick)
        caught_up = self._catch_up(event, skipped) if skipped else []
        observe = [*caught_up, *self._observe_if_wanted(event.now_ns)]
        self._execution.next_tick = event.tick + 1
        action = self._plan.take(event.now_ns, event.tick)
        before = self._execution.action_state
        ruling = self._governor.rule(
            None if action is None else action.values,
            before,
            may_move=self._plan.generation
            is None,  # a generation starts from the state as it is now
        )
        self._interventions.note(event.now_ns, event.tick, ruling.interventions)
        if action is not None and ruling.source == "policy":
            send = self._send_action(action, ruling, event.now_ns, event.due_ns, event.tick)
        else:
            if action is not None:
                self._plan.drop(event.now_ns, action, "refused")
            send = self._send_governed(ruling, event.now_ns, event.due_ns, event.tick)
        self._note_in_force(observe)
        self._supplied = ruling.source == "policy"
        self._note_health(event, supplied=self._supplied, skipped=skipped)
        if self._failure is not None:
            return [send, Stop(self._failure)] if self._governor.at_rest else [send]
        if self._governor.latched and not self._latched:
            return [send, *observe, *self._latch(event.now_ns, "the governor's own", "safe stop")]
        if ruling.source == "fallback" and self._moved_from(before):
            observe += self._abandon_generation(event.now_ns, "a fallback controller took over")
        return [send, *observe]

    def _moved_from(self, state: np.ndarray) -> bool:
        return not np.allclose(self._execution.action_state, state, rtol=0, atol=_STILL)

    def _catch_up(self, event: Tick, skipped: int) -> list[Command]:
        """After a gap. A long one leaves a robot that stands, and a plan from long ago: it starts
        from rest, with a fresh look."""
        now_ns = event.now_ns
        self._trace.record(TicksSkipped(now_ns, event.tick, skipped, event.why_late or "left out"))
        if skipped < GAP_TICKS:
            return []
        self._governor.begin(self._execution.action_state)
        self._plan.clear(now_ns, "outdated by a gap")
        self._forget_ready()
        self._decisions.stopped()
        self._outdated, self._fresh_from_ns = self._encoding, now_ns
        return self._abandon_generation(now_ns, "outdated by a gap")

    def _note_health(self, event: Tick, *, supplied: bool, skipped: int) -> None:
        transition = self._health.tick(
            supplied=supplied,
            latched=self._governor.latched,
            seeing=not self._frozen,
            skipped=skipped,
        )
        if transition is not None:
            cause = f"{skipped} ticks skipped: {event.why_late}" if skipped else ""
            cause = cause or ", ".join(f"camera {view} is frozen" for view in self._frozen)
            self._trace.record(HealthChanged(event.now_ns, event.tick, *transition, cause))

    def _on_free(self, event: Free) -> list[Command]:
        """The robot takes the next action if there is one, and idles otherwise."""
        self._trace.record(Finished(event.now_ns))
        self._execution.free_since_ns = event.due_ns
        self._decisions.command_took(self._execution.took_ns(event.now_ns))
        if self._failure is not None:
            return self._stop_at_once(event.now_ns, event.due_ns)
        observe = self._observe_if_wanted(event.now_ns)
        send = self._send_if_free(event.now_ns)
        self._note_in_force(observe)
        return [*send, *observe]

    def _note_in_force(self, commands: list[Command]) -> None:
        """The command of a control instant reaches the robot before the capture it asks for."""
        for command in commands:
            if isinstance(command, StartObserve):
                capture = self._captures[command.observation]
                capture.in_force = self._execution.sent - capture.sent

    def _send_if_free(self, now_ns: int) -> list[Command]:
        execution = self._execution
        due_ns = execution.free_since_ns
        if due_ns is None:
            return []
        action = self._plan.take(now_ns, execution.sent)
        if action is None:
            return self._observe_if_wanted(now_ns)  # all that was pending may just have expired
        execution.free_since_ns = None
        ruling = self._governor.rule(action.values, execution.action_state)
        return [self._send_action(action, ruling, now_ns, due_ns, execution.sent)]

    def _send_action(
        self, action: PlannedAction, ruling: Ruling, now_ns: int, due_ns: int, tick: int
    ) -> Send:
        values = ruling.values
        self._execution.commit_action(values, now_ns)
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
                len(self._plan),
                tuple(values.tolist()),
                -1 if action.valid_until_ns is None else action.valid_until_ns,
                action.parents,
            )
        )
        return Send(values, action.valid_until_ns)

    def _send_governed(self, ruling: Ruling, now_ns: int, due_ns: int, tick: int) -> Send:
        """Send a command that is the governor's own, not the policy's."""
        rung, values, _ = ruling
        self._execution.commit(values)
        depth = len(self._plan)
        sent = Sent(now_ns, due_ns, tick, rung, -1, -1, -1, -1, depth, tuple(values.tolist()))
        self._trace.record(sent)
        return Send(values)

    # --- observing -----------------------------------------------------------------------------

    def _observe_if_wanted(self, now_ns: int) -> list[Command]:
        """Observe when no context is due already, and the executor wants to look now."""
        if self._latched or self._encoding is not None or self._ready is not None:
            return []
        made = self._plan.next_observation - self._refused
        if self._max_observations is not None and made >= self._max_observations:
            return []
        look = self._decisions.look(self._plan, now_ns)
        if look is None:
            return []
        stop: list[Command] = []
        if look.stop_generating and self._plan.generation is not None:
            self._plan.generation.closing = True
            stop = [CancelGenerate(self._plan.generation.number)]
        number, pending = self._plan.next_observation, self._plan.pending
        state, sent = self._execution.action_state, self._execution.actions_sent
        self._plan.next_observation += 1
        self._encoding = number
        self._captures[number] = Capture(
            number, now_ns, state, sent, pending, self._execution.sent, frames_ns=now_ns
        )
        self._decisions.looked(self._plan)
        self._trace.record(ObserveRequested(now_ns, number, pending, look.again))
        return [*stop, StartObserve(number, state, look.foresee)]

    def _on_observed(self, event: Observed) -> list[Command]:
        capture = self._captures.get(event.observation)
        if capture is None or event.observation != self._encoding:
            message = f"observation {event.observation} arrived, which nobody waits for"
            return self._on_failed(StageFailed(event.now_ns, "observe", message))
        if event.goal is not None and unusable(self._space, event.goal) is not None:
            message = f"observation {event.observation}: a goal that is no position: {event.goal}"
            return self._on_failed(StageFailed(event.now_ns, "observe", message))
        self._encoding = None
        self._note_cameras(event)
        self._note_instruction(event)
        capture.frames_ns = capture.now_ns - max(event.frames_old_ns, 0)
        outdated = self._latched or event.observation == self._outdated
        if self._fresh_from_ns is not None and capture.frames_ns < self._fresh_from_ns:
            outdated = True
        if event.refused or outdated:
            del self._captures[event.observation]
        if event.refused:
            return self._on_refused(event, capture, outdated)
        self._trace.record(ObserveReady(event.now_ns, event.observation, capture.frames_ns))
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
        idle = not self._supplied if self._pacing == "grid" else not self._execution.executing
        return self._observe_if_wanted(event.now_ns) if idle or outdated else []

    def _take_over(self, now_ns: int, keep: int) -> list[Command]:
        """The newest context plans anew behind the first `keep` actions of the buffer."""
        commands = self._abandon_generation(now_ns, "replaced by a newer context")
        self._plan.keep_first(now_ns, keep, "replaced by a newer context")
        started = self._generate_if_possible(now_ns)
        if commands and self._plan.generation is not None:
            self._plan.generation.replaces = True
        return [*commands, *started]

    def _note_cameras(self, event: Observed) -> None:
        for view in event.frozen:
            if view not in self._frozen:
                self._trace.record(CameraFrozen(event.now_ns, event.observation, view))
        for view in self._frozen:
            if view not in event.frozen:
                self._trace.record(CameraThawed(event.now_ns, event.observation, view))
        self._frozen = event.frozen

    def _note_instruction(self, event: Observed) -> None:
        """Once for each that is unclear, and for each that another text is read for."""
        if event.unclear is not None and event.unclear[0] not in self._unclear:
            self._unclear.add(event.unclear[0])
            self._trace.record(InstructionUnclear(event.now_ns, event.observation, *event.unclear))
        if event.rephrased is not None and event.rephrased[0] not in self._rephrased:
            self._rephrased.add(event.rephrased[0])
            told = (event.observation, *event.rephrased)
            self._trace.record(InstructionRephrased(event.now_ns, *told))

    # --- generating ----------------------------------------------------------------------------

    def _generate_if_possible(self, now_ns: int) -> list[Command]:
        """Start on the waiting context once the generation before it has made its last action."""
        if self._ready is None or self._plan.generation is not None:
            return []
        observation, self._ready = self._ready, None
        capture = self._captures.pop(observation)
        start = self._decisions.start(self._plan, capture, now_ns)
        executed = self._execution.since(capture.sent)
        start = replace(start, executed=executed, in_force=capture.in_force)
        number = self._plan.begin(capture, start, now_ns).number
        depth = len(self._plan)
        self._trace.record(GenerateRequested(now_ns, number, observation, start.index, depth))
        self._decisions.begun(now_ns)
        return [StartGenerate(number, observation, start)]

    def _on_generated(self, event: Generated) -> list[Command]:
        generation = self._plan.generation
        if generation is None or event.generation != generation.number:
            self._trace.record(Dropped(event.now_ns, event.generation, event.index, "cancelled"))
            return []
        if event.index != generation.next_index:
            message = (
                f"generation {event.generation}: flow step {event.index} arrived, "
                f"{generation.next_index} was next"
            )
            return self._on_failed(StageFailed(event.now_ns, "generate", message))
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
        self._plan.hold(generation, event)
        last = generation.closing or generation.next_index == self._horizon
        placement = self._decisions.place(self._plan, generation, last=last)
        self._plan.place(event.now_ns, generation, placement)
        if last:
            self._plan.generation = None
            self._bad_generations = 0
        generate = self._generate_if_possible(event.now_ns) if last else []
        if self._decisions.looks_between:
            generate += self._observe_if_wanted(event.now_ns)
        return [*self._send_if_free(event.now_ns), *generate]

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
        return self._observe_if_wanted(now_ns) if self._execution.free_since_ns is not None else []

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
        idle_since_ns = self._execution.free_since_ns
        if idle_since_ns is not None:
            return [*cancel, *self._stop_at_once(event.now_ns, idle_since_ns)]
        return cancel

    def _latch(self, now_ns: int, cause: str, reason: str) -> list[Command]:
        """Give up the plan, for `reason`, and let the governor bring the robot to its safe stop."""
        self._governor.stop(cause)
        self._latched = True
        self._plan.clear(now_ns, reason)
        self._forget_ready()
        self._decisions.stopped()
        self._outdated, self._fresh_from_ns = self._encoding, now_ns
        return self._abandon_generation(now_ns, reason)

    def _forget_ready(self) -> None:
        if self._ready is not None:
            del self._captures[self._ready]
            self._ready = None

    def _abandon_generation(self, now_ns: int, reason: str) -> list[Command]:
        """Cancel the generation under way, if there is one; what it made and holds is dropped."""
        generation = self._plan.abandon(now_ns, reason)
        return [] if generation is None else [CancelGenerate(generation.number)]

    def _on_interrupted(self, event: Interrupted) -> list[Command]:
        """No plan any more, and one last hold; a robot that moves gets its stop tick by tick."""
        cancel = self._latch(event.now_ns, "interrupted", "interrupted")
        if not self._governor.at_rest:
            return cancel
        ruling = self._governor.rule(None, self._execution.action_state)
        tick = max(self._execution.next_tick, self._execution.sent)  # event pacing counts commands
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
        self._latched, self._fresh_from_ns = False, event.now_ns
        return self._observe_if_wanted(event.now_ns)

    def _stop_at_once(self, now_ns: int, due_ns: int) -> list[Command]:
        """Event pacing: the hold, and the end."""
        assert self._failure is not None
        ruling = self._governor.rule(None, self._execution.action_state)
        return [
            self._send_governed(ruling, now_ns, due_ns, self._execution.sent),
            Stop(self._failure),
        ]


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
