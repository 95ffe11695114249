"""Vision tokens that never reach the backbone.

    vision tokens ─ scores ─► the best K ─► backbone, with words and state behind them
                      ▲
    instruction, state

What a view says beside its grid of cells (keypoints, what was asked for, places) always stays; of
the cells of all views together the best ones do. So a context costs less, in proportion to the
tokens that are left, and the expert reads a smaller cache.

The choice itself has no gradient. A chosen token is multiplied by `2·sigmoid(score)`, near 1 at
first, so that its score learns how much it is worth. (DynamicViT, arXiv 2106.02034, drops tokens
too, and learns to by Gumbel noise instead.)
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

SCORE_WIDTH = 64


class TokenPruner(nn.Module):
    """Keeps a share of the vision tokens, by instruction and state.

    Args:
        width: w of the tokens.
        share: of all vision tokens, above 0 and below 1; at least those that always stay do.
    """

    def __init__(self, width: int, share: float) -> None:
        super().__init__()
        self.share: float = share
        self.norm: Final = nn.LayerNorm(width)
        self.key: Final = nn.Linear(width, SCORE_WIDTH, bias=False)
        self.query: Final = nn.Linear(2 * width, SCORE_WIDTH)
        nn.init.normal_(self.query.weight, std=0.02)
        nn.init.normal_(self.query.bias, std=0.02)

    def kept(self, tokens: int, always: int) -> int:
        """How many of so many tokens are kept, of which some always stay."""
        return max(always, math.ceil(self.share * tokens - 1e-9))

    def forward(self, seen: Tensor, cells: int, told: Tensor, felt: Tensor) -> Tensor:
        """Tokens of every view (b, v, l, w), the first `cells` of each a grid → (b, K, w).

        Args:
            told: (b, w) the instruction.
            felt: (b, w) the state.
        """
        stays = torch.arange(seen.shape[2], device=seen.device) >= cells  # (l,)
        stays = stays.repeat(seen.shape[1])  # (v·l,)
        flat = seen.flatten(1, 2)  # (b, v·l, w)
        query = self.query(torch.cat([told, felt], -1).to(seen.dtype))  # (b, k)
        scores = (self.key(self.norm(flat)) @ query.unsqueeze(-1)).squeeze(-1) / SCORE_WIDTH**0.5
        ranked = scores.detach().float().masked_fill(stays, float("inf"))
        keep = self.kept(flat.shape[1], int(stays.sum()))
        chosen = ranked.topk(keep, dim=1).indices.sort(1).values  # (b, K)
        index = chosen.unsqueeze(-1).expand(-1, -1, flat.shape[-1])
        worth = 2 * scores.gather(1, chosen).sigmoid().unsqueeze(-1)
        worth = torch.where(stays[chosen].unsqueeze(-1), torch.ones_like(worth), worth)
        return flat.gather(1, index) * worth
