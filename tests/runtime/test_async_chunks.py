"""Asynchronous chunks: late ones start at the elapsed index."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from streamvla.core.errors import ConfigError
from streamvla.runtime.buffer import Replace
from streamvla.runtime.executors.async_chunks import AsyncChunks
from streamvla.runtime.executors.options import EarlyOptions
from streamvla.runtime.executors.registry import parse_executor
from streamvla.runtime.executors.synchronous import Synchronous
from streamvla.runtime.timing.latency import profile_ms
from streamvla.trace import ActionReady, Dropped, ObserveStarted

from .scenario import PAPER, Run, Scenario

EDGE = profile_ms("edge", 100, 10, 50)
"""A chunk of ten takes 200 ms: four periods."""


def drive(executor=None, profile=EDGE, pacing="grid", **settings) -> Run:
    script = settings.pop("script", lambda observation, start, index: np.array([0.1, index / 10]))
    return Scenario(
        executor or AsyncChunks(), pacing=pacing, profile=profile, script=script, **settings
    ).run()


@pytest.mark.parametrize("pacing", ["grid", "event"])
def test_a_chunk_starts_at_the_elapsed_index(pacing):
    """Of every chunk but the first, the first action sent has the index of as many actions as went
    out since its capture."""
    sent = [e for e in drive(pacing=pacing, observations=6).sent if e.source == "policy"]
    firsts = [e for a, e in itertools.pairwise(sent) if a.generation != e.generation]
    assert len(firsts) == 5
    for first in firsts:
        since = [e for e in sent if first.captured_ns <= e.t_ns < first.t_ns]
        assert first.index == len(since) > 0


def test_the_first_chunk_starts_at_0():
    """Nothing moved while the robot waited for it, so nothing of it is over."""
    assert next(e for e in drive().sent if e.source == "policy").index == 0


def test_it_hides_what_the_synchronous_loop_halts_for():
    """With five of ten actions left, 250 ms of motion cover 200 ms of work."""
    starved = [
        sum(
            e.source != "policy"
            for e in drive(executor, observations=None, duration_ns=10**10).sent
        )
        for executor in (Synchronous(), AsyncChunks())
    ]
    assert starved[0] > 50
    assert starved[1] <= 5  # before the first chunk


@pytest.mark.parametrize("pacing", ["grid", "event"])
def test_what_is_replaced_or_elapsed_is_in_the_trace(pacing):
    """Every action made is sent, or dropped with a reason."""
    run = drive(pacing=pacing, observations=6)
    policy = [e for e in run.sent if e.source == "policy"]
    dropped = [e for e in run.events if isinstance(e, Dropped)]
    assert {e.reason for e in dropped} == {"elapsed", "replaced by a newer chunk"}
    assert len(policy) + len(dropped) == 60


def test_a_late_chunk_does_not_empty_the_robot_for_good():
    """Slower than the horizon it halts, and goes on from the elapsed index each time."""
    slow = profile_ms("slow", 400, 60, 50)
    sent = [e for e in drive(profile=slow, observations=4).sent if e.source == "policy"]
    assert {e.generation for e in sent} == {0, 1, 2, 3}


@pytest.mark.parametrize("pacing", ["grid", "event"])
def test_replanning_looks_as_soon_as_a_chunk_has_come(pacing):
    """At most a control period after each chunk; a fifth more chunks come in the same time than
    with half of the actions left."""
    executor = AsyncChunks(replan="as-fast-as-possible")
    run = drive(executor, pacing=pacing, observations=None, duration_ns=10**10)
    made = [e.t_ns for e in run.events if isinstance(e, ActionReady) and e.index == 9]
    looks = [e.t_ns for e in run.events if isinstance(e, ObserveStarted)]
    assert all(0 <= look - t <= EDGE.execute_ns for t, look in zip(made, looks[1:], strict=False))
    other = drive(pacing=pacing, observations=None, duration_ns=10**10)
    half = sum(isinstance(e, ActionReady) and e.index == 9 for e in other.events)
    assert len(made) > 1.2 * half


def test_settings_that_make_no_sense_are_refused():
    """A share or a number out of range, and a rule for late actions that would drop them twice."""
    with pytest.raises(ConfigError, match="request_share 1"):
        AsyncChunks(1.0)
    with pytest.raises(ConfigError, match="least_left -1"):
        AsyncChunks(0.5, -1)
    replanning = EarlyOptions(replan="as-fast-as-possible")
    with pytest.raises(ConfigError, match="expected one of the two"):
        parse_executor("async-chunks:4", PAPER, 10, replanning)
    with pytest.raises(ConfigError, match="needs a horizon above that, the policy's is 4"):
        parse_executor("async-chunks:4", PAPER, 4)
    with pytest.raises(ConfigError, match="use Shift"):
        drive(late=Replace())
