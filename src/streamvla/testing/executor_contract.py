"""What every executor keeps, as tests to inherit.

    from streamvla.testing.executor_contract import ExecutorContract

    class TestMine(ExecutorContract):
        def executor(self):
            return MyExecutor()

Each test drives a scripted policy on a scripted robot in virtual time.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from streamvla.core.clock import ms_to_ns
from streamvla.runtime.drivers.episode import Episode, EpisodeLimits
from streamvla.runtime.drivers.simulated import run_simulated
from streamvla.runtime.executors.base import Executor
from streamvla.runtime.streamer.machine import Streamer
from streamvla.runtime.timing.latency import JitteredLatency, profile_ms
from streamvla.testing.fakes import ScriptedPolicy, StillRobot, unit_space
from streamvla.trace import ActionReady, Dropped, MemoryTrace, ObserveReady, Sent, TraceEvent
from streamvla.trace.spans import Pacing

_HORIZON = 10
_PROFILE = profile_ms("contract", 70, 15, 50)
_SECONDS = 8


class ExecutorContract:
    """Inherit, and say which executor; a horizon of ten is what it is driven with."""

    @abstractmethod
    def executor(self) -> Executor:
        """The executor under test, made anew for every test."""

    def drive(self, pacing: Pacing = "grid", *, jitter: float = 0.4) -> list[TraceEvent]:
        """The events of one episode of some 160 commands."""
        space, trace = unit_space(), MemoryTrace()
        robot = StillRobot(space, _PROFILE.execute_ns)
        policy = ScriptedPolicy(space, _HORIZON, _PROFILE.execute_ns)
        streamer = Streamer(space, _HORIZON, self.executor().seeded(3), pacing, trace)
        limits = EpisodeLimits(ms_to_ns(1000 * _SECONDS))
        episode = Episode(robot, policy, streamer, trace, _PROFILE, limits)
        run_simulated(episode, JitteredLatency(_PROFILE, jitter, 5))
        return list(trace.events)

    def test_exactly_one_command_leaves_on_every_tick(self) -> None:
        """On the control grid, ticks follow each other with no gap and no second command."""
        ticks = [event.tick for event in self.drive() if isinstance(event, Sent)]
        assert len(ticks) >= _SECONDS * 19
        assert ticks == list(range(ticks[0], ticks[0] + len(ticks)))

    def test_every_action_has_its_parents(self) -> None:
        """An action that was sent was made before, by a generation on an observation that was
        ready before; nothing is sent twice."""
        for pacing in ("grid", "event"):
            seen: set[int] = set()
            made: set[tuple[int, int]] = set()
            for event in self.drive(pacing):
                if isinstance(event, ObserveReady):
                    seen.add(event.observation)
                elif isinstance(event, ActionReady):
                    assert event.observation in seen
                    made.add((event.generation, event.index))
                elif isinstance(event, Sent):
                    for source in event.sources:
                        assert source.observation in seen
                        made.remove((source.generation, source.index))

    def test_no_action_disappears(self) -> None:
        """What was made was sent, was dropped with a reason, or was still planned at the end."""
        for pacing in ("grid", "event"):
            events = self.drive(pacing)
            made = {(e.generation, e.index) for e in events if isinstance(e, ActionReady)}
            gone = {(e.generation, e.index) for e in events if isinstance(e, Dropped)}
            for event in events:
                if isinstance(event, Sent):
                    gone |= {(each.generation, each.index) for each in event.sources}
            assert len(made - gone) <= 2 * _HORIZON
            assert all(e.reason for e in events if isinstance(e, Dropped))

    def test_the_robot_is_driven(self) -> None:
        """Most commands are the policy's."""
        for pacing in ("grid", "event"):
            sent = [event for event in self.drive(pacing) if isinstance(event, Sent)]
            assert np.mean([event.source == "policy" for event in sent]) > 0.4

    def test_it_repeats_itself(self) -> None:
        """The same episode gives the same events, to the nanosecond."""
        assert self.drive() == self.drive()

    def test_settings_have_names(self) -> None:
        """A label for people and a slug for folders, the same each time."""
        one, other = self.executor(), self.executor()
        assert one.label(_HORIZON) == other.label(_HORIZON)
        assert one.slug() == other.slug()
        assert one.slug().replace("-", "").replace(".", "").replace("_", "").isalnum()
