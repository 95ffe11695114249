"""The models behind one interface: the small one trained from scratch, and pretrained ones.

Each has `tokenise`, `encode` (observation → `PrefixCache`) and an `expert` (cache → actions), so
methods, training and policies do not know which one it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamvla.model.methods import Method
from streamvla.model.pretrained import PretrainedConfig, PretrainedVLA
from streamvla.model.vla import StreamingVLA, VLAConfig

Model = StreamingVLA | PretrainedVLA
ModelConfig = VLAConfig | PretrainedConfig


def make_model(config: ModelConfig, method: Method) -> Model:
    """An untrained model; a pretrained one with random weights (`load_backbone` fills them)."""
    if isinstance(config, PretrainedConfig):
        return PretrainedVLA(config, method)
    return StreamingVLA(config, method)


def model_config_from_json(fields: Mapping[str, Any]) -> ModelConfig:
    """Inverse of `dataclasses.asdict`."""
    if "vlm" in fields:
        return PretrainedConfig(**fields)
    return VLAConfig(**{**fields, "image_size": tuple(fields["image_size"])})
