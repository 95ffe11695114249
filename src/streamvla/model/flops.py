"""Floating-point operations of a model's parts, counted by PyTorch while they compute."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

from torch.utils.flop_counter import FlopCounterMode

Result = TypeVar("Result")


class FlopCounts:
    """FLOPs of calls by key, such as the shapes of their inputs; each key is counted once, by
    `torch.utils.flop_counter`, in its first call."""

    def __init__(self) -> None:
        self._of: dict[Hashable, int] = {}

    def run(self, key: Hashable, call: Callable[[], Result]) -> tuple[Result, int]:
        """What a call gives, and its FLOPs. Calls of one key must compute the same amount."""
        if key in self._of:
            return call(), self._of[key]
        with FlopCounterMode(display=False) as counter:
            result = call()
        self._of[key] = counter.get_total_flops()
        return result, self._of[key]

    def once(self, key: Hashable, call: Callable[[], object]) -> int:
        """The FLOPs of a call, which is made for a new key only."""
        return self._of[key] if key in self._of else self.run(key, call)[1]
