"""Carry faults out: an episode around which a policy, a robot and a clock misbehave as planned.

Nothing in the runtime knows of faults: they reach it the way real ones would, as a late or unusable
action, an exception, an old picture, a slow call. In virtual time waiting is a matter of the
latency model (`FaultyLatency`); on the system clock it is waiting.
"""

from __future__ import annotations

import errno
import importlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from streamvla.core.clock import Clock
from streamvla.core.compute import ObservationCost
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import (
    Anticipation,
    Capture,
    CountingPolicy,
    FlowStart,
    Frames,
    Observation,
    Policy,
    PolicySpec,
    RephrasingPolicy,
    Robot,
    RobotSpec,
    UnderstandingPolicy,
    begin_episode,
    goal_of,
    places_of,
    require_anticipation,
    standing_at,
    stimulus_of,
)
from streamvla.runtime.drivers.episode import Episode, Watch
from streamvla.runtime.drivers.stages import ActionMade, ContextReady, StageResult, Stages
from streamvla.runtime.faults.plan import BAD_ACTIONS, Fault, FaultPlan
from streamvla.runtime.timing.latency import LatencyModel
from streamvla.trace import FaultInjected, FileTrace, TeeTrace, TraceSink

TOO_LARGE = 1e6


@dataclass(frozen=True)
class FaultClock:
    """When faults strike.

    Attributes:
        plan: instants counted from `start_ns`.
        clock: the true one.
        start_ns: the episode's first tick.
        sleep_until_ns: waits on the system clock; does nothing in virtual time.
        pass_until_ns: lets time pass, whichever it is.
    """

    plan: FaultPlan
    clock: Clock
    start_ns: int
    sleep_until_ns: Callable[[int], None]
    pass_until_ns: Callable[[int], None] = lambda until_ns: None

    def elapsed_ns(self) -> int:
        return self.clock.now_ns() - self.start_ns

    def wait_out(self, *kinds: str) -> None:
        """Return when no fault of these kinds is active any more (at once, in virtual time)."""
        for fault in self.plan.of(*kinds):
            if fault.active(self.elapsed_ns()):
                self.sleep_until_ns(self.start_ns + fault.end_ns)


def require_in_process(episode: Episode, faults: FaultPlan) -> None:
    """Raise `ConfigError` for a fault that only a process can have, and for an executor that looks
    ahead with a policy that cannot."""
    faults.require_in_process()
    if episode.streamer.anticipates:
        require_anticipation(episode.policy)


def inject(episode: Episode, faults: FaultClock) -> Episode:
    """The episode with faults that come from its policy and its robot, and them in its trace."""
    robot, watch = inject_control(episode.robot, episode.watch, episode.trace, faults)
    return replace(episode, policy=FaultyPolicy(episode.policy, faults), robot=robot, watch=watch)


def inject_control(
    robot: Robot, watch: Watch | None, trace: TraceSink, faults: FaultClock
) -> tuple[FaultyRobot, FaultWatch]:
    """The part of `inject` that the control loop's side of an episode needs: robot and watch.

    Raises:
        ConfigError: a fault of the trace file, and there is none.
    """
    if faults.plan.of("disk-full", "trace-removed"):
        _obstruct(trace, faults)
    return FaultyRobot(robot, faults), FaultWatch(faults, trace, watch)


def _obstruct(trace: TraceSink, faults: FaultClock) -> None:
    sinks = (trace, *trace.sinks) if isinstance(trace, TeeTrace) else (trace,)
    files = [each for each in sinks if isinstance(each, FileTrace)]
    if not files:
        raise ConfigError("disk-full and trace-removed hit a trace file, and this run writes none")
    for file in files:
        file.write_with(FaultyDisk(file.path, faults).write)


class FaultyDisk:
    """`os.write`, for a trace file on a disk that is full, or a file that somebody removes."""

    def __init__(self, path: Path, faults: FaultClock) -> None:
        self._path = path
        self._faults = faults
        self._removals = list(faults.plan.of("trace-removed"))

    def write(self, fd: int, data: memoryview) -> int:
        elapsed_ns = self._faults.elapsed_ns()
        if any(fault.active(elapsed_ns) for fault in self._faults.plan.of("disk-full")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._removals and self._removals[0].start_ns <= elapsed_ns:
            self._removals.pop()
            self._path.unlink(missing_ok=True)
            with suppress(OSError):  # other files lie in it
                self._path.parent.rmdir()
        return os.write(fd, data)


class FaultyStages:
    """Stages whose results are wrong as planned. Implements `Stages`."""

    def __init__(self, stages: Stages, faults: FaultClock) -> None:
        self.observe = stages.observe
        self.generate = stages.generate
        self.cancel = stages.cancel
        self.wait = stages.wait
        self._stages = stages
        self._faults = faults
        self._coming = list(faults.plan.of("wrong-step", "unknown-observation"))

    def take(self) -> StageResult | None:
        result = self._stages.take()
        due = self._coming and self._coming[0].start_ns <= self._faults.elapsed_ns()
        kind = self._coming[0].kind if due else ""
        if kind == "wrong-step" and isinstance(result, ActionMade):
            self._coming.pop(0)
            return replace(result, index=result.index + 1)
        if kind == "unknown-observation" and isinstance(result, ContextReady):
            self._coming.pop(0)
            return replace(result, observation=result.observation + 1000)
        return result


class FaultWatch:
    """Records every fault on the first control instant at which it is on."""

    def __init__(self, faults: FaultClock, trace: TraceSink, then: Watch | None) -> None:
        self._faults = faults
        self._trace = trace
        self._then = then
        self._coming = sorted(faults.plan.faults, key=lambda fault: fault.start_ns)

    def __call__(self, now_ns: int) -> None:
        while self._coming and self._coming[0].start_ns <= now_ns - self._faults.start_ns:
            fault = self._coming.pop(0)
            end_ns = self._faults.start_ns + fault.end_ns
            self._trace.record(
                FaultInjected(now_ns, fault.kind, end_ns if fault.end_ns > fault.start_ns else -1)
            )
        if self._then is not None:
            self._then(now_ns)


class FaultyPolicy:
    """A policy that stalls, crashes and gives unusable actions as planned. Implements `Policy`."""

    def __init__(self, policy: Policy, faults: FaultClock) -> None:
        self._policy = policy
        self._faults = faults
        self._spent: set[Fault] = set()

    @property
    def spec(self) -> PolicySpec:
        return self._policy.spec

    def encode(self, observation: Observation) -> Any:
        self._misbehave()
        return self._policy.encode(observation)

    def look(self, observation: Observation) -> Any:
        self._misbehave()
        return require_anticipation(self._policy).look(observation)

    def anticipate(self, sight: Any, motions: np.ndarray) -> Anticipation:
        return require_anticipation(self._policy).anticipate(sight, motions)

    def contextualise(self, sight: Any, change: Any = None) -> Any:
        self._misbehave()
        return require_anticipation(self._policy).contextualise(sight, change)

    def goal(self, context: Any) -> np.ndarray | None:
        return goal_of(self._policy, context)

    def begin(self) -> None:
        begin_episode(self._policy)

    def cost(self, made: Any) -> ObservationCost:
        return cast(CountingPolicy, self._policy).cost(made)

    def clarity(self, instruction: str) -> float:
        return cast(UnderstandingPolicy, self._policy).clarity(instruction)

    def told(self, instruction: str) -> tuple[str, float]:
        return cast(RephrasingPolicy, self._policy).told(instruction)

    def generate(self, context: Any, start: FlowStart) -> Iterator[np.ndarray]:
        for values in self._policy.generate(context, start):
            self._misbehave()
            yield self._spoil(values)

    def _misbehave(self) -> None:
        self._faults.wait_out("model-stall")
        for fault in self._faults.plan.of("model-crash"):
            if self._faults.elapsed_ns() >= fault.start_ns:
                raise RuntimeError(f"injected crash, planned for {fault.start_ns / 1e9:g} s")
        for fault in self._faults.plan.of("stage-exit"):
            if self._faults.elapsed_ns() >= fault.start_ns:
                raise SystemExit(f"injected exit, planned for {fault.start_ns / 1e9:g} s")

    def _spoil(self, values: np.ndarray) -> np.ndarray:
        elapsed_ns = self._faults.elapsed_ns()
        for fault in self._faults.plan.of(*BAD_ACTIONS):
            if self._strikes(fault, elapsed_ns):
                values = spoiled(values, fault.kind)
        if any(elapsed_ns >= fault.start_ns for fault in self._faults.plan.of("tensor")):
            return _as_tensor(values)
        return values

    def _strikes(self, fault: Fault, elapsed_ns: int) -> bool:
        """During its length; or, without one, on the first action from its start on."""
        if fault.length_ns or fault in self._spent:
            return fault.active(elapsed_ns)
        if elapsed_ns >= fault.start_ns:
            self._spent.add(fault)
            return True
        return False


def _as_tensor(values: np.ndarray) -> Any:
    torch: Any = importlib.import_module("torch")
    return torch.from_numpy(values.astype(np.float32))


def spoiled(values: np.ndarray, kind: str) -> np.ndarray:
    """An action (d,) made unusable in the way of `kind`, one of `BAD_ACTIONS`."""
    match kind:
        case "nan":
            return np.full_like(values, np.nan)
        case "inf":
            return np.full_like(values, np.inf)
        case "out-of-range":
            return np.full_like(values, TOO_LARGE)
        case "wrong-shape":
            return np.zeros(values.size + 1)
        case _:
            raise ValueError(
                f"{kind!r} is no way to spoil an action: expected one of {BAD_ACTIONS}"
            )


_SHOWN = "shown."
"""Before the names of the arrays of the capture that the camera shows."""


class FaultyRobot:
    """A robot whose camera fails and who takes commands slowly as planned. Implements `Robot`.

    A capture is two: what the camera shows, an earlier instant while it is frozen, and what is
    true, for the joints' sensors still work.
    """

    def __init__(self, robot: Robot, faults: FaultClock) -> None:
        self._robot = robot
        self._faults = faults
        self._shown: Capture | None = None
        spec = robot.spec
        shown = tuple(replace(array, name=_SHOWN + array.name) for array in spec.capture)
        self._spec = replace(spec, capture=(*spec.capture, *shown), draws_captures=False)

    @property
    def spec(self) -> RobotSpec:
        return self._spec

    @property
    def instruction(self) -> str:
        return self._robot.instruction

    @property
    def success(self) -> bool:
        return self._robot.success

    def standing(self) -> np.ndarray:
        return standing_at(self._robot)

    def places(self) -> np.ndarray:
        return places_of(self._robot)

    @property
    def stimulus_ns(self) -> int | None:
        return stimulus_of(self._robot)

    def reset(self, seed: int, now_ns: int, command_duration_ns: int) -> None:
        self._shown = None
        self._robot.reset(seed, now_ns, command_duration_ns)

    def command(self, values: np.ndarray, now_ns: int) -> None:
        delay_ns = self._faults.plan.command_delay_ns(self._faults.elapsed_ns())
        if delay_ns:
            self._faults.sleep_until_ns(now_ns + delay_ns)
        self._robot.command(values, now_ns)

    def advance_to(self, now_ns: int) -> None:
        self._robot.advance_to(now_ns)
        faults = self._faults
        for fault in faults.plan.of("loop-pause"):
            if fault.active(faults.elapsed_ns()):
                faults.pass_until_ns(faults.start_ns + fault.end_ns)
        for fault in faults.plan.of("slow-robot"):
            if fault.active(faults.elapsed_ns()):
                faults.pass_until_ns(faults.clock.now_ns() + fault.amount_ns)

    def capture(self) -> Capture:
        elapsed_ns = self._faults.elapsed_ns()
        frozen = any(fault.active(elapsed_ns) for fault in self._faults.plan.of("frozen-camera"))
        capture = self._robot.capture()
        if self._shown is None or not frozen:
            self._shown = capture
        return {**capture, **{_SHOWN + name: array for name, array in self._shown.items()}}

    def observe(self, capture: Capture) -> Frames:
        self._faults.wait_out("frame-drop")
        true = {name: array for name, array in capture.items() if not name.startswith(_SHOWN)}
        shown = {name: capture[_SHOWN + name] for name in true}
        frames = self._robot.observe(shown)
        if all(np.array_equal(shown[name], array) for name, array in true.items()):
            return frames
        return Frames(frames.images, self._robot.observe(true).state)

    def close(self) -> None:
        self._robot.close()


class FaultyLatency:
    """Stage times in virtual time, longer by what a fault takes. Implements `LatencyModel`."""

    def __init__(self, latency: LatencyModel, faults: FaultClock) -> None:
        self._latency = latency
        self._faults = faults

    def observe_ns(self) -> int:
        return self._stalled(self._latency.observe_ns(), "model-stall", "frame-drop")

    def generate_ns(self) -> int:
        return self._stalled(self._latency.generate_ns(), "model-stall")

    def execute_ns(self) -> int:
        return self._latency.execute_ns()

    def _stalled(self, duration_ns: int, *kinds: str) -> int:
        begin_ns = self._faults.elapsed_ns()
        return duration_ns + self._faults.plan.stalled_ns(begin_ns, duration_ns, *kinds)


class JumpingClock:
    """A clock whose readings jump as planned, and never go back all the same. Implements `Clock`.

    That is the promise of every `Clock`: after a jump ahead, or during one back, the reading stands
    still until the truth has caught up. Whoever reads it sees time stop, never run backwards.

    Args:
        clock: the true one; also what is slept on.
        plan: its clock-jump faults count.
        start_ns: the instant the plan counts from.
    """

    __slots__ = ("_clock", "_latest_ns", "_lock", "_plan", "_start_ns")

    def __init__(self, clock: Clock, plan: FaultPlan, start_ns: int) -> None:
        self._clock = clock
        self._plan = plan
        self._start_ns = start_ns
        self._latest_ns = clock.now_ns()
        self._lock = threading.Lock()

    def now_ns(self) -> int:
        true_ns = self._clock.now_ns()
        reading_ns = true_ns + self._plan.reading_offset_ns(true_ns - self._start_ns)
        with self._lock:
            self._latest_ns = max(self._latest_ns, reading_ns)
            return self._latest_ns

    def sleep_until_ns(self, deadline_ns: int) -> None:
        """Until the true deadline: what jumps is the reading, not the time."""
        self._clock.sleep_until_ns(deadline_ns)
