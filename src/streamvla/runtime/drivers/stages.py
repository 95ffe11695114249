"""Observing and generating: what the stages do, on which threads, and what comes out of them.

Stage results carry no authority: whoever owns the streamer takes them, in its own time, and gives
them to the streamer with the instant at which it saw them.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from streamvla.core.actions import require_action
from streamvla.core.clock import Clock
from streamvla.core.compute import ObservationCost
from streamvla.core.errors import StageFailedError
from streamvla.core.interfaces import (
    FlowStart,
    Policy,
    Robot,
    begin_episode,
    cost_of,
    goal_of,
    remembering_nothing,
    require_anticipation,
)
from streamvla.runtime.drivers.episode import (
    describe,
    generate_job,
    lazily_generate,
    observation_of,
)
from streamvla.runtime.drivers.observing import Rephrased, Sighting
from streamvla.runtime.executors.base import Saliency
from streamvla.runtime.streamer.messages import StartGenerate, StartObserve
from streamvla.runtime.timing.latency import ConstantLatency, LatencyModel, LatencyProfile

STAGE_RETURN_S = 30.0
"""How long a stage may take to come back after its episode is over."""


# --- results ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ObserveBegun:
    """The accelerator began to encode the observation."""

    observation: int


@dataclass(frozen=True, slots=True)
class ContextReady:
    """The context of the observation is there, with the goal (d,) it states, if any, the views that
    are frozen, the instruction with its clarity, if it is `unclear`, and what is read instead.

    Or the observation was `refused`; `saliency`, `cost` and `rephrased` are those of
    `observing.Sighting`.
    """

    observation: int
    goal: np.ndarray | None = None
    frozen: tuple[str, ...] = ()
    saliency: tuple[Saliency, ...] = ()
    refused: bool = False
    cost: ObservationCost | None = None
    unclear: tuple[str, float] | None = None
    rephrased: Rephrased | None = None


@dataclass(frozen=True, slots=True)
class ActionMade:
    """One flow step is done; the accelerator worked on it since `started_ns`."""

    started_ns: int
    generation: int
    index: int
    values: np.ndarray  # (d,)


@dataclass(frozen=True, slots=True)
class StageError:
    """A stage raised ("observe", "generate"), or all of them are gone ("model")."""

    stage: str
    message: str


StageResult = ObserveBegun | ContextReady | ActionMade | StageError


class Stages(Protocol):
    """Where observing and generating happen, as the control loop sees it; nothing here waits,
    except `wait`."""

    def observe(self, command: StartObserve, capture: Any, captured_ns: int) -> None:
        """Begin to make the context of what `capture` shows."""
        ...

    def generate(self, command: StartGenerate) -> None:
        """Begin to make actions from a ready context."""
        ...

    def cancel(self, generation: int) -> None:
        """Make no further action of a generation."""
        ...

    def take(self) -> StageResult | None:
        """The next result, or None."""
        ...

    def wait(self, until_ns: int | None) -> None:
        """Until a result is there or the instant has come; None: until a result is there."""
        ...


@dataclass(frozen=True)
class StageTimes:
    """What one observation cost here, ns: `observe_ns`, and `generate_ns` per expert pass."""

    observe_ns: int
    generate_ns: tuple[int, ...]


def measure_once(
    clock: Clock, robot: Robot, policy: Policy, capture: Any, instruction: str
) -> StageTimes:
    """Run every stage once, here and now, on what `capture` shows.

    A policy that anticipates does so once, whether or not the executor will ask for it. What a
    policy remembers stays as it was, also where its stream continues.
    """
    with remembering_nothing(policy):
        return _measured_once(clock, robot, policy, capture, instruction)


def _measured_once(
    clock: Clock, robot: Robot, policy: Policy, capture: Any, instruction: str
) -> StageTimes:
    begin_episode(policy)
    state = policy.spec.action_space.initial_state()
    marks = [clock.now_ns()]
    observation = observation_of(robot, capture, state, instruction, marks[0])
    if policy.spec.anticipates:
        able = require_anticipation(policy)
        sight = able.look(observation)
        able.anticipate(sight, state[None])
        context = able.contextualise(sight)
    else:
        context = policy.encode(observation)
    marks.append(clock.now_ns())
    for action in lazily_generate(policy, context, FlowStart(state)):
        require_action(action, policy.spec.action_space.dim)
        marks.append(clock.now_ns())
    cost_of(policy, context)  # the first count takes longer
    observe_ns, *steps = (after - before for before, after in pairwise(marks))
    if passes := policy.spec.chunk_passes:
        steps = [sum(steps) // passes] * passes
    return StageTimes(observe_ns, tuple(steps))


# --- what they do ----------------------------------------------------------------------------


@dataclass
class Flow:
    """A generation under way, job by job: its next flow step, and where the actions come from."""

    generation: int
    index: int
    actions: Iterator[np.ndarray]


def _error_of(stage: str, error: BaseException) -> StageError:
    """What a stage raised, as a result: whatever it was, `SystemExit` included, its thread lives on
    and the episode ends in the robot's stop. Only Ctrl-C, which arrives in the main thread, is not
    the stage's."""
    if isinstance(error, KeyboardInterrupt) and (
        threading.current_thread() is threading.main_thread()
    ):
        raise error
    return StageError(stage, describe(error))


class StageWork:
    """What the stages of one episode compute, whenever and on whatever thread. What they raise
    becomes a result."""

    def __init__(self, policy: Policy) -> None:
        begin_episode(policy)
        self._policy = policy
        self._contexts: dict[int, Any] = {}
        self._cancelled: set[int] = set()

    def sight(self, make: Callable[[], Sighting]) -> Sighting | StageError:
        """Encode: `make` gives the context, or refuses."""
        try:
            return make()
        except BaseException as error:
            return _error_of("observe", error)

    def seen(self, observation: int, sighting: Sighting | StageError) -> StageResult:
        """The result of an observe stage that is over."""
        if isinstance(sighting, StageError):
            return sighting
        context, frozen, saliency = sighting.context, sighting.frozen, sighting.saliency
        of_it = (sighting.cost, sighting.unclear, sighting.rephrased)
        if sighting.refused:
            return ContextReady(observation, None, frozen, saliency, True, *of_it)
        try:
            goal = goal_of(self._policy, context)
        except BaseException as error:
            return _error_of("observe", error)
        self._contexts[observation] = context
        return ContextReady(observation, goal, frozen, saliency, False, *of_it)

    def begin(self, command: StartGenerate) -> Flow:
        """A generation from a context that was reported ready; nothing is computed yet."""
        context = self._contexts.pop(command.observation)
        actions = lazily_generate(self._policy, context, command.start)
        return Flow(command.generation, command.start.index, actions)

    def cancel(self, generation: int) -> None:
        """Begin no further job of this generation."""
        self._cancelled.add(generation)

    def cancelled(self, flow: Flow) -> bool:
        return flow.generation in self._cancelled

    def passes(self, flow: Flow) -> int:
        """Of the expert, in the flow's next job."""
        return generate_job(self._policy, flow.index)[0]

    def step(self, flow: Flow, started_ns: int) -> list[StageResult]:
        """Do the next job of a flow, begun at `started_ns`."""
        count = generate_job(self._policy, flow.index)[1]
        try:
            made = [next(flow.actions) for _ in range(count)]
        except BaseException as error:
            return [_error_of("generate", error)]
        first, flow.index = flow.index, flow.index + count
        return [
            ActionMade(started_ns, flow.generation, index, values)
            for index, values in enumerate(made, first)
        ]

    def goes_on(self, flow: Flow, results: list[StageResult]) -> bool:
        """Whether another job follows the one that gave these."""
        failed = isinstance(results[0], StageError)
        return not failed and flow.index < self._policy.spec.horizon


# --- on threads -------------------------------------------------------------------------------


class Worker:
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
        if not idle.wait(STAGE_RETURN_S):
            raise StageFailedError(
                f"{self._thread.name} did not come back within {STAGE_RETURN_S:.0f} s of the end "
                "of its episode: the model or the renderer hangs"
            )

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join(STAGE_RETURN_S)


@dataclass(frozen=True)
class Accelerator:
    """The threads that encode and generate: one and the same, or one each."""

    encoder: Worker
    generator: Worker

    @classmethod
    def start(cls, *, serial: bool) -> Accelerator:
        encoder = Worker("observe")
        return cls(encoder, encoder if serial else Worker("generate"))

    @property
    def serial(self) -> bool:
        """Whether encoding and generating take turns."""
        return self.encoder is self.generator

    @property
    def workers(self) -> set[Worker]:
        return {self.encoder, self.generator}

    def wait_idle(self) -> None:
        """As `Worker.wait_idle`, for all."""
        for worker in self.workers:
            worker.wait_idle()

    def close(self) -> None:
        for worker in self.workers:
            worker.close()


def measure(
    accelerator: Accelerator,
    clock: Clock,
    robot: Robot,
    policy: Policy,
    capture: Callable[[], Any],
    instruction: str,
    repeats: int,
) -> list[StageTimes]:
    """Run every stage `repeats` times (`measure_once`) on the thread where it will run."""
    times: list[StageTimes] = []
    for _ in range(repeats):
        accelerator.encoder.call_and_wait(
            lambda: times.append(measure_once(clock, robot, policy, capture(), instruction))
        )
    return times


class StageRunner:
    """Runs the stages of one episode on an accelerator, one flow step or chunk a job.

    Args:
        profile: if it is emulated, stages are padded up to the times of `latency`.
        report: gets every result, on the thread that made it.
        latency: asked for every stage; None: the profile's own times.
    """

    def __init__(
        self,
        policy: Policy,
        profile: LatencyProfile,
        clock: Clock,
        accelerator: Accelerator,
        report: Callable[[StageResult], None],
        latency: LatencyModel | None = None,
    ) -> None:
        self._work = StageWork(policy)
        self._profile = profile
        self._latency = latency or ConstantLatency(profile)
        self._clock = clock
        self._encoder = accelerator.encoder
        self._generator = accelerator.generator
        self._report = report
        self._abandoned = False

    def cancel(self, generation: int) -> None:
        """Begin no further job of this generation."""
        self._work.cancel(generation)

    def abandon(self) -> None:
        """Let no queued step of this episode start any more."""
        self._abandoned = True

    def observe(self, observation: int, captured_ns: int, make: Callable[[], Sighting]) -> None:
        """Queue an observe stage: `make` gives the context, or refuses."""

        def job() -> None:
            if self._abandoned:
                return
            started_ns = max(captured_ns, self._encoder.free_ns)
            self._report(ObserveBegun(observation))
            made = self._work.sight(make)
            if isinstance(made, Sighting):
                observe_ns = self._latency.observe_ns()
                target_ns = self._profile.sighting_ns(
                    observe_ns, made.calls, refused=made.refused, cost=made.cost
                )
                self._occupy(self._encoder, started_ns, target_ns)
            self._report(self._work.seen(observation, made))

        self._encoder.submit(job)

    def generate(self, command: StartGenerate) -> None:
        """Queue the first job of a generation, from a context that was reported ready."""
        self._submit_job(self._work.begin(command), self._clock.now_ns())

    def _submit_job(self, flow: Flow, ready_ns: int) -> None:
        """Queue one generate job, which can start at `ready_ns`.

        Each job queues the next, so an observation can come between.
        """
        work = self._work

        def job() -> None:
            if self._abandoned or work.cancelled(flow):
                return
            started_ns = max(ready_ns, self._generator.free_ns)
            passes = work.passes(flow)
            results = work.step(flow, started_ns)
            if isinstance(results[0], ActionMade):
                target_ns = sum(self._latency.generate_ns() for _ in range(passes))
                self._occupy(self._generator, started_ns, target_ns)
            for result in results:
                self._report(result)
            if work.goes_on(flow, results):
                self._submit_job(flow, self._generator.free_ns)

        self._generator.submit(job)

    def _occupy(self, worker: Worker, started_ns: int, target_ns: int) -> None:
        """Note when the worker is free again; an emulated stage takes at least its stated time.

        The end is an absolute instant (start + target), not counted from when the thread woke up.
        """
        worker.free_ns = self._clock.now_ns()
        if self._profile.emulated:
            worker.free_ns = max(worker.free_ns, started_ns + target_ns)
            self._clock.sleep_until_ns(worker.free_ns)
