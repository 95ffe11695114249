"""How an episode is driven, stated once: every driver makes its streamer and episode from this."""

from __future__ import annotations

from dataclasses import dataclass, field

from streamvla.core.action_space import ActionSpace
from streamvla.core.interfaces import Policy, Robot
from streamvla.runtime.buffer import LateRule
from streamvla.runtime.drivers.cameras import FrozenCamera
from streamvla.runtime.drivers.episode import Episode, EpisodeLimits, Watch
from streamvla.runtime.executors.base import Executor
from streamvla.runtime.governor.governor import Fallback
from streamvla.runtime.governor.ladder import Ladder
from streamvla.runtime.streamer.machine import Streamer
from streamvla.runtime.timing.latency import LatencyProfile
from streamvla.trace import TraceSink
from streamvla.trace.spans import Pacing


@dataclass(frozen=True)
class EpisodeSettings:
    """All that can be said of an episode before its robot, policy and trace are there. Can be sent
    to another process.

    Attributes:
        space: of the robot.
        horizon: `H` of the policy.
        executor: fitted and seeded for this episode.
        profile: the control period, and the stage times to emulate.
        pacing, fallback, late, validity_ns, max_observations: of the `Streamer`.
        serial, instruction, frozen: of the `Episode`.
    """

    space: ActionSpace
    horizon: int
    executor: Executor
    profile: LatencyProfile
    pacing: Pacing = "grid"
    limits: EpisodeLimits = field(default_factory=EpisodeLimits)
    fallback: Fallback | Ladder | None = None
    late: LateRule | None = None
    validity_ns: int | None = None
    max_observations: int | None = None
    serial: bool = True
    instruction: str | None = None
    frozen: FrozenCamera = field(default_factory=FrozenCamera)

    def streamer(self, trace: TraceSink) -> Streamer:
        """A streamer at the start of the episode.

        Raises:
            ConfigError: settings that exclude each other.
        """
        return Streamer(
            self.space,
            self.horizon,
            self.executor,
            self.pacing,
            trace,
            fallback=self.fallback,
            max_observations=self.max_observations,
            late=self.late,
            validity_ns=self.validity_ns,
        )

    def episode(
        self, policy: Policy, robot: Robot, trace: TraceSink, watch: Watch | None = None
    ) -> Episode:
        """The episode, for a driver that has policy and robot at hand.

        Raises:
            ConfigError: settings that exclude each other.
            SpecMismatchError: action space or horizon are not those of robot and policy.
        """
        return Episode(
            robot=robot,
            policy=policy,
            streamer=self.streamer(trace),
            trace=trace,
            profile=self.profile,
            limits=self.limits,
            serial=self.serial,
            instruction=self.instruction,
            watch=watch,
            frozen=self.frozen,
        )
