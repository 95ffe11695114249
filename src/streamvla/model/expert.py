"""The action expert: one suffix token that reads the prefix cache and says where to go next."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from streamvla.model.backbone import PrefixCache
from streamvla.model.flow import fourier_features
from streamvla.model.layers import AdaptiveRMSNorm, FeedForward, split_heads

STATE_WAVELENGTH = 32.0  # in action scales: beyond any sum of one horizon plus a lead
STATE_OCTAVES = 6
TAU_OCTAVES = 6


class ExpertBlock(nn.Module):
    """The suffix attends to the prefix of the same layer and to itself, then a feed-forward.

    `m` suffixes of one observation are independent: each is alone with the prefix, so training on
    m of them costs one image encoding.
    """

    def __init__(
        self, width: int, condition_width: int, heads: int, head_dim: int, expansion: int
    ) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = AdaptiveRMSNorm(width, condition_width)
        self.qkv = nn.Linear(width, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, width, bias=False)
        self.feed_norm = AdaptiveRMSNorm(width, condition_width)
        self.feed = FeedForward(width, expansion)

    def forward(
        self, x: Tensor, condition: Tensor, keys: Tensor, values: Tensor, bias: Tensor
    ) -> Tensor:
        """(b, m, w), (b, m, c), two of (b, n, l, k), (b, 1, 1, l) → (b, m, w)."""
        normed, gate = self.attention_norm(x, condition)
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(normed).chunk(3, dim=-1))
        q = q * q.shape[-1] ** -0.5  # (b, n, m, k)
        to_prefix = q @ keys.transpose(-1, -2) + bias.to(q.dtype)  # (b, n, m, l)
        to_self = (q * k).sum(-1, keepdim=True)  # (b, n, m, 1)
        weights = torch.cat([to_prefix, to_self], dim=-1).softmax(-1)  # (b, n, m, l+1)
        mixed = weights[..., :-1] @ values + weights[..., -1:] * v  # (b, n, m, k)
        x = x + gate * self.out(mixed.transpose(1, 2).flatten(-2))
        normed, gate = self.feed_norm(x, condition)
        return x + gate * self.feed(normed)


class ActionExpert(nn.Module):
    """(action state x, flow time tau, prefix) → v/H, the next step of the flow at unit scale.

    The action state enters raw (for slope) and as Fourier features (for resolution: x ranges over
    the sum of a whole horizon while steps differ by hundredths). Time enters through adaptive
    RMSNorm only.
    """

    def __init__(
        self,
        action_dim: int,
        layers: int,
        width: int,
        condition_width: int,
        heads: int,
        head_dim: int,
        expansion: int,
        future_dim: int,
    ) -> None:
        super().__init__()
        self.from_state = nn.Linear(action_dim * (1 + 2 * STATE_OCTAVES), width)
        self.from_tau = nn.Sequential(
            nn.Linear(2 * TAU_OCTAVES, condition_width),
            nn.SiLU(),
            nn.Linear(condition_width, condition_width),
            nn.SiLU(),
        )
        self.blocks = nn.ModuleList(
            ExpertBlock(width, condition_width, heads, head_dim, expansion) for _ in range(layers)
        )
        self.final_norm = AdaptiveRMSNorm(width, condition_width)
        self.to_step = nn.Linear(width, action_dim)
        self.to_future = nn.Linear(width, future_dim)

    def forward(self, x: Tensor, tau: Tensor, prefix: PrefixCache) -> Tensor:
        """(b, m, d), (b, m), cache of b observations → (b, m, d)."""
        return self.to_step(self.read(x, tau, prefix))

    def read(self, x: Tensor, tau: Tensor, prefix: PrefixCache) -> Tensor:
        """What the suffix has gathered, before either head: → (b, m, w)."""
        waves = fourier_features(x, STATE_WAVELENGTH, STATE_OCTAVES).flatten(-2)
        suffix = self.from_state(torch.cat([x * (8 / STATE_WAVELENGTH), waves], dim=-1))
        condition = self.from_tau(fourier_features(tau, 2.0, TAU_OCTAVES))  # (b, m, c)
        for block, keys, values in zip(self.blocks, prefix.keys, prefix.values, strict=True):
            suffix = block(suffix, condition, keys, values, prefix.bias)
        normed, _ = self.final_norm(suffix, condition)
        return normed
