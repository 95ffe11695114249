"""Gripper crops: the whole view small, and what is around the gripper large.

    96×96 view ─┬─ mean of 2×2 px ─────────────► 48×48 whole view
                └─ 24×24 px around the gripper ─► 48×48 crop, twice as large; (x, y, scale) of it

A policy needs the whole view to find its goal, and millimetres only near the gripper. Where that is
the state tells (`core.cameras.Gaze`). The window ends at the image's edge; the geometry says where
it truly is. Errors of the state or of the cameras move both alike if training has moved both.

With a leash (`CropConfig.leash_px`) the instruction has a say in where the crop is: what it asks
for, found in the small view, pulls the window from the gripper towards itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name everyone uses)
from torch import Tensor, nn

from streamvla.core.cameras import Gaze
from streamvla.core.errors import ConfigError


@dataclass(frozen=True)
class CropConfig:
    """What is cut from every view.

    Attributes:
        gaze: where in the views, as the state tells; of the robot the policy is for.
        crop_px: side of the window.
        zoomed_px: side of what it is enlarged to.
        coarse_px: side of the whole view once it is made small.
        jitter_px: training moves every window by up to so many pixels each way.
        channels: of the crops' encoder, as `VLAConfig.channels`.
        leash_px: how far what the instruction asks for may pull a window each way; 0: not at all.
    """

    gaze: Gaze
    crop_px: int = 24
    zoomed_px: int = 48
    coarse_px: int = 48
    jitter_px: int = 8
    channels: int = 64
    leash_px: float = 0.0

    def __post_init__(self) -> None:
        leasts = {"crop_px": 2, "zoomed_px": 16, "coarse_px": 16, "jitter_px": 0, "channels": 1}
        leasts |= {"leash_px": 0}
        for name, least in leasts.items():
            value = getattr(self, name)
            if not least <= value < np.inf:
                raise ConfigError(f"crops {name} is {value}; expected a number, at least {least}")
        for name in ("zoomed_px", "coarse_px"):
            value = getattr(self, name)
            if value % 16:
                raise ConfigError(f"crops {name} is {value}; expected a multiple of 16")

    def require_fit(self, views: int, image_size: tuple[int, int], state_dim: int) -> None:
        """Raise `ConfigError` unless these crops can be cut from such observations."""
        side = image_size[0]
        if image_size[1] != side or side % self.coarse_px or self.crop_px > side:
            raise ConfigError(
                f"crops need square views whose side is a multiple of coarse_px {self.coarse_px} "
                f"and at least crop_px {self.crop_px}; the views are {image_size}"
            )
        found = (len(self.gaze.views), max(self.gaze.state_indices))
        if found[0] != views or found[1] >= state_dim:
            raise ConfigError(
                f"crops are of {found[0]} cameras and read the state at index {found[1]}; the "
                f"model has {views} views and {state_dim} state dimensions"
            )

    def corners(self, state: np.ndarray, side: int, moved: np.ndarray | float = 0.0) -> np.ndarray:
        """Where the windows begin: measured states (..., s), not normalised → (..., v, 2) int64.

        Args:
            side: of the views, pixels.
            moved: (..., v, 2) pixels right and down, added to where the gripper is.
        """
        first = np.rint(self.gaze.aim(state) + moved - self.crop_px / 2)
        return np.clip(first, 0, side - self.crop_px).astype(np.int64)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> CropConfig:
        """Inverse of `dataclasses.asdict`."""
        return cls(**{**fields, "gaze": Gaze.from_json(fields["gaze"])})


@dataclass(frozen=True, slots=True)
class CroppedViews:
    """Views of b observations, cut.

    Attributes:
        whole: (b, v, 3, y, x) in [−1, 1], the small views.
        crops: (b, v, 3, y', x') in [−1, 1], what is around the gripper.
        geometry: (b, v, 3) the true centre x, y of each crop, from −1 to 1 of its view, and its
            side over the view's: a place p of the crop is centre + scale · p of the view.
        views: (b, v, 3, Y, X) in [−1, 1], what they were cut from, where the crops may move.
    """

    whole: Tensor
    crops: Tensor
    geometry: Tensor
    views: Tensor | None = None

    def __len__(self) -> int:
        return len(self.whole)

    def only(self, views: list[int]) -> CroppedViews:
        """Those of some views."""
        return CroppedViews(
            self.whole[:, views],
            self.crops[:, views],
            self.geometry[:, views],
            None if self.views is None else self.views[:, views],
        )


Images = Tensor | CroppedViews
"""What a model looks at: whole views (b, v, 3, y, x) in [−1, 1], or these cut."""


def cut(images: Tensor, corners: Tensor, config: CropConfig) -> CroppedViews:
    """Whole views (b, v, 3, y, x) in [−1, 1] and corners (b, v, 2) of `CropConfig.corners`, cut.

    A window of 24 px that begins at column 60 of 96:  centre 72 px = 0.5, scale 0.25.
    """
    side, b = images.shape[-1], len(images)
    flat = images.flatten(0, 1)  # (b·v, 3, y, x)
    whole = _averaged(flat, side // config.coarse_px)
    window = torch.arange(config.crop_px, device=images.device)
    columns, rows = (corners.flatten(0, 1)[..., None] + window).unbind(1)  # (b·v, k) each
    each = torch.arange(len(flat), device=images.device)[:, None, None]
    found = flat[each, :, rows[:, :, None], columns[:, None, :]]  # (b·v, k, k, 3)
    crops = F.interpolate(
        found.permute(0, 3, 1, 2), (config.zoomed_px, config.zoomed_px), mode="bilinear"
    )
    centres = (corners + config.crop_px / 2) / side * 2 - 1  # (b, v, 2)
    scale = torch.full_like(centres[..., :1], config.crop_px / side)
    geometry = torch.cat([centres, scale], dim=-1).to(images.dtype)
    kept = images if config.leash_px else None
    return CroppedViews(whole.unflatten(0, (b, -1)), crops.unflatten(0, (b, -1)), geometry, kept)


def _averaged(images: Tensor, side: int) -> Tensor:
    """(n, c, y, x) → (n, c, y/side, x/side), the mean of side×side px; on CPU six times as fast as
    PyTorch's own on images whose channels lie last."""
    rows = sum((images[:, :, at::side] for at in range(1, side)), images[:, :, ::side])
    return sum((rows[..., at::side] for at in range(1, side)), rows[..., ::side]) / side**2


class CropAim(nn.Module):
    """Where a window goes that what the instruction asks for may pull from the gripper.

        pulled = leash · tanh( Σ_k w_k (p_k − c) / leash )      p_k asked keypoints, c the gripper

    It starts with w = 0, at the gripper. The window is read between pixels, so that the loss
    teaches w through where it is (spatial transformer, arXiv 1506.02025).
    """

    def __init__(self, keypoints: int, config: CropConfig) -> None:
        super().__init__()
        self.config: Final = config
        self.weight: Final = nn.Parameter(torch.zeros(keypoints))

    def forward(self, images: CroppedViews, places: Tensor) -> CroppedViews:
        """Crops where asked keypoints (b, v·2k) of the small views pull them."""
        views, config = images.views, self.config
        if views is None:
            raise ValueError("these views were cut with another CropConfig")
        side = views.shape[-1]
        b, v = images.geometry.shape[:2]
        centre = images.geometry[..., :2]
        away = places.view(b, v, -1, 2) - centre.unsqueeze(2)  # (b, v, k, 2)
        leash = config.leash_px / side * 2
        pull = leash * torch.tanh((away * self.weight[:, None]).sum(2) / leash)
        scale = config.crop_px / side
        centre = (centre + pull).clamp(scale - 1, 1 - scale)
        cells = (torch.arange(config.zoomed_px, device=views.device) + 0.5) / config.zoomed_px
        cells = (cells * 2 - 1) * scale
        x, y = (centre[..., axis].flatten()[:, None] + cells for axis in (0, 1))  # (b·v, z) each
        grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), -1)
        with torch.autocast(views.device.type, enabled=False):
            crops = F.grid_sample(views.flatten(0, 1), grid, align_corners=False)
        geometry = torch.cat([centre, images.geometry[..., 2:]], -1)
        return CroppedViews(images.whole, crops.unflatten(0, (b, v)), geometry, views)


def in_view(places: Tensor, geometry: Tensor) -> Tensor:
    """Places (n, 2k) of a crop, x and y in turn, and its geometry (n, 3) → in the view (n, 2k)."""
    centre, scale = geometry[:, None, :2], geometry[:, None, 2:]
    return (centre + scale * places.unflatten(-1, (-1, 2))).flatten(1)
