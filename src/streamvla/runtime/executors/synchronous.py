"""Synchronous: observe, generate a whole chunk, execute, repeat. The classic way.

observe ── generate a0…a9 ── a0 a1 … a9 ── observe ── …
"""

from __future__ import annotations

from dataclasses import dataclass

from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import FlowStart, PolicySpec
from streamvla.runtime.buffer import LateRule
from streamvla.runtime.executors.base import (
    Capture,
    Decisions,
    Generation,
    Look,
    Placement,
    Plan,
    append_when_whole,
    prefix_of,
)
from streamvla.runtime.executors.delay import ChunkDelay
from streamvla.runtime.executors.options import Request
from streamvla.runtime.timing.latency import LatencyProfile
from streamvla.trace import TraceSink


@dataclass(frozen=True)
class Synchronous:
    """Implements `Executor`.

    Attributes:
        execute_horizon: how many of the H generated actions are executed; None for all.
    """

    execute_horizon: int | None = None

    name = "synchronous"
    lead = 0
    streams = False
    overlaps = False
    anticipates = False
    counts = "execute horizon"

    @classmethod
    def configured(cls, request: Request) -> Synchronous:
        """`synchronous[:h]`; options of early observation do not concern it."""
        return cls(request.number() if request.setting else None)

    def executed(self, horizon: int) -> int:
        executed = horizon if self.execute_horizon is None else self.execute_horizon
        if not 1 <= executed <= horizon:
            raise ConfigError(f"execute horizon {executed} must lie between 1 and H = {horizon}")
        return executed

    def fitted(
        self, policy: PolicySpec, profile: LatencyProfile, *, shared_accelerator: bool = True
    ) -> Synchronous:
        self.executed(policy.horizon)
        return self

    def require_late_rule(self, late: LateRule) -> None:
        """Any will do."""

    def begin(self, space: ActionSpace, horizon: int, trace: TraceSink) -> Decisions:
        return _Decisions(self.executed(horizon), horizon)

    def seeded(self, seed: int) -> Synchronous:
        return self

    def label(self, horizon: int) -> str:
        return f"synchronous, {self.executed(horizon)} of {horizon}"

    def slug(self) -> str:
        return self.name + (f"-{self.execute_horizon}" if self.execute_horizon else "")


class _Decisions(Decisions):
    def __init__(self, executed: int, horizon: int) -> None:
        self._executed = executed
        self._delay = ChunkDelay(horizon)

    def look(self, plan: Plan, now_ns: int) -> Look | None:
        return Look() if plan.pending == 0 else None

    def start(self, plan: Plan, capture: Capture, now_ns: int) -> FlowStart:
        """The robot waits: nothing is executed before the chunk, and the delay is as long as chunks
        took so far."""
        age = plan.actions_sent + len(plan.buffered) - capture.actions_sent
        delay = self._delay.ticks(plan, now_ns) or 0
        return FlowStart(plan.planned_state(), age=age, prefix=prefix_of(plan), delay=delay)

    def made(self, generation: Generation, started_ns: int, now_ns: int) -> None:
        self._delay.made(generation, now_ns)

    def command_took(self, duration_ns: int) -> None:
        self._delay.command_took(duration_ns)

    def place(self, plan: Plan, generation: Generation, *, last: bool) -> Placement:
        return append_when_whole(generation, self._executed, last=last)
