"""The simulated driver: virtual clock and event heap; deterministic, as fast as possible.

Stages take the time the latency model says and no more; what they compute is real. Events are
totally ordered by `(instant, priority, sequence)`: at one instant the results of stages come
before the control tick, so an action that is ready exactly when due is in time.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from streamvla.core.clock import VirtualClock
from streamvla.core.interfaces import goal_of, require_anticipation, standing_at
from streamvla.runtime.drivers.cameras import CameraWatch
from streamvla.runtime.drivers.episode import (
    EndReason,
    Episode,
    EpisodeResult,
    StimulusLog,
    close_trace,
    describe,
    end_reason,
    generate_job,
    lazily_generate,
    make_sighting,
)
from streamvla.runtime.drivers.injection import FaultClock, FaultyLatency, JumpingClock, inject
from streamvla.runtime.drivers.observing import Sighting
from streamvla.runtime.faults.plan import NO_FAULTS, FaultPlan
from streamvla.runtime.streamer.messages import (
    CancelGenerate,
    Command,
    Event,
    Free,
    Generated,
    Interrupted,
    Observed,
    Send,
    StageFailed,
    Started,
    StartGenerate,
    StartObserve,
    Stop,
    Tick,
)
from streamvla.runtime.timing.latency import LatencyModel
from streamvla.trace import Failed, ObserveStarted

_RESULT, _CONTROL = 0, 1  # priorities at one instant


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
    if episode.streamer.anticipates:
        require_anticipation(episode.policy)
    clock = clock or VirtualClock()
    if faults:
        faults.require_in_process()
        struck = FaultClock(faults, clock, clock.now_ns(), lambda _: None)
        episode, latency = inject(episode, struck), FaultyLatency(latency, struck)
    return _SimulatedRun(episode, latency, clock, faults).run()


class _Accelerator:
    """A serial resource in virtual time: jobs wait in line and take turns."""

    def __init__(self, run: _SimulatedRun) -> None:
        self._run = run
        self._waiting: deque[tuple[Callable[[], int], Callable[[], Sequence[Event]]]] = deque()
        self._busy = False

    def submit(self, start: Callable[[], int], done: Callable[[], Sequence[Event]]) -> None:
        """Queue a job: `start` gives its duration; `done` follows its end, and gives the results.

        Whatever is queued by then starts before anybody hears of them, as on a worker thread.
        """
        self._waiting.append((start, done))
        if not self._busy:
            self._next()

    def _next(self) -> None:
        start, done = self._waiting.popleft()
        self._busy = True
        self._run.schedule(self._run.now_ns + start(), _RESULT, lambda: self._finish(done))

    def _finish(self, done: Callable[[], Sequence[Event]]) -> None:
        results = done()
        self._busy = False
        if self._waiting:
            self._next()
        for result in results:
            self._run.handle(result)


class _SimulatedRun:
    def __init__(
        self, episode: Episode, latency: LatencyModel, clock: VirtualClock, faults: FaultPlan
    ) -> None:
        self._episode = episode
        self._stimuli = StimulusLog(episode.robot, episode.trace)
        self._latency = latency
        self._clock = clock
        self._start_ns = clock.now_ns()
        self._faults = faults
        self._told = JumpingClock(clock, faults, self._start_ns) if faults else clock
        self._heap: list[tuple[int, int, int, Callable[[], None]]] = []
        self._sequence = 0
        self._encoder = _Accelerator(self)
        self._generator = self._encoder if episode.serial else _Accelerator(self)
        self._cameras = CameraWatch(episode.frozen)
        self._contexts: dict[int, Any] = {}
        self._cancelled: set[int] = set()
        self._over: EndReason | None = None
        self._error: Exception | None = None

    @property
    def now_ns(self) -> int:
        """The true instant, by which the world and the events move."""
        return self._clock.now_ns()

    @property
    def told_ns(self) -> int:
        """What the streamer and the trace are told it is; the same without a clock fault."""
        return self._told.now_ns()

    def schedule(self, instant_ns: int, priority: int, call: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (instant_ns, priority, self._sequence, call))
        self._sequence += 1

    def run(self) -> EpisodeResult:
        try:
            self.handle(Started(self.told_ns, standing_at(self._episode.robot)))
            if self._episode.pacing == "grid":
                self._schedule_tick(0)
            self._schedule_time_limit()
            over = self._until_over()
        except KeyboardInterrupt:
            self._come_to_rest()
            close_trace(self._episode, self.told_ns, self._start_ns, "interrupted")
            raise
        except Exception as error:
            self._episode.trace.record(Failed(self.told_ns, "control", describe(error)))
            close_trace(self._episode, self.told_ns, self._start_ns, "failed")
            raise
        result = close_trace(self._episode, self.told_ns, self._start_ns, over)
        if self._error is not None:
            raise self._error
        return result

    def _until_over(self) -> EndReason:
        while self._over is None:
            if not self._heap:
                return self._end_without_events()
            instant_ns, _, _, call = heapq.heappop(self._heap)
            self._clock.advance_to(instant_ns)
            call()
            self._over = self._over or self._nothing_left()
        return self._over

    def _nothing_left(self) -> EndReason | None:
        """Event pacing: the run is over with the last command; on a grid the next tick ends it."""
        idle = self._episode.pacing == "event" and self._episode.streamer.finished
        return "observations" if idle else None

    def _end_without_events(self) -> EndReason:
        reason = end_reason(self._episode, self.now_ns - self._start_ns)
        if reason is None:
            raise RuntimeError("the simulated run stopped: no event is left and it is not over")
        return reason

    def _schedule_time_limit(self) -> None:
        """Event pacing has no ticks to notice the limit on while the robot waits."""
        duration_ns = self._episode.limits.duration_ns
        if self._episode.pacing == "event" and duration_ns is not None:
            self.schedule(self._start_ns + duration_ns, _CONTROL, self._look_for_end)

    # --- control instants ----------------------------------------------------------------------

    def _look_for_end(self) -> None:
        self._episode.robot.advance_to(self.now_ns)
        self._stimuli.look()
        if self._episode.watch is not None:
            self._episode.watch(self.told_ns)
        self._over = end_reason(self._episode, self.now_ns - self._start_ns)

    def _tick(self, tick: int) -> None:
        self._look_for_end()
        if self._over is not None:
            return
        period_ns = self._episode.profile.execute_ns
        due_ns = self._start_ns + tick * period_ns
        self.handle(Tick(self.told_ns, due_ns, tick))
        self._schedule_tick((self.now_ns - self._start_ns) // period_ns + 1)

    def _schedule_tick(self, tick: int) -> None:
        """Serve a tick when it is due, or later while the robot is slow to take commands."""
        due_ns = self._start_ns + tick * self._episode.profile.execute_ns
        delay_ns = self._faults.command_delay_ns(due_ns - self._start_ns)
        self.schedule(max(due_ns + delay_ns, self.now_ns), _CONTROL, lambda: self._tick(tick))

    def _free(self) -> None:
        self._look_for_end()
        if self._over is None:
            self.handle(Free(self.told_ns, self.told_ns))

    def _come_to_rest(self) -> None:
        """One hold at once; a robot that a ladder must slow down first gets the ticks for that."""
        at_rest = self._episode.streamer.at_rest
        self.handle(Interrupted(self.told_ns))
        period_ns = self._episode.profile.execute_ns
        while not at_rest and self._episode.pacing == "grid":
            tick = (self.now_ns - self._start_ns) // period_ns + 1
            due_ns = self._start_ns + tick * period_ns
            self._clock.advance_to(due_ns)
            self._episode.robot.advance_to(due_ns)
            self.handle(Tick(self.told_ns, due_ns, tick))
            at_rest = self._episode.streamer.at_rest

    # --- carrying commands out -----------------------------------------------------------------

    def handle(self, event: Event) -> None:
        for command in self._episode.streamer.handle(event):
            self._carry_out(command)

    def _carry_out(self, command: Command) -> None:
        match command:
            case Send():
                self._episode.robot.command(command.values, self.now_ns)
                if self._episode.pacing == "event":
                    free_ns = self.now_ns + self._latency.execute_ns()
                    self.schedule(free_ns, _CONTROL, self._free)
            case StartObserve():
                self._observe(command)
            case StartGenerate():
                self._generate(command)
            case CancelGenerate():
                self._cancelled.add(command.generation)
            case Stop():
                self._over, self._error = "failed", command.error

    def _observe(self, command: StartObserve) -> None:
        captured_ns = self.told_ns
        try:
            self._episode.robot.advance_to(self.now_ns)  # a second look starts between two ticks
            capture = self._episode.robot.capture()
        except Exception as error:
            self.handle(StageFailed(captured_ns, "observe", describe(error)))
            return

        made: Sighting | Exception

        def start() -> int:
            nonlocal made
            self._episode.trace.record(ObserveStarted(self.told_ns, command.observation))
            duration_ns = self._latency.observe_ns()
            try:  # now, because a refusal is quicker
                made = make_sighting(self._episode, self._cameras, command, capture, captured_ns)
            except Exception as error:
                made = error
                return duration_ns
            profile = self._episode.profile
            return profile.sighting_ns(duration_ns, made.calls, refused=made.refused)

        def done() -> list[Event]:
            told_ns = self.told_ns
            if isinstance(made, Exception):
                return [StageFailed(told_ns, "observe", describe(made))]
            if not made.refused:
                self._contexts[command.observation] = made.context
            goal, number = goal_of(made.context), command.observation
            return [Observed(told_ns, number, goal, made.frozen, made.saliency, made.refused)]

        self._encoder.submit(start, done)

    def _generate(self, command: StartGenerate) -> None:
        context = self._contexts.pop(command.observation)
        actions = lazily_generate(self._episode.policy, context, command.start)
        self._submit_job(command.generation, command.start.index, actions)

    def _submit_job(self, generation: int, index: int, actions: Iterator[np.ndarray]) -> None:
        """Queue one generate job; it queues the next, so an observation can come between."""
        passes, count = generate_job(self._episode.policy, index)
        started_ns = self.now_ns
        cancelled = False

        def start() -> int:
            nonlocal started_ns, cancelled
            started_ns = self.told_ns
            cancelled = generation in self._cancelled  # later, the step still has to end
            if cancelled:
                return 0
            return sum(self._latency.generate_ns() for _ in range(passes))

        def done() -> list[Event]:
            if cancelled:
                return []
            told_ns = self.told_ns
            try:
                made = [next(actions) for _ in range(count)]
            except Exception as error:
                return [StageFailed(told_ns, "generate", describe(error))]
            following = index + count
            if following < self._episode.policy.spec.horizon:
                self._submit_job(generation, following, actions)
            return [
                Generated(told_ns, started_ns, generation, i, values)
                for i, values in enumerate(made, index)
            ]

        self._generator.submit(start, done)
