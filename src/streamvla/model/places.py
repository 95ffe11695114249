"""The places of things: read out of pictures, and put into the context as a token."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812 (the name everyone uses)
from torch import Tensor, nn

from streamvla.model.layers import fourier_features

PLACES_WAVELENGTH = 8.0  # in standard deviations of a place over the dataset
PLACES_OCTAVES = 6


def places_head(located: int, hidden: int, places: int) -> nn.Module:
    """Places in the pictures → places in the room, which perspective makes no linear map."""
    if not hidden:
        return nn.Linear(located, places)
    first, last = nn.Linear(located, hidden), nn.Linear(hidden, places)
    return nn.Sequential(first, nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), last)


class PlacesToken(nn.Module):
    """Places in the room (b, p) → a token (b, w) of them.

    They enter raw and as Fourier features, for the resolution that a grasp takes.
    """

    def __init__(self, places: int, hidden: int, width: int) -> None:
        super().__init__()
        self.up: Final = nn.Linear(places * (1 + 2 * PLACES_OCTAVES), hidden)
        self.down: Final = nn.Linear(hidden, width)

    def forward(self, placed: Tensor) -> Tensor:
        waves = fourier_features(placed, PLACES_WAVELENGTH, PLACES_OCTAVES).flatten(-2)
        return self.down(F.gelu(self.up(torch.cat([placed, waves], dim=-1))))
