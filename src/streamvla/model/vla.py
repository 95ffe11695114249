"""The streaming vision-language-action model.

    views ──► vision ────────┐
    instruction ─► words ────┼─► backbone ─► prefix cache ─┐   once per observation
    state, last command ─────┘                             │
                                                           ▼
    action state x, flow time tau ───────────────► action expert ─► v/H     once per action

With gripper crops (`model.crops`) vision is two encoders, one of the small whole views and one of
the crops; the tokens of both are tokens of the view.

The prefix is encoded once per observation. With action flow matching (`methods/`) the expert then
makes one action per call, from one suffix token, so the first action is ready after a single small
step and acting is integrating. The other methods there put their own expert on the same
cache. The layout follows π0 (arXiv 2410.24164) with StreamingVLA's (arXiv 2603.28565) single-token
expert, at a size that trains on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, cast, get_args

import torch
from torch import Tensor, nn

from streamvla.core.errors import ConfigError, did_you_mean
from streamvla.model.backbone import Backbone, PrefixCache
from streamvla.model.crops import CropAim, CropConfig, CroppedViews, Images
from streamvla.model.expert import Expert, ExpertSize
from streamvla.model.focus import FocusConfig
from streamvla.model.instruction import InstructionEncoder, every_word, mean_word
from streamvla.model.interface import Model, Seen, Trained
from streamvla.model.keypoints import seed_keypoints
from streamvla.model.memory import Memory
from streamvla.model.methods.base import Method
from streamvla.model.methods.registry import default_method
from streamvla.model.past import MemoryConfig, MemorySize, Moment
from streamvla.model.places import PlacesToken, places_head
from streamvla.model.prune import TokenPruner
from streamvla.model.vision import CELLS_PER_TOKEN, PATCH, VisionEncoder
from streamvla.model.word_vectors import WordVectors

Words = Literal["hashed", "wordllama"]

_MAY_BE_NONE = ("places_dim", "asked_keypoints", "places_hidden", "places_token", "proprioception")


@dataclass(frozen=True)
class VLAConfig:
    """Sizes of the model; the first four come from the robot.

    Attributes:
        action_dim, state_dim: d and s.
        views: number of camera views v.
        image_size: (height, width) of each, multiples of 16 px.
        layers: cached prefix layers, equal to expert layers.
        width, expert_width: of the backbone's and the expert's residual stream.
        heads, head_dim: of attention, shared because the expert reads the backbone's keys.
        expansion: feed-forward width over residual width.
        channels: of the first convolution of the vision stem.
        condition_width: of the flow-time condition.
        future_steps: how many control periods ahead the measured state is foreseen in training.
        places_dim: how many coordinates of things training reads out; 0 for none.
        asked_keypoints: how many keypoints a view the instruction steers; 0 for none.
        places_hidden: width of the read-out of places from those keypoints; 0 for a linear one.
        places_token: whether the places read out are a token of every view, so that the context
            says them as coordinates (docs/decisions/0016).
        proprioception: whether measured state enters the context; False hides it (ablation).
        focus: how the expert attends to vision.
        crops: what is cut from every view; None: the model looks at whole views.
        pruned_to: share of the vision tokens that enter the backbone (`prune.py`); 1 for all.
        memory: of what was seen before (`memory.py`); None: each observation stands alone.
        frames: how many observations' vision tokens make a context, the present one's included, and
            those of the first one again where there are not so many yet: the plain way to give a
            model a past, to compare a memory with.
        words: "hashed" (`instruction.py`), or "wordllama" for frozen pretrained embeddings
            (`word_vectors.py`).
    """

    action_dim: int
    state_dim: int
    views: int = 2
    image_size: tuple[int, int] = (96, 96)
    layers: int = 4
    width: int = 256
    expert_width: int = 192
    heads: int = 4
    head_dim: int = 64
    expansion: int = 4
    channels: int = 64
    condition_width: int = 128
    future_steps: tuple[int, ...] = (5, 10, 15, 20, 25)
    places_dim: int = 0
    asked_keypoints: int = 0
    places_hidden: int = 0
    places_token: bool = False
    proprioception: bool = True
    focus: FocusConfig = field(default_factory=FocusConfig)
    crops: CropConfig | None = None
    pruned_to: float = 1.0
    words: Words = "hashed"
    memory: MemoryConfig | None = None
    frames: int = 1

    def __post_init__(self) -> None:
        if self.words not in get_args(Words):
            raise did_you_mean("model words", str(self.words), get_args(Words))
        if not 0 < self.pruned_to <= 1:
            raise ConfigError(
                f"model pruned_to is {self.pruned_to}; expected a share of the vision tokens above "
                "0, at most 1"
            )
        parts = ("focus", "crops", "pruned_to", "words", "memory")
        sizes = {name: value for name, value in vars(self).items() if name not in parts}
        for name, value in sizes.items():
            smallest = min(value) if isinstance(value, tuple) else value
            least = 0 if name in _MAY_BE_NONE else 1
            if smallest < least:
                raise ConfigError(f"model {name} is {value}; expected at least {least}")
        if self.frames > 1 and (self.memory is not None or self.pruned_to < 1):
            raise ConfigError(
                f"model frames is {self.frames} with a memory or pruned tokens; expected one of "
                "these alone"
            )
        cell = PATCH * CELLS_PER_TOKEN
        if any(side % cell for side in self.image_size):
            raise ConfigError(f"model image_size is {self.image_size}; use multiples of {cell} px")
        if self.crops is not None:
            self.crops.require_fit(self.views, self.image_size, self.state_dim)

    @property
    def tells_places(self) -> bool:
        """Whether vision alone tells the places of things."""
        return self.asked_keypoints > 0 and self.places_dim > 0

    def build(self, method: Method) -> StreamingVLA:
        return StreamingVLA(self, method)

    def completed(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Files from before `InstructionEncoder.heard` know every word; `FrameAges` was a bare
        parameter."""
        weights = {("ages.weight" if name == "ages" else name): w for name, w in weights.items()}
        if self.words != "hashed":
            return weights
        return {"instruction.heard": every_word(), **weights}

    def expert_size(self) -> ExpertSize:
        """Of the expert that reads this model's cache."""
        return ExpertSize(
            action_dim=self.action_dim,
            layers=self.layers,
            width=self.expert_width,
            condition_width=self.condition_width,
            heads=self.heads,
            head_dim=self.head_dim,
            expansion=self.expansion,
            future_dim=len(self.future_steps) * self.state_dim,
            places_dim=self.places_dim,
            focus=self.focus,
        )


class StreamingVLA(Model):
    """Observation → prefix cache (`encode`); the method's expert makes actions from it."""

    encodes_single_views = True

    def __init__(self, config: VLAConfig, method: Method | None = None) -> None:
        super().__init__()
        self.config = config
        c = config
        self.crops: CropConfig | None = c.crops
        self.pruned_to: float = c.pruned_to
        size, numbers = c.image_size, 2  # of an asked keypoint of a view
        if c.crops is not None:
            size, numbers = (c.crops.coarse_px, c.crops.coarse_px), 6
        self.vision: Final = VisionEncoder(c.views, size, c.width, c.channels, c.asked_keypoints)
        self.crop_vision: Final = None if c.crops is None else _crop_encoder(c, c.crops)
        self.crop_aim: Final = _crop_aim(c)
        encoder = InstructionEncoder if c.words == "hashed" else WordVectors
        self.instruction: Final[InstructionEncoder | WordVectors] = encoder(c.width)
        self.from_state: Final = nn.Linear(c.state_dim, c.width)
        self.from_command: Final = nn.Linear(c.action_dim, c.width)
        self.to_places: nn.Module | None = None
        self.from_places: PlacesToken | None = None
        if c.tells_places:
            located = numbers * c.views * c.asked_keypoints
            self.to_places = places_head(located, c.places_hidden, c.places_dim)
            if c.places_token:
                self.from_places = PlacesToken(c.places_dim, c.width, c.width)
        self.prune: Final = TokenPruner(c.width, c.pruned_to) if c.pruned_to < 1 else None
        self.backbone: Final = Backbone(c.layers, c.width, c.heads, c.head_dim, c.expansion)
        self.frames: int = c.frames
        self.ages: Final = FrameAges(c.frames, c.width) if c.frames > 1 else None
        if c.memory is not None:
            around = MemorySize(c.layers, c.heads, c.head_dim, c.width, c.state_dim, c.action_dim)
            self.memory = Memory(c.memory, around)
        self.expert: Expert = (method or default_method()).expert(c.expert_size())

    @property
    def vocabulary(self) -> frozenset[str] | None:
        """The words it knows; None if there is no list of them."""
        return self.instruction.vocabulary

    @property
    def token_grid(self) -> tuple[int, int]:
        """(rows, cols) of the first tokens of every view."""
        return self.vision.token_grid

    def tokenise(self, instructions: Sequence[str]) -> Tensor:
        """b instructions → (b, l) int64 hashed words, unknown ones left out, l the longest."""
        return self.instruction.tokenise(instructions)

    def look(self, images: Images, words: Tensor) -> Tensor:
        """(b, v, 3, y, x) in [−1, 1], (b, l) hashed words → (b, v, l', w) tokens of every view.

        Of `CroppedViews` the whole view's tokens come first, then the crop's.
        """
        return self._look(images, words)[0]

    def encode_and_locate(
        self, images: Images, words: Tensor, state: Tensor, command: Tensor, clip: int = 1
    ) -> tuple[PrefixCache, Tensor]:
        """`encode`, and the places of things (b, p) as the asked keypoints alone tell them.

        A read-out for training; p = 0 where the model has none.
        """
        seen, placed = self._look(images, words)
        if self.frames > 1:
            seen = stacked(seen, self.frames, clip)
        return self.contextualise(seen, words, state, command), placed

    def locate(self, images: Images, words: Tensor) -> Tensor:
        """The places of things (b, p) as `encode_and_locate` tells them, without a context."""
        return self._look(images, words)[1]

    def seeing_modules(self) -> list[nn.Module]:
        """What `look` is made of."""
        parts = (
            self.vision,
            self.crop_vision,
            self.crop_aim,
            self.instruction,
            self.to_places,
            self.from_places,
        )
        return [part for part in parts if part is not None]

    def locating_modules(self) -> list[nn.Module]:
        """What `locate` is made of."""
        if self.to_places is None:
            raise ConfigError(
                "the model tells no places: it needs asked keypoints, and a dataset with places"
            )
        crops = [] if self.crop_vision is None else self.crop_vision.locating_modules()
        crops += [] if self.crop_aim is None else [self.crop_aim]
        return [*self.vision.locating_modules(), *crops, self.instruction, self.to_places]

    def _placed(self, located: Tensor) -> Tensor:
        if self.to_places is None:
            return located[:, :0]
        with torch.autocast(located.device.type, enabled=False):  # a millimetre is 8 bits here
            return self.to_places(located)

    def see(self, images: Images, words: Tensor, views: Sequence[int] | None = None) -> Seen:
        parts = self._see(images, mean_word(*self.instruction(words)), views)
        v = images.shape[1] if isinstance(images, Tensor) else images.whole.shape[1]
        tokens = [tokens.unflatten(1, (v, -1)) for tokens, _ in parts]
        return Seen(
            torch.cat(tokens, dim=2) if len(tokens) > 1 else tokens[0],
            tuple(located.view(len(located), v, -1) for _, located in parts),
        )

    def look_at(self, seen: Seen) -> Tensor:
        return self._look_at(seen)[0]

    def _look(self, images: Images, words: Tensor) -> tuple[Tensor, Tensor]:
        return self._look_at(self.see(images, words))

    def _look_at(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """Tokens of every view (b, v, l, w), and the places of things (b, p)."""
        tokens = seen.tokens
        located = [each.flatten(1) for each in seen.located]
        placed = self._placed(torch.cat(located, dim=1) if len(located) > 1 else located[0])
        if self.from_places is not None:
            told = self.from_places(placed)[:, None, None].to(tokens.dtype)
            tokens = torch.cat([tokens, told.expand(-1, tokens.shape[1], -1, -1)], dim=2)
        return tokens, placed

    def _see(
        self, images: Images, told: Tensor, views: Sequence[int] | None
    ) -> list[tuple[Tensor, Tensor]]:
        """Of whole views, and then of crops: tokens (b, v·l, w), asked keypoints (b, v·k)."""
        cropped = isinstance(images, CroppedViews)
        if cropped != (self.crop_vision is not None):
            raise ConfigError(
                f"the model was given {'cropped' if cropped else 'whole'} views; expected "
                f"{'whole ones' if cropped else 'CroppedViews (model.crops.cut)'}"
            )
        if self.crop_vision is None or not isinstance(images, CroppedViews):
            return [self.vision.look(cast(Tensor, images), told, views=views)]
        whole = self.vision.look(images.whole, told, views=views)
        pulled = images if self.crop_aim is None else self.crop_aim(images, whole[1])
        return [whole, self.crop_vision.look(pulled.crops, told, pulled.geometry, views)]

    def contextualise(
        self, seen: Tensor, words: Tensor, state: Tensor, command: Tensor
    ) -> PrefixCache:
        """The context of what was seen.

        Args:
            seen: (b, v, l, w) from `look`; of several frames (b, frames·v, l, w), the latest first.
            words: (b, l) hashed words (`hash_words`).
            state: (b, s) measured proprioception, normalised.
            command: (b, d) action state at capture, relative to the flow's origin, at unit scale.
        """
        if not self.config.proprioception:
            state = torch.zeros_like(state)
        told, is_word = self.instruction(words)  # (b, l, w), (b, l)
        if self.ages is not None:
            seen = self.ages(seen)
        if self.prune is None:
            seen = seen.flatten(1, 2)  # (b, v·l, w)
        else:
            cells = self.token_grid[0] * self.token_grid[1]
            about = (mean_word(told, is_word), self.from_state(state))
            seen = self.prune(seen, cells, *about)  # (b, K, w)
        felt = torch.stack([self.from_state(state), self.from_command(command)], 1)  # (b, 2, w)
        tokens = torch.cat([seen, told.to(seen.dtype), felt.to(seen.dtype)], dim=1)  # (b, l, w)
        present = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        present[:, seen.shape[1] : seen.shape[1] + told.shape[1]] = is_word
        return self.backbone(tokens, present, vision=seen.shape[1])

    def moment(self, words: Tensor, state: Tensor, command: Tensor, elapsed: Tensor) -> Moment:
        if not self.config.proprioception:
            state = torch.zeros_like(state)
        return Moment(mean_word(*self.instruction(words)), state, command, elapsed)

    def hear_only(self, instructions: Iterable[str]) -> None:
        self.instruction.hear_only(instructions)

    def know(self, vocabulary: Iterable[str]) -> None:
        self.instruction.know(vocabulary)

    def list_words(self, vocabulary: Iterable[str]) -> None:
        self.instruction.list_words(vocabulary)

    def train_only(self, trained: Trained) -> None:
        if trained == "vision":
            self.requires_grad_(False)
            nn.ModuleList(self.locating_modules()).requires_grad_(True)
        elif trained == "memory" and self.memory is None:
            raise ConfigError("train is 'memory', and the model has none: give it one (memory)")
        elif trained != "all":
            learn = {"expert", trained}
            for name, module in self.named_children():
                module.requires_grad_(name in learn)

    def seed_keypoints(self, images: Images, share: float, generator: torch.Generator) -> None:
        if isinstance(images, CroppedViews) and self.crop_vision is not None:
            seed_keypoints(self.vision, images.whole, share, generator)
            seed_keypoints(self.crop_vision, images.crops, share, generator)
        elif isinstance(images, Tensor):
            seed_keypoints(self.vision, images, share, generator)


class FrameAges(nn.Module):
    """Tells the vision tokens of several observations apart, by what is added to each."""

    def __init__(self, frames: int, width: int) -> None:
        super().__init__()
        self.weight: Final = nn.Parameter(torch.zeros(frames, width))

    def forward(self, seen: Tensor) -> Tensor:
        """(b, frames·v, l, w), the latest first → same."""
        aged = seen.unflatten(1, (len(self.weight), -1)) + self.weight[:, None, None]
        return aged.flatten(1, 2).to(seen.dtype)


def stacked(seen: Tensor, frames: int, clip: int) -> Tensor:
    """Vision tokens of observations (b·T, v, l, w), T = clip of one episode behind one another →
    (b·T, frames·v, l, w), each with those before it, the latest first."""
    of_clips = seen.unflatten(0, (-1, clip))
    at = torch.arange(clip, device=seen.device)
    parts = [of_clips[:, (at - ago).clamp(min=0)] for ago in range(frames)]
    return torch.cat(parts, 2).flatten(0, 1)


def _crop_encoder(config: VLAConfig, crops: CropConfig) -> VisionEncoder:
    size = (crops.zoomed_px, crops.zoomed_px)
    c = config
    return VisionEncoder(c.views, size, c.width, crops.channels, c.asked_keypoints, framed=True)


def _crop_aim(config: VLAConfig) -> CropAim | None:
    if config.crops is None or not config.crops.leash_px:
        return None
    if not config.asked_keypoints:
        raise ConfigError(
            f"crops leash_px is {config.crops.leash_px:g} in a model without asked keypoints, "
            "which are what pulls a crop; set it to 0"
        )
    return CropAim(config.asked_keypoints, config.crops)


def parameter_count(model: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
