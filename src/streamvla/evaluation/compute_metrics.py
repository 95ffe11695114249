"""What a policy computed, from the `ObserveCost` of its observations; None where none was counted.

Costs of refused observations count, and are shared by those that became a context.

- `visual_tokens_per_observation`: that leave the image encoder, of an observation that became a
  context; `visual_tokens_attended`: of them, that the action expert attends to;
  `text_tokens_per_observation`: of the instruction.
- `encodes_per_observation`: pictures through an image encoder; `encodes` in all.
- `cache_hits`: views and instructions that did not have to be encoded again.
- `flops_per_observation`: floating-point operations of looks, predictions and contexts.
- `flops_per_tick`: of these and of all actions that were made, per command that was sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from streamvla.trace.events import ActionReady, ObserveCost


@dataclass(frozen=True)
class ComputeMetrics:
    """Sums over an episode; `contexts` counts the observations that became one.

    Attributes:
        looks: observations whose cost was counted, refused ones included.
        observe_flops: of looks, predictions and contexts; action_flops: of actions.
        commands: that were sent, by the policy or the governor.
    """

    looks: int = 0
    contexts: int = 0
    visual_tokens: int = 0
    attended_tokens: int = 0
    text_tokens: int = 0
    encodes: int = 0
    cache_hits: int = 0
    observe_flops: int = 0
    action_flops: int = 0
    commands: int = 0


def compute_figures(runs: Sequence[ComputeMetrics]) -> dict[str, Any]:
    """The figures of one or more episodes, defined in the module's docstring: ratios of sums."""
    counted = [run for run in runs if run.looks]

    def total(name: str) -> int:
        return sum(getattr(run, name) for run in counted)

    def each(amount: int, count: int) -> float | None:
        return amount / count if counted and count else None

    contexts = total("contexts")
    spent = total("observe_flops") + total("action_flops")
    return {
        "visual_tokens_per_observation": each(total("visual_tokens"), contexts),
        "visual_tokens_attended": each(total("attended_tokens"), contexts),
        "text_tokens_per_observation": each(total("text_tokens"), contexts),
        "encodes_per_observation": each(total("encodes"), contexts),
        "encodes": total("encodes") if counted else None,
        "cache_hits": total("cache_hits") if counted else None,
        "flops_per_observation": each(total("observe_flops"), contexts),
        "flops_per_tick": each(spent, total("commands")),
    }


class ComputeCounts:
    """Takes an episode's events in order."""

    def __init__(self) -> None:
        self._sums = dict.fromkeys(ComputeMetrics.__dataclass_fields__, 0)
        self._waiting: dict[int, ObserveCost] = {}
        self._flops_of_action: dict[int, int] = {}

    def on_cost(self, event: ObserveCost) -> None:
        """An observation is over, used or refused."""
        self._waiting[event.observation] = event
        self._add(
            looks=1,
            encodes=event.encodes,
            cache_hits=event.cache_hits,
            observe_flops=event.look_flops + event.context_flops,
        )

    def on_context(self, observation: int) -> None:
        """An observation became a context."""
        event = self._waiting.pop(observation, None)
        if event is not None:
            self._flops_of_action = {
                **dict(list(self._flops_of_action.items())[-_MOST_KEPT:]),
                observation: event.action_flops,
            }
            self._add(
                contexts=1,
                visual_tokens=event.visual_tokens,
                attended_tokens=event.visual_tokens_attended,
                text_tokens=event.text_tokens,
            )

    def on_refused(self, observation: int) -> None:
        """An observation became none."""
        self._waiting.pop(observation, None)

    def on_action(self, event: ActionReady) -> None:
        """An action was made."""
        self._add(action_flops=self._flops_of_action.get(event.observation, 0))

    def on_command(self) -> None:
        """A command was sent."""
        self._add(commands=1)

    def result(self) -> ComputeMetrics:
        """The sums so far."""
        return ComputeMetrics(**self._sums)

    def _add(self, **amounts: int) -> None:
        for name, amount in amounts.items():
            self._sums[name] += amount


_MOST_KEPT = 64
"""Observations whose actions may still come: memory stays bounded."""
