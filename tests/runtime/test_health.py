"""The health of the action stream: thresholds, hysteresis, recovery, the latched stop."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamvla.core.errors import ConfigError
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.governor.health import STATES, Health, HealthThresholds
from streamvla.runtime.timing.latency import EmpiricalLatency
from streamvla.trace import HealthChanged

from .scenario import Scenario

THRESHOLDS = HealthThresholds(degraded_after=2, stalled_after=4, recovered_after=3)


def states(ticks: str) -> list[str]:
    """The state after each tick: "a" carried an action, "-" did not, "!" was in the safe stop."""
    health = Health(THRESHOLDS)
    seen = []
    for tick in ticks:
        health.tick(supplied=tick == "a", latched=tick == "!")
        seen.append(health.state[:3])
    return seen


@pytest.mark.parametrize(
    ("ticks", "expected"),
    [
        ("a-a", "str str str"),  # one gap is below the threshold
        ("a----", "str str deg deg sta"),
        ("a--aaa", "str str deg deg deg str"),
        ("a--aa-aaa", "str str deg deg deg deg deg deg str"),  # a gap starts the count again
        ("a----aaa", "str str deg deg sta sta sta str"),
        ("a!-aaa", "str sto sta sta sta str"),
        ("------", "str str str str str str"),  # still waiting for the first action
    ],
)
def test_the_state_follows_its_thresholds(ticks, expected):
    """Down at the threshold, up only after three ticks in a row with an action."""
    assert " ".join(states(ticks)) == expected


@given(ticks=st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_only_a_latched_tick_is_stopped(ticks):
    """For any ticks: "stopped" exactly while latched, and a transition names what changed."""
    health = Health(THRESHOLDS)
    for supplied, latched in ticks:
        before = health.state
        transition = health.tick(supplied=supplied, latched=latched)
        assert (health.state == "stopped") == latched
        assert health.state in STATES
        assert transition == (None if health.state == before else (before, health.state))


def test_transitions_are_in_the_trace_and_end_in_recovery():
    """A generation step of 800 ms degrades the stream, stalls it, and it recovers."""
    latency = EmpiricalLatency(
        [58_000_000], [18_000_000] * 25 + [800_000_000] + [18_000_000] * 99, [27_000_000]
    )
    run = Scenario(ActionFlow(3), pacing="grid", observations=8, latency=latency).run()
    changes = [(e.before, e.after) for e in run.events if isinstance(e, HealthChanged)]
    assert changes == [
        ("streaming", "degraded"),
        ("degraded", "stalled"),
        ("stalled", "streaming"),
    ]


def test_thresholds_out_of_order_are_refused():
    """Stalled before degraded makes no sense and says so."""
    with pytest.raises(ConfigError, match="stalled_after 1"):
        HealthThresholds(degraded_after=2, stalled_after=1)
