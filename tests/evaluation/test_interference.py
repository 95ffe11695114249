"""`eval --interference`: other episodes before the one that counts, as one stream."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from streamvla.core.errors import ConfigError
from streamvla.studies.episodes import Eval, Job, drive
from streamvla.trace import MemoryTrace
from streamvla.trace.events import Sent
from tests.cli.test_drivers import PointPolicy


class Stream:
    """As much of a policy's stream as driving needs."""

    continues = False


class Remembering(PointPolicy):
    """It notes how many observations it remembers whenever an episode begins. Implements
    `RememberingPolicy`."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = replace(self.spec, remembers=True)
        self.stream = Stream()
        self.remembered = 0
        self.began: list[int] = []

    def begin(self) -> None:
        if not self.stream.continues:
            self.remembered = 0
        self.began.append(self.remembered)

    def encode(self, observation):
        self.remembered += 1
        return super().encode(observation)


def driven(policy: PointPolicy, count: int) -> MemoryTrace:
    command = Eval(tasks=("point",), episodes=1, interference=count)
    trace = MemoryTrace()
    drive(Job(command, "mine", {}, "", "point", 7, Path("unused")), trace, driving=policy)
    return trace


def test_other_episodes_come_first_and_stay_remembered():
    """Two of them: the stream begins empty, and goes on into the second and into the one that
    counts; the next job begins anew."""
    policy = Remembering()
    driven(policy, 2)
    empty, first, second, last = policy.began
    assert (empty, first) == (0, 0)
    assert 0 < second < last < policy.remembered
    assert not policy.stream.continues
    driven(policy, 0)
    assert policy.began[-1] == 0


def test_the_trace_is_of_the_episode_that_counts():
    """A policy that does not heed what it remembers does there what it does without others."""
    sent = [
        [event for event in driven(Remembering(), count).events if isinstance(event, Sent)]
        for count in (0, 2)
    ]
    assert sent[0] == sent[1]


def test_a_policy_without_memory_is_refused():
    """One line says what to leave out, before anything is driven."""
    with pytest.raises(ConfigError, match="no memory that other episodes could disturb"):
        driven(PointPolicy(), 1)


def test_a_negative_number_is_refused():
    """And so is one for a robot that has no tasks."""
    with pytest.raises(ConfigError, match="expected 0 or more"):
        Eval(interference=-1)
