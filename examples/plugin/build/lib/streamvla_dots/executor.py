"""An executor: keep a queue, ask for the next chunk while some of it is left, put it behind.

    a0 a1 a2 a3 │ a4 a5 b0 b1 …       look when 2 are left; b goes on where a5 will have led to

No action is dropped and none is late, at the price that a chunk was made from a picture that is as
old as what was left.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import FlowStart, PolicySpec
from streamvla.runtime.buffer import LateRule, Shift
from streamvla.runtime.executors.base import (
    Capture,
    Decisions,
    Generation,
    Look,
    Placement,
    Plan,
)
from streamvla.runtime.executors.options import Request
from streamvla.runtime.timing.latency import LatencyProfile
from streamvla.trace import TraceSink


@dataclass(frozen=True)
class Queue:
    """Implements `Executor`.

    Attributes:
        left: look when so many actions are left in the queue.
    """

    left: int = 2

    name = "queue"
    streams = False
    overlaps = True
    anticipates = False
    counts = "actions left"

    def __post_init__(self) -> None:
        if self.left < 1:
            raise ConfigError(f"queue: left {self.left} must be at least 1")

    @classmethod
    def configured(cls, request: Request) -> Queue:
        """`queue[:n]`: look when n actions are left."""
        return cls(request.number()) if request.setting else cls()

    @property
    def lead(self) -> int:
        return self.left

    def executed(self, horizon: int) -> int:
        if self.left >= horizon:
            raise ConfigError(f"queue:{self.left} needs a horizon above that, not {horizon}")
        return horizon

    def fitted(
        self, policy: PolicySpec, profile: LatencyProfile, *, shared_accelerator: bool = True
    ) -> Queue:
        self.executed(policy.horizon)
        return self

    def require_late_rule(self, late: LateRule) -> None:
        """Actions that came late are still sent, later: `Shift`."""
        if not isinstance(late, Shift):
            raise ConfigError(f"a queue sends what comes late: use Shift, not {late}")

    def begin(self, space: ActionSpace, horizon: int, trace: TraceSink) -> Decisions:
        return _Decisions(self.left)

    def seeded(self, seed: int) -> Queue:
        return self

    def label(self, horizon: int) -> str:
        return f"queue, {self.left} of {horizon} left"

    def slug(self) -> str:
        return f"{self.name}-{self.left}"


class _Decisions(Decisions):
    def __init__(self, left: int) -> None:
        self._left = left

    def look(self, plan: Plan, now_ns: int) -> Look | None:
        waiting = plan.generation is None
        return Look() if waiting and len(plan.buffered) <= self._left else None

    def start(self, plan: Plan, capture: Capture, now_ns: int) -> FlowStart:
        age = plan.actions_sent + len(plan.buffered) - capture.actions_sent
        return FlowStart(plan.planned_state(), age=age)

    def place(self, plan: Plan, generation: Generation, *, last: bool) -> Placement:
        return Placement(list(generation.held)) if last else Placement()
