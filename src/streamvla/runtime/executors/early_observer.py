"""Asking a rule of early observation, cycle after cycle, and what to ask of the look it allows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.runtime.executors.base import Foresee, Saliency
from streamvla.runtime.executors.early import ActionNorm, Adaptive, AtRandom, EarlyRule


def pending_motions(space: ActionSpace, pending: Sequence[np.ndarray]) -> np.ndarray:
    """What the last 1, 2, … n of n pending actions (d,) do together: (n, d), in that order.

    pending   [.1 | +1]  [.2 | −1]      →   [.2 | −1]  [.3 | −1]      (delta | absolute)
    """
    actions = np.stack(pending)
    sums = actions[::-1].cumsum(axis=0)
    return np.where(space.is_delta(), sums, actions[-1])


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
