"""Point keypoints at things before training starts.

A spatial softmax over 24×24 cells that starts out flat reports nearly the same place whatever is in
the image: an object of two cells moves it by thousandths, and the network never learns that there
is something to follow (docs/decisions/0008). So a share of the keypoints starts on colours that
stand out in the demonstrations' own images:

1. the average colour of every cell, as differences of channels, so that shading does not count;
2. the colours farthest from each other (farthest-point sampling): what is rare is among them;
3. per colour, the direction in feature space that tells its cells from the average cell, scaled
   until the softmax over cells is sharp.

Training moves them from there like all other weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (the name everyone uses)
from torch import Tensor

from streamvla.model.vision import PATCH, VisionEncoder

_CELLS = 100_000
_CELLS_PER_COLOUR = 20
_SHARPNESS = 16.0
"""Standard deviation of a seeded keypoint's scores over cells."""


@torch.no_grad()
def seed_keypoints(
    encoder: VisionEncoder, images: Tensor, share: float, generator: torch.Generator
) -> None:
    """Give the `share` of keypoints that the encoder uses least a colour each, in place.

    Args:
        images: (b, v, 3, y, x) in [−1, 1], of all tasks.
        share: from 0 (change nothing) to 1.
    """
    channels = encoder.keypoints.score.out_channels
    count = round(share * channels)
    if count == 0:
        return
    features = encoder.features(images).flatten(2).transpose(1, 2).flatten(0, 1)  # (n, c)
    chosen = torch.randperm(len(features), generator=generator)[:_CELLS].to(images.device)
    weight, bias = _detectors(features[chosen], _cell_colours(images)[chosen], count)
    used = encoder.to_keypoint_token.weight.view(-1, channels, 2).square().sum((0, 2))  # (c,)
    least = used.argsort()[:count]
    score = encoder.keypoints.score
    assert score.bias is not None
    score.weight[least] = weight[:, :, None, None].to(score.weight.dtype)
    score.bias[least] = bias


def farthest_points(points: Tensor, count: int) -> Tensor:
    """`count` of the points (n, c), each the farthest from those before: (count, c).

    The first is the farthest from the mean.

    >>> farthest_points(torch.tensor([[0.0], [0.1], [5.0], [-1.0]]), 2).tolist()
    [[5.0], [-1.0]]
    """
    distance = (points - points.mean(0)).square().sum(1)  # (n,)
    taken: list[Tensor] = []
    for _ in range(count):
        taken.append(points[distance.argmax()])
        to_newest = (points - taken[-1]).square().sum(1)
        distance = to_newest if len(taken) == 1 else torch.minimum(distance, to_newest)
    return torch.stack(taken)


def _cell_colours(images: Tensor) -> Tensor:
    """Red − green and blue − green of every 4×4-pixel cell: (b, v, 3, y, x) → (n, 2)."""
    cells = F.avg_pool2d(images.flatten(0, 1), PATCH).flatten(2)  # (b·v, 3, l)
    red, green, blue = cells.unbind(1)
    return torch.stack([red - green, blue - green], dim=-1).flatten(0, 1)


def _detectors(features: Tensor, colours: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Weights (count, c) and biases (count,) that score cells by likeness to each colour."""
    distances = torch.cdist(colours, farthest_points(colours, count))  # (n, count)
    nearest = distances.topk(_CELLS_PER_COLOUR, dim=0, largest=False).indices  # (20, count)
    mean, variance = features.mean(0), features.var(0) + 1e-3
    weight = (features[nearest].mean(0) - mean) / variance  # (count, c)
    spread = ((features - mean) @ weight.T).std(0) + 1e-6  # (count,)
    weight = weight * (_SHARPNESS / spread)[:, None]
    return weight, -(weight @ mean)
