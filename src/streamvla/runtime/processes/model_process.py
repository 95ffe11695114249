"""The model's process: observes and generates on request, and decides nothing.

main thread          takes requests from the channel
accelerator thread   observe ─ step ─ step ─ …      each result goes into the ring at once
"""

from __future__ import annotations

import pickle
import threading
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import cast

import numpy as np

from streamvla.core.clock import SystemClock, ms_to_ns
from streamvla.core.interfaces import Policy, Robot
from streamvla.runtime.drivers.cameras import CameraWatch
from streamvla.runtime.drivers.episode import observation_of, watched_sighting
from streamvla.runtime.drivers.injection import FaultClock, FaultyPolicy, FaultyRobot
from streamvla.runtime.drivers.observing import Sighting
from streamvla.runtime.drivers.stages import Accelerator, StageRunner, measure
from streamvla.runtime.faults.processes import hog
from streamvla.runtime.faults.wire import WireFaults
from streamvla.runtime.processes.channel import Channel
from streamvla.runtime.processes.frames import DetachingRobot, FrameReceiver
from streamvla.runtime.processes.handoff import (
    AwaitIdle,
    BeginEpisode,
    Delivered,
    EndEpisode,
    MeasureRequest,
    ObserveRequest,
    encode,
    fits,
    result_record,
    to_record,
)
from streamvla.runtime.processes.launch import receive_fd
from streamvla.runtime.processes.plan import MakePolicy, MakeRobot
from streamvla.runtime.processes.ring import SharedRing
from streamvla.runtime.streamer.messages import CancelGenerate, StartGenerate

_FULL_RING_PAUSE_NS = ms_to_ns(1)


def model_main(owner: Connection, make_robot: MakeRobot, make_policy: MakePolicy) -> None:
    """Run in the model process until the executor process is gone.

    The robot made here never moves, nor do its cameras run: it turns captures into frames.
    """
    robot, policy = make_robot(), make_policy()
    owner.send(policy.spec)
    record = result_record(policy.spec.action_space.dim)
    ring = SharedRing.attach(receive_fd(owner), record)
    channel = Channel(receive_fd(owner))
    frames = FrameReceiver(receive_fd(owner))
    outlet = _Outlet(ring, channel, record)
    try:
        _ModelServer(owner, cast(Robot, DetachingRobot(robot)), policy, outlet, frames).serve()
    finally:
        robot.close()


@dataclass(frozen=True)
class _Outlet:
    """Where results leave the process; several threads may use it."""

    ring: SharedRing
    channel: Channel
    record: np.dtype
    clock: SystemClock = field(default_factory=SystemClock)
    faults: list[WireFaults] = field(default_factory=list[WireFaults])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def deliver(self, delivered: Delivered) -> None:
        """Hand a result over; waits while the ring is full, unless the executor is gone."""
        if not fits(self.record, delivered.result):
            self.channel.send(encode(delivered))
            return
        row = to_record(self.record, delivered)
        if self.faults:
            self.faults[0].strike(row)
        with self.lock:
            while not self.ring.push(row) and not self.channel.closed:
                self.clock.sleep_for_ns(_FULL_RING_PAUSE_NS)
        self.channel.ring_bell()


class _Served:
    """One episode in the model process."""

    def __init__(
        self,
        begin: BeginEpisode,
        robot: Robot,
        policy: Policy,
        accelerator: Accelerator,
        outlet: _Outlet,
        frames: FrameReceiver,
    ) -> None:
        self._frames = frames
        clock = outlet.clock
        if begin.faults:
            faults = FaultClock(begin.faults, clock, begin.start_ns, clock.sleep_until_ns)
            robot, policy = FaultyRobot(robot, faults), FaultyPolicy(policy, faults)
            hog(begin.faults, clock, begin.start_ns)
            outlet.faults[:] = [WireFaults(faults, outlet.ring, outlet.channel)]
        self._robot = robot
        self._policy = policy
        self._cameras = CameraWatch(begin.frozen)
        self.runner = StageRunner(
            policy,
            begin.profile,
            clock,
            accelerator,
            lambda result: outlet.deliver(Delivered(begin.episode, clock.now_ns(), result)),
            begin.latency,
        )

    def observe(self, request: ObserveRequest) -> None:
        capture = self._frames.open(request.capture)

        def make() -> Sighting:
            observation = observation_of(
                self._robot,
                capture,
                request.action_state,
                request.instruction,
                request.captured_ns,
            )
            return watched_sighting(self._policy, self._cameras, observation, request.foresee)

        self.runner.observe(request.observation, request.captured_ns, make)


class _ModelServer:
    """Carries requests out, in the order they come."""

    def __init__(
        self,
        owner: Connection,
        robot: Robot,
        policy: Policy,
        outlet: _Outlet,
        frames: FrameReceiver,
    ) -> None:
        self._frames = frames
        self._owner = owner
        self._robot = robot
        self._policy = policy
        self._outlet = outlet
        self._accelerator = Accelerator.start(serial=True)
        self._episode: _Served | None = None

    def serve(self) -> None:
        """Until the executor process is gone."""
        channel = self._outlet.channel
        while not channel.closed:
            channel.flush()
            channel.wait(1.0 if channel.pending else None)
            for message in channel.receive():
                self._on_request(pickle.loads(message))

    def _on_request(self, request: object) -> None:
        match request:
            case MeasureRequest():
                self._measure(request)
            case AwaitIdle():
                self._abandon()
                self._accelerator.encoder.submit(lambda: self._say_idle(request.episode))
            case BeginEpisode():
                self._episode = _Served(
                    request,
                    self._robot,
                    self._policy,
                    self._accelerator,
                    self._outlet,
                    self._frames,
                )
            case EndEpisode():
                self._abandon()
            case _ if self._episode is not None:
                self._on_stage_request(request, self._episode)
            case _:
                pass  # of an episode that is over

    def _on_stage_request(self, request: object, episode: _Served) -> None:
        match request:
            case ObserveRequest():
                episode.observe(request)
            case StartGenerate():
                episode.runner.generate(request)
            case CancelGenerate():
                episode.runner.cancel(request.generation)
            case other:
                raise TypeError(f"the model process knows no request {type(other).__name__}")

    def _say_idle(self, episode: int) -> None:
        self._outlet.deliver(Delivered(episode, self._outlet.clock.now_ns(), None))

    def _abandon(self) -> None:
        if self._episode is not None:
            self._episode.runner.abandon()
            self._episode = None

    def _measure(self, request: MeasureRequest) -> None:
        capture = self._frames.open(request.capture)
        times = measure(
            self._accelerator,
            self._outlet.clock,
            self._robot,
            self._policy,
            lambda: capture,
            request.instruction,
            request.repeats,
        )
        self._owner.send(times)
