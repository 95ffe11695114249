"""Buffer, latency, executors, governor, clock: the small parts."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamvla.core.action_space import ActionSpace
from streamvla.core.clock import VirtualClock
from streamvla.core.errors import ConfigError, SpecMismatchError
from streamvla.runtime.buffer import Blend, PlannedAction, Replace, RollingBuffer, Shift
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.executors.registry import executor_named, parse_executor
from streamvla.runtime.executors.synchronous import Synchronous
from streamvla.runtime.timing.latency import (
    EmpiricalLatency,
    JitteredLatency,
    LatencyProfile,
    named_profile,
    profile_ms,
)

from .scenario import MIXED, PAPER


def planned(index: int, due_tick: int | None = None) -> PlannedAction:
    return PlannedAction(np.array([float(index)]), 0, index, 0, 0, due_tick)


def test_shift_sends_a_late_action_late():
    """Shift: an action that comes a tick late is sent a tick later, and none is lost."""
    buffer = RollingBuffer(Shift())
    assert buffer.pop(7) == (None, ())
    for index in (7, 8):
        buffer.push(planned(index))
    assert [buffer.pop(tick)[0].index for tick in (8, 9)] == [7, 8]  # pyright: ignore


def test_replace_starts_a_late_chunk_at_the_elapsed_index():
    """Replace: a chunk that arrives two ticks late begins with its third action."""
    buffer = RollingBuffer(Replace())
    for index in range(5):
        buffer.push(planned(index, due_tick=10 + index))
    action, late = buffer.pop(12)
    assert action is not None
    assert action.index == 2
    assert [dropped.index for dropped in late] == [0, 1]


def test_replace_keeps_an_action_that_is_not_due_yet():
    """Replace: an early action waits for its tick."""
    buffer = RollingBuffer(Replace())
    buffer.push(planned(0, due_tick=5))
    assert buffer.pop(4) == (None, ())
    action, _ = buffer.pop(5)
    assert action is not None


def test_a_wholly_stale_chunk_leaves_nothing_to_send():
    """Replace: when every action is past due all are dropped and reported, none is sent."""
    buffer = RollingBuffer(Replace())
    for index in range(3):
        buffer.push(planned(index, due_tick=index))
    action, late = buffer.pop(9)
    assert action is None
    assert len(late) == 3


def test_replace_needs_a_due_tick():
    """Replace: an action without a due tick is refused."""
    with pytest.raises(ValueError, match="due_tick"):
        RollingBuffer(Replace()).push(planned(0))


def test_blend_mixes_a_late_action_into_the_one_due_now():
    """Blend: a7, a tick late, adds 0.3 of itself to 0.7 of a8; a6 before it is dropped, and a7 is
    not: it is a parent of what is sent."""
    buffer = RollingBuffer(Blend())
    for index in (6, 7, 8, 9):
        buffer.push(planned(index, due_tick=index))
    action, late = buffer.pop(8)
    assert action is not None
    assert (action.index, action.values[0]) == (8, pytest.approx(0.7 * 8 + 0.3 * 7))
    assert [dropped.index for dropped in late] == [6]
    assert [parent.index for parent in action.parents] == [7, 8]
    following, _ = buffer.pop(9)
    assert following is not None
    assert following.values[0] == 9


def test_blend_sends_a_late_action_itself_when_none_is_due():
    """Blend: better late than nothing, where nothing else is there."""
    buffer = RollingBuffer(Blend())
    buffer.push(planned(7, due_tick=7))
    action, late = buffer.pop(8)
    assert action is not None
    assert (action.index, late) == (7, ())


@given(variation=st.floats(0, 0.5), seed=st.integers(0, 100))
def test_jitter_keeps_the_mean_and_the_seed(variation, seed):
    """Jittered times average to the profile's and repeat with their seed."""
    first, second = (JitteredLatency(PAPER, variation, seed) for _ in range(2))
    draws = [first.observe_ns() for _ in range(2000)]
    assert draws == [second.observe_ns() for _ in range(2000)]
    tolerance = 5 * variation / 2000**0.5 + 1e-6
    assert statistics.fmean(draws) == pytest.approx(PAPER.observe_ns, rel=tolerance)


def test_empirical_latency_replays_in_order_and_wraps():
    """Without a seed the record is replayed in order and starts again."""
    latency = EmpiricalLatency([1, 2], [3], [4])
    assert [latency.observe_ns() for _ in range(3)] == [1, 2, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Blend(1.0), "weight 1.0"),
        (lambda: JitteredLatency(PAPER, -0.1, 0), "jitter -0.1"),
        (lambda: JitteredLatency(PAPER, float("nan"), 0), "jitter nan"),
        (lambda: EmpiricalLatency([], [1], [1]), "'observe' is empty"),
        (lambda: profile_ms("x", float("nan"), 1, 1), "finite"),
        (lambda: LatencyProfile("x", 1, 1, 0), "must be > 0"),
        (lambda: named_profile("paper-20zh"), "did you mean 'paper-20hz'"),
        (lambda: executor_named("action-flwo"), "did you mean 'action-flow'"),
        (lambda: parse_executor("synchronous:11", PAPER, 10), "between 1 and H = 10"),
        (lambda: parse_executor("action-flow:x", PAPER, 10), "'x' is no whole number"),
        (lambda: ActionFlow(11).executed(10), "at least 0 and below H = 10"),
        (lambda: Synchronous(0).executed(10), "between 1 and H = 10"),
        (lambda: ActionSpace(("a",), ("delta",), (1.0,), (1.0,)), "not below high"),
        (lambda: ActionSpace(("a",), ("delta", "delta"), (0.0,), (1.0,)), "equal length"),
        (lambda: ActionSpace.from_json({"names": ["a"]}), "malformed action space"),
    ],
)
def test_a_bad_setting_is_refused_with_its_value_and_the_remedy(make, message):
    """Every bad setting raises ConfigError naming what was wrong."""
    with pytest.raises(ConfigError, match=message.replace("'", "['\"]")):
        make()


def test_profiles_know_the_lead_for_zero_halt():
    """The smallest n with n·e ≥ T_o + g: 3 at both paper profiles, 5 at the edge profile."""
    leads = [named_profile(n).zero_halt_lead() for n in ("paper-a800", "paper-20hz", "edge-20hz")]
    assert leads == [3, 3, 5]


def test_virtual_time_never_goes_back():
    """Moving the virtual clock into the past raises."""
    clock = VirtualClock(5)
    clock.advance_to(7)
    with pytest.raises(ValueError, match="cannot go back"):
        clock.advance_to(6)


def test_another_action_space_is_refused_by_name():
    """`require` names both spaces and the remedy."""
    other = ActionSpace(("dx", "grip"), ("delta", "delta"), (-1.0, -1.0), (1.0, 1.0))
    with pytest.raises(SpecMismatchError, match="grip:delta"):
        MIXED.require(other, "checkpoint")
    MIXED.require(ActionSpace.from_json(MIXED.to_json()), "itself")
