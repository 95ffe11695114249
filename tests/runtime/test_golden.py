"""Determinism: exact event lists under the virtual clock, repeated byte for byte."""

from __future__ import annotations

from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.executors.synchronous import Synchronous
from streamvla.runtime.timing.latency import JitteredLatency, profile_ms
from streamvla.trace import (
    ActionReady,
    Dropped,
    Ended,
    Finished,
    GenerateRequested,
    ObserveReady,
    ObserveRequested,
    ObserveStarted,
    Sent,
    Stopping,
)
from streamvla.trace.store import trace_lines

from .scenario import PAPER, Scenario, wandering

TINY = profile_ms("tiny", 4e-6, 1e-6, 2e-6)  # 4, 1 and 2 ns: readable by hand

HOLD = ("hold", -1, -1, -1, -1, 0, (0.0, 0.0))


def test_the_golden_event_list_of_action_flow_with_a_lead():
    """H = 3, lead 1, T_o = 4, g = 1, e = 2 ns: every event, its instant and its order."""
    run = Scenario(ActionFlow(1), profile=TINY, horizon=3, observations=2).run()
    zero = (0.0, 0.0)
    assert run.events == [
        ObserveRequested(0, 0, 0),
        ObserveStarted(0, 0),
        ObserveReady(4, 0, 0),
        GenerateRequested(4, 0, 0, 0, 0),
        ActionReady(5, 4, 0, 0, 0),
        Sent(5, 0, 0, "policy", 0, 0, 0, 0, 0, zero),
        ActionReady(6, 5, 0, 0, 1),
        ActionReady(7, 6, 0, 0, 2),
        Finished(7),
        Sent(7, 7, 1, "policy", 0, 0, 1, 0, 1, zero),
        Finished(9),
        ObserveRequested(9, 1, 1),  # one action is pending: look again while it executes
        Sent(9, 9, 2, "policy", 0, 0, 2, 0, 0, zero),
        ObserveStarted(9, 1),
        Finished(11),  # the robot waits from 11 to 14: T_o + g − n·e = 3
        ObserveReady(13, 1, 9),
        GenerateRequested(13, 1, 1, 0, 0),
        ActionReady(14, 13, 1, 1, 0),
        Sent(14, 11, 3, "policy", 1, 1, 0, 9, 0, zero),
        ActionReady(15, 14, 1, 1, 1),
        ActionReady(16, 15, 1, 1, 2),
        Finished(16),
        Sent(16, 16, 4, "policy", 1, 1, 1, 9, 1, zero),
        Finished(18),
        Sent(18, 18, 5, "policy", 1, 1, 2, 9, 0, zero),
        Finished(20),
        Stopping(20, "observations"),
        Sent(20, 20, 6, *HOLD),
        Ended(20, False, "observations"),
    ]


def test_the_golden_event_list_of_synchronous_on_a_grid():
    """H = 3, h = 2: nothing moves before the whole chunk is made; the third action is dropped."""
    run = Scenario(Synchronous(2), pacing="grid", profile=TINY, horizon=3, observations=1).run()
    zero = (0.0, 0.0)
    assert run.events == [
        ObserveRequested(0, 0, 0),
        ObserveStarted(0, 0),
        Sent(0, 0, 0, *HOLD),
        Sent(2, 2, 1, *HOLD),
        ObserveReady(4, 0, 0),
        GenerateRequested(4, 0, 0, 0, 0),
        Sent(4, 4, 2, *HOLD),
        ActionReady(5, 4, 0, 0, 0),
        ActionReady(6, 5, 0, 0, 1),
        Sent(6, 6, 3, *HOLD),
        ActionReady(7, 6, 0, 0, 2),
        Dropped(7, 0, 2, "beyond execute horizon"),
        Sent(8, 8, 4, "policy", 0, 0, 0, 0, 1, zero),
        Sent(10, 10, 5, "policy", 0, 0, 1, 0, 0, zero),
        Stopping(12, "observations"),
        Sent(12, 12, 6, *HOLD),
        Ended(12, False, "observations"),
    ]


def test_one_seed_gives_one_trace_byte_for_byte():
    """Two jittered runs with one seed write identical lines; another seed writes others."""

    def lines(seed: int) -> list[str]:
        latency = JitteredLatency(PAPER, 0.3, seed)
        run = Scenario(ActionFlow(2), script=wandering, latency=latency, observations=20).run()
        return trace_lines({"seed": 0}, run.events)

    assert lines(1) == lines(1)
    assert lines(1) != lines(2)
