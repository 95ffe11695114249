"""How many steps the learning-rate schedule spans, and since when: a training may be prolonged.

steps 0 ──────────── 1000               begun with 1000 steps: cosine over 1000
                       └────── 2000     resumed with 2000: from step 1000 on, the rate is that
                                        of a cosine over 2000, as if begun so
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from streamvla.core.errors import ConfigError


@dataclass(frozen=True)
class Schedules:
    """The schedules of one training, in turn.

    Attributes:
        spans: (first step, steps in all) of each.
    """

    spans: tuple[tuple[int, int], ...]

    @property
    def steps(self) -> int:
        """In all, as things stand."""
        return self.spans[-1][1]

    def prolonged(self, who: str, step: int, steps: int) -> Schedules:
        """With a schedule over `steps` from `step` on, if that is more than before.

        Raises:
            ConfigError: it is less.
        """
        if steps < self.steps:
            raise ConfigError(
                f"{who} was made with {self.steps} steps, and a schedule cannot be cut to {steps}: "
                f"resume with --steps {self.steps} or more, or start anew in another out"
            )
        if steps == self.steps:
            return self
        earlier = tuple(span for span in self.spans if span[0] < step)
        return Schedules((*earlier, (step, steps)))

    def lines(self) -> list[dict[str, Any]]:
        """For the log: one for every schedule but the first."""
        pairs = zip(self.spans, self.spans[1:], strict=False)
        return [
            {"step": start, "schedule": {"from_step": start, "steps": steps, "before": before}}
            for (_, before), (start, steps) in pairs
        ]

    def to_json(self) -> list[list[int]]:
        return [list(span) for span in self.spans]

    @classmethod
    def from_json(cls, spans: Sequence[Sequence[int]]) -> Schedules:
        return cls(tuple((int(start), int(steps)) for start, steps in spans))
