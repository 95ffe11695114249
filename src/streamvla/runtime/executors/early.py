"""The rules of early observation: whether to look while actions are pending.

Here are their settings; `early_observer` asks them.

    lead n* = 3     a7   a8   a9        n* actions are pending: the rule is asked
                    ├ accepted ──► observe now; the context is ready when a9 is executed
                    ├ refused  ──► again at a smaller lead, or with a fresh look after a9
                    └ doubted  ──► observe now, and a second time as soon as that can be spared

Sources: StreamingVLA (arXiv 2603.28565) section 4.2 for the adaptive rule. It takes a fresh look
after every refusal; here the largest smaller lead that the rule would accept comes first, or the
early context bridges the time until a second one is there (docs/decisions/0022).
"""

from __future__ import annotations

from dataclasses import dataclass

from streamvla.core.errors import ConfigError
from streamvla.runtime.executors.base import Saliency


@dataclass(frozen=True)
class Never:
    """Look only when nothing is pending."""

    name = "none"
    decides = False


@dataclass(frozen=True)
class Always:
    """Look as soon as no more than the lead is pending."""

    name = "always"
    decides = False


@dataclass(frozen=True)
class AtRandom:
    """Look early in a share of the cycles, drawn once per cycle: the control of the other rules.

    Attributes:
        rate: the share, 0 to 1.
        seed: of the draws; give each episode its own.
    """

    rate: float
    seed: int = 0

    name = "random"
    decides = True

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ConfigError(f"early observation at random: rate {self.rate} must be 0 to 1")


@dataclass(frozen=True)
class ActionNorm:
    """Look early if the pending motion is small.

    Attributes:
        threshold: of ‖Σ pending‖₂ over the delta dimensions, action units.
    """

    threshold: float

    name = "action-norm"
    decides = True

    def __post_init__(self) -> None:
        if not self.threshold >= 0:
            raise ConfigError(f"early observation: action norm {self.threshold} must be ≥ 0")


@dataclass(frozen=True)
class Adaptive:
    """Look early if the policy expects no view to change by more than its threshold.

    Attributes:
        threshold: η of every view, in the policy's order; calibrated
            (`training.anticipation.saliency`), never tuned on an evaluation.
        views: their names, for the trace.
        second_look: do not refuse. Act on the early observation, and look again at once: the
            context of that takes over from the next uncommitted action on.
    """

    threshold: Saliency
    views: tuple[str, ...] = ()
    second_look: bool = False

    name = "adaptive"
    decides = True

    def __post_init__(self) -> None:
        if not self.threshold or not all(value >= 0 for value in self.threshold):
            raise ConfigError(
                f"adaptive early observation: thresholds {self.threshold} must be one number ≥ 0 "
                "for each view"
            )
        if self.views and len(self.views) != len(self.threshold):
            raise ConfigError(f"{len(self.threshold)} thresholds for views {self.views}")

    def objection(self, saliency: Saliency) -> str | None:
        """What speaks against it, in words; None: nothing. What is not a number does."""
        for number, (value, limit) in enumerate(zip(saliency, self.threshold, strict=True)):
            if not value <= limit:
                view = self.views[number] if self.views else f"view {number}"
                return f"saliency {value:.3g} of {view} above {limit:.3g}"
        return None


EarlyRule = Never | Always | AtRandom | ActionNorm | Adaptive
