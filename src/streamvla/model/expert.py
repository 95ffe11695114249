"""What the experts of all methods share: tokens that read the prefix cache, layer by layer.

    suffix      m independent groups of t tokens; one group makes one prediction
    attention   every token to the prefix and to the tokens of its own group
    flow time   through adaptive RMSNorm only
    read-outs   for training: where the arm will be, where things are (docs/decisions/0008)

`m` groups of one observation share its encoding, so training on m of them costs one image pass.
Methods differ in what their tokens are (`methods/`: each has its own expert).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from streamvla.core.errors import ConfigError
from streamvla.model.backbone import LayerCache, PrefixCache
from streamvla.model.focus import Asked, Focus, FocusConfig, best_only
from streamvla.model.layers import AdaptiveRMSNorm, FeedForward, fourier_features

STATE_WAVELENGTH = 32.0  # in action scales: beyond any sum of one horizon plus a lead
STATE_OCTAVES = 6
TAU_OCTAVES = 6

Modulation = tuple[Tensor, ...]
"""Scale, shift and gate of several adaptive norms, (b, m, 1, 3w) each."""


@dataclass(frozen=True)
class ExpertSize:
    """Sizes of an expert; layers, heads and head_dim are those of the prefix cache it reads.

    Attributes:
        future_dim, places_dim: of what the read-outs say; 0 for no places.
        max_age: largest age of an observation that is embedded; 0 where none is.
        focus: how it attends to vision.
    """

    action_dim: int
    layers: int
    width: int
    condition_width: int
    heads: int
    head_dim: int
    expansion: int
    future_dim: int = 0
    places_dim: int = 0
    max_age: int = 0
    focus: FocusConfig = field(default_factory=FocusConfig)


@dataclass(frozen=True)
class Readouts:
    """What a group of tokens knows beside its actions; only training asks.

    Attributes:
        future: (b, m, f·s) normalised measured states to come, less the state now.
        places: (b, m, p) normalised positions of the things that matter; p = 0 for none.
    """

    future: Tensor
    places: Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, cache: LayerCache, keep: int | None = None) -> Tensor:
    """Each token to the prefix and to its own group, in one softmax: (b, n, m, t, k) → same.

    Of the vision tokens only the best `keep` of each group take part; None: all.

    All suffix tokens stand at one position, the first after the prefix. Rotating them therefore
    changes nothing among themselves, only what they see of a prefix with rotated keys.
    """
    q = q * q.shape[-1] ** -0.5
    t = q.shape[3]
    flat = q.flatten(2, 3)  # (b, n, m·t, k)
    towards = flat if cache.rotary is None else cache.rotary.turn(flat)
    to_prefix = towards @ cache.keys.transpose(-1, -2) + cache.bias.to(q.dtype)
    if keep is not None:
        vision, told = to_prefix.tensor_split([cache.vision], dim=-1)
        to_prefix = torch.cat([best_only(vision, q.shape[2:4], keep), told], dim=-1)
    to_group = q @ k.transpose(-1, -2) if t > 1 else (q * k).sum(-1, keepdim=True)
    scores = torch.cat([to_prefix, to_group.flatten(2, 3)], dim=-1)  # (b, n, m·t, l+t)
    of_prefix, of_group = scores.softmax(-1).split([cache.keys.shape[-2], t], dim=-1)
    of_group = of_group.unflatten(2, q.shape[2:4])  # (b, n, m, t, t)
    own = of_group @ v if t > 1 else of_group * v
    return (of_prefix @ cache.values).view(v.shape) + own


class ExpertBlock(nn.Module):
    """The suffix attends to the prefix of the same layer and to itself, then a feed-forward."""

    def __init__(self, size: ExpertSize) -> None:
        super().__init__()
        self.heads: int = size.heads
        inner = size.heads * size.head_dim
        self.attention_norm: Final = AdaptiveRMSNorm(size.width, size.condition_width)
        self.qkv: Final = nn.Linear(size.width, 3 * inner, bias=False)
        self.out: Final = nn.Linear(inner, size.width, bias=False)
        self.feed_norm: Final = AdaptiveRMSNorm(size.width, size.condition_width)
        self.feed: Final = FeedForward(size.width, size.expansion)
        self.focus: Final = Focus(size)

    def forward(
        self, x: Tensor, modulation: Modulation, cache: LayerCache, keep: int | None = None
    ) -> Tensor:
        """(b, m, t, w), of both norms (b, m, 1, 3w), this layer's cache → (b, m, t, w).

        Args:
            keep: how many vision tokens each group attends to; None: to all.
        """
        asked, gate = self._ask(x, modulation)
        return self._go_on(x, modulation, cache, keep, asked, gate)

    def choose(
        self, x: Tensor, modulation: Modulation, cache: LayerCache, keep: int
    ) -> tuple[Tensor, LayerCache]:
        """`forward` of one group an observation, and the cache with what it has chosen."""
        asked, gate = self._ask(x, modulation)
        cache = cache.only(self.focus.choose(asked, cache, keep))
        return self._go_on(x, modulation, cache, None, asked, gate), cache

    def mass(
        self, x: Tensor, modulation: Modulation, cache: LayerCache, keep: int | None = None
    ) -> Tensor:
        """Of `forward`, how much each vision token is attended to (`Focus.mass`)."""
        return self.focus.mass(self._ask(x, modulation)[0], cache, keep)

    def _ask(self, x: Tensor, modulation: Modulation) -> tuple[Asked, Tensor]:
        """What it asks the layer, and the gate of the answer."""
        normed, gate = self.attention_norm.modulate(x, modulation[0])
        q, k, v = (self._split(part) for part in self.qkv(normed).chunk(3, dim=-1))
        return Asked(normed, q, k, v), gate

    def _go_on(
        self,
        x: Tensor,
        modulation: Modulation,
        cache: LayerCache,
        keep: int | None,
        asked: Asked,
        gate: Tensor,
    ) -> Tensor:
        if self.focus.has_weights:
            attended = self.focus(asked, cache, keep, self.out)
        else:
            mixed = attend(asked.q, asked.k, asked.v, cache, keep)
            attended = self.out(mixed.permute(0, 2, 3, 1, 4).flatten(-2))  # (b, m, t, w)
        x = x + gate * attended
        normed, gate = self.feed_norm.modulate(x, modulation[1])
        return x + gate * self.feed(normed)

    def _split(self, x: Tensor) -> Tensor:
        """(b, m, t, n·k) → (b, n, m, t, k), contiguous: it enters several products."""
        return x.unflatten(-1, (self.heads, -1)).permute(0, 3, 1, 2, 4).contiguous()


class Expert(nn.Module):
    """The trunk and its heads. A subclass makes the suffix tokens, one method's own.

    Attributes:
        focus: how it attends to vision; what is `TUNABLE` in it may be replaced at any time.
    """

    def __init__(self, size: ExpertSize) -> None:
        super().__init__()
        self.focus: FocusConfig = size.focus
        self.from_state: Final = nn.Linear(size.action_dim * (1 + 2 * STATE_OCTAVES), size.width)
        self.from_tau: Final = nn.Sequential(
            nn.Linear(2 * TAU_OCTAVES, size.condition_width),
            nn.SiLU(),
            nn.Linear(size.condition_width, size.condition_width),
            nn.SiLU(),
        )
        self.from_age: nn.Embedding | None = None
        if size.max_age:
            self.from_age = nn.Embedding(size.max_age + 1, size.condition_width)
            nn.init.zeros_(self.from_age.weight)
        self.blocks: Final = nn.ModuleList(ExpertBlock(size) for _ in range(size.layers))
        self.final_norm: Final = AdaptiveRMSNorm(size.width, size.condition_width)
        self.to_step: Final = nn.Linear(size.width, size.action_dim)
        self.to_future: Final = nn.Linear(size.width, size.future_dim) if size.future_dim else None
        self.to_places: Final = nn.Linear(size.width, size.places_dim) if size.places_dim else None

    @abstractmethod
    def gather(self, *inputs: Any) -> Tensor:
        """The method's own inputs and a cache of b observations → (b, m, t, w) for the heads."""

    def forward(self, *inputs: Any) -> Tensor:
        """The method's own inputs and a cache of b observations → what the method is after."""
        return self.answer(self.gather(*inputs))

    def answer(self, gathered: Tensor) -> Tensor:
        """(b, m, t, w) → (b, m, t, d)."""
        return self.to_step(gathered)

    def read_out(self, gathered: Tensor) -> Readouts:
        """(b, m, t, w) → what each group knows, from the mean of its tokens."""
        mean = gathered.mean(2)  # (b, m, w)
        nothing = mean[..., :0]
        return Readouts(
            self.to_future(mean) if self.to_future is not None else nothing,
            self.to_places(mean) if self.to_places is not None else nothing,
        )

    def embed_state(self, x: Tensor) -> Tensor:
        """Action states (..., d) → (..., w).

        They enter raw (for slope) and as Fourier features (for resolution: x ranges over the sum
        of a whole horizon while steps differ by hundredths).
        """
        waves = fourier_features(x, STATE_WAVELENGTH, STATE_OCTAVES).flatten(-2)
        return self.from_state(torch.cat([x * (8 / STATE_WAVELENGTH), waves], dim=-1))

    def modulations(self, tau: Tensor, age: Tensor | None = None) -> Modulation:
        """Flow times (b, m) → what they do to each norm, in order, (b, m, 1, 3w) each.

        They depend on nothing else, so a policy that asks for few flow times keeps them.

        Args:
            age: (b, m) int64, of the observation; read by experts that embed it.
        """
        condition = self.from_tau(fourier_features(tau, 2.0, TAU_OCTAVES)).unsqueeze(2)
        if self.from_age is not None and age is not None:
            condition = condition + self.from_age(age).unsqueeze(2)
        return tuple(modulation(condition) for modulation in self._modulators())

    def read(self, suffix: Tensor, modulations: Modulation, prefix: PrefixCache) -> Tensor:
        """(b, m, t, w) suffix tokens, `modulations(tau)`, cache of b → (b, m, t, w)."""
        keep = self._keep(prefix)
        for i, (block, cache) in enumerate(zip(self.blocks, prefix.layers(), strict=True)):
            suffix = block(suffix, modulations[2 * i : 2 * i + 2], cache, keep)
        normed, _ = self.final_norm.modulate(suffix, modulations[-1])
        return normed

    def read_and_choose(
        self, suffix: Tensor, modulations: Modulation, prefix: PrefixCache
    ) -> tuple[Tensor, PrefixCache]:
        """`read` of one group an observation, m = 1, and the cache that is left of the prefix when
        further reads shall attend to the vision tokens of this one, layer by layer."""
        keep = self._keep(prefix)
        if keep is None:
            return self.read(suffix, modulations, prefix), prefix
        chosen: list[LayerCache] = []
        blocks: list[Any] = list(self.blocks)
        for i, (block, cache) in enumerate(zip(blocks, prefix.layers(), strict=True)):
            suffix, left = block.choose(suffix, modulations[2 * i : 2 * i + 2], cache, keep)
            chosen.append(left)
        normed, _ = self.final_norm.modulate(suffix, modulations[-1])
        keys, values = zip(*((each.keys, each.values) for each in chosen), strict=True)
        bias = chosen[0].bias
        return normed, PrefixCache(keys, values, bias, prefix.rotary, keep, chosen=True)

    def _keep(self, prefix: PrefixCache) -> int | None:
        """How many vision tokens to choose; None: none needs to be.

        Raises:
            ConfigError: the focus is on vision, and the prefix does not say what is.
        """
        if prefix.chosen:
            return None
        if not prefix.vision and self.focus != FocusConfig():
            raise ConfigError(
                "an expert with focus reads a prefix without vision tokens; make the PrefixCache "
                "with vision, the number of its leading vision tokens"
            )
        keep = self.focus.kept(prefix.vision)
        return keep if keep < prefix.vision else None

    def _modulators(self) -> Iterator[Any]:
        for module in self.blocks:
            block: Any = module
            yield from (block.attention_norm.modulation, block.feed_norm.modulation)
        yield self.final_norm.modulation
