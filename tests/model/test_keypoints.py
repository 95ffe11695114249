"""Keypoints that start on what stands out."""

from __future__ import annotations

import torch

from streamvla.model.keypoints import seed_keypoints
from streamvla.model.vision import VisionEncoder


def pictures(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy brown pictures with a blue square of two cells: (b, 1, 3, 96, 96), its x (b,)."""
    generator = torch.Generator().manual_seed(0)
    images = torch.tensor([0.0, -0.2, -0.4])[:, None, None].expand(count, 1, 3, 96, 96).clone()
    images += 0.05 * torch.randn(images.shape, generator=generator)
    left = torch.randint(0, 88, (count,), generator=generator)
    for image, x in zip(images[:, 0], left.tolist(), strict=True):
        image[:, 40:48, x : x + 8] = torch.tensor([-0.9, -0.6, 0.9])[:, None, None]
    return images, left.float()


def follows(encoder: VisionEncoder, images: torch.Tensor, x: torch.Tensor) -> float:
    """How far the keypoint that follows x best moves with it, in half image widths."""
    with torch.no_grad():
        points = encoder.keypoints(encoder.features(images))  # (b, 2c)
    moved = (points - points.mean(0)) * ((x - x.mean()) / x.std())[:, None]
    return moved.mean(0).abs().max().item()


def test_a_seeded_keypoint_follows_a_small_object_at_once():
    """An untrained encoder hardly moves with a two-cell object; a seeded one follows it fully."""
    torch.manual_seed(0)
    encoder = VisionEncoder(1, (96, 96), width=32, channels=16)
    images, x = pictures(64)
    full = (2 * x / 96).std().item()
    assert follows(encoder, images, x) < 0.2 * full
    seed_keypoints(encoder, images, 0.5, torch.Generator().manual_seed(0))
    assert follows(encoder, images, x) > 0.9 * full


def test_a_share_of_zero_changes_nothing():
    """With share 0 every weight stays as it was."""
    encoder = VisionEncoder(1, (96, 96), width=32, channels=16)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    seed_keypoints(encoder, pictures(2)[0], 0.0, torch.Generator())
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
