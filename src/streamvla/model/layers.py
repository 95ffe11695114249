"""The few layers that backbone and action expert share."""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812 (the name everyone uses)
from torch import Tensor, nn


class AdaptiveRMSNorm(nn.Module):
    """RMSNorm whose scale, shift and output gate come from a condition (here: flow time).

    Zero-initialised, so at the start of training every gated branch contributes nothing and the
    residual stream is the identity (DiT, arXiv 2212.09748; π0.5 uses the RMS variant).
    """

    def __init__(self, width: int, condition_width: int) -> None:
        super().__init__()
        self.modulation: Final = nn.Linear(condition_width, 3 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """(..., w), (..., c) → normalised (..., w) and the gate (..., w) for its branch."""
        return self.modulate(x, self.modulation(condition))

    def modulate(self, x: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, with scale, shift and gate (..., 3w) made before."""
        scale, shift, gate = modulation.chunk(3, dim=-1)
        return F.rms_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift, gate


class FeedForward(nn.Module):
    """Two linear maps around a GELU: (..., w) → (..., w)."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.up: Final = nn.Linear(width, expansion * width)
        self.down: Final = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


def fourier_features(values: Tensor, longest: float, count: int) -> Tensor:
    """Sine and cosine of `values` at wavelengths longest, longest/2, ...: (...) → (..., 2·count).

    Gives a network sharp sight of a scalar that ranges widely (a summed action, flow time).
    """
    octaves = torch.arange(count, device=values.device, dtype=torch.float32)
    angles = values.float().unsqueeze(-1) * (2 * math.pi / longest * 2**octaves)  # (..., count)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(b, l, n·k) → (b, n, l, k)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(b, n, l, k) → (b, l, n·k)."""
    return x.transpose(1, 2).flatten(-2)
