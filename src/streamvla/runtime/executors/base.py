"""What an executor is asked, and what it is shown.

An executor is a frozen dataclass of settings. `begin` gives its decisions for one episode, an
object that the streamer asks, in this order, cycle after cycle:

    look      is now the time to capture?                 Look | None
    observed  a context is ready: wait, or take over?     Takeover | None
    start     where does its generation begin?            FlowStart
    place     an action was made: what becomes of it?     Placement

It sees the plan read-only (`Plan`) and records its own reasons in the trace. What no executor may
break is the streamer's: one command a control instant, sent actions never change, the governor's
last word, and every action's parents in the trace.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.interfaces import FlowStart, PolicySpec
from streamvla.runtime.buffer import LateRule, PlannedAction
from streamvla.runtime.timing.latency import LatencyProfile
from streamvla.trace import TraceSink

Saliency = tuple[float, ...]
"""‖Δ‖₂ of every view."""


class Gate(Protocol):
    """Objects to an early observation by how much its views are expected to change."""

    @property
    def threshold(self) -> Saliency: ...

    def objection(self, saliency: Saliency) -> str | None:
        """What speaks against it, in words; None: nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Foresee:
    """Asks the observe stage of an early observation to look ahead.

    Attributes:
        motions: (n, d) what the last 1, 2, … n pending actions will have done.
        rule: refuse the observation if it objects; None to accept it anyhow.
        correct: make the context from the sight plus the expected change (compensation 2).
    """

    motions: np.ndarray
    rule: Gate | None
    correct: bool


# --- what an executor sees -------------------------------------------------------------------


@dataclass(slots=True)
class Capture:
    """An observation: when it was captured, after which commands, with how much pending; and when
    the frames behind its context were, which is earlier where a context was used again."""

    number: int
    now_ns: int
    action_state: np.ndarray  # (d,)
    actions_sent: int  # of the policy
    pending: int
    sent: int = 0  # commands, the governor's own included
    in_force: int = 0  # commands that left at the same instant, before the capture
    frames_ns: int = 0


@dataclass(slots=True)
class Generation:
    """A generation under way: its next expected flow step, and what waits to be placed."""

    number: int
    observation: int
    captured_ns: int
    requested_ns: int
    start: FlowStart
    next_index: int
    held: list[PlannedAction]
    step_since_ns: int  # since when it is at its present step
    prefix: tuple[PlannedAction, ...] = ()  # those of `start.prefix`, as planned at the request
    prefix_ticks: tuple[int, ...] | None = None  # when they are due; None in event pacing
    replaces: bool = False  # one whose last step had to end first
    closing: bool = False  # cancelled, but the step under way is still to come
    requested_tick: int = 0  # the next control tick when it was requested
    first_tick: int | None = None  # the control tick its first action was planned for

    @property
    def first_index(self) -> int:
        """The flow step it began with."""
        return self.start.index


class Plan(Protocol):
    """The streamer's plan, to be read and never written."""

    @property
    def space(self) -> ActionSpace: ...

    @property
    def horizon(self) -> int: ...

    @property
    def buffered(self) -> Sequence[PlannedAction]:
        """Made and not sent, in order."""
        ...

    @property
    def pending(self) -> int:
        """Not sent yet, made or still to be made."""
        ...

    @property
    def generation(self) -> Generation | None:
        """Under way."""
        ...

    @property
    def next_observation(self) -> int:
        """The number that a capture now would get."""
        ...

    @property
    def sent(self) -> int:
        """Commands so far, the governor's own included."""
        ...

    @property
    def actions_sent(self) -> int:
        """Commands so far that were the policy's."""
        ...

    def planned_state(self) -> np.ndarray:
        """(d,) the action state after everything sent and everything buffered."""
        ...

    def until_next_ns(self, now_ns: int, period_ns: int) -> int:
        """How long until the robot takes its next action."""
        ...


# --- what it answers -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Look:
    """Capture now.

    Attributes:
        foresee: what the observe stage shall tell of the motion still pending.
        stop_generating: end the generation after the step it is at, to free the accelerator.
        again: the second look of a cycle, for the trace.
    """

    foresee: Foresee | None = None
    stop_generating: bool = False
    again: bool = False


@dataclass(frozen=True, slots=True)
class Takeover:
    """The newest context plans anew at once, behind the first `keep` of the buffered actions."""

    keep: int


@dataclass(frozen=True, slots=True)
class Merge:
    """A made action becomes part of one that is planned, and leaves at its place.

    Attributes:
        into: of `Plan.buffered`, at most once a placement. With the rule `Shift` the j-th of them
            leaves with the j-th next command, which is how an executor finds it.
        weight: in (0, 1), of the made action; the planned one keeps the rest. The mean of all that
            is due then: 1 / (1 + len(into.sources)).
    """

    action: PlannedAction
    into: PlannedAction
    weight: float

    def __post_init__(self) -> None:
        if not 0 < self.weight < 1:
            raise ValueError(
                f"merge: weight {self.weight} must lie strictly between 0 and 1; append or discard "
                "an action instead"
            )


@dataclass(frozen=True, slots=True)
class Placement:
    """What becomes of the actions a generation has made and not placed yet.

        plan          a5   a6   a7            merge b0 into a6 and b1 into a7, append b2
        generation         b0   b1   b2
        plan then     a5   a6b0 a7b1 b2       what was sent before a5 cannot be merged into

    Attributes:
        append: these go behind the plan, in order.
        discard: these never go out; with the reason, for the trace.
        drop_older: the plan of earlier generations makes room first; the reason, or None.
        merge: these are mixed with what is due then; every parent stands in the trace.
    """

    append: Sequence[PlannedAction] = ()
    discard: Sequence[tuple[PlannedAction, str]] = ()
    drop_older: str | None = None
    merge: Sequence[Merge] = ()


class Decisions(ABC):
    """One episode of an executor. Hooks without a body need not be overridden."""

    @abstractmethod
    def look(self, plan: Plan, now_ns: int) -> Look | None:
        """Whether to capture now; asked on control instants when no context is made or waits."""

    @abstractmethod
    def start(self, plan: Plan, capture: Capture, now_ns: int) -> FlowStart:
        """Where the generation on this capture begins, and what is executed before it is there.

        `FlowStart.prefix` are the first k of the buffered actions (`prefix_of`), or None.
        """

    @abstractmethod
    def place(self, plan: Plan, generation: Generation, *, last: bool) -> Placement:
        """An action was made and stands last in `generation.held`; `last` of its generation."""

    @property
    def looks_between(self) -> bool:
        """Whether it wants to be asked again each time an action is made."""
        return False

    def looked(self, plan: Plan) -> None:
        """A capture is made, whatever it was for."""

    def observed(
        self, plan: Plan, capture: Capture, saliency: Sequence[Saliency], now_ns: int
    ) -> Takeover | None:
        """A context is ready: None to use it when the generation under way ends."""
        return None

    def refused(
        self, plan: Plan, capture: Capture, saliency: Sequence[Saliency], now_ns: int
    ) -> None:
        """The observe stage refused an observation, as `Look.foresee` had asked."""
        raise ValueError(f"observation {capture.number} was refused, and nothing asked for that")

    def begun(self, now_ns: int) -> None:
        """The generation that `start` spoke of is requested."""

    def made(self, generation: Generation, started_ns: int, now_ns: int) -> None:
        """A flow step is done and its action usable; `next_index` still points at it."""

    def command_took(self, duration_ns: int) -> None:
        """One command took so long."""

    def stopped(self) -> None:
        """The robot is in its safe stop; the plan is gone."""


class Executor(Protocol):
    """Settings of one way to order observation, generation and execution."""

    @property
    def name(self) -> str: ...

    @property
    def anticipates(self) -> bool:
        """Whether the policy must be an `AnticipatingPolicy`."""
        ...

    @property
    def streams(self) -> bool:
        """Whether actions are sent as they are made, not a chunk at a time."""
        ...

    @property
    def overlaps(self) -> bool:
        """Whether it observes while actions are pending."""
        ...

    @property
    def counts(self) -> str:
        """What the number in `NAME:N` counts: "lead" or "execute horizon"."""
        ...

    @property
    def lead(self) -> int:
        """How many actions are pending when the next observation starts, as far as is known."""
        ...

    def executed(self, horizon: int) -> int:
        """Actions executed per observation, of the `horizon` generated.

        Raises:
            ConfigError: a setting does not fit this horizon.
        """
        ...

    def fitted(
        self, policy: PolicySpec, profile: LatencyProfile, *, shared_accelerator: bool = True
    ) -> Executor:
        """With what follows from the policy and from stage times; before motion.

        Args:
            shared_accelerator: encoding and generating take turns.

        Raises:
            ConfigError: this policy cannot be driven so.
        """
        ...

    def require_late_rule(self, late: LateRule) -> None:
        """Raise `ConfigError` unless it can work with what becomes of late actions."""
        ...

    def begin(self, space: ActionSpace, horizon: int, trace: TraceSink) -> Decisions:
        """The decisions of one episode."""
        ...

    def seeded(self, seed: int) -> Executor:
        """With the random draws of the episode `seed`; itself if it draws none."""
        ...

    def label(self, horizon: int) -> str:
        """For people: `synchronous, 5 of 10`."""
        ...

    def slug(self) -> str:
        """A folder's name that tells its settings: `action-flow-3`."""
        ...


@runtime_checkable
class LooksByHorizon(Protocol):
    """An executor whose `lead` depends on the policy's H."""

    def pending_at_look(self, horizon: int) -> int:
        """How many of the `horizon` actions are pending when the next observation starts."""
        ...


def pending_at_look(executor: Executor, horizon: int) -> int:
    """How many actions are pending when an executor looks, as far as is known."""
    by_horizon = isinstance(executor, LooksByHorizon)
    return executor.pending_at_look(horizon) if by_horizon else executor.lead


def append_when_made(generation: Generation, executed: int) -> Placement:
    """Everything held goes out, but what is beyond the execute horizon."""
    return _sorted(generation.held, executed)


def append_when_whole(generation: Generation, executed: int, *, last: bool) -> Placement:
    """As `append_when_made`, the whole chunk at its end; until then it is held."""
    if last:
        return _sorted(generation.held, executed)
    beyond = [each for each in generation.held if each.index >= executed]
    return Placement(discard=[(each, BEYOND) for each in beyond])


BEYOND = "beyond execute horizon"


def _sorted(held: Sequence[PlannedAction], executed: int) -> Placement:
    return Placement(
        [each for each in held if each.index < executed],
        [(each, BEYOND) for each in held if each.index >= executed],
    )


def prefix_of(plan: Plan, count: int | None = None) -> np.ndarray:
    """(k, d) the first `count` of the buffered actions, all if None, and never more than H: what
    the robot will be sent, as far as is known now."""
    actions = plan.buffered[: plan.horizon][:count]
    rows = [plan.space.clip(each.values) for each in actions]
    return np.stack(rows) if rows else np.empty((0, plan.space.dim))


def leads_to_cover(duration_ns: float, period_ns: int) -> int:
    """The smallest n with n·e ≥ a duration."""
    return math.ceil(max(0, duration_ns) / period_ns)
