"""Stretches of time read out of events."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.scenario import Scenario

from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.trace import (
    ActionReady,
    Ended,
    ObserveReady,
    ObserveRequested,
    ObserveStarted,
    Sent,
    TraceEvent,
)
from streamvla.trace.spans import (
    Halt,
    Span,
    command_spans,
    generate_spans,
    halts,
    idle_before_ns,
    lanes,
    observe_spans,
    usual_period_ns,
)

PERIOD = 50


def command(t_ns: int, due_ns: int, source: str = "policy", generation: int = 0) -> Sent:
    if source != "policy":
        return Sent(t_ns, due_ns, due_ns // PERIOD, source, -1, -1, -1, -1, 0, (0.0,))
    return Sent(t_ns, due_ns, due_ns // PERIOD, source, generation, 0, 0, 0, 0, (1.0,))


def test_stages_pair_their_start_with_their_end() -> None:
    """An encoding lasts from ObserveStarted to ObserveReady, not from the request."""
    events: list[TraceEvent] = [
        ObserveRequested(0, 0, 0),
        ObserveStarted(10, 0),
        ObserveReady(40, 0, 0),
        ActionReady(60, 45, 0, 0, 0),
        ObserveStarted(60, 1),
    ]
    assert [(s.start_ns, s.end_ns) for s in observe_spans(events)] == [(10, 40)]
    assert [(s.start_ns, s.end_ns) for s in generate_spans(events)] == [(45, 60)]


def test_a_command_is_in_force_until_the_next_one_at_most() -> None:
    """Spans of commands never overlap, however early the next command came."""
    spans = list(command_spans([command(0, 0), command(48, 50), command(150, 150)], PERIOD))
    assert [(s.start_ns, s.end_ns) for s in spans] == [(0, 48), (48, 98), (150, 200)]


def test_a_step_ends_at_the_latest_where_the_next_of_its_generation_begins() -> None:
    """Results that are handled late make no two steps of one generation overlap."""
    events: list[TraceEvent] = [
        ActionReady(36, 0, 0, 0, 0),
        ActionReady(68, 33, 0, 0, 1),
        ActionReady(90, 60, 1, 1, 0),
        ActionReady(99, 66, 0, 0, 2),
    ]
    spans = [(s.generation, s.index, s.start_ns, s.end_ns) for s in generate_spans(events)]
    assert spans == [(0, 0, 0, 33), (0, 1, 33, 66), (1, 0, 60, 90), (0, 2, 66, 99)]


def test_actions_made_together_are_one_span() -> None:
    """A chunk of three: one pass, with the numbers of all its actions."""
    events: list[TraceEvent] = [ActionReady(40 + i, 10, 0, 0, i) for i in range(3)]
    (span,) = generate_spans(events)
    assert (span.start_ns, span.end_ns, span.index, span.last) == (10, 42, 0, 2)
    assert span.actions == "0–2"


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), max_size=30))
def test_spans_of_one_lane_never_overlap(stretches: list[tuple[int, int]]) -> None:
    """Whatever the spans, each has one lane, and in no lane one begins before another ended."""
    spans = [Span(a, a + length, "observe", -1, i, -1) for i, (a, length) in enumerate(stretches)]
    placed = list(lanes(spans))
    assert sorted(span.observation for _, span in placed) == list(range(len(spans)))
    for lane in {lane for lane, _ in placed}:
        inside = [span for number, span in placed if number == lane]
        assert all(a.end_ns <= b.start_ns for a, b in pairwise(inside))


@pytest.mark.parametrize("pacing", ["grid", "event"])
def test_the_period_is_read_off_the_commands(pacing) -> None:
    """On the grid from due instants, under event pacing from how long commands took."""
    events = Scenario(ActionFlow(0), pacing=pacing).run().events
    assert usual_period_ns(events) == 27_000_000
    assert usual_period_ns(events[:3]) == 0


@pytest.mark.parametrize(
    ("pacing", "events", "expected"),
    [
        ("event", [command(0, 0), command(80, 50), command(130, 130)], [Halt(50, 80)]),
        (
            "grid",
            [
                command(0, 0, "hold"),
                command(51, 50),
                command(100, 100, "hold"),
                command(153, 150, "decelerate"),
                command(200, 200),
                command(250, 250, "hold"),
                Ended(300, False, "time-limit"),
            ],
            [Halt(100, 200)],
        ),
        ("grid", [command(0, 0), command(100, 100)], [Halt(50, 100)]),
        ("grid", [command(0, 0, "hold")], []),
        ("event", [], []),
    ],
    ids=["event", "grid", "skipped tick", "no policy command", "empty"],
)
def test_halts_lie_between_policy_commands(
    pacing: str, events: list[TraceEvent], expected: list[Halt]
) -> None:
    """A halt is idle time between policy commands: start-up and tail are none."""
    assert halts(events, PERIOD, pacing) == expected  # pyright: ignore[reportArgumentType]


def test_grid_idle_time_ignores_when_within_the_tick_a_command_left() -> None:
    """Lateness within a tick is jitter, not idle time."""
    assert idle_before_ns(command(57, 50), command(0, 0), PERIOD, "grid") == 0
