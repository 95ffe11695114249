"""Early observation: whether to look while actions are pending, and what to ask of that look.

    lead n* = 3     a7   a8   a9        n* actions are pending: the rule is asked
                    ├ accepted ──► observe now; the context is ready when a9 is executed
                    ├ refused  ──► again at a smaller lead, or with a fresh look after a9
                    └ doubted  ──► observe now, and a second time as soon as that can be spared

Sources: StreamingVLA (arXiv 2603.28565) section 4.2 for the adaptive rule. It takes a fresh look
after every refusal; here the largest smaller lead that the rule would accept comes first, or the
early context bridges the time until a second one is there (docs/decisions/0022).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import ConfigError
from streamvla.runtime.executors.base import Foresee, Saliency

# --- the rules -------------------------------------------------------------------------------


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


# --- what is pending -------------------------------------------------------------------------


def pending_motions(space: ActionSpace, pending: Sequence[np.ndarray]) -> np.ndarray:
    """What the last 1, 2, … n of n pending actions (d,) do together: (n, d), in that order.

    pending   [.1 | +1]  [.2 | −1]      →   [.2 | −1]  [.3 | −1]      (delta | absolute)
    """
    actions = np.stack(pending)
    sums = actions[::-1].cumsum(axis=0)
    return np.where(space.is_delta(), sums, actions[-1])


# --- asking the rule -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """What a rule says to looking now.

    Attributes:
        look: do it.
        foresee: and ask this of the stage.
        cause: why or why not, for the trace; "" if there was nothing to decide.
        next_lead: after a refusal, when to ask again; 0: when nothing is pending.
    """

    look: bool
    foresee: Foresee | None = None
    cause: str = ""
    next_lead: int = 0


class EarlyObserver:
    """Asks one rule, cycle after cycle.

    Args:
        correct: compensate the context for what is pending.
    """

    def __init__(self, rule: EarlyRule, space: ActionSpace, *, correct: bool) -> None:
        self.rule = rule
        self._space = space
        self._correct = correct
        self._random = random.Random(rule.seed if isinstance(rule, AtRandom) else 0)
        self._delta = space.is_delta()

    @property
    def needs_plan(self) -> bool:
        """Whether the rule goes by what the pending actions are."""
        return self._correct or isinstance(self.rule, ActionNorm | Adaptive)

    def ask(self, pending: Sequence[np.ndarray]) -> Answer:
        """Whether to look now, with these actions (d,) pending (if `needs_plan`)."""
        match self.rule:
            case AtRandom(rate):
                drawn = self._random.random()
                if drawn >= rate:
                    return Answer(False, cause=f"drawn {drawn:.3f}, rate {rate:g}")
                return Answer(True, self._foresee(pending), f"drawn {drawn:.3f}, rate {rate:g}")
            case ActionNorm(threshold):
                return self._by_norm(pending, threshold)
            case _:
                return Answer(True, self._foresee(pending))

    def _foresee(self, pending: Sequence[np.ndarray]) -> Foresee | None:
        adaptive = self.rule if isinstance(self.rule, Adaptive) else None
        if adaptive is None and not self._correct:
            return None
        gate = None if adaptive is None or adaptive.second_look else adaptive
        return Foresee(pending_motions(self._space, pending), gate, self._correct)

    def _by_norm(self, pending: Sequence[np.ndarray], threshold: float) -> Answer:
        sums = pending_motions(self._space, pending)[:, self._delta]
        norms = np.linalg.norm(sums, axis=1)  # of the last 1, 2, … n
        if norms[-1] <= threshold:
            cause = f"action norm {norms[-1]:.3g} within {threshold:.3g}"
            return Answer(True, self._foresee(pending), cause)
        smaller = [lead for lead in range(1, len(pending)) if norms[lead - 1] <= threshold]
        cause = f"action norm {norms[-1]:.3g} above {threshold:.3g}"
        return Answer(False, cause=cause, next_lead=max(smaller, default=0))


def smaller_lead(rule: Adaptive, saliency: Sequence[Saliency], pending: int, least: int) -> int:
    """After a refusal: the largest lead that would have passed; 0: none.

    Args:
        saliency: of the last n, n−1, …, 1 pending actions.
        pending: how many are pending now; more cannot be waited for.
        least: a smaller lead leaves no time to look and then look again.
    """
    for lead in range(min(pending, len(saliency) - 1), max(least, 1) - 1, -1):
        if rule.objection(saliency[len(saliency) - lead]) is None:
            return lead
    return 0
