"""The driver with processes: the control loop in one of its own, the model in another.

    owner (this process)     asks, waits, and hears how it went
      ├── executor process   control loop ─ robot ─ streamer ─ trace        never imports torch
      ├── watchdog           stops the robot if the executor process is gone or silent
      └── model process      observe ─ step ─ step ─ …                      may do as it likes

Requests go from executor to model over a socket, results come back through a ring in shared
memory (`handoff`); frames of cameras are in memory that both map (`frames`). A model process that
is killed ends the episode in the robot's safe stop and `StageFailedError` here; the next episode
starts with fresh processes.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from multiprocessing.connection import wait
from types import TracebackType

from streamvla.core.clock import NS_PER_S, SystemClock
from streamvla.core.errors import StageFailedError
from streamvla.core.interfaces import PolicySpec, RobotSpec, check_fit
from streamvla.runtime.drivers.film import Captures
from streamvla.runtime.drivers.stages import StageTimes
from streamvla.runtime.faults.processes import ProcessStriker
from streamvla.runtime.processes.executor_process import (
    MODEL_DIED,
    EpisodeOver,
    ExecutorReady,
    Interrupt,
    Measure,
    RunEpisode,
    executor_main,
)
from streamvla.runtime.processes.handoff import result_record
from streamvla.runtime.processes.launch import Child
from streamvla.runtime.processes.model_process import model_main
from streamvla.runtime.processes.plan import EpisodePlan, MakePolicy, MakeRobot, ProcessResult
from streamvla.runtime.processes.privileges import Grant, RealtimeSettings
from streamvla.runtime.processes.ring import SharedRing, capacity_for
from streamvla.runtime.processes.watchdog import Pulse, Watch, watchdog_main

_START_S = 180.0
"""How long processes may take to start: imports, checkpoint, first rendering context."""
_INTERRUPT_S = 10.0
_WATCHDOG_S = 15.0
"""The watchdog outlives an owner that died, and the executor process with it."""
_PATIENCE_S = 5.0
"""How long to wait for the exit status of a process whose channel is closed."""


@dataclass(frozen=True)
class _Crew:
    """Both processes of one start, what they said, and what connects them."""

    executor: Child
    model: Child
    ready: ExecutorReady
    policy: PolicySpec
    watchdog: Child | None

    @property
    def alive(self) -> bool:
        return all(child.alive for child in self._children())

    def close(self) -> None:
        for child in self._children():
            child.close()

    def _children(self) -> list[Child]:
        return [each for each in (self.executor, self.model, self.watchdog) if each is not None]


class ProcessDriver:
    """Runs episodes with the control loop in its own process; use as a context manager.

    The processes live as long as the driver; if one died they start anew with the next episode.

    Args:
        robot: makes the robot, once in either process: in the executor's it is commanded, in the
            model's it turns captures into frames. It must not import torch.
        policy: makes the policy, in the model process. Both must be functions of importable
            modules, or `functools.partial` of such.
        settings: what the executor process asks the operating system for.
        watchdog: control periods without a command after which a third process stops a robot that
            declares a way to (`RobotSpec.stop`); None for no such process.
        budget_s: the ring takes what the model makes while the executor is away for so long.

    Attributes:
        captures: (instant, capture) of every control instant of the latest episode, if its plan
            wanted a film.

    Raises:
        ConfigError: robot or policy cannot be made or sent.
        SpecMismatchError: the policy was made for another robot.
    """

    def __init__(
        self,
        robot: MakeRobot,
        policy: MakePolicy,
        *,
        settings: RealtimeSettings | None = None,
        watchdog: int | None = 5,
        budget_s: float = 1.0,
    ) -> None:
        self._watchdog = watchdog
        self._make_robot = robot
        self._make_policy = policy
        self._settings = settings or RealtimeSettings()
        self._budget_s = budget_s
        self._clock = SystemClock()
        self.captures: Captures = []
        self._crew = self._start()

    def __enter__(self) -> ProcessDriver:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End both processes; safe to call twice."""
        self._crew.close()

    @property
    def robot_spec(self) -> RobotSpec:
        return self._crew.ready.robot

    @property
    def policy_spec(self) -> PolicySpec:
        return self._crew.policy

    @property
    def grants(self) -> tuple[Grant, ...]:
        """What the executor process asked the operating system for, and the answers."""
        return self._crew.ready.grants

    @property
    def model_pid(self) -> int:
        """The model process, for whoever wants to suspend or kill it."""
        return self._crew.model.pid

    @property
    def executor_pid(self) -> int:
        return self._crew.executor.pid

    def measure(self, repeats: int, seed: int = 0) -> list[StageTimes]:
        """Reset the robot with `seed` and run every stage `repeats` times in the model process.

        Also the warm-up before an episode; cold starts fall into the first entry.

        Raises:
            StageFailedError: a stage or a process died.
            RobotError: the robot cannot be reset.
        """
        crew = self._living_crew()
        crew.executor.send(Measure(seed, repeats))
        both = [crew.executor.connection, crew.model.connection]
        if crew.executor.connection in wait(both, _START_S):  # it speaks when it fails
            crew.executor.receive()
        return crew.model.receive(_START_S)

    def run(self, plan: EpisodePlan, start_ns: int | None = None) -> ProcessResult:
        """Run one episode; the executor process resets the robot for it.

        Args:
            start_ns: the instant of tick 0; None for `plan.reset_ns` from when all is ready.

        Raises:
            StageFailedError: a stage or a process died; the robot was stopped first (unless the
                executor process itself died).
            KeyboardInterrupt: passed on, or asked for by `interrupt`, after the robot was told to
                hold.
        """
        crew = self._living_crew()
        self.captures = []
        if plan.faults.of_process:
            start_ns = start_ns or self._clock.now_ns() + plan.reset_ns
            pids = {"model": crew.model.pid, "executor": crew.executor.pid, "owner": os.getpid()}
            with ProcessStriker(pids, plan.faults, self._clock, start_ns):
                over = self._wait_for(crew, RunEpisode(plan, start_ns))
        else:
            over = self._wait_for(crew, RunEpisode(plan, start_ns))
        self.captures = over.captures
        if over.distrusted:
            crew.close()
            raise StageFailedError(f"{over.error} (the next episode starts with a new process)")
        if over.error is not None:
            ended = crew.model.how_it_ended(_PATIENCE_S if MODEL_DIED in over.error else 0.0)
            raise StageFailedError(
                over.error if ended == "runs" else f"{over.error} (its process was {ended})"
            )
        if over.result is None:
            raise KeyboardInterrupt
        return over.result

    def interrupt(self) -> None:
        """End the episode under way, from another thread than the one in `run`."""
        self._crew.executor.send(Interrupt())

    def _wait_for(self, crew: _Crew, request: RunEpisode) -> EpisodeOver:
        crew.executor.send(request)
        try:
            return crew.executor.receive()
        except KeyboardInterrupt:
            crew.executor.send(Interrupt())
            try:
                crew.executor.receive(_INTERRUPT_S)
            except BaseException:  # a later run must not take that answer for its own
                crew.close()
                raise
            raise

    # --- starting ------------------------------------------------------------------------------

    def _living_crew(self) -> _Crew:
        if not self._crew.alive:
            self._crew.close()
            self._crew = self._start()
        return self._crew

    def _start(self) -> _Crew:
        executor = Child(
            "executor",
            executor_main,
            self._make_robot,
            self._settings,
            self._watchdog is not None,
            leaves_by_itself=True,
        )
        watchdog = None
        try:
            model = Child("model", model_main, self._make_robot, self._make_policy)
        except BaseException:
            executor.close()
            raise
        try:
            ready: ExecutorReady = executor.receive(_START_S)
            policy: PolicySpec = model.receive(_START_S)
            check_fit(policy, ready.robot)
            self._connect(executor, model, ready.robot, policy.horizon)
            watchdog = self._start_watchdog(executor, ready.robot)
        except BaseException:
            executor.close()
            model.close()
            raise
        return _Crew(executor, model, ready, policy, watchdog)

    def _start_watchdog(self, executor: Child, robot: RobotSpec) -> Child | None:
        """It holds one end of a pipe, the executor process alone the other."""
        if self._watchdog is None or robot.stop is None:
            return None
        watch = Watch(robot, robot.stop, self._watchdog)
        watchdog = Child(
            "watchdog", watchdog_main, watch, leaves_by_itself=True, patience_s=_WATCHDOG_S
        )
        try:
            watchdog.receive(_START_S)
            pulse_fd, (read_fd, write_fd) = Pulse.create(), os.pipe()
            for child, fds in ((watchdog, (pulse_fd, read_fd)), (executor, (pulse_fd, write_fd))):
                for fd in fds:
                    child.send_fd(fd)
            for fd in (pulse_fd, read_fd, write_fd):
                os.close(fd)
        except BaseException:
            watchdog.close()
            raise
        return watchdog

    def _connect(self, executor: Child, model: Child, robot: RobotSpec, horizon: int) -> None:
        """Give both the ring, and two sockets to each other: for requests, and for the memory of
        frames. This process keeps nothing."""
        rate_hz = 2 * NS_PER_S / robot.control_period_ns
        most = max(capacity_for(rate_hz, self._budget_s), 2 * (horizon + 2))
        ring = SharedRing.create(result_record(robot.action_space.dim), most)
        requests, frames = socket.socketpair(), socket.socketpair(type=socket.SOCK_DGRAM)
        for child, *ends in zip((executor, model), requests, frames, strict=True):
            child.send_fd(ring.fd)
            for end in ends:
                child.send_fd(end.fileno())
                end.close()
        ring.close()
