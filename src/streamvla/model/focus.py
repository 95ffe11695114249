"""Focus attention: what of the vision tokens an expert attends to, and how strongly.

    mixed       one softmax over [vision | words, state, command | own group]        the default
    cascaded    three softmaxes, one a part, and a fusion of what each of them gives
    patch_k     of the vision tokens of all views together only the best K take part
    gate        what vision gives is multiplied by a function of the action token

Source: FocusVLA (arXiv 2603.28740). One mixed softmax lets own tokens and words take attention from
vision; there, three separate ones, the best half of the tokens and an element-wise gate each raise
success. We differ in three points, so that a policy with mixed attention can become one with focus:

- Published, `Â = σ([H_A, H_AQ, H_V])`, one linear map of the concatenation. Ours adds to it what
  mixed attention would give: `Â = out(Σ_i w_i H_i) + fuse([H_A, H_AQ, H_V])`, per head
  `w = softmax_i(β·log Z_i + c_i)`, Z_i the sum of exponentials of part i. With β = 1, c = 0 and
  fuse = 0, where training starts, this is mixed attention. β, c and fuse are learned; with β = 0
  the parts do not compete, and this is the published map (`FocusConfig.competition`).
- Published scores are `σ_q(A)·σ_k(C_V)ᵀ`. Ours adds them to the logits that the heads have anyway,
  the same to all heads, starting from zero: the choice itself has no gradient, the softmax over
  the chosen tokens has. C_V are the keys of the layer.
- A gate is `2·sigmoid(…)`, which starts at 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import torch
from torch import Tensor, nn

from streamvla.core.errors import ConfigError
from streamvla.model.backbone import LayerCache

if TYPE_CHECKING:
    from streamvla.model.expert import Expert, ExpertSize

Attention = Literal["mixed", "cascaded"]
Gate = Literal["none", "scalar", "head", "element"]


@dataclass(frozen=True)
class FocusConfig:
    """See the module's docstring. The default is attention without focus.

    Attributes:
        attention: one softmax over everything, or one a part.
        patch_k: share of the vision tokens that take part, at least one token; 1 for all. Needs no
            training to change.
        gate: one factor a token, one a head, or one an element of what vision gives.
        once: the first action of a generation chooses for the others, which then read a smaller
            cache; else every action chooses. Of methods that make an action a pass; needs no
            training to change.
        competition: β at the start of training: 1 as in one softmax, 0 as published.
    """

    attention: Attention = "mixed"
    patch_k: float = 1.0
    gate: Gate = "none"
    once: bool = False
    competition: float = 1.0

    def __post_init__(self) -> None:
        for name, options in (("attention", Attention), ("gate", Gate)):
            if getattr(self, name) not in get_args(options):
                raise ConfigError(
                    f"focus {name} is {getattr(self, name)!r}; use one of {get_args(options)}"
                )
        if not 0 < self.patch_k <= 1:
            raise ConfigError(
                f"focus patch_k is {self.patch_k}; expected a share of the vision tokens above 0, "
                "at most 1"
            )
        if not isinstance(self.once, bool):
            raise ConfigError(f"focus once is {self.once!r}; expected true or false")
        if not math.isfinite(self.competition):
            raise ConfigError(f"focus competition is {self.competition}; expected a finite number")

    @property
    def has_weights(self) -> bool:
        """Whether it adds parameters to an expert."""
        return self.attention != "mixed" or self.gate != "none"

    @property
    def settings(self) -> dict[str, float]:
        """Those of `TUNABLE` that are not as without focus."""
        return {
            name: getattr(self, name)
            for name in TUNABLE
            if getattr(self, name) != getattr(FocusConfig, name)
        }

    def kept(self, tokens: int) -> int:
        """How many of so many vision tokens take part.

        >>> FocusConfig(patch_k=0.25).kept(78), FocusConfig(patch_k=0.001).kept(78)
        (20, 1)
        """
        return max(1, math.ceil(self.patch_k * tokens - 1e-9))


TUNABLE = ("patch_k", "once")
"""Settings of `FocusConfig` that may be changed without training again."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the tokens of m groups ask a layer of the cache.

    Attributes:
        tokens: (b, m, t, w) normalised, as the projections see them.
        q, k, v: (b, n, m, t, k) each.
    """

    tokens: Tensor
    q: Tensor
    k: Tensor
    v: Tensor

    @property
    def groups(self) -> torch.Size:
        """(m, t)."""
        return self.q.shape[2:4]


@dataclass(frozen=True, slots=True)
class _Logits:
    """To vision (b, n, m·t, l_v), to what is told (b, n, m·t, l_q), to the own group
    (b, n, m·t, t)."""

    vision: Tensor
    told: Tensor
    own: Tensor

    def log_mass(self) -> Tensor:
        """Logarithm of the sum of exponentials of each part: (3, b, n, m·t, 1)."""
        vision, told, own = (part.float() for part in (self.vision, self.told, self.own))
        if own.shape[-1] > 1:
            own = own.logsumexp(-1, keepdim=True)
        vision, told = (part.logsumexp(-1, keepdim=True) for part in (vision, told))
        return torch.stack([vision, told, own])


class Focus(nn.Module):
    """Attention of one expert block with any of the settings; no parameters where there are none
    (`FocusConfig.has_weights`)."""

    def __init__(self, size: ExpertSize) -> None:
        super().__init__()
        config, inner = size.focus, size.heads * size.head_dim
        self.heads: Final = size.heads
        self.has_weights: Final = config.has_weights
        self.cascaded: Final = config.attention == "cascaded"
        self.gate: Final = _gate(config.gate, size)
        if self.cascaded:
            self.fuse: Final = nn.Linear(3 * inner, size.width, bias=False)
            self.competition: Final = nn.Parameter(torch.full((size.heads,), config.competition))
            self.preference: Final = nn.Parameter(torch.zeros(3 * size.heads))
            self.score_query: Final = nn.Linear(size.width, size.head_dim, bias=False)
            self.score_key: Final = nn.Linear(inner, size.head_dim, bias=False)
            nn.init.zeros_(self.fuse.weight)
            nn.init.zeros_(self.score_query.weight)

    def forward(self, asked: Asked, cache: LayerCache, keep: int | None, out: nn.Linear) -> Tensor:
        """What the tokens take from a layer and from their own group: → (b, m, t, w).

        Args:
            keep: how many vision tokens take part, chosen by each group for itself; None: all.
            out: the block's map from heads to its residual stream.
        """
        logits = self._logits(asked, cache, keep)
        vision, told, own = self._softmax(logits)
        seen = (vision @ cache.values[:, :, : cache.vision]).view(asked.v.shape)
        heard = (told @ cache.values[:, :, cache.vision :]).view(asked.v.shape)
        own = own.unflatten(2, asked.groups)  # (b, n, m, t, t)
        done = own @ asked.v if own.shape[-1] > 1 else own * asked.v
        if self.gate is not None:
            seen = seen * self._factors(self.gate(asked.tokens))
        if not self.cascaded:
            return out(_merged(seen + heard + done))
        w = self._weights(logits).unflatten(3, asked.groups)  # (3, b, n, m, t, 1)
        apart = torch.cat([_merged(part) for part in (done, heard, seen)], -1)
        return out(_merged(w[0] * seen + w[1] * heard + w[2] * done)) + self.fuse(apart)

    def choose(self, asked: Asked, cache: LayerCache, keep: int) -> Tensor:
        """The vision tokens that the one group of each observation chooses: (b, K) indices."""
        return _best(self._logits(asked, cache).vision, asked.groups, keep).squeeze(1)

    def mass(self, asked: Asked, cache: LayerCache, keep: int | None) -> Tensor:
        """How much of all attention each vision token has, mean over heads and over the tokens of
        a group: (b, m, l_v), the sum over tokens at most 1."""
        logits = self._logits(asked, cache, keep)
        share = self._weights(logits) if self.cascaded else logits.log_mass().softmax(0)
        mass = share[0] * logits.vision.softmax(-1)  # (b, n, m·t, l_v)
        return mass.unflatten(2, asked.groups).mean((1, 3))

    def _logits(self, asked: Asked, cache: LayerCache, keep: int | None = None) -> _Logits:
        q = asked.q * asked.q.shape[-1] ** -0.5
        alone = asked.groups[1] == 1
        own = (q * asked.k).sum(-1, keepdim=True) if alone else q @ asked.k.transpose(-1, -2)
        own = own.flatten(2, 3)  # (b, n, m·t, t)
        queries = q.flatten(2, 3)  # (b, n, m·t, k)
        if self.cascaded:
            queries = torch.cat([queries, self._score_queries(asked)], 2)  # (b, n, 2·m·t, k)
        queries = queries if cache.rotary is None else cache.rotary.turn(queries)
        prefix = queries @ cache.keys.transpose(-1, -2)  # one product, (b, n, …, l)
        scores = prefix[:, :, own.shape[2] :, : cache.vision]
        prefix = prefix[:, :, : own.shape[2]] + cache.bias.to(q.dtype)
        vision, told = prefix[..., : cache.vision], prefix[..., cache.vision :]
        if self.cascaded:
            vision = vision + scores.sum(1, keepdim=True)
        return _Logits(vision if keep is None else best_only(vision, asked.groups, keep), told, own)

    def _score_queries(self, asked: Asked) -> Tensor:
        """Whose products with all heads' keys sum to `σ_q(A)·σ_k(C_V)ᵀ`: → (b, n, m·t, k).

        σ_k is linear, so it is applied to the few queries instead of the many keys.
        """
        query = self.score_query(asked.tokens) @ self.score_key.weight  # (b, m, t, n·k)
        query = query.flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return query * asked.q.shape[-1] ** -0.5

    def _softmax(self, logits: _Logits) -> tuple[Tensor, ...]:
        """Over each part, or over all of them together."""
        parts = (logits.vision, logits.told, logits.own)
        if self.cascaded:
            return tuple(part.softmax(-1) for part in parts)
        return torch.cat(parts, -1).softmax(-1).split([part.shape[-1] for part in parts], -1)

    def _weights(self, logits: _Logits) -> Tensor:
        """What each part counts, (3, b, n, m·t, 1): 1 in all."""
        preference = self.preference.view(3, 1, self.heads, 1, 1)
        weights = self.competition.view(self.heads, 1, 1) * logits.log_mass() + preference
        return weights.softmax(0).to(logits.vision.dtype)

    def _factors(self, gates: Tensor) -> Tensor:
        """(b, m, t, 1 or n or n·k) → from 0 to 2, broadcast to (b, n, m, t, k)."""
        heads = min(self.heads, gates.shape[-1])
        return 2 * gates.sigmoid().unflatten(-1, (heads, -1)).permute(0, 3, 1, 2, 4)


def _gate(kind: Gate, size: ExpertSize) -> nn.Linear | None:
    if kind == "none":
        return None
    factors = {"scalar": 1, "head": size.heads, "element": size.heads * size.head_dim}
    gate = nn.Linear(size.width, factors[kind])
    nn.init.zeros_(gate.weight)
    nn.init.zeros_(gate.bias)
    return gate


def _merged(x: Tensor) -> Tensor:
    """(b, n, m, t, k) → (b, m, t, n·k)."""
    return x.permute(0, 2, 3, 1, 4).flatten(-2)


def _best(vision: Tensor, groups: Sequence[int], keep: int) -> Tensor:
    """Which tokens have the largest logits, mean over heads and over the t tokens of a group:
    (b, n, m·t, l_v), (m, t) → (b, m, K) indices, in no order."""
    return vision.unflatten(2, groups).mean((1, 3)).topk(keep, sorted=False).indices


def best_only(vision: Tensor, groups: Sequence[int], keep: int) -> Tensor:
    """Logits (b, n, m·t, l_v) of m groups of t, with −inf but for the K best tokens of each."""
    best = _best(vision, groups, keep)
    left_out = best.new_ones((*best.shape[:2], vision.shape[-1]), dtype=torch.bool)
    left_out = left_out.scatter(-1, best, False).repeat_interleave(groups[1], 1)  # (b, m·t, l_v)
    return vision.masked_fill(left_out.unsqueeze(1), float("-inf"))


@contextmanager
def watching(expert: Expert) -> Iterator[list[Tensor]]:
    """Inside, every block that is passed adds its `Focus.mass` (b, m, l_v) to the list."""
    seen: list[Tensor] = []

    def note(block: Any, inputs: tuple[Any, ...]) -> None:
        seen.append(block.mass(*inputs))

    hooks = [block.register_forward_pre_hook(note) for block in expert.blocks]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
