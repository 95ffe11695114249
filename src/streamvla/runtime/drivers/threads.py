"""The real-time driver: the control loop on this thread, the stages on threads beside it.

    control thread   tick ─ send ─ tick ─ send ─ …      (this thread; owns robot and streamer)
                       │ jobs ▼          ▲ results
    accelerator      observe ─ step ─ step ─ …          (one thread, or two when not serial)

Everything shares one interpreter: a thread that does not let go of it (pure Python, a garbage
collection) holds the control thread up. `ProcessDriver` does not have that problem.
"""

from __future__ import annotations

import queue
from types import TracebackType
from typing import Any

from streamvla.core.clock import NS_PER_S, Clock, SystemClock
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import Policy, Robot
from streamvla.runtime.drivers.cameras import CameraWatch
from streamvla.runtime.drivers.episode import Episode, EpisodeResult, make_sighting
from streamvla.runtime.drivers.injection import (
    FaultClock,
    FaultyStages,
    JumpingClock,
    inject,
    require_in_process,
)
from streamvla.runtime.drivers.loop import ControlLoop, Timing
from streamvla.runtime.drivers.loop_statistics import TickLog
from streamvla.runtime.drivers.robot_side import check_robot_side
from streamvla.runtime.drivers.signals import ending_between_steps
from streamvla.runtime.drivers.stages import (
    Accelerator,
    StageResult,
    StageRunner,
    StageTimes,
    measure,
)
from streamvla.runtime.faults.plan import NO_FAULTS, FaultPlan
from streamvla.runtime.streamer.messages import StartObserve
from streamvla.runtime.timing.latency import LatencyModel


class RealtimeDriver:
    """Runs episodes on the system clock; use as a context manager.

    The accelerator threads live as long as the driver, so rendering contexts and model caches
    survive from one episode to the next.

    Args:
        serial: one accelerator thread for encoding and generating; false gives each its own.

    Attributes:
        ticks: of the latest episode.
    """

    def __init__(self, clock: SystemClock | None = None, *, serial: bool = True) -> None:
        self._clock = clock or SystemClock()
        self._accelerator = Accelerator.start(serial=serial)
        self.ticks: TickLog = TickLog()

    def __enter__(self) -> RealtimeDriver:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the accelerator threads."""
        self._accelerator.close()

    @property
    def clock(self) -> SystemClock:
        return self._clock

    def measure(self, robot: Robot, policy: Policy, repeats: int) -> list[StageTimes]:
        """Run every stage `repeats` times where it will run; also the warm-up before an episode.
        Warns of a robot whose own calls are too slow (`robot_side`).

        The robot must have been reset. Cold starts fall into the first entry.
        """
        check_robot_side(robot, self._clock)
        return measure(
            self._accelerator, self._clock, robot, policy, robot.capture, robot.instruction, repeats
        )

    def run(
        self,
        episode: Episode,
        start_ns: int | None = None,
        *,
        faults: FaultPlan = NO_FAULTS,
        latency: LatencyModel | None = None,
    ) -> EpisodeResult:
        """Run one episode; the robot must have been reset for `start_ns`.

        Args:
            start_ns: the instant of the first tick, waited for; None for now.
            faults: put in on purpose, counted from `start_ns`.
            latency: stages are padded up to its times; None: to those of the episode's profile.

        Raises:
            StageFailedError: a stage died; the robot was brought to its safe stop first.
            KeyboardInterrupt: passed on after the robot was told to hold.
            ConfigError: a fault that only a process can have; or episode and driver disagree on
                whether the accelerator is shared.
        """
        if episode.serial != self._accelerator.serial:
            raise ConfigError(
                f"the episode wants serial={episode.serial}, this driver has it otherwise; make "
                f"it with RealtimeDriver(serial={episode.serial})"
            )
        require_in_process(episode, faults)
        start_ns = self._clock.now_ns() if start_ns is None else start_ns
        clock: Clock = self._clock
        struck: FaultClock | None = None
        if faults:
            sleep = self._clock.sleep_until_ns
            struck = FaultClock(faults, self._clock, start_ns, sleep, sleep)
            episode = inject(episode, struck)
            clock = JumpingClock(self._clock, faults, start_ns)
        own = _ThreadStages(episode, clock, self._accelerator, latency)
        stages = own if struck is None else FaultyStages(own, struck)
        self.ticks = TickLog()
        timing = Timing.real(clock, episode.profile)
        try:
            with ending_between_steps() as ending:
                return ControlLoop(episode, timing, stages, start_ns, self.ticks, ending).run()
        finally:
            own.abandon()
            self._accelerator.wait_idle()


def run_realtime(episode: Episode, clock: SystemClock | None = None) -> EpisodeResult:
    """Run a single episode on the system clock (see `RealtimeDriver` for several)."""
    with RealtimeDriver(clock, serial=episode.serial) as driver:
        return driver.run(episode)


class _ThreadStages:
    """Stages on threads of this process, results in a queue."""

    def __init__(
        self,
        episode: Episode,
        clock: Clock,
        accelerator: Accelerator,
        latency: LatencyModel | None,
    ) -> None:
        self._episode = episode
        self._clock = clock
        self._inbox: queue.SimpleQueue[StageResult] = queue.SimpleQueue()
        self._waited_for: StageResult | None = None
        self._cameras = CameraWatch(episode.frozen)
        self._runner = StageRunner(
            episode.policy, episode.profile, clock, accelerator, self._inbox.put, latency
        )
        self.generate = self._runner.generate
        self.cancel = self._runner.cancel
        self.abandon = self._runner.abandon

    def observe(self, command: StartObserve, capture: Any, captured_ns: int) -> None:
        self._runner.observe(
            command.observation,
            captured_ns,
            lambda: make_sighting(self._episode, self._cameras, command, capture, captured_ns),
        )

    def take(self) -> StageResult | None:
        if self._waited_for is not None:
            result, self._waited_for = self._waited_for, None
            return result
        try:
            return self._inbox.get_nowait()
        except queue.Empty:
            return None

    def wait(self, until_ns: int | None) -> None:
        timeout_s = None
        if until_ns is not None:
            timeout_s = max(0, until_ns - self._clock.now_ns()) / NS_PER_S
        try:
            self._waited_for = self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            return
