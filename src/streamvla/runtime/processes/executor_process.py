"""The executor's process: control loop, robot, streamer and trace, and nothing that could hold them
up. It never imports torch, collects no garbage while it runs, and sleeps to absolute deadlines.

Whatever happens to the model process, every tick gets its command here: from the buffer, or from
the governor. When the model process dies, the streamer brings the robot to its safe stop and the
owner hears of it; when it is suspended, the governor fills in until it resumes.
"""

from __future__ import annotations

import gc
import pickle
import select
import sys
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from streamvla.core.clock import NS_PER_S, Clock, SystemClock, ms_to_ns
from streamvla.core.errors import ConfigError, HandoffError, RingError, StageFailedError
from streamvla.core.interfaces import Robot, RobotSpec, standing_at
from streamvla.runtime.drivers.episode import EpisodeLimits, EpisodeResult, Watch
from streamvla.runtime.drivers.film import Captures, Film
from streamvla.runtime.drivers.injection import (
    FaultClock,
    FaultyStages,
    JumpingClock,
    inject_control,
)
from streamvla.runtime.drivers.loop import ControlLoop, Timing
from streamvla.runtime.drivers.loop_statistics import LoopStatistics, TickLog
from streamvla.runtime.drivers.robot_side import check_robot_side
from streamvla.runtime.drivers.signals import (
    Terminated,
    ending_between_steps,
    raised_as_interrupts,
)
from streamvla.runtime.drivers.stages import (
    STAGE_RETURN_S,
    ContextReady,
    StageError,
    StageResult,
    Stages,
)
from streamvla.runtime.processes.channel import Channel
from streamvla.runtime.processes.frames import FrameSender
from streamvla.runtime.processes.handoff import (
    MOST_BYTES,
    AwaitIdle,
    BeginEpisode,
    Delivered,
    EndEpisode,
    MeasureRequest,
    ObserveRequest,
    decode,
    from_record,
    result_record,
)
from streamvla.runtime.processes.launch import receive_fd
from streamvla.runtime.processes.plan import EpisodePlan, MakeRobot, ProcessResult
from streamvla.runtime.processes.privileges import FifoGuard, Grant, RealtimeSettings, ask
from streamvla.runtime.processes.ring import SharedRing
from streamvla.runtime.processes.watchdog import Pulse, watched
from streamvla.runtime.streamer.machine import Streamer
from streamvla.runtime.streamer.messages import CancelGenerate, StartGenerate, StartObserve
from streamvla.runtime.timing.latency import LatencyProfile
from streamvla.trace import FileTrace, TraceSink

_FINE_NS = ms_to_ns(0.5)
"""The last stretch before a deadline, slept through to the very instant; results that come in it
are taken when it ends, before the tick is served."""

_MOST_AT_ONCE = 64

MODEL_DIED = "the model process died"
"""The message of the error that a closed channel becomes."""

# --- what the owner says and hears -----------------------------------------------------------


@dataclass(frozen=True)
class ExecutorReady:
    """The robot stands ready."""

    robot: RobotSpec
    grants: tuple[Grant, ...]


@dataclass(frozen=True)
class RunEpisode:
    """Run this; `start_ns` is the instant of tick 0, None for `plan.reset_ns` from now."""

    plan: EpisodePlan
    start_ns: int | None


@dataclass(frozen=True)
class Measure:
    """Reset the robot with `seed` and have the model process measure its stages on it."""

    seed: int
    repeats: int


@dataclass(frozen=True)
class Interrupt:
    """Hold the robot and end the episode."""


@dataclass(frozen=True)
class EpisodeOver:
    """What came of an episode.

    Attributes:
        result: None: it was interrupted, or a stage died.
        error: of the stage that died.
        distrusted: the model process is not to be used again.
        captures: (instant, capture) of every control instant, if the plan wanted a film.
    """

    result: ProcessResult | None
    error: str | None
    captures: Captures
    distrusted: bool = False


# --- the process -----------------------------------------------------------------------------


def executor_main(
    owner: Connection, make_robot: MakeRobot, settings: RealtimeSettings, watchdog: bool
) -> None:
    """Run in the executor process until the owner is gone.

    Args:
        watchdog: there is one, for a robot that declares its stop.
    """
    with raised_as_interrupts():
        _executor_main(owner, make_robot, settings, watchdog)


def _executor_main(
    owner: Connection, make_robot: MakeRobot, settings: RealtimeSettings, watchdog: bool
) -> None:
    robot = make_robot()
    watched_over = watchdog and robot.spec.stop is not None
    _refuse_torch()
    guard = FifoGuard()
    grants = ask(settings)
    owner.send(ExecutorReady(robot.spec, grants))
    ring = SharedRing.attach(receive_fd(owner), result_record(robot.spec.action_space.dim))
    channel = Channel(receive_fd(owner), MOST_BYTES)
    intake = _Intake(ring, channel, FrameSender(receive_fd(owner)))
    pulse = None
    if watched_over:
        pulse, _alive_fd = Pulse(receive_fd(owner)), receive_fd(owner)  # it is open while we live
    try:
        _Executor(owner, robot, intake, grants, guard, pulse).serve()
    finally:
        robot.close()


def _refuse_torch() -> None:
    if "torch" in sys.modules:
        raise ConfigError(
            "making the robot imported torch, whose threads and allocations would hold up the "
            "control loop: move that import into the policy's module, which runs elsewhere"
        )


@dataclass(frozen=True)
class _Intake:
    """Where results enter the process, and requests leave it."""

    ring: SharedRing
    channel: Channel
    frames: FrameSender

    def send(self, request: object) -> None:
        self.channel.send(pickle.dumps(request))

    def collect(self) -> list[Delivered]:
        """Everything that has come, in order.

        The channel is read first: whatever the ring got before a message was sent is then there.

        Raises:
            HandoffError, RingError: the model process wrote what it must not.
        """
        messages = self.channel.receive()
        delivered = [from_record(row) for row in self.ring.pop(_MOST_AT_ONCE)]
        return delivered + [decode(message) for message in messages if message]


class _ProcessStages:
    """Stages in the model process. Implements `Stages`.

    Raises from `wait` and `take`:
        KeyboardInterrupt: the owner wants the episode to end, or is gone.
    """

    def __init__(
        self,
        owner: Connection,
        intake: _Intake,
        clock: SystemClock,
        episode: int,
        instruct: Callable[[], str],
    ) -> None:
        self._owner = owner
        self._intake = intake
        self._channel = intake.channel
        self._clock = clock
        self._episode = episode
        self._instruct = instruct
        self._results: deque[StageResult] = deque()
        self._kept: dict[int, object] = {}  # frames of captures without a result so far
        self._death_told = False
        self.damage: str | None = None
        """What the model process wrote that it must not; nothing more is read from it then."""

    def wait_for_model(self) -> None:
        """Until the model process has done with the episode before.

        Raises:
            StageFailedError: it is dead, or does not come back.
        """
        self._intake.send(AwaitIdle(self._episode))
        deadline_ns = self._clock.now_ns() + round(STAGE_RETURN_S * NS_PER_S)
        while not any(
            each.episode == self._episode and each.result is None for each in self._collected()
        ):
            if self.damage or self._channel.closed or self._clock.now_ns() > deadline_ns:
                state = "is dead" if self._channel.closed else "hangs: it is not ready"
                state = f"wrote what it must not: {self.damage}" if self.damage else state
                raise StageFailedError(
                    f"the model process {state}; the episode was not begun, the robot not moved"
                )
            self.wait(deadline_ns)

    def observe(self, command: StartObserve, capture: Any, captured_ns: int) -> None:
        shared, self._kept[command.observation] = self._intake.frames.share(capture)
        self._intake.send(
            ObserveRequest(
                command.observation,
                command.action_state,
                shared,
                self._instruct(),
                captured_ns,
                command.foresee,
            )
        )

    def generate(self, command: StartGenerate) -> None:
        self._intake.send(command)

    def cancel(self, generation: int) -> None:
        self._intake.send(CancelGenerate(generation))

    def take(self) -> StageResult | None:
        if not self._results:
            self._collect()
        result = self._results.popleft() if self._results else None
        if isinstance(result, ContextReady):
            self._kept.pop(result.observation, None)
        return result

    def let_go(self) -> None:
        """Of all frames: nobody will use what the model makes of them."""
        self._kept.clear()

    def _collect(self) -> None:
        if self._owner_calls():  # a loop that is behind never waits
            self._listen_to_owner()
        for delivered in self._collected():
            if delivered.episode == self._episode and delivered.result is not None:
                self._results.append(delivered.result)
        if self._channel.closed and not self._death_told:
            self._death_told = True
            self._results.append(StageError("model", MODEL_DIED))

    def _owner_calls(self) -> bool:
        return bool(select.select([self._owner], [], [], 0)[0])

    def _collected(self) -> list[Delivered]:
        if self.damage is not None:
            return []
        try:
            return self._intake.collect()
        except (HandoffError, RingError) as error:
            self.damage = f"{error}"
            self._results.append(StageError("model", self.damage))
            return []

    def wait(self, until_ns: int | None) -> None:
        """Doze until something comes or the deadline is near, then sleep to the very instant."""
        if until_ns is None:
            self._doze(None)
            return
        coarse_ns = until_ns - _FINE_NS - self._clock.now_ns()
        if coarse_ns > 0 and self._doze(coarse_ns / NS_PER_S):
            return
        self._clock.sleep_until_ns(until_ns)

    def _doze(self, timeout_s: float | None) -> bool:
        """Whether something came up."""
        deaf = self._channel.closed or self.damage is not None
        readers = [self._owner] if deaf else [self._owner, self._channel]
        writers = [self._channel] if self._channel.pending else []
        readable, writable, _ = select.select(readers, writers, [], timeout_s)
        if self._owner in readable:
            self._listen_to_owner()
        self._channel.flush()
        return bool(readable or writable)

    def _listen_to_owner(self) -> None:
        with suppress(EOFError, ConnectionResetError):  # an owner that is gone ends it as well
            self._owner.recv()
        raise KeyboardInterrupt


@dataclass(frozen=True)
class _Hosted:
    """An episode as the control loop sees it (`Controlled`)."""

    robot: Robot
    streamer: Streamer
    trace: TraceSink
    profile: LatencyProfile
    limits: EpisodeLimits
    watch: Watch | None


class _Executor:
    """Does what the owner asks for, one thing at a time."""

    def __init__(
        self,
        owner: Connection,
        robot: Robot,
        intake: _Intake,
        grants: tuple[Grant, ...],
        guard: FifoGuard,
        pulse: Pulse | None,
    ) -> None:
        self._pulse = pulse
        self._owner = owner
        self._robot = robot
        self._intake = intake
        self._grants = grants
        self._guard = guard
        self._clock = SystemClock()
        self._episodes = 0
        self._measured: object = None  # frames of the capture that was measured last
        self._distrusted = False  # the model process, after the latest episode

    def serve(self) -> None:
        """Until the owner is gone (EOFError)."""
        while True:
            match self._owner.recv():
                case RunEpisode() as request:
                    self._owner.send(self._run(request))
                case Measure() as request:
                    self._measure(request)
                case Interrupt():
                    continue  # it came when the episode was over
                case _:
                    pass

    def _measure(self, request: Measure) -> None:
        period_ns = self._robot.spec.control_period_ns
        self._robot.reset(request.seed, self._clock.now_ns(), period_ns)
        standing_at(self._robot)
        check_robot_side(self._robot, self._clock)
        capture, instruction = self._robot.capture(), self._robot.instruction
        shared, self._measured = self._intake.frames.share(capture)
        self._intake.send(MeasureRequest(shared, instruction, request.repeats))

    def _run(self, request: RunEpisode) -> EpisodeOver:
        self._episodes += 1
        header = request.plan.header | {"executor": [str(grant) for grant in self._grants]}
        captures: Captures = []
        self._distrusted = False
        try:
            with FileTrace(request.plan.trace, header, background=True) as trace:
                return EpisodeOver(self._run_traced(request, trace, captures), None, captures)
        except StageFailedError as error:
            return EpisodeOver(None, str(error), captures, self._distrusted)
        except Terminated:
            raise
        except KeyboardInterrupt:
            return EpisodeOver(None, None, captures, self._distrusted)
        finally:
            self._intake.send(EndEpisode())

    def _run_traced(
        self, request: RunEpisode, trace: TraceSink, captures: Captures
    ) -> ProcessResult:
        settings = request.plan.settings

        def instruct() -> str:
            return settings.instruction or self._robot.instruction

        stages = _ProcessStages(self._owner, self._intake, self._clock, self._episodes, instruct)
        try:
            return self._run_staged(request, trace, captures, stages)
        finally:
            stages.let_go()
            self._distrusted = stages.damage is not None

    def _run_staged(
        self, request: RunEpisode, trace: TraceSink, captures: Captures, stages: _ProcessStages
    ) -> ProcessResult:
        plan, settings = request.plan, request.plan.settings
        stages.wait_for_model()
        self._measured = None
        start_ns = request.start_ns or self._clock.now_ns() + plan.reset_ns
        begin = BeginEpisode(
            self._episodes,
            settings.profile,
            start_ns,
            plan.faults,
            settings.frozen,
            plan.latency,
        )
        self._intake.send(begin)
        self._robot.reset(plan.seed, start_ns, settings.profile.execute_ns)
        film = Film(self._robot, captures)
        watch = film if plan.film else None
        hosted, clock, doors = self._host(plan, trace, watch, start_ns, stages)
        ticks = TickLog()
        timing = Timing.real(clock, settings.profile)
        with film, _no_collections(), ending_between_steps() as ending, self._watched_over():
            result = ControlLoop(hosted, timing, doors, start_ns, ticks, ending).run()
        return self._result(result, ticks, plan)

    @contextmanager
    def _watched_over(self) -> Generator[None, None, None]:
        """From the first command until the robot is at rest, if there is a watchdog."""
        if self._pulse is None:
            yield
            return
        self._pulse.rearm()
        try:
            yield
        finally:
            self._pulse.disarm()

    def _host(
        self,
        plan: EpisodePlan,
        trace: TraceSink,
        film: Film | None,
        start_ns: int,
        stages: Stages,
    ) -> tuple[_Hosted, Clock, Stages]:
        """What the control loop runs: the faulty ones if faults are planned."""
        on_grid = plan.settings.pacing == "grid"
        robot = watched(self._robot, self._pulse, silence=on_grid)
        watch, clock = film, self._clock
        if plan.faults:
            sleep = clock.sleep_until_ns
            faults = FaultClock(plan.faults, clock, start_ns, sleep, sleep)
            robot, watch = inject_control(robot, film, trace, faults)
            clock = JumpingClock(clock, plan.faults, start_ns)
            stages = FaultyStages(stages, faults)
        settings = plan.settings
        streamer = settings.streamer(trace)
        hosted = _Hosted(robot, streamer, trace, settings.profile, settings.limits, watch)
        return hosted, clock, stages

    def _result(self, result: EpisodeResult, ticks: TickLog, plan: EpisodePlan) -> ProcessResult:
        return ProcessResult(
            result.success,
            result.reason,
            result.duration_ns,
            ticks,
            LoopStatistics.of(ticks, NS_PER_S / plan.settings.profile.execute_ns),
            (*self._grants, *self._guard.verdict()),
        )


@contextmanager
def _no_collections() -> Generator[None]:
    """Keep the garbage collector away: what exists is frozen, what comes is freed by counting."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
