"""The simulated driver: virtual clock and event heap; deterministic, as fast as possible.

The control loop is the one of every driver (`loop`). What is here is its other side: stages that
take the time the latency model says and no more, while what they compute is real.

    heap   (instant, sequence, end of a job)      `take` ends the jobs whose instant has come,
                                                  `wait` jumps to the next end, or to the deadline

Events are totally ordered by `(instant, priority, sequence)`: at one instant the results of stages
come before the control tick, for the loop takes all results first.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from streamvla.core.clock import Clock, VirtualClock
from streamvla.runtime.drivers.cameras import CameraWatch
from streamvla.runtime.drivers.episode import Episode, EpisodeResult, make_sighting
from streamvla.runtime.drivers.injection import (
    FaultClock,
    FaultyLatency,
    FaultyStages,
    JumpingClock,
    inject,
    require_in_process,
)
from streamvla.runtime.drivers.loop import ControlLoop, Timing
from streamvla.runtime.drivers.observing import Sighting
from streamvla.runtime.drivers.stages import Flow, StageError, StageResult, Stages, StageWork
from streamvla.runtime.faults.plan import NO_FAULTS, FaultPlan
from streamvla.runtime.streamer.messages import StartGenerate, StartObserve
from streamvla.runtime.timing.latency import LatencyModel
from streamvla.trace import ObserveStarted


def run_simulated(
    episode: Episode,
    latency: LatencyModel,
    clock: VirtualClock | None = None,
    *,
    faults: FaultPlan = NO_FAULTS,
) -> EpisodeResult:
    """Run one episode in virtual time.

    Args:
        episode: robot, policy, streamer, trace and limits; the robot must have been reset at the
            clock's present instant.
        latency: how long each stage takes.
        clock: starts where it stands; a fresh one at 0 if none is given.
        faults: put in on purpose, counted from the clock's present instant.

    Raises:
        StageFailedError: a stage died; the robot was brought to its safe stop first.
        ConfigError: a fault that only a process can have; an executor that looks ahead and a policy
            that cannot.
    """
    require_in_process(episode, faults)
    clock = clock or VirtualClock()
    start_ns = clock.now_ns()
    timing, struck = Timing(clock, clock, latency.execute_ns), None
    if faults:
        struck = FaultClock(faults, clock, start_ns, lambda _: None, clock.sleep_until_ns)
        episode, latency = inject(episode, struck), FaultyLatency(latency, struck)
        timing = Timing(
            clock,
            JumpingClock(clock, faults, start_ns),
            latency.execute_ns,
            held_up_ns=lambda due_ns: faults.command_delay_ns(due_ns - start_ns),
        )
    stages: Stages = _SimulatedStages(episode, latency, clock, timing.told)
    if struck is not None:
        stages = FaultyStages(stages, struck)
    return ControlLoop(episode, timing, stages, start_ns).run()


class _SimulatedStages:
    """Stages in virtual time. Implements `Stages`.

    Args:
        told: what the trace is told the time is.
    """

    def __init__(
        self, episode: Episode, latency: LatencyModel, clock: VirtualClock, told: Clock
    ) -> None:
        self._episode = episode
        self._latency = latency
        self._clock = clock
        self._told = told
        self._work = StageWork(episode.policy)
        self._cameras = CameraWatch(episode.frozen)
        self._heap: list[tuple[int, int, Callable[[], Sequence[StageResult]]]] = []
        self._sequence = 0
        self._results: deque[StageResult] = deque()
        self._encoder = _Accelerator(self)
        self._generator = self._encoder if episode.serial else _Accelerator(self)
        self.cancel = self._work.cancel

    def take(self) -> StageResult | None:
        while not self._results:
            if not self._heap or self._heap[0][0] > self._clock.now_ns():
                return None
            _, _, end = heapq.heappop(self._heap)
            self._results.extend(end())
        return self._results.popleft()

    def wait(self, until_ns: int | None) -> None:
        """Jump to the next result or the instant, whichever comes first.

        Raises:
            RuntimeError: neither will ever come.
        """
        next_ns = self._heap[0][0] if self._heap else until_ns
        if next_ns is None:
            raise RuntimeError("the simulated run stopped: no event is left and it is not over")
        self._clock.sleep_until_ns(next_ns if until_ns is None else min(next_ns, until_ns))

    def schedule(self, duration_ns: int, end: Callable[[], Sequence[StageResult]]) -> None:
        """Call `end` for its results so long after now."""
        instant_ns = self._clock.now_ns() + duration_ns
        heapq.heappush(self._heap, (instant_ns, self._sequence, end))
        self._sequence += 1

    def observe(self, command: StartObserve, capture: Any, captured_ns: int) -> None:
        made: Sighting | StageError

        def start() -> int:
            nonlocal made
            self._episode.trace.record(ObserveStarted(self._told.now_ns(), command.observation))
            duration_ns = self._latency.observe_ns()
            made = self._work.sight(  # now, because a refusal is quicker
                lambda: make_sighting(self._episode, self._cameras, command, capture, captured_ns)
            )
            if isinstance(made, StageError):
                return duration_ns
            profile = self._episode.profile
            return profile.sighting_ns(
                duration_ns, made.calls, refused=made.refused, cost=made.cost
            )

        self._encoder.submit(start, lambda: [self._work.seen(command.observation, made)])

    def generate(self, command: StartGenerate) -> None:
        self._submit_job(self._work.begin(command))

    def _submit_job(self, flow: Flow) -> None:
        """Queue one generate job; it queues the next, so an observation can come between."""
        started_ns = 0
        cancelled = False

        def start() -> int:
            nonlocal started_ns, cancelled
            started_ns = self._told.now_ns()
            cancelled = self._work.cancelled(flow)  # later, the step still has to end
            if cancelled:
                return 0
            return sum(self._latency.generate_ns() for _ in range(self._work.passes(flow)))

        def end() -> list[StageResult]:
            if cancelled:
                return []
            results = self._work.step(flow, started_ns)
            if self._work.goes_on(flow, results):
                self._submit_job(flow)
            return results

        self._generator.submit(start, end)


class _Accelerator:
    """A serial resource in virtual time: jobs wait in line and take turns."""

    def __init__(self, stages: _SimulatedStages) -> None:
        self._stages = stages
        self._waiting: deque[tuple[Callable[[], int], Callable[[], Sequence[StageResult]]]] = (
            deque()
        )
        self._busy = False

    def submit(self, start: Callable[[], int], end: Callable[[], Sequence[StageResult]]) -> None:
        """Queue a job: `start` gives its duration, ns; `end` follows then, and gives the results.

        Whatever is queued by then starts before anybody hears of them, as on a worker thread.
        """
        self._waiting.append((start, end))
        if not self._busy:
            self._next()

    def _next(self) -> None:
        start, end = self._waiting.popleft()
        self._busy = True
        self._stages.schedule(start(), lambda: self._finish(end))

    def _finish(self, end: Callable[[], Sequence[StageResult]]) -> Sequence[StageResult]:
        results = end()
        self._busy = False
        if self._waiting:
            self._next()
        return results
