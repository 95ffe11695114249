"""Asynchronous chunks: request the next chunk while the last one is executed, switch when it comes.

    a0 a1 a2 a3 a4 │ a5 a6 a7 │ b3 b4 b5 …       look when 5 are left; the chunk b is made from what
                   └ look, generate b0…b9 ┘      was seen then, and 3 actions went out meanwhile

The chunk starts at the elapsed index, never at 0: b0…b2 were for instants that are over. What is
left of the old chunk is dropped. Nothing is compensated: this is the naive baseline of real-time
chunking (arXiv 2506.07339, section 2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import ConfigError, did_you_mean
from streamvla.core.interfaces import FlowStart, PolicySpec
from streamvla.core.numbers import exact
from streamvla.runtime.buffer import LateRule, Shift
from streamvla.runtime.executors.base import (
    Capture,
    Decisions,
    Generation,
    Look,
    Placement,
    Plan,
    prefix_of,
)
from streamvla.runtime.executors.delay import ChunkDelay
from streamvla.runtime.executors.options import Replan, Request
from streamvla.runtime.timing.latency import LatencyProfile
from streamvla.trace import TraceSink


@dataclass(frozen=True)
class AsyncChunks:
    """Implements `Executor`.

    Attributes:
        request_share: look when this share of the H actions, or less, is left.
        least_left: and at the latest when so many are left.
        replan: "as-fast-as-possible": look on the first control instant after a chunk has come.
            Share and number play no part.
    """

    request_share: float = 0.5
    least_left: int = 1
    replan: Replan = "when-due"

    name = "async-chunks"
    streams = False
    overlaps = True
    anticipates = False
    counts = "actions left"

    def __post_init__(self) -> None:
        if not 0 <= self.request_share < 1:
            raise ConfigError(
                f"async chunks: request_share {self.request_share} must be at least 0 and below 1"
            )
        if self.least_left < 0:
            raise ConfigError(f"async chunks: least_left {self.least_left} must be at least 0")
        if self.replan not in get_args(Replan):
            raise did_you_mean("replan", self.replan, get_args(Replan))

    @classmethod
    def configured(cls, request: Request) -> AsyncChunks:
        """`async-chunks[:n]`: look when n actions are left; default half of them; with the option
        replan=as-fast-as-possible whenever no chunk is under way.

        Raises:
            ConfigError: n is no number, or stated together with replanning.
        """
        replan = request.options.replan
        if request.setting and replan != "when-due":
            raise ConfigError(
                f"executor {request.text!r} and replan {replan}: expected one of the two, for the "
                "number says when to look; leave the number out"
            )
        if request.setting:
            return cls(0.0, request.number())
        return cls(replan=replan)

    @property
    def replans(self) -> bool:
        """Whether it looks again as soon as a chunk has come."""
        return self.replan == "as-fast-as-possible"

    @property
    def lead(self) -> int:
        return self.least_left

    def left(self, horizon: int) -> int:
        """How many actions are left when it looks, at the most."""
        if self.replans:
            return horizon - 1
        return max(self.least_left, math.floor(self.request_share * horizon))

    def pending_at_look(self, horizon: int) -> int:
        """As `LooksByHorizon` asks."""
        return self.left(horizon)

    def executed(self, horizon: int) -> int:
        if self.left(horizon) >= horizon:
            raise ConfigError(
                f"async chunks: looking with {self.left(horizon)} actions left needs a horizon "
                f"above that, the policy's is {horizon}"
            )
        return horizon

    def fitted(
        self, policy: PolicySpec, profile: LatencyProfile, *, shared_accelerator: bool = True
    ) -> AsyncChunks:
        self.executed(policy.horizon)
        return self

    def require_late_rule(self, late: LateRule) -> None:
        """It drops elapsed actions itself, so it needs `Shift`."""
        if not isinstance(late, Shift):
            raise ConfigError(
                f"async chunks drop elapsed actions themselves: use Shift, not {late}"
            )

    def begin(self, space: ActionSpace, horizon: int, trace: TraceSink) -> Decisions:
        self.executed(horizon)
        return _Decisions(horizon if self.replans else self.left(horizon), horizon)

    def seeded(self, seed: int) -> AsyncChunks:
        return self

    def label(self, horizon: int) -> str:
        if self.replans:
            return "asynchronous chunks, replanning as fast as possible"
        return f"asynchronous chunks, {self.left(horizon)} of {horizon} left"

    def slug(self) -> str:
        if self.replans:
            return f"{self.name}-asap"
        return f"{self.name}-{exact(self.request_share)}-{self.least_left}"


class _Decisions(Decisions):
    def __init__(self, left: int, horizon: int) -> None:
        self._left = left
        self._sent_at_capture = 0
        self._delay = ChunkDelay(horizon)

    def look(self, plan: Plan, now_ns: int) -> Look | None:
        waiting = plan.generation is None
        return Look() if waiting and len(plan.buffered) <= self._left else None

    def start(self, plan: Plan, capture: Capture, now_ns: int) -> FlowStart:
        """At the capture, uncompensated; what is executed meanwhile goes by the chunks measured."""
        self._sent_at_capture = capture.actions_sent
        delay = self._delay.ticks(plan, now_ns)
        if delay is None:
            return FlowStart(capture.action_state)
        prefix = prefix_of(plan, delay)
        elapsed = plan.actions_sent - capture.actions_sent + len(prefix)
        return FlowStart(capture.action_state, prefix=prefix, delay=delay, elapsed=elapsed)

    def made(self, generation: Generation, started_ns: int, now_ns: int) -> None:
        self._delay.made(generation, now_ns)

    def command_took(self, duration_ns: int) -> None:
        self._delay.command_took(duration_ns)

    def place(self, plan: Plan, generation: Generation, *, last: bool) -> Placement:
        if not last:
            return Placement()
        elapsed = plan.actions_sent - self._sent_at_capture
        stale = [(each, "elapsed") for each in generation.held if each.index < elapsed]
        fresh = [each for each in generation.held if each.index >= elapsed]
        older = "replaced by a newer chunk" if fresh else None
        return Placement(fresh, stale, older)
