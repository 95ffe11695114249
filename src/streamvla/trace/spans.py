"""From events to stretches of time: what ran when, and when the robot had nothing to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise, zip_longest
from typing import Literal, NamedTuple

from streamvla.trace.events import (
    ActionReady,
    EarlyDecided,
    ObserveReady,
    ObserveStarted,
    Parent,
    Sent,
    TraceEvent,
)

Pacing = Literal["event", "grid"]
"""`event`: the robot takes the next action the moment it is free; `grid`: a fixed control tick."""


class Span(NamedTuple):
    """One stretch of work, from `start_ns` to `end_ns`.

    `source` is "observe", "generate", "policy", or the governor's rung ("hold", "decelerate").
    `generation`, `observation` and `index` are −1 where they do not apply; `parents` are those of
    a merged command (`Sent.parents`).
    """

    start_ns: int
    end_ns: int
    source: str
    generation: int
    observation: int
    index: int
    parents: tuple[Parent, ...] = ()


class Halt(NamedTuple):
    """The robot had no action of the policy to carry out from `start_ns` to `end_ns`."""

    start_ns: int
    end_ns: int

    @property
    def duration_ns(self) -> int:
        return self.end_ns - self.start_ns


def observe_spans(events: Iterable[TraceEvent]) -> Iterator[Span]:
    """When the accelerator encoded each observation, or looked at one that was then refused.

    An encoding without an end is left out.
    """
    started: dict[int, int] = {}
    for event in events:
        if isinstance(event, ObserveStarted):
            started[event.observation] = event.t_ns
        elif isinstance(event, ObserveReady | EarlyDecided) and event.observation in started:
            start_ns = started.pop(event.observation)
            yield Span(start_ns, event.t_ns, "observe", -1, event.observation, -1)


def generate_spans(events: Iterable[TraceEvent]) -> Iterator[Span]:
    """When the accelerator worked on each action."""
    for event in events:
        if isinstance(event, ActionReady):
            yield Span(
                event.started_ns,
                event.t_ns,
                "generate",
                event.generation,
                event.observation,
                event.index,
            )


def command_spans(events: Iterable[TraceEvent], period_ns: int) -> Iterator[Span]:
    """When each command was in force: one period, or less where the next one came sooner."""
    sent = [event for event in events if isinstance(event, Sent)]
    for command, successor in zip_longest(sent, sent[1:]):
        end_ns = command.t_ns + period_ns
        if successor is not None:
            end_ns = min(end_ns, successor.t_ns)
        yield Span(
            command.t_ns,
            end_ns,
            command.source,
            command.generation,
            command.observation,
            command.index,
            command.parents,
        )


def idle_before_ns(command: Sent, previous: Sent, period_ns: int, pacing: Pacing) -> int:
    """How long the robot had nothing from the policy between two of its successive commands.

    Event pacing: from the instant the robot became free to the command, `t_ns − due_ns`.
    Grid pacing: every tick between the two that carried no policy command, one period each:

        tick         0       1       2       3              period 50 ms
        command    policy   hold    hold   policy           idle before tick 3: 2 × 50 = 100 ms

    Args:
        command: a policy command.
        previous: the policy command before it.
        period_ns: the control period.
    """
    if pacing == "event":
        return max(0, command.t_ns - command.due_ns)
    return max(0, command.due_ns - previous.due_ns - period_ns)


def halts(events: Iterable[TraceEvent], period_ns: int, pacing: Pacing) -> list[Halt]:
    """Every halt between the first and the last policy command, in order (`idle_before_ns`)."""
    policy = [event for event in events if isinstance(event, Sent) and event.source == "policy"]
    found = []
    for previous, command in pairwise(policy):
        idle_ns = idle_before_ns(command, previous, period_ns, pacing)
        if idle_ns > 0:
            end_ns = command.t_ns if pacing == "event" else command.due_ns
            found.append(Halt(end_ns - idle_ns, end_ns))
    return found
