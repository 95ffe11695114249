"""A model small enough for tests, whose every part matters (no gate at zero)."""

from __future__ import annotations

import torch
from torch import Tensor

from streamvla.model.methods.registry import Method
from streamvla.model.vla import StreamingVLA, VLAConfig

TINY = VLAConfig(
    action_dim=3,
    state_dim=2,
    views=2,
    image_size=(32, 32),
    layers=3,
    width=32,
    expert_width=16,
    heads=2,
    head_dim=8,
    expansion=2,
    channels=8,
    condition_width=8,
    places_dim=3,
    asked_keypoints=4,
)


def tiny_model(seed: int = 0, method: Method | None = None) -> StreamingVLA:
    """Random weights everywhere, also where training starts from zero."""
    torch.manual_seed(seed)
    model = StreamingVLA(TINY, method).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def tiny_inputs(batch: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, words, state and command of `batch` observations; 3 words and 2 of padding."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand((batch, 2, 3, 32, 32), generator=generator) * 2 - 1
    words = torch.randint(1, 2048, (batch, 5), generator=generator)
    words[:, 3:] = 0
    state = torch.randn((batch, 2), generator=generator)
    command = torch.randn((batch, 3), generator=generator)
    return images, words, state, command
