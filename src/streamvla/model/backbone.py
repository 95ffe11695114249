"""The backbone: a small pre-norm transformer that turns the prefix into a key/value cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor, nn

from streamvla.model.layers import FeedForward, merge_heads, split_heads


@dataclass(frozen=True, slots=True)
class Rotary:
    """The rotation of the position right after the prefix: cos and sin, (b, 1, 1, k) each.

    For backbones whose keys are rotated by their position (RoPE, arXiv 2104.09864): queries have
    to be rotated as well. Rotated pairs are dimensions i and i + k/2, as in Llama and Gemma.
    """

    cos: Tensor
    sin: Tensor

    def turn(self, x: Tensor) -> Tensor:
        """(b, n, l, k) → same, rotated."""
        low, high = x.chunk(2, dim=-1)
        return (x * self.cos + torch.cat([-high, low], dim=-1) * self.sin).to(x.dtype)


@dataclass(frozen=True, slots=True)
class LayerCache:
    """One layer of a `PrefixCache`: keys and values (b, n, l, k), bias (b, 1, 1, l)."""

    keys: Tensor
    values: Tensor
    bias: Tensor
    rotary: Rotary | None = None
    vision: int = 0

    def only(self, chosen: Tensor) -> LayerCache:
        """Of the vision tokens just these, (b, K) indices; and all others."""
        others = torch.arange(self.vision, self.keys.shape[2], device=chosen.device)
        index = torch.cat([chosen, others.expand(len(chosen), -1)], 1)  # (b, K + l − l_v)
        by_key = self.keys.transpose(-1, -2)  # (b, n, k, l), as it lies in memory
        if len(index) == 1:  # three times as fast
            keys, values = by_key.index_select(-1, index[0]), self.values.index_select(2, index[0])
        else:
            keys = by_key.take_along_dim(index[:, None, None], -1)
            values = self.values.take_along_dim(index[:, None, :, None], 2)
        kept = chosen.shape[1]
        bias = self.bias[..., self.vision - kept :]
        return LayerCache(keys.transpose(-1, -2), values, bias, self.rotary, kept)


@dataclass(frozen=True, slots=True)
class PrefixCache:
    """What the action expert attends to: the observation, encoded once, layer by layer.

    This is the whole interface between a backbone and the expert: any vision-language model that
    can fill it can drive actions.

    Attributes:
        keys, values: one (b, n, l, k) tensor a layer. In memory keys lie as (b, n, k, l) and values
            as they are said to: so every reader's matrix products take them without a copy.
        bias: (b, 1, 1, l) added to attention scores: 0 for tokens, −inf for padding.
        rotary: how to rotate queries, where the keys are rotated by position; None: they are not.
        vision: how many of the tokens are of vision, those of all views: the first ones, all
            present; 0 where it is not said.
        chosen: these are all that an expert has chosen; it attends to each of them.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    bias: Tensor
    rotary: Rotary | None = None
    vision: int = 0
    chosen: bool = False

    @property
    def batch(self) -> int:
        """Number of observations b."""
        return self.bias.shape[0]

    @property
    def tokens(self) -> int:
        """Number of prefix tokens l, padding included."""
        return self.bias.shape[-1]

    def rows(self, some: slice) -> PrefixCache:
        """Of some of the observations."""
        turn = self.rotary
        return replace(
            self,
            keys=tuple(each[some] for each in self.keys),
            values=tuple(each[some] for each in self.values),
            bias=self.bias[some],
            rotary=None if turn is None else Rotary(turn.cos[some], turn.sin[some]),
        )

    def layers(self) -> Iterator[LayerCache]:
        """Layer by layer, in the order in which an expert reads them."""
        for keys, values in zip(self.keys, self.values, strict=True):
            yield LayerCache(keys, values, self.bias, self.rotary, self.vision)


def attention_bias(present: Tensor, dtype: torch.dtype) -> Tensor:
    """(b, l) bool, true where a token is present → (b, 1, 1, l) additive bias."""
    bias = torch.zeros(present.shape, dtype=dtype, device=present.device)
    return bias.masked_fill(~present, float("-inf"))[:, None, None, :]


def for_products(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The same keys and values, (b, n, l, k) each, laid out in memory as `PrefixCache` says."""
    return keys.transpose(-1, -2).contiguous().transpose(-1, -2), values.contiguous()


class Block(nn.Module):
    """Self-attention over the whole prefix, then a feed-forward; pre-norm, residual.

    LayerNorm without bias rather than RMSNorm: PyTorch fuses it on CPU, four times as fast.
    """

    def __init__(self, width: int, heads: int, head_dim: int, expansion: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm: Final = nn.LayerNorm(width, bias=False)
        self.qkv: Final = nn.Linear(width, 3 * heads * head_dim, bias=False)
        self.out: Final = nn.Linear(heads * head_dim, width, bias=False)
        self.feed_norm: Final = nn.LayerNorm(width, bias=False)
        self.feed: Final = FeedForward(width, expansion)

    def forward(self, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(b, l, w), (b, 1, 1, l) → (b, l, w) and this layer's keys and values (b, n, l, k).

        Attention is two plain matrix products: on CPU they beat the fused kernel in training.
        """
        q, k, v = (
            split_heads(part, self.heads)
            for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        )
        k, v = for_products(k, v)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias.to(q.dtype)  # (b, n, l, l)
        x = x + self.out(merge_heads(scores.softmax(-1) @ v))
        return x + self.feed(self.feed_norm(x)), k, v


class KeysAndValues(nn.Module):
    """The last cached layer: nothing reads its output, so it has keys and values only."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm: Final = nn.LayerNorm(width, bias=False)
        self.kv: Final = nn.Linear(width, 2 * heads * head_dim, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(b, l, w) → keys and values, (b, n, l, k) each."""
        k, v = self.kv(self.norm(x)).chunk(2, dim=-1)
        return for_products(split_heads(k, self.heads), split_heads(v, self.heads))


class Backbone(nn.Module):
    """[vision | instruction | state] tokens → `PrefixCache`, bidirectional over the prefix."""

    def __init__(self, layers: int, width: int, heads: int, head_dim: int, expansion: int) -> None:
        super().__init__()
        self.blocks: Final = nn.ModuleList(
            Block(width, heads, head_dim, expansion) for _ in range(layers - 1)
        )
        self.last: Final = KeysAndValues(width, heads, head_dim)

    def forward(self, tokens: Tensor, present: Tensor, vision: int = 0) -> PrefixCache:
        """(b, l, w), (b, l) bool, of them so many first ones of vision → a cache of `layers`."""
        bias = attention_bias(present, tokens.dtype)
        keys, values = [], []
        x = tokens
        for block in self.blocks:
            x, k, v = block(x, bias)
            keys.append(k)
            values.append(v)
        k, v = self.last(x)
        return PrefixCache((*keys, k), (*values, v), bias, vision=vision)
