"""The health of the action stream: one word for an operator, fed by control ticks.

    streaming ──► degraded ──► stalled ──► stopped
        ▲            │            │           │
        └────────────┴────────────┘◄──────────┘  rearmed

Down at once, at its threshold; up again only after actions came for some ticks in a row, so that a
stream with gaps stays "degraded" instead of flickering. While a camera is frozen it is at best
"degraded": the actions come, from an old picture. "stopped" is the latched safe stop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from streamvla.core.errors import ConfigError

HealthState = Literal["streaming", "degraded", "stalled", "stopped"]
STATES: tuple[HealthState, ...] = ("streaming", "degraded", "stalled", "stopped")


@dataclass(frozen=True)
class HealthThresholds:
    """When the state changes; all count control periods in a row.

    Attributes:
        degraded_after: without an action of the policy.
        stalled_after: without one.
        recovered_after: with one on each, from "degraded" or "stalled" back to "streaming".
    """

    degraded_after: int = 1
    stalled_after: int = 6
    recovered_after: int = 3

    def __post_init__(self) -> None:
        if not (0 < self.degraded_after < self.stalled_after and self.recovered_after > 0):
            raise ConfigError(
                f"health: expected 0 < degraded_after {self.degraded_after} < stalled_after "
                f"{self.stalled_after}, and recovered_after {self.recovered_after} > 0, in control "
                "periods"
            )


class Transition(NamedTuple):
    """The state before and after a tick on which it changed."""

    before: HealthState
    after: HealthState


class Health:
    """The state machine. Ticks before the first action of the policy count for nothing."""

    def __init__(self, thresholds: HealthThresholds) -> None:
        self._thresholds = thresholds
        self._state: HealthState = "streaming"
        self._began = False
        self._without = 0
        self._with = 0

    @property
    def state(self) -> HealthState:
        return self._state

    def tick(
        self, *, supplied: bool, latched: bool, seeing: bool = True, skipped: int = 0
    ) -> Transition | None:
        """Take one control tick.

        Args:
            supplied: it carried an action.
            latched: the robot is in the safe stop.
            seeing: no camera is frozen.
            skipped: ticks before it that nobody served.
        """
        before = self._state
        if skipped and self._began:
            self._with, self._without = 0, self._without + skipped
            self._state = self._next(latched, seeing)
        self._began = self._began or supplied
        self._with = self._with + 1 if supplied else 0
        self._without = 0 if supplied or not self._began else self._without + 1
        self._state = self._next(latched, seeing)
        return None if self._state == before else Transition(before, self._state)

    def _next(self, latched: bool, seeing: bool) -> HealthState:
        limits = self._thresholds
        if latched:
            return "stopped"
        if self._without >= limits.stalled_after:
            return "stalled"
        if self._with >= limits.recovered_after:
            return "streaming" if seeing else "degraded"
        if self._state == "stopped":
            return "stalled"
        gap = self._without >= limits.degraded_after or not seeing
        if gap and self._state == "streaming":
            return "degraded"
        return self._state
