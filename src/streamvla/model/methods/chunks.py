"""What methods share that make a whole chunk: it is made in the first `next`, then read out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from streamvla.model.methods.base import Context, Reader, Units

MakeChunk = Callable[[Context, Tensor, Tensor], Tensor]
"""(context, x0 (b, 1, d), age (b, 1)) → the chunk (b, 1, h, d), at unit scale."""


def chunk_reader(make: MakeChunk, horizon: int, units: Units) -> Reader:
    """A chunk at unit scale → clipped actions in robot units.

    A generation that starts at flow step n > 0 gives the chunk from the *capture* on, without its
    first n actions (they were the pending ones): a late chunk is entered at the elapsed index.
    """

    def read(context: Context, start: np.ndarray, index: int, age: int) -> Iterator[np.ndarray]:
        if index:
            start, age = context.captured, 0
        departs = units.relative(context, start)  # (b, 1, d)
        ages = torch.full(departs.shape[:2], age, device=units.device)  # (b, 1)
        with torch.inference_mode():
            chunk = make(context, departs, ages).squeeze(1)  # (b, h, d)
        actions = units.actions(chunk)
        for i in range(index, horizon):
            yield units.space.clip(actions[:, i])

    return read
