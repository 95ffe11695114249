"""What stands between an observation and the model's tensors; shared by acting and training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import SpecMismatchError
from streamvla.core.interfaces import Observation, PolicySpec
from streamvla.model.crops import CropConfig, Images, cut
from streamvla.model.methods.base import StateOrigin


def pixels_to_float(pixels: Tensor) -> Tensor:
    """(b, v, y, x, 3) uint8 → (b, v, 3, y, x) float32 in [−1, 1]."""
    return pixels.permute(0, 1, 4, 2, 3).float() / 127.5 - 1.0


def to_images(pixels: Tensor, state: np.ndarray, crops: CropConfig | None) -> Images:
    """What a model looks at.

    Args:
        pixels: (b, v, y, x, 3) uint8.
        state: (b, s) measured with these very frames, not normalised; only crops need it. Between
            two observations the hand moves farther than a crop forgives.
        crops: of the model.
    """
    images = pixels_to_float(pixels)
    if crops is None:
        return images
    corners = torch.from_numpy(crops.corners(state, images.shape[-1]))
    return cut(images, corners.to(images.device), crops)


def flow_origin(space: ActionSpace, action_state: np.ndarray, origin: StateOrigin) -> np.ndarray:
    """What is subtracted from action states before the flow sees them: (..., d) → (..., d).

    With "observation" the delta dimensions count from the capture, so the flow starts at Σ pending
    and stays bounded however long the episode; absolute dimensions are never shifted.

        action state at capture   [7.0 | grip −1]   → origin [7.0 | 0]
        state at flow start       [7.5 | grip +1]   → x0     [0.5 | +1]
    """
    if origin == "episode":
        return np.zeros_like(action_state, dtype=np.float64)
    return np.where(space.is_delta(), action_state, 0.0)


def check_observation(observation: Observation, spec: PolicySpec) -> None:
    """Raise `SpecMismatchError` unless the policy can read this observation."""
    for view in spec.views:
        image = observation.images.get(view)
        if image is None:
            raise SpecMismatchError(
                f"observation has no view {view!r} (has {sorted(observation.images)}); the policy "
                f"needs {list(spec.views)}. Name the robot's cameras accordingly."
            )
        if image.shape != (*spec.image_size, 3) or image.dtype != np.uint8:
            raise SpecMismatchError(
                f"view {view!r} is {image.shape} {image.dtype}; the policy needs "
                f"{(*spec.image_size, 3)} uint8 RGB. Render or resize to that size."
            )
    vectors = {
        "state": (observation.state, spec.state_dim),
        "action_state": (observation.action_state, spec.action_space.dim),
    }
    for name, (values, size) in vectors.items():
        if values.shape != (size,):
            raise SpecMismatchError(
                f"observation {name} has shape {values.shape}; the policy needs ({size},). Use a "
                "checkpoint made for this robot."
            )
        if not np.isfinite(values).all():
            raise SpecMismatchError(
                f"observation {name} is {values}: not finite. Check the robot's sensors."
            )


def stack_pixels(observations: Sequence[Observation], spec: PolicySpec) -> Tensor:
    """Images of b checked observations → (b, v, y, x, 3) uint8, views in the policy's order."""
    frames = [np.stack([each.images[view] for view in spec.views]) for each in observations]
    return torch.from_numpy(np.stack(frames))
