"""The simulated driver: virtual clock and event heap; deterministic, as fast as possible.

Stages take the time the latency model says and no more; what they compute is real. Events are
totally ordered by `(instant, priority, sequence)`: at one instant the results of stages come
before the control tick, so an action that is ready exactly when due is in time.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from streamvla.core.clock import VirtualClock
from streamvla.runtime.episode import (
    EndReason,
    Episode,
    EpisodeResult,
    close_trace,
    end_reason,
    generate_job,
    make_context,
)
from streamvla.runtime.latency import LatencyModel
from streamvla.runtime.streamer import (
    CancelGenerate,
    Command,
    Event,
    Free,
    Generated,
    Observed,
    Send,
    StageFailed,
    Started,
    StartGenerate,
    StartObserve,
    Stop,
    Tick,
)
from streamvla.trace import ObserveStarted

_RESULT, _CONTROL = 0, 1  # priorities at one instant


def run_simulated(
    episode: Episode, latency: LatencyModel, clock: VirtualClock | None = None
) -> EpisodeResult:
    """Run one episode in virtual time.

    Args:
        episode: robot, policy, streamer, trace and limits; the robot must have been reset at the
            clock's present instant.
        latency: how long each stage takes.
        clock: starts where it stands; a fresh one at 0 if none is given.

    Raises:
        StageFailedError: a stage died; the robot was told to hold first.
    """
    return _SimulatedRun(episode, latency, clock or VirtualClock()).run()


class _Accelerator:
    """A serial resource in virtual time: jobs wait in line and take turns."""

    def __init__(self, run: _SimulatedRun) -> None:
        self._run = run
        self._waiting: deque[tuple[Callable[[int], int], Callable[[int], None]]] = deque()
        self._busy = False

    def submit(self, start: Callable[[int], int], done: Callable[[int], None]) -> None:
        """Queue a job: `start(now_ns)` gives its duration, `done(now_ns)` follows its end."""
        self._waiting.append((start, done))
        if not self._busy:
            self._next()

    def _next(self) -> None:
        start, done = self._waiting.popleft()
        self._busy = True
        now_ns = self._run.now_ns
        self._run.schedule(now_ns + start(now_ns), _RESULT, lambda: self._finish(done))

    def _finish(self, done: Callable[[int], None]) -> None:
        done(self._run.now_ns)
        self._busy = False
        if self._waiting:
            self._next()


class _SimulatedRun:
    def __init__(self, episode: Episode, latency: LatencyModel, clock: VirtualClock) -> None:
        self._episode = episode
        self._latency = latency
        self._clock = clock
        self._start_ns = clock.now_ns()
        self._heap: list[tuple[int, int, int, Callable[[], None]]] = []
        self._sequence = 0
        self._encoder = _Accelerator(self)
        self._generator = self._encoder if episode.serial else _Accelerator(self)
        self._contexts: dict[int, Any] = {}
        self._cancelled: set[int] = set()
        self._over: EndReason | None = None
        self._error: Exception | None = None

    @property
    def now_ns(self) -> int:
        return self._clock.now_ns()

    def schedule(self, instant_ns: int, priority: int, call: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (instant_ns, priority, self._sequence, call))
        self._sequence += 1

    def run(self) -> EpisodeResult:
        self._handle(Started(self.now_ns))
        if self._episode.pacing == "grid":
            self.schedule(self._start_ns, _CONTROL, lambda: self._tick(0))
        self._schedule_time_limit()
        try:
            over = self._until_over()
        except KeyboardInterrupt:
            close_trace(self._episode, self.now_ns, self._start_ns, "interrupted")
            raise
        result = close_trace(self._episode, self.now_ns, self._start_ns, over)
        if self._error is not None:
            raise self._error
        return result

    def _until_over(self) -> EndReason:
        while self._over is None:
            if not self._heap:
                raise RuntimeError("the simulated run stopped: no event is left and it is not over")
            instant_ns, _, _, call = heapq.heappop(self._heap)
            self._clock.advance_to(instant_ns)
            call()
        return self._over

    def _schedule_time_limit(self) -> None:
        """Event pacing has no ticks to notice the limit on while the robot waits."""
        duration_ns = self._episode.limits.duration_ns
        if self._episode.pacing == "event" and duration_ns is not None:
            self.schedule(self._start_ns + duration_ns, _CONTROL, self._look_for_end)

    # --- control instants ----------------------------------------------------------------------

    def _look_for_end(self) -> None:
        self._episode.robot.advance_to(self.now_ns)
        if self._episode.watch is not None:
            self._episode.watch(self.now_ns)
        self._over = end_reason(self._episode, self.now_ns - self._start_ns)

    def _tick(self, tick: int) -> None:
        self._look_for_end()
        if self._over is not None:
            return
        due_ns = self._start_ns + tick * self._episode.profile.execute_ns
        self._handle(Tick(self.now_ns, due_ns, tick))
        next_ns = due_ns + self._episode.profile.execute_ns
        self.schedule(next_ns, _CONTROL, lambda: self._tick(tick + 1))

    def _free(self) -> None:
        self._look_for_end()
        if self._over is None:
            self._handle(Free(self.now_ns))
            if self._episode.streamer.finished:
                self._over = "observations"

    # --- carrying commands out -----------------------------------------------------------------

    def _handle(self, event: Event) -> None:
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
        captured_ns = self.now_ns
        self._episode.robot.advance_to(captured_ns)
        capture = self._episode.robot.capture()

        def start(now_ns: int) -> int:
            self._episode.trace.record(ObserveStarted(now_ns, command.observation))
            return self._latency.observe_ns()

        def done(now_ns: int) -> None:
            try:
                context = make_context(self._episode, command, capture, captured_ns)
            except Exception as error:
                self._handle(StageFailed(now_ns, "observe", _describe(error)))
                return
            self._contexts[command.observation] = context
            self._handle(Observed(now_ns, command.observation))

        self._encoder.submit(start, done)

    def _generate(self, command: StartGenerate) -> None:
        context = self._contexts.pop(command.observation)
        actions = self._episode.policy.generate(context, command.start)
        self._submit_job(command.generation, command.start.index, actions)

    def _submit_job(self, generation: int, index: int, actions: Iterator[np.ndarray]) -> None:
        """Queue one generate job; it queues the next, so an observation can come between."""
        passes, count = generate_job(self._episode.policy, index)
        started_ns = self.now_ns

        def start(now_ns: int) -> int:
            nonlocal started_ns
            started_ns = now_ns
            return sum(self._latency.generate_ns() for _ in range(passes))

        def done(now_ns: int) -> None:
            if generation in self._cancelled:
                return
            try:
                made = [next(actions) for _ in range(count)]
            except Exception as error:
                self._handle(StageFailed(now_ns, "generate", _describe(error)))
                return
            for i, values in enumerate(made, index):
                self._handle(Generated(now_ns, started_ns, generation, i, values))
            following = index + count
            if following < self._episode.policy.spec.horizon and generation not in self._cancelled:
                self._submit_job(generation, following, actions)

        self._generator.submit(start, done)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
