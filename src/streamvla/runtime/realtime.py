"""The real-time driver: the same streamer on the system clock, stages on their own threads.

    control thread   tick ─ send ─ tick ─ send ─ …      (this thread; owns robot and streamer)
                       │ jobs ▼          ▲ results
    accelerator      observe ─ step ─ step ─ …          (one thread, or two when not serial)

Stage results carry no authority: the control thread takes them from its inbox and gives them to
the streamer with the instant at which it saw them, so the trace is in order.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from types import TracebackType
from typing import Any

import numpy as np

from streamvla.core.clock import NS_PER_S, SystemClock
from streamvla.core.errors import StageFailedError
from streamvla.core.interfaces import FlowStart, Observation, Policy, Robot
from streamvla.runtime.episode import (
    EndReason,
    Episode,
    EpisodeResult,
    close_trace,
    end_reason,
    generate_job,
    make_context,
)
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

_STAGE_RETURN_S = 30.0
"""How long a stage may take to come back after its episode is over."""

Result = Callable[[int], Event | ObserveStarted]
"""A stage's result, waiting for the instant at which the control thread sees it."""


@dataclass(frozen=True)
class StageTimes:
    """What one observation cost here, ns: `observe_ns`, and `generate_ns` per expert pass."""

    observe_ns: int
    generate_ns: tuple[int, ...]


class RealtimeDriver:
    """Runs episodes on the system clock; use as a context manager.

    The accelerator threads live as long as the driver, so rendering contexts and model caches
    survive from one episode to the next.

    Args:
        serial: one accelerator thread for encoding and generating; false gives each its own.
    """

    def __init__(self, clock: SystemClock | None = None, *, serial: bool = True) -> None:
        self._clock = clock or SystemClock()
        self._encoder = _Worker("observe")
        self._generator = self._encoder if serial else _Worker("generate")

    def __enter__(self) -> RealtimeDriver:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in {self._encoder, self._generator}:
            worker.close()

    @property
    def clock(self) -> SystemClock:
        return self._clock

    def measure(self, robot: Robot, policy: Policy, repeats: int) -> list[StageTimes]:
        """Run every stage `repeats` times where it will run; also the warm-up before an episode.

        The robot must have been reset. Cold starts fall into the first entry.
        """
        times: list[StageTimes] = []

        def measure_once() -> None:
            state = robot.spec.action_space.initial_state()
            marks = [self._clock.now_ns()]
            frames = robot.observe(robot.capture())
            observation = Observation(
                frames.images, frames.state, state, robot.instruction, marks[0]
            )
            context = policy.encode(observation)
            marks.append(self._clock.now_ns())
            for _ in policy.generate(context, FlowStart(state)):
                marks.append(self._clock.now_ns())
            observe_ns, *steps = (after - before for before, after in pairwise(marks))
            if passes := policy.spec.chunk_passes:
                steps = [sum(steps) // passes] * passes
            times.append(StageTimes(observe_ns, tuple(steps)))

        for _ in range(repeats):
            self._encoder.call_and_wait(measure_once)
        return times

    def run(self, episode: Episode, start_ns: int | None = None) -> EpisodeResult:
        """Run one episode; the robot must have been reset for `start_ns`.

        Args:
            start_ns: the instant of the first tick, waited for; None for now.

        Raises:
            StageFailedError: a stage died; the robot was told to hold first.
            KeyboardInterrupt: passed on after the robot was told to hold.
        """
        if start_ns is not None:
            self._clock.sleep_until_ns(start_ns)
        run = _RealtimeRun(episode, self._clock, self._encoder, self._generator)
        try:
            return run.run()
        finally:
            run.abandon()
            for worker in {self._encoder, self._generator}:
                worker.wait_idle()


def run_realtime(episode: Episode, clock: SystemClock | None = None) -> EpisodeResult:
    """Run a single episode on the system clock (see `RealtimeDriver` for several)."""
    with RealtimeDriver(clock, serial=episode.serial) as driver:
        return driver.run(episode)


class _Worker:
    """One thread that does jobs in the order they come.

    Attributes:
        free_ns: when the job before the present one was over, by its nominal time if that is
            emulated: lateness of one sleep does not add to the next.
    """

    def __init__(self, name: str) -> None:
        self.free_ns = 0
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"streamvla-{name}", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def submit(self, job: Callable[[], None]) -> None:
        """Queue a job; it must not raise."""
        self._jobs.put(job)

    def call_and_wait(self, call: Callable[[], None]) -> None:
        """Run `call` on the thread, wait for it, and raise here what it raised there."""
        done = threading.Event()
        errors: list[BaseException] = []

        def job() -> None:
            try:
                call()
            except BaseException as error:
                errors.append(error)
            finally:
                done.set()

        self.submit(job)
        done.wait()
        if errors:
            raise errors[0]

    def wait_idle(self) -> None:
        """Wait until every job queued so far is done.

        Raises:
            StageFailedError: a job does not come back.
        """
        idle = threading.Event()
        self.submit(idle.set)
        if not idle.wait(_STAGE_RETURN_S):
            raise StageFailedError(
                f"{self._thread.name} did not come back within {_STAGE_RETURN_S:.0f} s of the end "
                "of its episode: the model or the renderer hangs"
            )

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join(_STAGE_RETURN_S)


class _RealtimeRun:
    def __init__(
        self, episode: Episode, clock: SystemClock, encoder: _Worker, generator: _Worker
    ) -> None:
        self._episode = episode
        self._clock = clock
        self._encoder = encoder
        self._generator = generator
        self._inbox: queue.SimpleQueue[Result] = queue.SimpleQueue()
        self._contexts: dict[int, Any] = {}
        self._cancelled: set[int] = set()
        self._abandoned = False
        self._start_ns = clock.now_ns()
        self._deadline_ns: int | None = None  # of the next control instant
        self._tick = 0
        self._over: EndReason | None = None
        self._error: Exception | None = None

    def abandon(self) -> None:
        """Let no queued step of this episode start any more."""
        self._abandoned = True

    def run(self) -> EpisodeResult:
        try:
            if self._episode.pacing == "grid":
                self._deadline_ns = self._start_ns
            self._handle(Started(self._clock.now_ns()))
            while self._over is None:
                self._step()
        except KeyboardInterrupt:
            self._hold()
            close_trace(self._episode, self._clock.now_ns(), self._start_ns, "interrupted")
            raise
        result = close_trace(self._episode, self._clock.now_ns(), self._start_ns, self._over)
        if self._error is not None:
            raise self._error
        return result

    def _step(self) -> None:
        """Take every result that is there; serve the control instant when it is due; else wait."""
        if self._take_result(wait=False):
            return
        now_ns = self._clock.now_ns()
        if self._deadline_ns is not None and now_ns >= self._deadline_ns:
            self._control(self._deadline_ns)
            return
        if self._deadline_ns is None and self._look_for_end(now_ns):
            return
        self._flush_trace(now_ns)
        self._take_result(wait=True)

    def _take_result(self, *, wait: bool) -> bool:
        try:
            result = self._inbox.get(block=wait, timeout=self._patience_s() if wait else None)
        except queue.Empty:
            return False
        event = result(self._clock.now_ns())
        if isinstance(event, ObserveStarted):
            self._episode.trace.record(event)
        else:
            self._handle(event)
        return True

    def _patience_s(self) -> float:
        """Until the next control instant, and no longer than a control period."""
        period_ns = self._episode.profile.execute_ns
        if self._deadline_ns is None:
            return period_ns / NS_PER_S
        return max(0, min(period_ns, self._deadline_ns - self._clock.now_ns())) / NS_PER_S

    def _flush_trace(self, now_ns: int) -> None:
        """Write the trace when there is time for it: more than half a period to the deadline."""
        period_ns = self._episode.profile.execute_ns
        slack_ns = period_ns if self._deadline_ns is None else self._deadline_ns - now_ns
        if slack_ns > period_ns // 2:
            self._episode.trace.flush()

    # --- control instants ----------------------------------------------------------------------

    def _control(self, due_ns: int) -> None:
        if self._look_for_end(self._clock.now_ns()):
            return
        if self._episode.pacing == "event":
            self._deadline_ns = None
            self._handle(Free(self._clock.now_ns()))
            return
        now_ns = self._clock.now_ns()
        self._handle(Tick(now_ns, due_ns, self._tick))
        self._plan_next_tick(now_ns)

    def _plan_next_tick(self, now_ns: int) -> None:
        """The tick after this one, or the present one if this thread was held up for longer.

        Ticks that went by are skipped, never served in a burst: a robot must not get two commands
        at once. The gap in tick numbers stays in the trace, and counts as halted.
        """
        period_ns = self._episode.profile.execute_ns
        self._tick = max(self._tick + 1, (now_ns - self._start_ns) // period_ns)
        self._deadline_ns = self._start_ns + self._tick * period_ns

    def _look_for_end(self, now_ns: int) -> bool:
        self._episode.robot.advance_to(now_ns)
        if self._episode.watch is not None:
            self._episode.watch(now_ns)
        self._over = self._over or end_reason(self._episode, now_ns - self._start_ns)
        return self._over is not None

    def _hold(self) -> None:
        space = self._episode.robot.spec.action_space
        hold = space.hold(self._episode.streamer.action_state)
        self._episode.robot.command(hold, self._clock.now_ns())

    # --- carrying commands out -----------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        for command in self._episode.streamer.handle(event):
            self._carry_out(command)

    def _carry_out(self, command: Command) -> None:
        match command:
            case Send():
                now_ns = self._clock.now_ns()
                self._episode.robot.command(command.values, now_ns)
                if self._episode.pacing == "event":
                    self._deadline_ns = now_ns + self._episode.profile.execute_ns
            case StartObserve():
                self._observe(command)
            case StartGenerate():
                self._generate(command)
            case CancelGenerate():
                self._cancelled.add(command.generation)
            case Stop():
                self._over, self._error = "failed", command.error

    def _observe(self, command: StartObserve) -> None:
        captured_ns = self._clock.now_ns()
        capture = self._episode.robot.capture()

        def job() -> None:
            if self._abandoned:
                return
            started_ns = max(captured_ns, self._encoder.free_ns)
            self._inbox.put(lambda now_ns: ObserveStarted(now_ns, command.observation))
            try:
                context = make_context(self._episode, command, capture, captured_ns)
            except Exception as error:
                self._report_failure("observe", error)
                return
            self._occupy(self._encoder, started_ns, self._episode.profile.observe_ns)
            self._contexts[command.observation] = context
            self._inbox.put(lambda now_ns: Observed(now_ns, command.observation))

        self._encoder.submit(job)

    def _generate(self, command: StartGenerate) -> None:
        context = self._contexts.pop(command.observation)
        actions = self._episode.policy.generate(context, command.start)
        now_ns = self._clock.now_ns()
        self._submit_job(command.generation, command.start.index, actions, now_ns)

    def _submit_job(
        self, generation: int, index: int, actions: Iterator[np.ndarray], ready_ns: int
    ) -> None:
        """Queue one generate job, which can start at `ready_ns`.

        Each job queues the next, so an observation can come between.
        """
        passes, count = generate_job(self._episode.policy, index)

        def job() -> None:
            if self._abandoned or generation in self._cancelled:
                return
            started_ns = max(ready_ns, self._generator.free_ns)
            try:
                made = [next(actions) for _ in range(count)]
            except Exception as error:
                self._report_failure("generate", error)
                return
            target_ns = passes * self._episode.profile.generate_ns
            self._occupy(self._generator, started_ns, target_ns)
            for i, values in enumerate(made, index):
                ready = {"started_ns": started_ns, "generation": generation, "index": i}
                self._inbox.put(partial(Generated, **ready, values=values))
            following = index + count
            if following < self._episode.policy.spec.horizon:
                self._submit_job(generation, following, actions, self._generator.free_ns)

        self._generator.submit(job)

    def _occupy(self, worker: _Worker, started_ns: int, target_ns: int) -> None:
        """Note when the worker is free again; an emulated stage takes at least its stated time.

        The end is an absolute instant (start + target), not counted from when the thread woke up.
        """
        worker.free_ns = self._clock.now_ns()
        if self._episode.profile.emulated:
            worker.free_ns = max(worker.free_ns, started_ns + target_ns)
            self._clock.sleep_until_ns(worker.free_ns)

    def _report_failure(self, stage: str, error: Exception) -> None:
        message = f"{type(error).__name__}: {error}"
        self._inbox.put(lambda now_ns: StageFailed(now_ns, stage, message))
