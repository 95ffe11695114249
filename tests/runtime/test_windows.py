"""Validity windows and late actions, in the streamer."""

from __future__ import annotations

import numpy as np
import pytest

from streamvla.core.clock import ms_to_ns
from streamvla.core.errors import ConfigError
from streamvla.runtime.buffer import Blend, Replace, Shift
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.executors.synchronous import Synchronous
from streamvla.runtime.timing.latency import EmpiricalLatency, profile_ms
from streamvla.trace import Dropped, GenerateRequested

from .scenario import Scenario

TICKING = profile_ms("ticking", 0, 0, 10)
LATE_THIRD = EmpiricalLatency([0], [0, 0, ms_to_ns(35), 0, 0, 0], [ms_to_ns(10)])
"""Of six actions the third is made 35 ms late: on tick 4 of a 10 ms grid, not on tick 2."""


def indices(rule) -> list[float | None]:
    """What the ticks carry when the values are the flow indices; None for the governor's."""
    run = Scenario(
        ActionFlow(0),
        pacing="grid",
        profile=TICKING,
        horizon=6,
        observations=1,
        script=lambda observation, start, index: np.array([0.1 * index, 0.0]),
        latency=LATE_THIRD,
        late=rule,
    ).run()
    return [round(10 * e.values[0], 3) if e.source == "policy" else None for e in run.sent]


def test_shift_sends_every_action_and_the_plan_takes_longer():
    """Late actions are all sent, in order, and the plan ends two ticks late."""
    assert indices(Shift())[:8] == [0, 1, None, None, 2, 3, 4, 5]


def test_replace_keeps_the_timeline_and_drops_what_is_late():
    """The actions of ticks 2 and 3 came too late and are dropped; the plan ends on its tick."""
    assert indices(Replace())[:6] == [0, 1, None, None, 4, 5]


def test_blend_keeps_the_timeline_and_mixes_in_the_newest_late_action():
    """Tick 4 gets 0.7 of its own action and 0.3 of the late one before it."""
    assert indices(Blend())[:6] == [0, 1, None, None, pytest.approx(0.7 * 4 + 0.3 * 3), 5]


@pytest.mark.parametrize("pacing", ["event", "grid"])
def test_an_expired_action_is_never_sent(pacing):
    """Every action sent is within its window; those beyond it are dropped as expired."""
    window_ns = ms_to_ns(250)
    run = Scenario(ActionFlow(0), pacing=pacing, validity_ns=window_ns, observations=4).run()
    policy = [event for event in run.sent if event.source == "policy"]
    assert policy
    for event in policy:
        assert event.valid_until_ns == event.captured_ns + window_ns
        assert event.t_ns <= event.valid_until_ns
    expired = [e for e in run.events if isinstance(e, Dropped) and e.reason == "expired"]
    assert len(policy) + len(expired) == 40
    assert expired


def test_without_a_window_nothing_expires():
    """By default streamed actions are sent however old, and carry no window."""
    run = Scenario(ActionFlow(0), pacing="grid").run()
    assert {event.valid_until_ns for event in run.sent} == {-1}
    assert not [event for event in run.events if isinstance(event, Dropped)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"late": Replace()}, "event pacing has none"), ({"validity_ns": 0}, "must be > 0")],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    """A by-tick rule without ticks, or an empty window, raises ConfigError."""
    with pytest.raises(ConfigError, match=message):
        Scenario(ActionFlow(0), **settings).run()


def test_replace_enters_a_late_chunk_at_the_elapsed_index():
    """A chunk's actions are due from the tick after its request, so the first one sent has the
    index of the ticks that went by while it was made."""
    profile = profile_ms("paper-20hz", 107, 33, 50)
    run = Scenario(Synchronous(), pacing="grid", profile=profile, late=Replace()).run()
    requested = next(e for e in run.events if isinstance(e, GenerateRequested))
    sent = next(e for e in run.sent if e.source == "policy")
    passed = [e for e in run.sent if requested.t_ns < e.t_ns < sent.t_ns]
    assert sent.index == len(passed) > 5
