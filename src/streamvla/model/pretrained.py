"""A pretrained vision-language model as the backbone: transformers in, `PrefixCache` out.

    views ──► vision tower, projector ──┐
    instruction ──► token embedding ────┼─► language model, bidirectional ─► prefix cache
    state, last command ──► linear ─────┘

The layout of π0 (arXiv 2410.24164) and SmolVLA (arXiv 2506.01844): one prefix in which every token
sees every other, and an expert of its own width that attends to the keys and values of each of the
language model's layers. State enters as projected tokens, as in SmolVLA (π0.5 writes it as text).
The keys are rotated by position, so the expert's queries are rotated to the first position after
the prefix (`PrefixCache.rotary`).

A checkpoint holds configuration, tokeniser and weights: nothing is fetched to run it. Needs the
extra `vlm`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import torch
import torch.nn.functional as F  # noqa: N812 (the name everyone uses)
from torch import Tensor, nn

from streamvla.core.errors import ConfigError, did_you_mean
from streamvla.model.backbone import PrefixCache, Rotary, attention_bias
from streamvla.model.expert import Expert, ExpertSize
from streamvla.model.focus import FocusConfig
from streamvla.model.instruction import mean_word
from streamvla.model.interface import Model, Trained
from streamvla.model.memory import Memory
from streamvla.model.methods.base import Method
from streamvla.model.methods.registry import default_method
from streamvla.model.past import MemoryConfig, MemorySize, Moment

ABSENT = -1  # token id of padding, whatever the tokeniser calls it
MAX_TOKENS = 64


@dataclass(frozen=True)
class _Layout:
    """Where a model keeps its parts.

    Attributes:
        language_model: attribute that holds it.
        language_type: the kind whose keys are laid out and rotated as the expert expects.
        views_apart: images are given as (b·v, 3, y, x) rather than (b, v, 3, y, x).
    """

    language_model: str
    language_type: str
    views_apart: bool


LAYOUTS = {
    "smolvlm": _Layout("text_model", "llama", views_apart=False),
    "paligemma": _Layout("language_model", "gemma", views_apart=True),
}


@dataclass(frozen=True)
class PretrainedConfig:
    """A vision-language model and the expert on it.

    Attributes:
        action_dim, state_dim, views: d, s and v of the robot.
        vlm: the model's own configuration, as `config.json` has it.
        tokenizer: `tokenizer.json`, whole.
        expert_width, condition_width, expansion: sizes of the expert; its layers and heads follow
            from the language model.
        train: "all", or "expert" to leave the vision-language model as it is.
        future_steps, places_dim, proprioception, focus, memory: as in `VLAConfig`.
    """

    action_dim: int
    state_dim: int
    views: int
    vlm: Mapping[str, Any]
    tokenizer: str
    expert_width: int = 384
    condition_width: int = 128
    expansion: int = 4
    train: Literal["all", "expert"] = "all"
    future_steps: tuple[int, ...] = (5, 10, 15, 20, 25)
    places_dim: int = 0
    proprioception: bool = True
    focus: FocusConfig = field(default_factory=FocusConfig)
    memory: MemoryConfig | None = None

    def __post_init__(self) -> None:
        kind = self.vlm.get("model_type", "none")
        if kind not in LAYOUTS:
            raise did_you_mean("vision-language model type", str(kind), LAYOUTS)
        expected, found = LAYOUTS[kind].language_type, self.vlm["text_config"].get("model_type")
        if found != expected:
            raise ConfigError(
                f"{kind} with language model {found!r}; expected {expected!r}, the only one whose "
                f"cache is laid out as the expert reads it. Use a {kind} checkpoint with {expected}"
            )

    def build(self, method: Method) -> PretrainedVLA:
        return PretrainedVLA(self, method)

    def completed(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return weights

    def expert_size(self) -> ExpertSize:
        """Of the expert that reads this model's cache."""
        text = _transformers_config(self.vlm).text_config
        return ExpertSize(
            action_dim=self.action_dim,
            layers=text.num_hidden_layers,
            width=self.expert_width,
            condition_width=self.condition_width,
            heads=text.num_attention_heads,
            head_dim=getattr(text, "head_dim", None)
            or text.hidden_size // text.num_attention_heads,
            expansion=self.expansion,
            future_dim=len(self.future_steps) * self.state_dim,
            places_dim=self.places_dim,
            focus=self.focus,
        )


class PretrainedVLA(Model):
    """The interface of `StreamingVLA` on a vision-language model of transformers."""

    def __init__(self, config: PretrainedConfig, method: Method | None = None) -> None:
        super().__init__()
        transformers = _require_transformers()
        self.config = config
        self.layout: Final = LAYOUTS[config.vlm["model_type"]]
        self.vlm: Any = transformers.AutoModel.from_config(_transformers_config(config.vlm))
        text = self.vlm.config.text_config
        self.from_state: Final = nn.Linear(config.state_dim, text.hidden_size)
        self.from_command: Final = nn.Linear(config.action_dim, text.hidden_size)
        size = config.expert_size()
        if config.memory is not None:
            told = (text.hidden_size, config.state_dim, config.action_dim)
            self.memory = Memory(
                config.memory, MemorySize(size.layers, size.heads, size.head_dim, *told)
            )
        self.expert: Expert = (method or default_method()).expert(size)
        self._groups = text.num_attention_heads // text.num_key_value_heads
        self._image_size = int(self.vlm.config.vision_config.image_size)
        self._tokenise = _tokeniser(config.tokenizer)
        self._freeze()

    @property
    def language_model(self) -> Any:
        """The part whose keys and values the expert reads."""
        return getattr(self.vlm, self.layout.language_model)

    @property
    def vocabulary(self) -> None:
        """None: its tokeniser has every word."""
        return None

    def tokenise(self, instructions: Sequence[str]) -> Tensor:
        """b instructions → (b, l) int64 token ids, `ABSENT` where an instruction is shorter."""
        rows = [torch.tensor(self._tokenise(text)[:MAX_TOKENS]) for text in instructions]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=ABSENT).long()

    def look(self, images: Tensor, words: Tensor) -> Tensor:
        """(b, v, 3, y, x) in [−1, 1] → (b, v, l, w) tokens of every view, whatever the words."""
        return self._see(images).unflatten(1, (images.shape[1], -1))

    def seeing_modules(self) -> list[nn.Module]:
        """What `look` is made of, and more: the whole pretrained model."""
        return [self.vlm]

    def contextualise(
        self, seen: Tensor, words: Tensor, state: Tensor, command: Tensor
    ) -> PrefixCache:
        """The context of what was seen (as `StreamingVLA.contextualise`)."""
        if not self.config.proprioception:
            state = torch.zeros_like(state)
        seen = seen.flatten(1, 2)  # (b, v·l, w)
        told = self.language_model.get_input_embeddings()(words.clamp(min=0))  # (b, l, w)
        felt = torch.stack([self.from_state(state), self.from_command(command)], 1)  # (b, 2, w)
        tokens = torch.cat([seen, told.to(seen.dtype), felt.to(seen.dtype)], dim=1)
        present = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        present[:, seen.shape[1] : seen.shape[1] + words.shape[1]] = words != ABSENT
        return self._read(tokens, present, seen.shape[1])

    def moment(self, words: Tensor, state: Tensor, command: Tensor, elapsed: Tensor) -> Moment:
        if not self.config.proprioception:
            state = torch.zeros_like(state)
        told = self.language_model.get_input_embeddings()(words.clamp(min=0))  # (b, l, w)
        return Moment(mean_word(told, words != ABSENT), state, command, elapsed)

    def train_only(self, trained: Trained) -> None:
        """Of "all" and "expert" its configuration says which (`PretrainedConfig.train`)."""
        if trained == "memory":
            if self.memory is None:
                raise ConfigError("train is 'memory', and the model has none: give it one (memory)")
            for module in (self.vlm, self.from_state, self.from_command):
                module.requires_grad_(False)
        if trained == "expert" and self.memory is not None:
            self.memory.requires_grad_(False)
        if trained == "vision":
            raise ConfigError("train is 'vision', which a pretrained backbone has none of its own")

    def load_backbone(self, source: str) -> None:
        """Take the pretrained weights: a folder, or a name on the hub."""
        pretrained = _require_transformers().AutoModel.from_pretrained(
            source, config=_transformers_config(self.config.vlm), dtype=torch.float32
        )
        self.vlm.load_state_dict(pretrained.state_dict())

    def _see(self, images: Tensor) -> Tensor:
        """(b, v, 3, y, x) → (b, v·l, w): resized to what the vision tower was trained on."""
        b, v = images.shape[:2]
        side = (self._image_size, self._image_size)
        resized = F.interpolate(images.flatten(0, 1), side, mode="bilinear", antialias=True)
        pixels = resized if self.layout.views_apart else resized.unflatten(0, (b, v))
        features = self.vlm.get_image_features(pixels).pooler_output
        if not self.layout.views_apart:
            features = torch.stack(list(features))  # of each observation (v·l, w)
        return features.reshape(b, -1, features.shape[-1])

    def _read(self, tokens: Tensor, present: Tensor, vision: int) -> PrefixCache:
        """Run the language model over (b, l, w) tokens, (b, l) of them present, the first ones of
        vision; keep its cache."""
        transformers = _require_transformers()
        bias = attention_bias(present, tokens.dtype)  # (b, 1, 1, l)
        positions = present.cumsum(1) - 1  # padding takes no position
        cache = transformers.DynamicCache()
        self.language_model(
            inputs_embeds=tokens,
            attention_mask=bias.expand(-1, -1, tokens.shape[1], -1),
            position_ids=positions.clamp(min=0),
            past_key_values=cache,
            use_cache=True,
        )
        after = present.sum(1, keepdim=True)  # (b, 1) the position of the suffix
        cos, sin = self.language_model.rotary_emb(tokens, after)  # (b, 1, k) each
        return PrefixCache(
            keys=tuple(self._per_head(layer.keys) for layer in cache.layers),
            values=tuple(self._per_head(layer.values) for layer in cache.layers),
            bias=bias,
            rotary=Rotary(cos.unsqueeze(1), sin.unsqueeze(1)),
            vision=vision,
        )

    def _per_head(self, shared: Tensor) -> Tensor:
        """Grouped-query attention: (b, n/groups, l, k) → (b, n, l, k)."""
        return shared.repeat_interleave(self._groups, dim=1)

    def _freeze(self) -> None:
        """No gradients for what is not to be trained, nor for what nothing reads."""
        if self.config.train == "expert":
            self.vlm.requires_grad_(False)
        last = self.language_model.layers[-1]
        attention = last.self_attn
        unread = (attention.q_proj, attention.o_proj, last.post_attention_layernorm, last.mlp)
        for module in (*unread, self.language_model.norm):
            module.requires_grad_(False)


def pretrained_config(
    source: str, action_dim: int, state_dim: int, views: int, layers: int | None, **sizes: Any
) -> PretrainedConfig:
    """The configuration for fine-tuning the vision-language model at `source`.

    Args:
        source: a folder, or a name on the hub.
        layers: use only the first so many of the language model (SmolVLA uses half); None for all.
        sizes: further fields of `PretrainedConfig`.

    Raises:
        ConfigError: there is no such model, or it is of a kind without an adapter.
    """
    transformers = _require_transformers()
    try:
        vlm = json.loads(transformers.AutoConfig.from_pretrained(source).to_json_string(False))
        tokenizer = transformers.AutoTokenizer.from_pretrained(source).backend_tokenizer.to_str()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no vision-language model at {source!r} ({error}). Give a folder that holds "
            "config.json, tokenizer.json and weights, or its name on the hub when online."
        ) from error
    if layers is not None:
        available = vlm["text_config"]["num_hidden_layers"]
        if not 1 <= layers <= available:
            raise ConfigError(f"layers {layers}: {source!r} has {available}; use 1 to {available}")
        vlm["text_config"]["num_hidden_layers"] = layers
    return PretrainedConfig(action_dim, state_dim, views, vlm, tokenizer, **sizes)


def _transformers_config(vlm: Mapping[str, Any]) -> Any:
    return _require_transformers().AutoConfig.for_model(**vlm)


def _tokeniser(tokenizer: str) -> Callable[[str], list[int]]:
    """Text → token ids, by the content of a `tokenizer.json`."""
    _require_transformers()
    from tokenizers import Tokenizer  # pyright: ignore[reportMissingImports]

    fast = Tokenizer.from_str(tokenizer)
    fast.no_padding()
    return lambda text: fast.encode(text).ids


def _require_transformers() -> Any:
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            "this model needs transformers, which is not installed: pip install 'streamvla[vlm]'"
        ) from error
    return transformers
