"""What the cameras will show once the pending actions are executed: the change of their tokens.

    tokens of one view (l, w) ──► narrow ─┐
    which view ──────────────► embedding ─┼─► blocks ──► widen ──► Δ (l, w)     zero at first
    motion (d,) ─► features ─► condition ─┘      scale and shift of every norm

StreamingVLA (arXiv 2603.28565, section 4.2) predicts Δ for its main camera with 12 layers of width
1024 (8–10 ms a call); here one small transformer serves every camera. ‖Δ‖ is the *saliency* of the
motion: what an early observation would miss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 (the name everyone uses)
from torch import Tensor, nn

from streamvla.core.errors import ConfigError
from streamvla.model.layers import FeedForward, merge_heads, split_heads


@dataclass(frozen=True)
class SaliencyConfig:
    """Sizes; the first four come from the policy.

    Attributes:
        views, tokens, token_width: v cameras of l tokens of width w.
        action_dim: d.
        width, layers, heads, expansion: of the transformer.
        condition_width: of what the motion becomes.
    """

    views: int
    tokens: int
    token_width: int
    action_dim: int
    width: int = 128
    layers: int = 3
    heads: int = 4
    expansion: int = 4
    condition_width: int = 128

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ConfigError(f"saliency {name} is {value}; expected at least 1")
        if self.width % self.heads:
            raise ConfigError(
                f"saliency width {self.width} is not a multiple of its {self.heads} heads"
            )


@dataclass(frozen=True)
class Calibration:
    """The gate of one predictor, and what it guarantees (docs/decisions/0020).

    Attributes:
        threshold: η of every view: an early observation is accepted if no ‖Δ‖ exceeds its η.
        bound: B of every view: a true change beyond it is *large*.
        miss_rate: α, what may be missed: of a new episode's large changes the gate accepts in
            expectation no larger share.
        tail: the share of the training demonstrations' changes over the longest lead beyond B.
        longest_lead: pairs of frames 1 to so many actions apart were used.
        episodes: calibration episodes with a large change, of every view.
        measured: figures of the calibration episodes (`training.anticipation.gate.Examination`).
    """

    threshold: tuple[float, ...]
    bound: tuple[float, ...]
    miss_rate: float
    tail: float
    longest_lead: int
    episodes: tuple[int, ...]
    measured: Mapping[str, Any]

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Calibration:
        """Inverse of `dataclasses.asdict`."""
        names = ("threshold", "bound", "episodes")
        return cls(**{**fields, **{name: tuple(fields[name]) for name in names}})


class ConditionalBlock(nn.Module):
    """Self-attention and feed-forward over one view's tokens; the motion modulates both norms."""

    def __init__(self, width: int, heads: int, expansion: int, condition_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation: Final = nn.Linear(condition_width, 4 * width)
        self.qkv: Final = nn.Linear(width, 3 * width, bias=False)
        self.out: Final = nn.Linear(width, width, bias=False)
        self.feed: Final = FeedForward(width, expansion)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(b, l, w), (b, c) → (b, l, w)."""
        scale1, shift1, scale2, shift2 = self.modulation(condition).unsqueeze(1).chunk(4, dim=-1)
        normed = _norm(x) * (1 + scale1) + shift1
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(normed).chunk(3, dim=-1))
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (b, n, l, l)
        x = x + self.out(merge_heads(scores.softmax(-1) @ v))
        return x + self.feed(_norm(x) * (1 + scale2) + shift2)


class SaliencyPredictor(nn.Module):
    """(tokens of each view, motion) → expected change of the tokens."""

    def __init__(self, config: SaliencyConfig) -> None:
        super().__init__()
        self.config = c = config
        self.narrow: Final = nn.Linear(c.token_width, c.width)
        self.position: Final = nn.Parameter(torch.randn(c.tokens, c.width) * 0.02)
        self.view: Final = nn.Parameter(torch.randn(c.views, 1, c.width) * 0.02)
        self.from_motion: Final = nn.Sequential(
            nn.Linear(c.action_dim, c.condition_width),
            nn.GELU(),
            nn.Linear(c.condition_width, c.condition_width),
            nn.GELU(),
        )
        self.blocks: Final = nn.ModuleList(
            ConditionalBlock(c.width, c.heads, c.expansion, c.condition_width)
            for _ in range(c.layers)
        )
        self.widen: Final = nn.Linear(c.width, c.token_width)
        nn.init.zeros_(self.widen.weight)
        nn.init.zeros_(self.widen.bias)

    def forward(self, seen: Tensor, motion: Tensor) -> Tensor:
        """(b, v, l, w) tokens, (b, d) motions at unit scale → (b, v, l, w) changes."""
        b, v = seen.shape[:2]
        x = (self.narrow(_norm(seen)) + self.position + self.view).flatten(0, 1)  # (b·v, l, w')
        condition = self.from_motion(motion).repeat_interleave(v, dim=0)  # (b·v, c)
        for block in self.blocks:
            x = block(x, condition)
        return self.widen(_norm(x)).unflatten(0, (b, v))


def saliency_of(changes: Tensor) -> Tensor:
    """‖Δ‖₂ over the tokens and channels of each view: (..., v, l, w) → (..., v)."""
    return changes.float().flatten(-2).norm(dim=-1)


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])
