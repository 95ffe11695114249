"""What both drivers share: an episode's limits, its outcome, and how it observes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np

from streamvla.core.actions import actions_of
from streamvla.core.errors import ConfigError, SpecMismatchError
from streamvla.core.interfaces import (
    FlowStart,
    Frames,
    Observation,
    Policy,
    Robot,
    check_frames,
    measured_by,
    rephrased_by,
    stimulus_of,
    unclear_to,
)
from streamvla.runtime.drivers.cameras import CameraWatch, FrozenCamera
from streamvla.runtime.drivers.observing import Sighting, sighting_of
from streamvla.runtime.executors.base import Foresee
from streamvla.runtime.streamer.machine import Streamer
from streamvla.runtime.streamer.messages import StartObserve
from streamvla.runtime.timing.latency import LatencyProfile
from streamvla.trace import Ended, Measured, Stimulus, TraceSink

_LONGEST_SAID = 200
"""Letters of an instruction that the trace keeps."""

EndReason = Literal["success", "time-limit", "observations", "failed", "interrupted"]

Watch = Callable[[int], None]
"""Called with the present instant after the world has moved to each control instant."""


@dataclass(frozen=True)
class EpisodeLimits:
    """When an episode ends if the task is not reached before.

    Attributes:
        duration_ns: of clock time; None for no limit (the streamer's observation limit ends it).
        stop_on_success: end at the first control instant at which the task is reached.
    """

    duration_ns: int | None = None
    stop_on_success: bool = True

    def __post_init__(self) -> None:
        if self.duration_ns is not None and self.duration_ns <= 0:
            raise ConfigError(f"episode duration {self.duration_ns} ns must be > 0")


@dataclass(frozen=True)
class Episode:
    """Everything one episode runs with.

    Attributes:
        streamer: also says the pacing.
        profile: gives the control period (grid pacing) and the stage times to emulate.
        serial: encoding and generating share one accelerator, first come, first served per flow
            step; false gives each its own.
        instruction: say this to the policy instead of the robot's own phrasing.
        watch: called on every control instant.
        frozen: when a camera counts as frozen.

    Raises:
        SpecMismatchError: the streamer was made for another action space than the robot's, or
            another horizon than the policy's: it would wait for actions that never come.
    """

    robot: Robot
    policy: Policy
    streamer: Streamer
    trace: TraceSink
    profile: LatencyProfile
    limits: EpisodeLimits
    serial: bool = True
    instruction: str | None = None
    watch: Watch | None = None
    frozen: FrozenCamera = field(default_factory=FrozenCamera)

    def __post_init__(self) -> None:
        if self.streamer.horizon != self.policy.spec.horizon:
            raise SpecMismatchError(
                f"the streamer expects {self.streamer.horizon} actions a generation, the policy "
                f"makes {self.policy.spec.horizon}; make it with horizon=policy.spec.horizon"
            )
        self.robot.spec.action_space.require(self.streamer.space, "the streamer")


class Controlled(Protocol):
    """What a control loop needs of an episode; what each is, `Episode` says."""

    @property
    def robot(self) -> Robot: ...
    @property
    def streamer(self) -> Streamer: ...
    @property
    def trace(self) -> TraceSink: ...
    @property
    def profile(self) -> LatencyProfile: ...
    @property
    def limits(self) -> EpisodeLimits: ...
    @property
    def watch(self) -> Watch | None: ...


@dataclass(frozen=True)
class EpisodeResult:
    """How an episode ended, on the episode's clock (0 is its start)."""

    success: bool
    reason: EndReason
    duration_ns: int


def make_sighting(
    episode: Episode,
    cameras: CameraWatch,
    command: StartObserve,
    capture: Any,
    captured_ns: int,
) -> Sighting:
    """The observe stage of an episode: frames, then context or refusal (`sighting_of`)."""
    instruction = episode.instruction or episode.robot.instruction
    observation = observation_of(
        episode.robot, capture, command.action_state, instruction, captured_ns
    )
    return watched_sighting(episode.policy, cameras, observation, command.foresee)


def watched_sighting(
    policy: Policy, cameras: CameraWatch, observation: Observation, foresee: Foresee | None
) -> Sighting:
    """`sighting_of`, which cameras are frozen, whether the instruction is unclear, and what is read
    instead of it."""
    frozen = cameras.look(Frames(observation.images, observation.state))
    said = observation.instruction[:_LONGEST_SAID]
    clarity = unclear_to(policy, observation.instruction)
    instead = rephrased_by(policy, observation.instruction)
    return replace(
        sighting_of(policy, observation, foresee),
        frozen=frozen,
        unclear=None if clarity is None else (said, clarity),
        rephrased=None if instead is None else (said, instead[0][:_LONGEST_SAID], instead[1]),
    )


def observation_of(
    robot: Robot, capture: Any, action_state: np.ndarray, instruction: str, captured_ns: int
) -> Observation:
    """Capture → frames → observation; `action_state` is (d,).

    Raises:
        RobotError: frames unlike the robot's specification.
    """
    frames = robot.observe(capture)
    check_frames(frames, robot.spec)
    return Observation(frames.images, frames.state, action_state, instruction, captured_ns)


class WorldLog:
    """Puts into the trace what happens in the world and what the robot measures; look on every
    control instant."""

    def __init__(self, robot: Robot, trace: TraceSink) -> None:
        self._robot = robot
        self._trace = trace
        self._latest_ns: int | None = None

    def look(self, now_ns: int) -> None:
        values = measured_by(self._robot)
        if values:
            self._trace.record(Measured(now_ns, values))
        stimulus_ns = stimulus_of(self._robot)
        stimulus_ns = None if stimulus_ns is None else int(stimulus_ns)
        if stimulus_ns is not None and stimulus_ns != self._latest_ns:
            self._latest_ns = stimulus_ns
            self._trace.record(Stimulus(stimulus_ns, self._robot.spec.stimulus))


def lazily_generate(policy: Policy, context: Any, start: FlowStart) -> Iterator[np.ndarray]:
    """`policy.generate`, called only when the first action is asked for.

    So that a policy which computes before it returns its iterator does so where the stage runs,
    never on the control thread, and what it raises there is the stage's failure.
    """
    yield from actions_of(policy, context, start)


def generate_job(policy: Policy, index: int) -> tuple[int, int]:
    """The next generate job, from flow step `index`: (expert passes, actions it gives).

    streams          g│a0  g│a1  g│a2 …                    H jobs of one pass
    chunk_passes 10  g g g g g g g g g g│a0 a1 a2 …        one job of ten
    """
    passes = policy.spec.chunk_passes
    return (passes, policy.spec.horizon - index) if passes else (1, 1)


def describe(error: BaseException) -> str:
    """`KeyError: 'front'`: how a stage's exception stands in the trace."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # its own words fail
        return type(error).__name__


def end_reason(episode: Controlled, elapsed_ns: int) -> EndReason | None:
    """Why the episode ends now, or None: looked at on every control instant."""
    if episode.limits.stop_on_success and bool(episode.robot.success):
        return "success"
    if episode.limits.duration_ns is not None and elapsed_ns >= episode.limits.duration_ns:
        return "time-limit"
    return "observations" if episode.streamer.finished else None


def close_trace(episode: Controlled, now_ns: int, reason: EndReason, success: bool) -> None:
    """Write the last events."""
    episode.streamer.close(now_ns)
    episode.trace.record(Ended(now_ns, success, reason))
