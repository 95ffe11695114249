"""What a memory keeps of streams: sinks, a window of compact tokens, vision of the last (`memory`).

Moment      what an observation is remembered by, beside its prefix
Compact     the tokens that were made of it
Past        what is found when the next one is made: `Kept` in a stream, `Unrolled` in training
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

import torch
from torch import Tensor

from streamvla.core.errors import ConfigError
from streamvla.model.backbone import PrefixCache

Stored = Literal["float32", "float16"]
SINKS = 2
"""Tokens: the instruction, the first state."""
THETA = 10_000.0
"""Wavelengths of the rotation are from 2π to about 2π·THETA ranks, as is usual."""


@dataclass(frozen=True)
class MemoryConfig:
    """Sizes of a memory.

    Attributes:
        summaries: tokens an observation that say what was seen, beside one of the state and one of
            the command.
        window: N, how many observations back their compact tokens are kept; 0 keeps none.
        vision_window: how many observations back all their vision tokens are kept.
        width, expansion: of the compact tokens, and of their feed-forward layers.
        stored: type of what is kept.
        recurrent: whether the compact tokens of an observation start from those of the one before,
            as the memory tokens of µVLA (2606.12497) do; with a window of 0 that is all the past
            there is. Training then goes through a clip step by step.
        sinks: whether there are any (ablation).
        contiguous: whether sinks have the rank before what is kept; False: the rank they had at the
            start of the stream, ever farther away (ablation).
    """

    summaries: int = 4
    window: int = 64
    vision_window: int = 0
    width: int = 128
    expansion: int = 2
    stored: Stored = "float32"
    recurrent: bool = False
    sinks: bool = True
    contiguous: bool = True

    def __post_init__(self) -> None:
        leasts = {"summaries": 1, "window": 0, "vision_window": 0, "width": 1, "expansion": 1}
        for name, least in leasts.items():
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"memory {name} is {value}; expected at least {least}")
        if self.vision_window > self.window:
            raise ConfigError(
                f"memory vision_window is {self.vision_window}, window {self.window}; vision is "
                "evicted first, so expected at most the window"
            )
        if self.stored not in get_args(Stored):
            raise ConfigError(f"memory stored is {self.stored!r}; use one of {get_args(Stored)}")

    @property
    def tokens(self) -> int:
        """c, compact tokens an observation."""
        return 2 + self.summaries

    @property
    def dtype(self) -> torch.dtype:
        return torch.float16 if self.stored == "float16" else torch.float32


@dataclass(frozen=True)
class MemorySize:
    """Of the model around a memory.

    Attributes:
        layers, heads, head_dim: of its prefix cache.
        told_width: w of the instruction.
    """

    layers: int
    heads: int
    head_dim: int
    told_width: int
    state_dim: int
    action_dim: int


@dataclass(frozen=True, slots=True)
class Moment:
    """What b observations are remembered by, beside their prefix.

    Attributes:
        told: (b, w) the instruction, mean of its words.
        state: (b, s) measured proprioception, normalised.
        command: (b, d) as the prefix has it.
        elapsed: (b,) s since the observation before; 0 for a first one.
    """

    told: Tensor
    state: Tensor
    command: Tensor
    elapsed: Tensor

    def at(self, chosen: Tensor | slice) -> Moment:
        """Some of the observations."""
        return Moment(*(getattr(self, name)[chosen] for name in self.__slots__))


Layers = tuple[Tensor, ...]
"""One tensor a layer."""


@dataclass(frozen=True, slots=True)
class Compact:
    """Compact tokens of b observations.

    Attributes:
        keys, values: as the layers see them, (b, n, c, k) each, un-rotated.
        carried: (b, c, w) as they leave the last layer but one: where those of the next observation
            start from, if the memory is recurrent.
    """

    keys: Layers
    values: Layers
    carried: Tensor


class Past(ABC):
    """What `Memory.read` finds of b streams.

    Attributes:
        entered: observations so far.
        carried: of the latest of them (`Compact.carried`), zeros before the first; of a memory that
            is not recurrent it need not have any tokens.
    """

    config: MemoryConfig
    entered: int
    carried: Tensor

    @property
    def number(self) -> int | Tensor:
        """Of the next observation in each stream: one for all, or (b, 1, 1)."""
        return self.entered

    @property
    def observations(self) -> int:
        """How many are in the window."""
        return min(self.entered, self.config.window)

    @abstractmethod
    def sinks(self, layer: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values (b, n, s, k), un-rotated."""

    @abstractmethod
    def compact(self, layer: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values (b, n, o·c, k) of the o observations in the window, in no order; keys
        are rotated by the number of their observation."""

    @property
    @abstractmethod
    def agos(self) -> list[int | Tensor]:
        """Of the observations whose vision tokens are kept, the latest first: how many observations
        ago, one number for all streams or (b, 1, 1)."""

    @abstractmethod
    def vision(self, layer: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        """Of each of `agos` keys and values (b, n, l, k)."""

    @property
    def left(self) -> Tensor | None:
        """(b, 1, 1, o·c) which of `compact` have left the window; None: none of them."""
        return None


class Kept(Past):
    """What a memory keeps of b streams: all of it is allocated at once and never grows.

    Slots are written in turn; `entered` tells which is next.

    Attributes:
        first_state: (b, s) of the first one.
    """

    def __init__(self, config: MemoryConfig, size: MemorySize, vision: int, like: Tensor) -> None:
        """Empty, for streams whose prefixes have so many vision tokens; `like` says b and where."""
        self.config = config
        self._state_dim = size.state_dim
        self.entered = 0
        carried = config.tokens if config.recurrent else 0
        self.carried = like.new_zeros(len(like), carried, config.width)
        self.first_state: Tensor | None = None
        self._tokens: Final = {"sinks": SINKS, "compact": config.tokens, "vision": vision}
        slots = {
            "sinks": int(config.sinks),
            "compact": config.window,
            "vision": config.vision_window,
        }
        self._arrays: Final[dict[str, Tensor]] = {}
        for name, count in slots.items():
            tokens = count * self._tokens[name]
            shape = (2, size.layers, len(like), size.heads, tokens, size.head_dim)
            self._arrays[name] = torch.zeros(shape, dtype=config.dtype, device=like.device)

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is kept."""
        state = 0 if self.first_state is None else self.first_state.nbytes
        return state + self.carried.nbytes + sum(array.nbytes for array in self._arrays.values())

    def bytes_after(self, entered: int) -> int:
        """Of `nbytes` those that would be in use after so many observations."""
        used = self.nbytes
        for name, count in (("compact", self.config.window), ("vision", self.config.vision_window)):
            array = self._arrays[name]
            used -= array.nbytes - array.nbytes // max(count, 1) * min(entered, count)
        return used

    def sinks(self, layer: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        keys, values = self._arrays["sinks"][:, layer].to(dtype)
        return keys, values

    def set_sinks(self, sinks: Compact) -> None:
        """In place of those before: another instruction."""
        self._write("sinks", 0, sinks.keys, sinks.values)

    def compact(self, layer: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        tokens = self.observations * self._tokens["compact"]
        keys, values = self._arrays["compact"][:, layer, :, :, :tokens].to(dtype)
        return keys, values

    @property
    def agos(self) -> list[int | Tensor]:
        return list(range(1, min(self.entered, self.config.vision_window) + 1))

    def vision(self, layer: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        window, found = self.config.vision_window, []
        for back in range(1, min(self.entered, window) + 1):
            slot = self._slot("vision", (self.entered - back) % window)
            keys, values = self._arrays["vision"][:, layer, :, :, slot].to(dtype)
            found.append((keys, values))
        return found

    def enter(self, compact: Compact, prefix: PrefixCache, moment: Moment) -> None:
        """Remember one observation of each stream."""
        if self.first_state is None:
            self.first_state = moment.state.detach().clone()
        if self.config.recurrent:
            self.carried = compact.carried.detach()
        if self.config.window:
            keys = _numbered(compact.keys, self.entered)
            self._write("compact", self.entered % self.config.window, keys, compact.values)
        if self.config.vision_window:
            some = slice(prefix.vision)
            keys = tuple(each[:, :, some] for each in prefix.keys)
            values = tuple(each[:, :, some] for each in prefix.values)
            self._write("vision", self.entered % self.config.vision_window, keys, values)
        self.entered += 1

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of everything, for `restore`."""
        state = self._arrays["sinks"].new_zeros(0) if self.first_state is None else self.first_state
        copies = {name: array.clone() for name, array in self._arrays.items()}
        rest = {"first_state": state, "carried": self.carried}
        rest = {name: tensor.clone() for name, tensor in rest.items()}
        numbers = {"entered": self.entered, **self._sizes()}
        return {**copies, **rest, **{name: torch.tensor(each) for name, each in numbers.items()}}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """All as it was at `snapshot`, on this memory's device.

        Raises:
            ConfigError: that is not whole, or of a memory of other sizes; this one stays as it is.
        """
        found = {name: tuple(tensor.shape) for name, tensor in snapshot.items()}
        expected: dict[str, tuple[int, ...]] = {
            **{name: tuple(array.shape) for name, array in self._arrays.items()},
            "carried": tuple(self.carried.shape),
            **dict.fromkeys(("entered", *self._sizes()), ()),
        }
        for name, shape in expected.items():
            if found.get(name) != shape:
                raise _other_snapshot(name, found.get(name, "missing"), shape)
        for name, number in self._sizes().items():
            if int(snapshot[name]) != number:
                raise _other_snapshot(name, int(snapshot[name]), number)
        for name, array in self._arrays.items():
            if snapshot[name].dtype != array.dtype:
                raise _other_snapshot(name, snapshot[name].dtype, array.dtype)
        streams = len(self.carried)
        if found.get("first_state") not in ((0,), (streams, self._state_dim)):
            expected_state = (streams, self._state_dim)
            raise _other_snapshot(
                "first_state", found.get("first_state", "missing"), expected_state
            )
        for name, array in self._arrays.items():
            array.copy_(snapshot[name])
        state = snapshot["first_state"].to(self.carried.device, copy=True)
        self.first_state = state if len(state) else None
        self.carried = snapshot["carried"].to(self.carried.device, copy=True)
        self.entered = int(snapshot["entered"])

    def _sizes(self) -> dict[str, int]:
        """What tells it from other memories, beside the shapes."""
        config = self.config
        return {
            "window": config.window,
            "vision_window": config.vision_window,
            "tokens": config.tokens,
            "recurrent": int(config.recurrent),
        }

    def _write(self, name: str, slot: int, keys: Layers, values: Layers) -> None:
        """Larger than what the type can hold is as large as that."""
        most = torch.finfo(self.config.dtype).max
        for at, layers in enumerate((keys, values)):
            for layer, each in enumerate(layers):
                found = each.detach()
                if found.dtype != self.config.dtype:
                    found = found.clamp(-most, most)
                self._arrays[name][at, layer, :, :, self._slot(name, slot)] = found

    def _slot(self, name: str, number: int) -> slice:
        """Where the tokens of one observation are."""
        tokens = self._tokens[name]
        return slice(number * tokens, (number + 1) * tokens)


def _other_snapshot(name: str, found: object, expected: object) -> ConfigError:
    return ConfigError(
        f"memory snapshot: {name} is {found}, this memory's is {expected}. Restore it with the "
        "policy that it was made by"
    )


class Unrolled(Past):
    """What a memory keeps, as training goes through a clip step by step: with gradients.

    Args:
        numbers: (b, T) of the observations to come.
    """

    def __init__(self, config: MemoryConfig, sinks: Compact | None, numbers: Tensor) -> None:
        self.config = config
        self.entered = 0
        self.carried = torch.zeros(len(numbers), config.tokens, config.width, device=numbers.device)
        self._sinks = sinks
        self._numbers = numbers
        self._compacts: list[tuple[Layers, Layers]] = []
        self._visions: list[tuple[Layers, Layers]] = []

    @property
    def number(self) -> Tensor:
        return self._numbers[:, self.entered, None, None]

    @property
    def left(self) -> Tensor:
        some = slice(self.entered - self.observations, self.entered)
        ago = self._numbers[:, self.entered, None] - self._numbers[:, some]
        left = (ago > self.config.window).repeat_interleave(self.config.tokens, 1)
        return left[:, None, None]

    def sinks(self, layer: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        assert self._sinks is not None  # asked for where the configuration has sinks
        return self._sinks.keys[layer], self._sinks.values[layer]

    def compact(self, layer: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        some = self._compacts[-self.observations :]
        keys, values = (torch.cat([each[at][layer] for each in some], 2) for at in (0, 1))
        return keys, values

    @property
    def agos(self) -> list[int | Tensor]:
        count = min(self.entered, self.config.vision_window)
        numbers = [self._numbers[:, self.entered - 1 - back, None, None] for back in range(count)]
        return [self.number - number for number in numbers]

    def vision(self, layer: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        latest_first = self._visions[::-1][: min(self.entered, self.config.vision_window)]
        return [(keys[layer], values[layer]) for keys, values in latest_first]

    def enter(self, compact: Compact, prefix: PrefixCache) -> None:
        """One more observation of each stream."""
        some = slice(prefix.vision)
        self._compacts.append((_numbered(compact.keys, self.number), compact.values))
        of_vision = (tuple(x[:, :, some] for x in of) for of in (prefix.keys, prefix.values))
        keys, values = of_vision
        self._visions.append((keys, values))
        self.carried = compact.carried
        self.entered += 1


Rotation = tuple[Tensor, Tensor]
"""Cosines and sines (…, k/2) of a position's angles."""


def rotation(positions: Tensor, head_dim: int) -> Rotation:
    """Of positions (…); in double precision, for streams of any length."""
    half = head_dim // 2
    powers = torch.arange(half, device=positions.device, dtype=torch.float64) / half
    angles = positions.double().unsqueeze(-1) * THETA**-powers
    return angles.cos().float(), angles.sin().float()


def turned(x: Tensor, by: Rotation) -> Tensor:
    """(…, k) rotated; pairs are dimensions i and i + k/2."""
    cos, sin = by
    low, high = x.chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1).to(x.dtype)


def _numbered(keys: Layers, number: int | Tensor) -> Layers:
    """Rotated by the number of their observation."""
    by = rotation(torch.as_tensor(number, device=keys[0].device), keys[0].shape[-1])
    return tuple(turned(each, by) for each in keys)
