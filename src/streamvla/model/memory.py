"""Memory for endless streams: what was seen before, at a cost that never grows.

    observation t ─► prefix (model.backbone) ──────────────────┬──────────────────► expert
                                                               ▼                      ▲
    sinks ─ window of compact tokens ─ vision of the last ─► c compact tokens of t ───┘

The prefix is made as without memory. Beside it runs a stream of compact tokens: c of each
observation, layer by layer with the backbone. They attend to the prefix of their own observation,
to each other, and to what is kept:

    sinks     the instruction and the first state; never evicted       (StreamingLLM, 2309.17453)
    window    compact tokens of the last N observations
    vision    vision tokens of the last few observations, evicted first   (StreamingVLM, 2510.09608)

The expert reads the compact tokens behind the prefix. So the past reaches actions through them
alone: an observation without a past has the prefix it always had, to the last bit; history costs
c tokens an observation; and training needs gradients for the compact tokens only.

Positions are ranks in the cache: all tokens of an observation have one, sinks 0, what is kept 1 to
n ≤ N in order of capture, the present n + 1. So they stay contiguous and bounded however long the
stream. Queries and keys are rotated (RoPE, 2104.09864), which makes scores a function of the
distance alone; in the window that is how many observations ago, whatever was evicted. So window
keys are rotated once, by the observation's number in the stream, and queries by theirs; for sinks,
whose distance is that of ranks, queries are rotated by the rank. The papers store keys un-rotated
and rotate the window at every step: the same scores, for more work. They also give every token a
position of its own; ours has one for each observation, since the prefix has its own order already.

`Memory.clip` makes the compact tokens of a whole history in one pass, for training; `Memory.read`
those of one observation on what is kept. Both are the same function.

A clip of T observations is shorter than the window, and distances that no clip has are not learned:
a goal that a clip of four shows is lost sixteen observations later. So training lets the numbers of
a clip jump (`training.batches`; positional skip-wise training, PoSE, 2309.10400):

    number     0  1 ┊ 41 42      a clip of 4, window 64: all up to 64 are drawn
    what is between has not been seen; it is as if it said nothing
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from streamvla.core.errors import ConfigError
from streamvla.model.backbone import KeysAndValues, LayerCache, PrefixCache
from streamvla.model.layers import FeedForward, merge_heads, split_heads
from streamvla.model.past import (
    SINKS,
    Compact,
    Kept,
    MemoryConfig,
    MemorySize,
    Moment,
    Past,
    Rotation,
    Unrolled,
    rotation,
    turned,
)

LEAST_LAYERS = 3
"""In the first layer compact tokens attend to their own prefix, in the second to what the first one
made of others, and the expert reads what came of it in the third."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Something that is attended to: scores (…, n, c, x) and values (…, n, x, k)."""

    scores: Tensor
    values: Tensor


def _mixed(parts: Sequence[_Part]) -> Tensor:
    """One softmax over all parts: (…, n, c, k)."""
    weights = torch.cat([part.scores for part in parts], -1).softmax(-1)
    each = weights.split([part.scores.shape[-1] for part in parts], -1)
    mixed = each[0] @ parts[0].values
    for weight, part in zip(each[1:], parts[1:], strict=True):
        mixed = mixed + weight @ part.values
    return mixed


_Aged = tuple[Rotation, Tensor | None]
"""By how long ago queries are rotated; of which streams the observation has left the window."""


class _Block(nn.Module):
    """One layer of the stream; pre-norm, residual, as the backbone's."""

    def __init__(self, width: int, heads: int, head_dim: int, expansion: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm: Final = nn.LayerNorm(width, bias=False)
        self.qkv: Final = nn.Linear(width, 3 * heads * head_dim, bias=False)
        self.out: Final = nn.Linear(heads * head_dim, width, bias=False)
        self.feed_norm: Final = nn.LayerNorm(width, bias=False)
        self.feed: Final = FeedForward(width, expansion)

    def ask(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(b, c, w) → queries, scaled, keys and values (b, n, c, k)."""
        parts = self.qkv(self.norm(x)).chunk(3, dim=-1)
        q, k, v = (split_heads(part, self.heads) for part in parts)
        return q * q.shape[-1] ** -0.5, k, v

    def go_on(self, x: Tensor, mixed: Tensor) -> Tensor:
        """(b, c, w), (b, n, c, k) → (b, c, w)."""
        x = x + self.out(merge_heads(mixed))
        return x + self.feed(self.feed_norm(x))


class Memory(nn.Module):
    """The stream of compact tokens beside a backbone (see the module's docstring)."""

    def __init__(self, config: MemoryConfig, size: MemorySize) -> None:
        super().__init__()
        if size.layers < LEAST_LAYERS:
            raise ConfigError(
                f"a memory beside {size.layers} layers: what one observation shows reaches the "
                f"next one's compact tokens in the third; expected at least {LEAST_LAYERS}"
            )
        if size.head_dim % 2:
            raise ConfigError(
                f"a memory beside heads of head_dim {size.head_dim}: keys are rotated in pairs of "
                "dimensions; expected an even number"
            )
        self.config: Final = config
        self.size: Final = size
        width = config.width
        self.from_state: Final = nn.Linear(size.state_dim + 2, width)
        self.from_command: Final = nn.Linear(size.action_dim, width)
        self.from_told: Final = nn.Linear(size.told_width, width)
        self.from_first: nn.Module | None = None
        if config.sinks:
            self.from_first = nn.Linear(size.state_dim, width)
        self.kind: Final = nn.Parameter(torch.randn(config.tokens, width) * 0.02)
        self.blocks: Final = nn.ModuleList(
            _Block(width, size.heads, size.head_dim, config.expansion)
            for _ in range(size.layers - 1)
        )
        self.last: Final = KeysAndValues(width, size.heads, size.head_dim)
        self.from_carried: nn.Module | None = None
        if config.recurrent:
            self.from_carried = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))

    # --- a stream

    def begin(self, prefix: PrefixCache, moment: Moment) -> Kept:
        """An empty memory of b streams whose first observation this is."""
        kept = Kept(self.config, self.size, prefix.vision, moment.state)
        sinks = self._sinks(moment.told, moment.state)
        if sinks is not None:
            kept.set_sinks(sinks)
        return kept

    def instruct(self, kept: Kept, told: Tensor) -> None:
        """Another instruction (b, w): the sink is replaced, the rest stays."""
        sinks = None if kept.first_state is None else self._sinks(told, kept.first_state)
        if sinks is not None:
            kept.set_sinks(sinks)

    def read(self, kept: Past, prefix: PrefixCache, moment: Moment) -> Compact:
        """The compact tokens of b observations on what is kept of their streams, which stays as it
        is (`Kept.enter`)."""
        x, keys, values = self._embedded(moment), [], []
        if self.from_carried is not None and kept.entered:
            x = x + self.from_carried(kept.carried)
        now = self._rotation(kept.number, x)
        rank = self._rotation(self._sink_rank(kept.number), x)
        older = [self._aged(ago, x) for ago in kept.agos]
        for number, (block, cache) in enumerate(self._layers(prefix)):
            q, k, v = block.ask(x)
            parts = [_of_prefix(q, cache), _Part(q @ k.mT, v)]
            if self.config.sinks:
                of_sinks, sink_values = kept.sinks(number, q.dtype)
                parts.append(_Part(turned(q, rank) @ of_sinks.mT, sink_values))
            if kept.observations:
                window, window_values = kept.compact(number, q.dtype)
                scores = turned(q, now) @ window.mT
                if kept.left is not None:
                    scores = scores.masked_fill(kept.left, float("-inf"))
                parts.append(_Part(scores, window_values))
            of_vision = zip(older, kept.vision(number, q.dtype), strict=True)
            parts += [_of_vision(_towards(q, cache), aged, *old) for aged, old in of_vision]
            x = block.go_on(x, _mixed(parts))
            keys.append(k)
            values.append(v)
        return self._with_last(x, keys, values)

    # --- a whole history

    def clip(
        self,
        prefix: PrefixCache,
        moments: Moment,
        length: int,
        numbers: Tensor | None = None,
        first_states: Tensor | None = None,
    ) -> Compact:
        """The compact tokens of b whole histories of `length` T observations, in one pass.

        Args:
            prefix: of b·T observations, those of one history behind one another.
            moments: of the same.
            numbers: (b·T,) int64, of each observation in its stream, rising: what a history leaves
                out makes distances longer and is not seen. None: 0 to T − 1, nothing left out.
            first_states: (b·T, s) of the stream's first observation, for the sink. None: those of
                the history's.

        Returns:
            Of b·T observations. What each is made from is what `read` finds kept when it comes.
        """
        first_states = moments.state if first_states is None else first_states
        sinks = self._sinks(moments.told[::length], first_states[::length])
        if numbers is None:
            first = torch.arange(length, device=moments.state.device)
            numbers = first.repeat(len(moments.state) // length)
        of_clips = numbers.unflatten(0, (-1, length))  # (b, T)
        if self.config.recurrent:
            past = Unrolled(self.config, sinks, of_clips)
            return self._step_by_step(prefix, moments, length, past)
        x, keys, values = self._embedded(moments), [], []
        ranks = torch.as_tensor(self._sink_rank(numbers))
        now, rank = (self._rotation(each[:, None, None], x) for each in (numbers, ranks))
        unseen = self._unseen(of_clips)
        older = [self._aged(ago, x) for ago in self._agos(of_clips)]
        for number, (block, cache) in enumerate(self._layers(prefix)):
            q, k, v = block.ask(x)
            of_window = self._history(turned(q, now), turned(k, now), v, unseen)
            parts = [_of_prefix(q, cache), of_window]
            if sinks is not None:
                far = turned(q, rank)
                of_sinks = sinks.keys[number].repeat_interleave(length, 0)
                sink_values = sinks.values[number].repeat_interleave(length, 0)
                parts.append(_Part(far @ of_sinks.mT, sink_values))
            parts += _older_vision(q, cache, older)
            x = block.go_on(x, _mixed(parts))
            keys.append(k)
            values.append(v)
        return self._with_last(x, keys, values)

    def _step_by_step(
        self, prefix: PrefixCache, moments: Moment, length: int, past: Unrolled
    ) -> Compact:
        """`clip`, where each observation needs the one before."""
        steps: list[Compact] = []
        for t in range(length):
            now = prefix.rows(slice(t, None, length))
            steps.append(self.read(past, now, moments.at(slice(t, None, length))))
            past.enter(steps[-1], now)

        def joined(parts: Sequence[Tensor]) -> Tensor:  # T times (b, …) → (b·T, …)
            return torch.stack(list(parts), 1).flatten(0, 1)

        keys, values = (
            tuple(joined(each) for each in zip(*of, strict=True))
            for of in ([step.keys for step in steps], [step.values for step in steps])
        )
        return Compact(keys, values, joined([step.carried for step in steps]))

    def _unseen(self, numbers: Tensor) -> Tensor:
        """(b, T, T) of the observations with these numbers (b, T), in each row which are not in the
        window when that one comes; its own are."""
        ago = numbers.unsqueeze(-1) - numbers.unsqueeze(-2)
        return (ago < 0) | (ago > self.config.window)

    def _history(self, q: Tensor, k: Tensor, v: Tensor, unseen: Tensor) -> _Part:
        """Of each observation its own compact tokens and those of the window before it."""
        b, length = unseen.shape[:2]
        c = q.shape[2]

        def joined(x: Tensor) -> Tensor:  # (b·T, n, c, k) → (b, n, T·c, k)
            return x.unflatten(0, (b, length)).transpose(1, 2).flatten(2, 3)

        hidden = unseen.repeat_interleave(c, 1).repeat_interleave(c, 2).unsqueeze(1)
        scores = (joined(q) @ joined(k).mT).masked_fill(hidden, float("-inf"))
        scores = scores.unflatten(2, (length, c)).transpose(1, 2).flatten(0, 1)  # (b·T, n, c, T·c)
        return _Part(scores, joined(v).repeat_interleave(length, 0))

    def _agos(self, numbers: Tensor) -> list[Tensor]:
        """(b·T, 1, 1) for every observation back whose vision tokens may be kept: how much later
        the observations with these numbers (b, T) come; not above 0 where none is so far back."""
        back = range(1, min(self.config.vision_window, numbers.shape[1] - 1) + 1)
        return [(numbers - numbers.roll(each, 1)).flatten()[:, None, None] for each in back]

    def _aged(self, ago: int | Tensor, like: Tensor) -> _Aged:
        """Of vision tokens of so many observations ago."""
        gone = None
        if isinstance(ago, Tensor):
            gone = ((ago <= 0) | (ago > self.config.vision_window)).unsqueeze(-1)
        return self._rotation(ago, like), gone

    # --- both

    def flops(self, kept: Kept, prefix: PrefixCache) -> int:
        """Floating-point operations of `read` for one observation, as `torch.utils.flop_counter`
        counts them."""
        size, width, c = self.size, self.config.width, self.config.tokens
        inner = size.heads * size.head_dim
        vision = min(kept.entered, self.config.vision_window) * prefix.vision
        seen = prefix.tokens + c * (1 + kept.observations) + vision
        seen += SINKS if self.config.sinks else 0
        layer = c * width * (4 * inner + 2 * self.config.expansion * width) + 2 * c * inner * seen
        last = c * width * 2 * inner
        inputs = size.state_dim + 2 + size.action_dim + size.told_width
        inputs += c * width if self.config.recurrent and kept.entered else 0
        return 2 * ((size.layers - 1) * layer + last + inputs * width)

    def appended(self, prefix: PrefixCache, compact: Compact) -> PrefixCache:
        """The prefix as the expert reads it: compact tokens stand behind it."""
        turn = (lambda x: x) if prefix.rotary is None else prefix.rotary.turn
        keys = tuple(
            torch.cat([old.mT, turn(new).to(old.dtype).mT], -1).mT  # as they lie in memory
            for old, new in zip(prefix.keys, compact.keys, strict=True)
        )
        values = tuple(
            torch.cat([old, new.to(old.dtype)], 2)
            for old, new in zip(prefix.values, compact.values, strict=True)
        )
        present = prefix.bias.new_zeros((*prefix.bias.shape[:-1], compact.keys[0].shape[2]))
        bias = torch.cat([prefix.bias, present], -1)
        return replace(prefix, keys=keys, values=values, bias=bias)

    def _sink_rank(self, number: int | Tensor) -> int | Tensor:
        """How far the sinks are from the observation with this number."""
        if not self.config.contiguous:
            return 1 + number
        window = self.config.window
        return 1 + (number.clamp(max=window) if isinstance(number, Tensor) else min(number, window))

    def _rotation(self, position: int | Tensor, like: Tensor) -> Rotation:
        return rotation(torch.as_tensor(position, device=like.device), self.size.head_dim)

    def _layers(self, prefix: PrefixCache) -> list[tuple[Any, LayerCache]]:
        """All but the last, each with its block."""
        return list(zip(self.blocks, prefix.layers(), strict=False))

    def _embedded(self, moment: Moment) -> Tensor:
        """(b, c, w)."""
        elapsed = moment.elapsed.float().unsqueeze(-1)
        time = torch.cat([elapsed.clamp(max=10.0) / 10, torch.log1p(elapsed)], -1)
        state = self.from_state(torch.cat([moment.state, time.to(moment.state.dtype)], -1))
        told = self.from_told(moment.told)
        summaries = told.unsqueeze(1).expand(-1, self.config.summaries, -1)
        numbers = torch.stack([state, self.from_command(moment.command)], 1)
        return torch.cat([numbers, summaries], 1) + self.kind

    def _sinks(self, told: Tensor, state: Tensor) -> Compact | None:
        """Of the instruction (b, w) and the first state (b, s); sinks see each other alone. None:
        without sinks."""
        if self.from_first is None:
            return None
        x = torch.stack([self.from_told(told), self.from_first(state)], 1)
        keys, values = [], []
        for module in self.blocks:
            block: Any = module
            q, k, v = block.ask(x)
            x = block.go_on(x, _mixed([_Part(q @ k.mT, v)]))
            keys.append(k)
            values.append(v)
        return self._with_last(x, keys, values)

    def _with_last(self, x: Tensor, keys: list[Tensor], values: list[Tensor]) -> Compact:
        """And those of the last layer, whose output nothing reads."""
        last: tuple[Tensor, Tensor] = self.last(x)
        return Compact((*keys, last[0]), (*values, last[1]), x)


def _towards(q: Tensor, cache: LayerCache) -> Tensor:
    """Queries as the keys of a prefix expect them."""
    return q if cache.rotary is None else cache.rotary.turn(q)


def _of_vision(asked: Tensor, aged: _Aged, keys: Tensor, values: Tensor) -> _Part:
    """Vision tokens of an observation before."""
    by, gone = aged
    scores = turned(asked, by) @ keys.mT
    return _Part(scores if gone is None else scores.masked_fill(gone, float("-inf")), values)


def _older_vision(q: Tensor, cache: LayerCache, older: Sequence[_Aged]) -> list[_Part]:
    """One part for every observation back."""
    asked, some = _towards(q, cache), slice(cache.vision)
    parts = []
    for back, aged in enumerate(older, 1):
        keys, values = (each[:, :, some].roll(back, 0) for each in (cache.keys, cache.values))
        parts.append(_of_vision(asked, aged, keys, values))
    return parts


def _of_prefix(q: Tensor, cache: LayerCache) -> _Part:
    """An observation's own prefix."""
    return _Part(_towards(q, cache) @ cache.keys.mT + cache.bias.to(q.dtype), cache.values)
