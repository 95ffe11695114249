"""What a model offers: to policies, which use it, and to training, which knows none by its class.

    images, words ─► look ─► tokens of every view ─► contextualise ─► context ─► expert ─► actions
                                                      state, command ─┘

Another backbone, or another way to make a context, implements these two classes: `ModelConfig`,
sizes that a checkpoint's header holds, and `Model`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from streamvla.core.errors import ConfigError
from streamvla.model.backbone import PrefixCache
from streamvla.model.crops import CropConfig, Images
from streamvla.model.expert import Expert, ExpertSize
from streamvla.model.memory import Memory
from streamvla.model.methods.base import Method
from streamvla.model.past import Moment

Trained = Literal["all", "expert", "vision", "memory"]
"""What learns: everything; the expert alone; vision, to tell the places of things; or the memory
and the expert that reads it."""


class ModelConfig(Protocol):
    """A frozen dataclass of sizes; `dataclasses.asdict` of it stands in a checkpoint's header."""

    @property
    def future_steps(self) -> tuple[int, ...]:
        """How many control periods ahead the measured state is foreseen in training."""
        ...

    def expert_size(self) -> ExpertSize:
        """Of the expert that reads the model's context."""
        ...

    def build(self, method: Method) -> Model:
        """The untrained model; one with a pretrained backbone has random weights there."""
        ...

    def completed(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Weights of an older file, with what such files lack."""
        ...


@dataclass(frozen=True, slots=True)
class Seen:
    """What each view of b observations shows by itself.

    Attributes:
        tokens: (b, v, l, w) of its pixels.
        located: (b, v, k) where the asked keypoints are; of a model with crops the crop's too.
    """

    tokens: Tensor
    located: tuple[Tensor, ...]

    def with_views(self, views: Sequence[int], newer: Seen) -> Seen:
        """With some views replaced by newer ones."""
        return Seen(
            _with_views(self.tokens, views, newer.tokens),
            tuple(
                _with_views(old, views, new)
                for old, new in zip(self.located, newer.located, strict=True)
            ),
        )


def _with_views(old: Tensor, views: Sequence[int], new: Tensor) -> Tensor:
    replaced = old.clone()
    replaced[:, list(views)] = new
    return replaced


class Model(nn.Module, ABC):
    """See the module's docstring. Everything but `expert` makes the context.

    Attributes:
        config: its sizes.
        expert: the method's own (`Method.expert`).
        crops: how the views it looks at are cut; None: it looks at whole ones.
        memory: of what was seen before; None: each observation stands alone.
    """

    config: Any
    expert: Expert
    crops: CropConfig | None = None
    memory: Memory | None
    frames: int = 1
    """How many observations' vision tokens `contextualise` is given, the latest first."""
    pruned_to: float = 1.0
    """The share of the vision tokens that the backbone reads."""

    encodes_single_views: ClassVar[bool] = False
    """Whether it has `see` and `look_at`, which together are `look`."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = None  # no default of the class, which would hide a module of this name

    # --- words

    @property
    @abstractmethod
    def vocabulary(self) -> frozenset[str] | None:
        """The words it knows; None if there is no list of them (a pretrained tokeniser)."""

    @abstractmethod
    def tokenise(self, instructions: Sequence[str]) -> Tensor:
        """b instructions → (b, l) int64."""

    def hear_only(self, instructions: Iterable[str]) -> None:
        """Before training: pass over words that none of these instructions says."""

    def know(self, vocabulary: Iterable[str]) -> None:
        """Know just these words."""

    def list_words(self, vocabulary: Iterable[str]) -> None:
        """These are the words that its weights know."""

    # --- context

    @property
    def token_grid(self) -> tuple[int, int] | None:
        """(rows, cols) of the first tokens of every view, each of one cell of the image; None: it
        does not say which cell a token is of."""
        return None

    @abstractmethod
    def look(self, images: Images, words: Tensor) -> Tensor:
        """(b, v, 3, y, x) in [−1, 1], (b, l) of `tokenise` → (b, v, l', w) tokens of every view.

        A model with `crops` looks at `CroppedViews` instead.
        """

    def see(self, images: Images, words: Tensor, views: Sequence[int] | None = None) -> Seen:
        """What each view shows by itself; `views`: which ones `images` are of, None for all."""
        raise NotImplementedError(f"{type(self).__name__} does not encode single views")

    def look_at(self, seen: Seen) -> Tensor:
        """What all views show → (b, v, l', w), as `look`."""
        raise NotImplementedError(f"{type(self).__name__} does not encode single views")

    @abstractmethod
    def contextualise(
        self, seen: Tensor, words: Tensor, state: Tensor, command: Tensor
    ) -> PrefixCache:
        """The context of what was seen.

        Args:
            seen: (b, v, l', w) from `look`.
            words: (b, l) from `tokenise`.
            state: (b, s) measured proprioception, normalised.
            command: (b, d) action state at capture, relative to the flow's origin, at unit scale.
        """

    def moment(self, words: Tensor, state: Tensor, command: Tensor, elapsed: Tensor) -> Moment:
        """What `memory` remembers observations by; arguments as for `contextualise`, and (b,) s
        since the observation before."""
        raise NotImplementedError(f"{type(self).__name__} has no memory")

    def encode(self, images: Images, words: Tensor, state: Tensor, command: Tensor) -> PrefixCache:
        """`look`, then `contextualise`: b observations, once for any number of actions."""
        return self.contextualise(self.look(images, words), words, state, command)

    def encode_and_locate(
        self, images: Images, words: Tensor, state: Tensor, command: Tensor, clip: int = 1
    ) -> tuple[PrefixCache, Tensor]:
        """`encode`, and the places of things (b, p) as vision alone tells them, for training;
        p = 0 where the model tells none.

        Args:
            clip: so many observations of one episode stand behind one another, for a model of
                several `frames`.
        """
        return self.encode(images, words, state, command), self.locate(images, words)

    def locate(self, images: Images, words: Tensor) -> Tensor:
        """The places of things (b, p) as `encode_and_locate` tells them, without a context."""
        return torch.zeros(len(images), 0, device=words.device)

    @abstractmethod
    def seeing_modules(self) -> list[nn.Module]:
        """What `look` is made of."""

    # --- training

    def train_only(self, trained: Trained) -> None:
        """Leave gradients to what learns.

        Raises:
            ConfigError: it has no such part; here, of anything but "all".
        """
        if trained != "all":
            raise ConfigError(
                f"train is {trained!r}, but {type(self).__name__} does not say which of its parts "
                "that is; train 'all', or override `train_only`"
            )

    def seed_keypoints(self, images: Images, share: float, generator: torch.Generator) -> None:
        """Start a share of its keypoints, if it has some, on what stands out in (b, v, 3, y, x)."""

    def load_backbone(self, source: str) -> None:
        """Take pretrained weights: a folder, or a name on the hub.

        Raises:
            ConfigError: it has no pretrained backbone.
        """
        raise ConfigError(f"{type(self).__name__} has no pretrained backbone to load from {source}")

    def forward(self, *inputs: Tensor | PrefixCache) -> Tensor:
        """The method's expert: its own inputs and a context."""
        return self.expert(*inputs)
