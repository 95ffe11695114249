"""What an observation costs to compute: tokens, runs of the image encoder, floating-point
operations, and how much of the usual time its two parts take."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, fields, replace
from typing import Any, Self

from streamvla.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ObservationCost:
    """The cost of one observation, in two parts: images → tokens (the *look*), then the context.

    Floating-point operations (FLOPs) are those of matrix products and convolutions; a product and
    a sum are two, as `torch.utils.flop_counter` counts.

    Attributes:
        visual_tokens: that leave the image encoder, of all views.
        visual_tokens_attended: of them, that the action expert attends to.
        text_tokens: of the instruction.
        encodes: pictures that went through an image encoder: views, and crops of them.
        cache_hits: views and instructions that did not have to be encoded again.
        look_flops, context_flops: of the two parts.
        predict_flops: of one prediction of what a motion changes; 0 without such a predictor.
        action_flops: of one action that is made from the context.
        frames_old_ns: how much older than the capture the frames are that the context was made of;
            0 unless a context was used again.
        look_time, context_time: how long each part takes, as a share of what it takes the same
            policy on whole frames, by a measurement. Emulated stage times are scaled by them
            (`LatencyProfile.sighting_ns`).
    """

    visual_tokens: int = 0
    visual_tokens_attended: int = 0
    text_tokens: int = 0
    encodes: int = 0
    cache_hits: int = 0
    look_flops: int = 0
    context_flops: int = 0
    predict_flops: int = 0
    action_flops: int = 0
    frames_old_ns: int = 0
    look_time: float = 1.0
    context_time: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(
                    f"cost of an observation: {field.name} is {value}; expected a finite number ≥ 0"
                )

    def predicted(self, motions: int) -> Self:
        """With the predictor's work on so many motions, which counts with the look."""
        return replace(self, look_flops=self.look_flops + motions * self.predict_flops)

    def to_row(self) -> tuple[float, ...]:
        """Its numbers in order. Inverse of `from_row`."""
        return tuple(map(float, astuple(self)))

    @classmethod
    def from_row(cls, row: tuple[float, ...]) -> Self:
        """From `to_row`.

        Raises:
            ConfigError: not so many finite numbers ≥ 0, or a broken count.
        """
        if len(row) != COST_NUMBERS:
            raise ConfigError(f"cost of an observation: {len(row)} numbers, not {COST_NUMBERS}")
        names = [field.name for field in fields(cls)]
        numbers: dict[str, Any] = dict(zip(names, row, strict=True))
        for name in names[:-2]:
            if not (math.isfinite(numbers[name]) and numbers[name] == int(numbers[name])):
                raise ConfigError(f"cost of an observation: {name} is {numbers[name]}, no count")
            numbers[name] = int(numbers[name])
        return cls(**numbers)


COST_NUMBERS = len(fields(ObservationCost))
