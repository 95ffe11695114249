"""Stretches of time read out of events."""

from __future__ import annotations

import pytest

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
    command_spans,
    generate_spans,
    halts,
    idle_before_ns,
    observe_spans,
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
