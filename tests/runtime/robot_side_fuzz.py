"""The robot side under whatever bytes its peer writes: one episode per input, in virtual time.

An input is a list of moves of a model process: what it should say, sound records and messages with
other numbers, raw bytes into the socket and into shared memory. Whatever they are: one command on
every tick, the stop as the last one, and no exception but a failed stage.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import Any, cast

import numpy as np

from streamvla.core.clock import NS_PER_MS, VirtualClock
from streamvla.core.errors import StageFailedError
from streamvla.runtime.drivers.episode import Episode, EpisodeLimits
from streamvla.runtime.drivers.loop import ControlLoop, Timing
from streamvla.runtime.drivers.stages import ActionMade, ContextReady, ObserveBegun, StageError
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.governor.ladder import Ladder
from streamvla.runtime.processes.channel import Channel
from streamvla.runtime.processes.executor_process import _Intake, _ProcessStages
from streamvla.runtime.processes.handoff import (
    MOST_BYTES,
    Delivered,
    encode,
    fits,
    result_record,
    to_record,
)
from streamvla.runtime.processes.ring import SharedRing
from streamvla.runtime.streamer.machine import Streamer
from streamvla.runtime.streamer.messages import CancelGenerate, StartGenerate, StartObserve
from streamvla.runtime.timing.latency import profile_ms
from streamvla.testing import ScriptedPolicy, StillRobot, unit_space
from streamvla.trace import MemoryTrace, Sent

SPACE = unit_space(2)
HORIZON, TICKS, EPISODE = 4, 24, 1
PROFILE = profile_ms("fuzz", 30, 5, 20)
RECORD = result_record(SPACE.dim)


class Moves:
    """Numbers and bytes taken from an input; zeros when it is used up."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken + bytes(count - len(taken))

    def number(self) -> int:
        return self.take(1)[0]

    def whole(self) -> int:
        """Small as a rule; any 64 bits now and then."""
        size = self.number()
        return size % 8 if size < 200 else struct.unpack("<q", self.take(8))[0]

    def vector(self) -> np.ndarray:
        shape = self.number()
        if shape < 200:
            return np.array([self.number() / 255, self.number() / 255])
        return np.frombuffer(self.take(8 * (shape % 5)), "<f8").copy()


class _Peer(_ProcessStages):
    """The intake of the executor process; its peer makes a move whenever the loop waits."""

    def __init__(self, clock: VirtualClock, data: bytes) -> None:
        ends = socket.socketpair()
        self._ring = SharedRing.create(RECORD, 16)
        self._theirs = ends[1]
        self._theirs.setblocking(False)
        intake = _Intake(self._ring, Channel(ends[0].detach(), MOST_BYTES), cast(Any, None))
        super().__init__(cast(Any, None), intake, cast(Any, clock), EPISODE, lambda: "")
        self._world = clock
        self._moves = Moves(data)
        self._asked: list[StartObserve | StartGenerate] = []

    def close(self) -> None:
        self._theirs.close()
        self._channel.close()
        self._ring.close()

    def observe(self, command: StartObserve, capture: Any, captured_ns: int) -> None:
        self._asked.append(command)

    def generate(self, command: StartGenerate) -> None:
        self._asked.append(command)

    def cancel(self, generation: int) -> None:
        assert CancelGenerate(generation)

    def _listen_to_owner(self) -> None:
        raise AssertionError("there is none")

    def _owner_calls(self) -> bool:
        return False

    def wait(self, until_ns: int | None) -> None:
        assert until_ns is not None
        if self._moves:
            self._move()
            until_ns = min(until_ns, self._world.now_ns() + 2 * NS_PER_MS)
        self._world.sleep_until_ns(until_ns)

    def _move(self) -> None:
        moves = self._moves
        kind = moves.number() % 8
        if kind <= 2:
            self._answer()
        elif kind == 3:
            self._say(self._result())
        elif kind == 4:
            self._send(moves.take(moves.number()))
        elif kind == 5:
            message = encode(Delivered(moves.whole(), moves.whole(), self._result()))
            self._send(struct.pack("<Q", len(message)) + message)
        elif kind == 6:
            at = moves.number() * 8 % (len(self._ring._memory) - 8)
            self._ring._memory[at : at + 8] = moves.take(8)
        elif moves.number() > 250:
            self._theirs.close()

    def _answer(self) -> None:
        """What a model process should say next."""
        if not self._asked:
            return
        asked = self._asked.pop(0)
        if isinstance(asked, StartObserve):
            self._say(ObserveBegun(asked.observation))
            self._say(ContextReady(asked.observation))
            return
        for index in range(asked.start.index, HORIZON):
            self._say(ActionMade(self._world.now_ns(), asked.generation, index, np.full(2, 0.3)))

    def _result(self) -> ObserveBegun | ContextReady | ActionMade | StageError:
        moves = self._moves
        match moves.number() % 5:
            case 0:
                return ObserveBegun(moves.whole())
            case 1:
                goal = moves.vector() if moves.number() % 2 else None
                return ContextReady(moves.whole(), goal)
            case 2:
                return ActionMade(moves.whole(), moves.whole(), moves.whole(), moves.vector())
            case 3:
                rows = ((moves.number() / 9.0,) * (moves.number() % 3),) * (moves.number() % 3)
                refused = bool(moves.number() % 2)
                return ContextReady(moves.whole(), None, ("a",), rows, refused)
            case _:
                return StageError("generate", moves.take(3).decode(errors="replace"))

    def _say(self, result: ObserveBegun | ContextReady | ActionMade | StageError) -> None:
        delivered = Delivered(EPISODE, self._world.now_ns(), result)
        if fits(RECORD, result):
            with suppress(OverflowError):  # a number that fits no record
                self._ring.push(to_record(RECORD, delivered))
            return
        message = encode(delivered)
        self._send(struct.pack("<Q", len(message)) + message)

    def _send(self, data: bytes) -> None:
        with suppress(OSError):
            self._theirs.send(data)


def drive(data: bytes) -> None:
    """One episode with this input.

    Raises:
        AssertionError: a promise was broken.
    """
    clock, trace = VirtualClock(), MemoryTrace()
    robot = StillRobot(SPACE, PROFILE.execute_ns)
    streamer = Streamer(
        SPACE, HORIZON, ActionFlow(2), "grid", trace, fallback=Ladder(robot.spec.motion_limits)
    )
    policy = ScriptedPolicy(SPACE, HORIZON, PROFILE.execute_ns)
    limits = EpisodeLimits(TICKS * PROFILE.execute_ns)
    episode = Episode(robot, policy, streamer, trace, PROFILE, limits)
    stages = _Peer(clock, data)
    try:
        ControlLoop(episode, Timing.real(clock, PROFILE), stages, 0).run()
    except StageFailedError:
        pass
    finally:
        stages.close()
    sent = [event for event in trace.events if isinstance(event, Sent)]
    assert [event.tick for event in sent] == list(range(len(sent)))
    assert [event.values for event in sent] == [tuple(v.tolist()) for _, v in robot.commands]
    assert sent[-1].source == "stop"
    assert streamer.at_rest
