"""Models by their sizes: the small one trained from scratch, and pretrained ones (`interface`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from streamvla.model.crops import CropConfig
from streamvla.model.focus import FocusConfig
from streamvla.model.interface import Model, ModelConfig
from streamvla.model.methods.base import Method
from streamvla.model.past import MemoryConfig
from streamvla.model.pretrained import PretrainedConfig
from streamvla.model.vla import VLAConfig


def make_models(config: ModelConfig, methods: Sequence[Method]) -> list[Model]:
    """One untrained model a method; all but their experts are the very same modules."""
    first = config.build(methods[0])
    models = [first]
    for method in methods[1:]:
        with torch.device("meta"):  # nothing of it stays
            model = config.build(method)
        for name, module in context_modules(first):
            setattr(model, name, module)
        model.expert = method.expert(config.expert_size())
        models.append(model)
    return models


def context_modules(model: Model) -> Iterator[tuple[str, nn.Module]]:
    """What turns an observation into the prefix cache: all of a model but its expert."""
    return ((name, module) for name, module in model.named_children() if name != "expert")


def model_config_from_json(fields: Mapping[str, Any]) -> ModelConfig:
    """Inverse of `dataclasses.asdict`; a missing setting has its default."""
    settings: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()
    }
    if "focus" in settings:
        settings["focus"] = FocusConfig(**settings["focus"])
    if settings.get("crops") is not None:
        settings["crops"] = CropConfig.from_json(settings["crops"])
    if settings.get("memory") is not None:
        settings["memory"] = MemoryConfig(**settings["memory"])
    return PretrainedConfig(**settings) if "vlm" in settings else VLAConfig(**settings)
