"""From events to stretches of time: what ran when, and when the robot had nothing to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise, zip_longest
from statistics import median_low
from typing import Literal, NamedTuple

from streamvla.trace.events import (
    ActionReady,
    EarlyDecided,
    Finished,
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
    a merged command (`Sent.parents`). A pass of the model that made several actions made those
    from `index` to `last`; elsewhere `last` is −1.
    """

    start_ns: int
    end_ns: int
    source: str
    generation: int
    observation: int
    index: int
    parents: tuple[Parent, ...] = ()
    last: int = -1

    @property
    def actions(self) -> str:
        """ "3" for one action, "0–31" for those of a pass that made a chunk."""
        return f"{self.index}–{self.last}" if self.last > self.index else str(self.index)


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
    """When the accelerator worked on each generation's actions, one span a pass, by their start.

    Actions of one generation that began together are one pass. A generation's passes follow one
    another, so each ends at the latest where the next begins, whenever its result was handled:

        started  0       33       66          ActionReady handled at 36, 68, 99
        spans    [  .0  ][  .1  ][  .2  ]
    """
    made: dict[int, dict[int, list[ActionReady]]] = {}
    for event in events:
        if isinstance(event, ActionReady):
            passes = made.setdefault(event.generation, {})
            passes.setdefault(event.started_ns, []).append(event)
    spans = []
    for passes in made.values():
        starts = sorted(passes)
        for start_ns, next_ns in zip_longest(starts, starts[1:]):
            ready = passes[start_ns]
            end_ns = max(event.t_ns for event in ready)
            if next_ns is not None:
                end_ns = min(end_ns, next_ns)
            indices = [event.index for event in ready]
            spans.append(
                Span(
                    start_ns,
                    end_ns,
                    "generate",
                    ready[0].generation,
                    ready[0].observation,
                    min(indices),
                    last=max(indices),
                )
            )
    yield from sorted(spans, key=lambda span: (span.start_ns, span.generation))


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


def lanes(spans: Iterable[Span]) -> Iterator[tuple[int, Span]]:
    """Each span with a lane, 0 at first, so that spans in one lane never overlap.

    [  a   ]      [ d ]      lane 0
       [  b   ]              lane 1
         [ c ]               lane 2
    """
    ends: list[int] = []
    for span in sorted(spans, key=lambda span: (span.start_ns, span.end_ns)):
        free = (lane for lane, end_ns in enumerate(ends) if end_ns <= span.start_ns)
        lane = next(free, len(ends))
        ends[lane : lane + 1] = [span.end_ns]
        yield lane, span


def usual_period_ns(events: Iterable[TraceEvent]) -> int:
    """The control period of a trace, from its commands; 0 where it has too few to tell.

    The median of how long a command took until the robot was free (event pacing), or else of the
    time between due instants, per tick (grid pacing).
    """
    took, apart = [], []
    before: Sent | None = None
    for event in events:
        if isinstance(event, Finished) and before is not None:
            took.append(event.t_ns - before.t_ns)
        elif isinstance(event, Sent):
            if before is not None and event.tick > before.tick:
                apart.append((event.due_ns - before.due_ns) // (event.tick - before.tick))
            before = event
    periods = took or apart
    return max(0, median_low(periods)) if periods else 0
