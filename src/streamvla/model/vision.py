"""Camera views → tokens, with an eye for *where* things are.

Three choices serve localisation (a 3 cm marker spans about 3 px of a 96 px view): the stem
patchifies 4×4 pixels without discarding any, coordinates enter as two more channels, and beside
its grid of tokens each view yields one token of *keypoints*: the expected position of every
feature under a spatial softmax, which resolves far below one cell (arXiv 1504.00702).

    96×96×3 ─4×4 patches─► 24×24×48 ─conv─► 24×24×c ──────────────────────► keypoint token
                                               └─conv/2─► 12×12×2c ─2×2 patches─► 36 tokens
                                                              │
                                              instruction ─► what was asked for ─► asked token

The second kind of keypoints is *asked for*: the instruction says what they look for
(`AskedKeypoints`), so that which thing is meant need not be worked out by attention over
coordinates of things without names.

An encoder of crops (`model.crops`) says where each of its keypoints is twice, in the crop and in
the view, and adds the crop's geometry to every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812 (the name everyone uses)
from torch import Tensor, nn

from streamvla.model.crops import in_view
from streamvla.model.layers import fourier_features

PATCH = 4
CELLS_PER_TOKEN = 4  # stride 2, then 2×2 cells a token: 16 px of the image on each side


def coordinate_grid(height: int, width: int) -> Tensor:
    """(2, height, width): x and y of every cell centre, from −1 to 1."""
    y = (torch.arange(height) + 0.5) / height * 2 - 1
    x = (torch.arange(width) + 0.5) / width * 2 - 1
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])


class ConvBlock(nn.Module):
    """A pre-norm residual 3×3 convolution; shape kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm: Final = nn.LayerNorm(channels)
        self.conv: Final = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(F.relu(channel_norm(self.norm, x)))


def channel_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Normalise the channels of every cell; free of copies in channels-last memory."""
    return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _expected(scores: Tensor, cells: Tensor) -> Tensor:
    """Scores (b, k, y·x) and cell centres (y·x, 2) → expected places (b, 2k).

    Never in bfloat16, whose steps are as large as what is to be told apart.
    """
    with torch.autocast(scores.device.type, enabled=False):
        return (scores.float().softmax(-1) @ cells).flatten(1)


class Keypoints(nn.Module):
    """Expected image position of each feature: (b, c, y, x) → (b, 2c), from −1 to 1."""

    def __init__(self, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.score: Final = nn.Conv2d(channels, channels, 1)
        self.register_buffer("cells", coordinate_grid(*grid).flatten(1).T, persistent=False)
        self.cells: Tensor  # (y·x, 2)

    def forward(self, features: Tensor) -> Tensor:
        return _expected(self.score(features).flatten(2), self.cells)  # (b, 2c)


class AskedKeypoints(nn.Module):
    """Where what the instruction speaks of is, in one view.

    The features of the fine grid, with what the coarse grid knows around them, are modulated by
    the instruction channel by channel (FiLM, arXiv 1709.07871; BC-Z, arXiv 2202.02005, steers a
    policy so), and compared with queries that the instruction makes; each query's softmax over
    the cells is a place.
    """

    def __init__(self, channels: int, grid: tuple[int, int], width: int, count: int) -> None:
        super().__init__()
        self.count: Final = count
        self.told_norm: Final = nn.LayerNorm(width)
        self.lift: Final = nn.Conv2d(2 * channels, channels, 1)
        self.norm: Final = nn.LayerNorm(channels)
        self.film: Final = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2 * channels)
        )
        self.mix: Final = nn.Conv2d(channels, channels, 3, padding=1)
        self.mixed_norm: Final = nn.LayerNorm(channels)
        self.query: Final = nn.Linear(width, count * channels)
        nn.init.normal_(self.query.bias, std=_SPREAD / channels**0.5)
        nn.init.normal_(self.query.weight, std=_SPREAD / (channels * width) ** 0.5)
        self.register_buffer("cells", coordinate_grid(*grid).flatten(1).T, persistent=False)
        self.cells: Tensor  # (y·x, 2)

    def forward(self, fine: Tensor, coarse: Tensor, told: Tensor) -> Tensor:
        """(b, c, y, x), (b, 2c, y/2, x/2), instruction (b, w) → places (b, 2·count), −1 to 1."""
        told = self.told_norm(told)
        gain, offset = self.film(told)[..., None, None].chunk(2, dim=1)  # (b, c, 1, 1)
        around = F.interpolate(self.lift(coarse), scale_factor=2.0, mode="nearest")
        known = channel_norm(self.norm, fine + around) * (1 + gain) + offset
        known = channel_norm(self.mixed_norm, self.mix(F.relu(known)))  # (b, c, y, x)
        queries = self.query(told).unflatten(-1, (self.count, -1))  # (b, k, c)
        return _expected(queries @ known.flatten(2), self.cells)


_SPREAD = 3.0
"""Standard deviation of untrained scores: a softmax that is flat sees nothing move."""

GEOMETRY_WAVELENGTH = 4.0  # twice the width of a view, which is from −1 to 1
GEOMETRY_OCTAVES = 6


def _framed(places: Tensor, frame: Tensor | None) -> Tensor:
    """Places (n, 2k); of crops with a geometry (n, 3), those in the view behind them: (n, 4k)."""
    return places if frame is None else torch.cat([places, in_view(places, frame)], dim=-1)


def _geometry_features(geometry: Tensor) -> Tensor:
    """(b, v, 3) → (b, v, 27): as it is, and its centre at several wavelengths."""
    waves = fourier_features(geometry[..., :2], GEOMETRY_WAVELENGTH, GEOMETRY_OCTAVES)
    return torch.cat([geometry, waves.flatten(-2)], dim=-1)


class VisionEncoder(nn.Module):
    """All views of one observation → tokens; weights shared, one embedding a view.

    Args:
        asked: keypoints that the instruction steers; 0 for none, and no token of them.
        framed: whether its images are crops, whose geometry comes with them.
    """

    def __init__(
        self,
        views: int,
        image_size: tuple[int, int],
        width: int,
        channels: int,
        asked: int = 0,
        *,
        framed: bool = False,
    ) -> None:
        super().__init__()
        grid = (image_size[0] // PATCH, image_size[1] // PATCH)
        self.token_grid: tuple[int, int] = (grid[0] // CELLS_PER_TOKEN, grid[1] // CELLS_PER_TOKEN)
        self.register_buffer("coordinates", coordinate_grid(*grid), persistent=False)
        self.coordinates: Tensor
        self.stem: Final = nn.Conv2d(3 * PATCH**2 + 2, channels, 3, padding=1)
        self.fine: Final = ConvBlock(channels)
        self.keypoints: Final = Keypoints(channels, grid)
        self.shrink: Final = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
        self.coarse: Final = ConvBlock(2 * channels)
        self.norm: Final = nn.LayerNorm(2 * channels)
        self.to_token: Final = nn.Linear(8 * channels, width)
        numbers = 4 if framed else 2  # of a keypoint: x and y, in the crop and in the view
        self.to_keypoint_token: Final = nn.Linear(numbers * channels, width)
        self.asked: Final = AskedKeypoints(channels, grid, width, asked) if asked else None
        self.to_asked_token: Final = nn.Linear(numbers * asked, width) if asked else None
        tokens = self.token_grid[0] * self.token_grid[1] + (2 if asked else 1)
        self.position: Final = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.view: Final = nn.Parameter(torch.randn(views, 1, width) * 0.02)
        self.from_geometry: Final = nn.Linear(3 + 4 * GEOMETRY_OCTAVES, width) if framed else None

    def forward(self, images: Tensor, told: Tensor) -> Tensor:
        """(b, v, 3, y, x) in [−1, 1] and the instruction (b, w) → tokens (b, v·l, w)."""
        return self.look(images, told)[0]

    def look(
        self,
        images: Tensor,
        told: Tensor,
        geometry: Tensor | None = None,
        views: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`forward`, and the asked keypoints of all views, from −1 to 1.

        They are (b, v·2k); of crops (b, v·4k), each view's first in the crop and then in the view.

        Args:
            geometry: (b, v, 3) of `CroppedViews`, for an encoder of crops.
            views: which ones these v are; None: all.
        """
        b, v = images.shape[:2]
        frame = None if geometry is None else geometry.flatten(0, 1)  # (b·v, 3)
        fine = self.features(images)  # (b·v, c, y/4, x/4)
        coarse = self.coarse(self.shrink(F.relu(fine)))  # (b·v, 2c, y/8, x/8)
        cells = F.pixel_unshuffle(channel_norm(self.norm, coarse), 2)  # (b·v, 8c, y/16, x/16)
        grid = self.to_token(cells.flatten(2).transpose(1, 2))  # (b·v, l', w)
        keypoints = _framed(self.keypoints(fine), frame)
        found = [grid, self.to_keypoint_token(keypoints).unsqueeze(1)]
        places = images.new_zeros(b, 0)
        if self.asked is not None and self.to_asked_token is not None:
            places = self.asked(fine, coarse, told.repeat_interleave(v, dim=0))  # (b·v, 2k)
            places = _framed(places, frame)
            found.append(self.to_asked_token(places).unsqueeze(1))
            places = places.unflatten(0, (b, v)).flatten(1)
        tokens = torch.cat(found, dim=1).unflatten(0, (b, v))  # (b, v, l, w)
        view = self.view if views is None else self.view[list(views)]
        where = (self.position + view).to(tokens.dtype)  # (v, l, w)
        if geometry is not None and self.from_geometry is not None:
            where = where + self.from_geometry(_geometry_features(geometry)).unsqueeze(2)
        return (tokens + where.to(tokens.dtype)).flatten(1, 2), places

    def locating_modules(self) -> list[nn.Module]:
        """What the asked keypoints are made of; empty without them."""
        if self.asked is None:
            return []
        return [self.stem, self.fine, self.shrink, self.coarse, self.asked]

    def features(self, images: Tensor) -> Tensor:
        """What the keypoints look at: (b, v, 3, y, x) → (b·v, c, y/4, x/4)."""
        return self.fine(self.stem(self._patches(images.flatten(0, 1))))

    def _patches(self, images: Tensor) -> Tensor:
        """(b·v, 3, y, x) → (b·v, 50, y/4, x/4), channels last: 4×4 pixels and their position."""
        patches = F.pixel_unshuffle(images, PATCH)
        where = self.coordinates.to(patches.dtype).expand(len(patches), -1, -1, -1)
        return torch.cat([patches, where], 1).contiguous(memory_format=torch.channels_last)
