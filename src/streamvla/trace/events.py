"""What can happen, and when. One flat tuple per event; every `_ns` is on the run's one clock.

One observation's life, with the events that mark it:

    ObserveRequested ─ ObserveStarted ─ ObserveReady          (captured_ns = that of the frames)
                        GenerateRequested ─ ActionReady × H
                                             Sent × H ─ Finished × H

One that was looked at early and refused ends with its `EarlyDecided` instead of ObserveReady.
"""

from __future__ import annotations

from typing import NamedTuple

from streamvla.core.compute import ObservationCost


class ObserveRequested(NamedTuple):
    """The world was captured and its encoding queued, with `pending` actions not yet executed.

    `second_look`: because the rule objected to the look before (`EarlyDecided`).
    """

    t_ns: int
    observation: int
    pending: int
    second_look: bool = False


class ObserveStarted(NamedTuple):
    """The accelerator began to encode the observation."""

    t_ns: int
    observation: int


class ObserveReady(NamedTuple):
    """The context is ready; the frames behind it were captured at `captured_ns`: the request's
    instant, or earlier where a context was used again (`ObserveCost.frames_old_ns`)."""

    t_ns: int
    observation: int
    captured_ns: int


class ObserveCost(NamedTuple):
    """What the observation cost to compute; of a refused one, until it was refused.

    Its numbers are those of `core.compute.ObservationCost`, predictions counted with the look.
    """

    t_ns: int
    observation: int
    visual_tokens: int
    visual_tokens_attended: int
    text_tokens: int
    encodes: int
    cache_hits: int
    look_flops: int
    context_flops: int
    action_flops: int
    frames_old_ns: int
    look_time: float
    context_time: float

    @classmethod
    def of(cls, t_ns: int, observation: int, cost: ObservationCost) -> ObserveCost:
        return cls(t_ns, observation, *(getattr(cost, name) for name in cls._fields[2:]))


class LeadChosen(NamedTuple):
    """From now on the executor aims at observing with `lead` actions pending.

    `observe_ns`, `first_action_ns` and `execute_ns` are the measured stage times it goes by; −1
    where nothing was measured yet.
    """

    t_ns: int
    lead: int
    observe_ns: int
    first_action_ns: int
    execute_ns: int


class EarlyDecided(NamedTuple):
    """Whether to observe early, with `lead` actions pending, and why.

    `observation` was looked at for that; −1 if the rule needs no look, and then nothing was
    captured for a refusal. After a refusal the next look is taken with `next_lead` actions
    pending; 0: when none is. With `second_look` the observation is used all the same, until one
    that is made as soon as possible takes over. `saliency` and `threshold` hold one number per
    view, and are empty where the rule has none.
    """

    t_ns: int
    observation: int
    lead: int
    accepted: bool
    cause: str
    next_lead: int
    saliency: tuple[float, ...]
    threshold: tuple[float, ...]
    second_look: bool = False


class Stimulus(NamedTuple):
    """Something happened in the world at `t_ns` that the robot should react to.

    It is recorded at the control instant after it, so a few later events may stand before it.
    """

    t_ns: int
    what: str


class Measured(NamedTuple):
    """What the robot measured on a control instant: name → number (`RobotSpec.measures`)."""

    t_ns: int
    values: dict[str, float]


class GenerateRequested(NamedTuple):
    """A generation was queued; it starts at flow step `index` with `pending` actions unsent."""

    t_ns: int
    generation: int
    observation: int
    index: int
    pending: int


class ActionReady(NamedTuple):
    """One flow step is done: the accelerator worked on it from `started_ns` to `t_ns`."""

    t_ns: int
    started_ns: int
    generation: int
    observation: int
    index: int


class Parent(NamedTuple):
    """A generated action that a command was made from, and when its observation was captured."""

    observation: int
    generation: int
    index: int
    captured_ns: int


class Sent(NamedTuple):
    """One command went to the robot.

    `due_ns` is the deadline it was sent for: the tick's instant (grid pacing), or the instant at
    which the robot became free (event pacing). `source` is "policy", or the governor's rung
    ("hold", "extrapolate", "decelerate", "fallback", "stop"), and then `generation`, `observation`
    and `index` are −1 and `captured_ns` is −1. `depth` is how many actions stay in the buffer
    behind it. `valid_until_ns` is the last instant at which the command might have been sent; −1
    where it has no such instant.

    A command merged from several actions names them all in `parents`, the oldest capture first;
    `generation`, `observation`, `index` and `captured_ns` are then those of the youngest. One that
    was not merged has no `parents` (nor the field, in a file): see `sources`.
    """

    t_ns: int
    due_ns: int
    tick: int
    source: str
    generation: int
    observation: int
    index: int
    captured_ns: int
    depth: int
    values: tuple[float, ...]
    valid_until_ns: int = -1
    parents: tuple[Parent, ...] = ()

    @property
    def sources(self) -> tuple[Parent, ...]:
        """Every generated action behind a policy command, the oldest capture first; of a command
        that is the governor's own, none."""
        if self.parents or self.generation < 0:
            return self.parents
        return (Parent(self.observation, self.generation, self.index, self.captured_ns),)


class Finished(NamedTuple):
    """The robot finished a command and is free (event pacing only)."""

    t_ns: int


class Dropped(NamedTuple):
    """An action that was generated will never be sent, and why."""

    t_ns: int
    generation: int
    index: int
    reason: str


class Rejected(NamedTuple):
    """The governor refused a generated action (not finite, wrong shape): it never left."""

    t_ns: int
    generation: int
    index: int
    cause: str


class Intervened(NamedTuple):
    """The governor stepped in, on which rung of its ladder, and why.

    `rung` is "clamp" (the action went out, brought within the limits), "reject" (it did not), or
    that of the command sent in its place, as in `Sent.source`. The event stands for `ticks` control
    ticks up to `tick`: this one, and those with the same rung and cause that had no event of their
    own (`runtime.governor.interventions`).
    """

    t_ns: int
    tick: int
    rung: str
    cause: str
    ticks: int = 1


class Rearmed(NamedTuple):
    """Somebody ended a latched safe stop: from the next tick on the policy may move the robot."""

    t_ns: int


class HealthChanged(NamedTuple):
    """The state of the action stream changed on a control tick (`runtime.governor.health`), for
    `cause`."""

    t_ns: int
    tick: int
    before: str
    after: str
    cause: str = ""


class TicksSkipped(NamedTuple):
    """No command left on `ticks` control ticks before `tick`, for `cause`: the loop was away."""

    t_ns: int
    tick: int
    ticks: int
    cause: str


class CameraFrozen(NamedTuple):
    """A view shows one picture again and again while the robot moves (`drivers.cameras`)."""

    t_ns: int
    observation: int
    view: str


class CameraThawed(NamedTuple):
    """A view that was frozen shows another picture."""

    t_ns: int
    observation: int
    view: str


class InstructionUnclear(NamedTuple):
    """The policy does not understand an instruction, by its own measure
    (`PolicySpec.unclear_up_to`): `clarity` goes from 0 to 1. Written once for each instruction of
    an episode, its first 200 letters, with the first observation it came with."""

    t_ns: int
    observation: int
    instruction: str
    clarity: float


class InstructionRephrased(NamedTuple):
    """The model reads `phrase` instead of an instruction, the nearest phrasing of its training
    (`PolicySpec.rephrases`); `similarity` is the cosine of the two, of our policies. Written once
    for each such instruction of an episode, with the first observation it came with; of both texts
    the first 200 letters. Without this event the instruction is read as it stands."""

    t_ns: int
    observation: int
    instruction: str
    phrase: str
    similarity: float


class FaultInjected(NamedTuple):
    """A fault put in on purpose began; it lasts until `until_ns`, −1 for good."""

    t_ns: int
    kind: str
    until_ns: int


class RecordingLost(NamedTuple):
    """So many events from here on are missing: the trace file could not be written."""

    t_ns: int
    events: int
    cause: str


class Failed(NamedTuple):
    """A stage died; the robot is being stopped."""

    t_ns: int
    stage: str
    message: str


class Stopping(NamedTuple):
    """The episode is over, for this reason; what follows until `Ended` brings the robot to rest."""

    t_ns: int
    reason: str


class Ended(NamedTuple):
    """The episode is over. `reason`: success, time-limit, observations, failed, interrupted."""

    t_ns: int
    success: bool
    reason: str


TraceEvent = (
    ObserveRequested
    | ObserveStarted
    | ObserveReady
    | ObserveCost
    | LeadChosen
    | EarlyDecided
    | Stimulus
    | Measured
    | GenerateRequested
    | ActionReady
    | Sent
    | Finished
    | Dropped
    | Rejected
    | Intervened
    | Rearmed
    | HealthChanged
    | TicksSkipped
    | CameraFrozen
    | CameraThawed
    | InstructionUnclear
    | InstructionRephrased
    | FaultInjected
    | RecordingLost
    | Failed
    | Stopping
    | Ended
)

EVENT_TYPES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        ObserveRequested,
        ObserveStarted,
        ObserveReady,
        ObserveCost,
        LeadChosen,
        EarlyDecided,
        Stimulus,
        Measured,
        GenerateRequested,
        ActionReady,
        Sent,
        Finished,
        Dropped,
        Rejected,
        Intervened,
        Rearmed,
        HealthChanged,
        TicksSkipped,
        CameraFrozen,
        CameraThawed,
        InstructionUnclear,
        InstructionRephrased,
        FaultInjected,
        RecordingLost,
        Failed,
        Stopping,
        Ended,
    )
}
