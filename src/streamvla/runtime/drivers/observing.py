"""The observe stage: an observation becomes a context, or is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from streamvla.core.compute import ObservationCost
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import Observation, Policy, cost_of, require_anticipation
from streamvla.runtime.executors.base import Foresee, Gate, Saliency

Rephrased = tuple[str, str, float]
"""An instruction, what the model reads instead, and how similar the two are."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What came of an observe stage.

    Attributes:
        context: whatever the policy made of it, None too; nothing if the observation was refused.
        saliency: of all n pending actions first; after a refusal those of n−1, …, 1 as well. Empty
            if nothing was foreseen.
        frozen: views whose camera is frozen.
        refused: whether it was.
        cost: as the policy counts it; None: it does not.
        unclear: the instruction and its clarity, if it is unclear to the policy.
        rephrased: the instruction, what the model reads instead, and how similar the two are; None:
            it reads the instruction.
    """

    context: Any
    saliency: tuple[Saliency, ...] = ()
    frozen: tuple[str, ...] = ()
    refused: bool = False
    cost: ObservationCost | None = None
    unclear: tuple[str, float] | None = None
    rephrased: Rephrased | None = None

    @property
    def calls(self) -> int:
        """Of the predictor."""
        return min(len(self.saliency), 2)


def sighting_of(policy: Policy, observation: Observation, foresee: Foresee | None) -> Sighting:
    """The observe stage, frames to context or refusal.

    A refused observation costs the look and two calls of the predictor, but no context.

    Raises:
        ConfigError: the policy cannot foresee, or the rule has another number of views.
    """
    if foresee is None:
        context = policy.encode(observation)
        return Sighting(context, cost=cost_of(policy, context))
    able = require_anticipation(policy)
    sight = able.look(observation)
    whole = able.anticipate(sight, foresee.motions[-1:])
    (first,) = _rows(whole.saliency)
    if foresee.rule is None or _passes(foresee.rule, first):
        context = able.contextualise(sight, whole.changes[0] if foresee.correct else None)
        cost = _predicted(cost_of(policy, context), motions=1)
        return Sighting(context, (first,), cost=cost)
    rest: tuple[Saliency, ...] = ()
    if len(foresee.motions) > 1:
        rest = _rows(able.anticipate(sight, foresee.motions[-2::-1]).saliency)
    cost = _predicted(cost_of(policy, sight), motions=1 + len(rest))
    return Sighting(None, (first, *rest), refused=True, cost=cost)


def _predicted(cost: ObservationCost | None, motions: int) -> ObservationCost | None:
    return None if cost is None else cost.predicted(motions)


def _passes(rule: Gate, saliency: Saliency) -> bool:
    if len(saliency) != len(rule.threshold):
        raise ConfigError(
            f"the policy foresees {len(saliency)} views, the adaptive rule has "
            f"{len(rule.threshold)} thresholds; calibrate it on this policy"
        )
    return rule.objection(saliency) is None


def _rows(saliency: np.ndarray) -> tuple[Saliency, ...]:
    return tuple(tuple(map(float, row)) for row in saliency)
