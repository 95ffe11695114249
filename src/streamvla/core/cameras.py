"""Where a camera shows a point of the robot's world, and where the gripper is looked for.

    state ─ indices ─► hand + offset (m) ─► aim (m) ─ matrix of a view ─► place in its image (px)

A pinhole camera is one 3×4 matrix P = K [R | t]: P (x, y, z, 1) = (u·w, v·w, w), with w the depth.
Pixels count from the image's upper left corner, u to the right and v down; the centre of the first
pixel is (0.5, 0.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamvla.core.errors import ConfigError

_LEAST_DEPTH_M = 1e-3


@dataclass(frozen=True)
class CameraView:
    """A camera that stands still.

    Attributes:
        matrix: P, 3 rows of 4, from metres in the robot's frame to pixels of its view.

    Raises:
        ConfigError: another shape, or numbers that are not finite.
    """

    matrix: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if tuple(len(row) for row in self.matrix) != (4, 4, 4) or not np.isfinite(self.rows).all():
            raise ConfigError(
                f"camera matrix {self.matrix}: expected 3 rows of 4 finite numbers, P = K [R | t]"
            )

    @property
    def rows(self) -> np.ndarray:
        """(3, 4) P."""
        return np.array(self.matrix, dtype=np.float64)

    def project(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) metres → (..., 2) pixels u, v; also outside the image.

        A point behind the camera has no place; it gets one far outside, so that a window around it
        ends at the image's edge.

        >>> ahead = CameraView(((48.0, 0, 48, 0), (0, 48.0, 48, 0), (0, 0, 1, 0)))
        >>> ahead.project(np.array([0.5, 0.0, 2.0]))
        array([60., 48.])
        """
        rows = self.rows
        projected = points @ rows[:, :3].T + rows[:, 3]  # (..., 3)
        return projected[..., :2] / np.maximum(projected[..., 2:], _LEAST_DEPTH_M)

    def near(self, other: CameraView) -> bool:
        """Whether it is the same camera but for rounding."""
        return np.allclose(self.rows, other.rows, rtol=1e-6, atol=1e-6)


@dataclass(frozen=True)
class Gaze:
    """Where the cameras of a robot show its gripper, as its state tells it.

    Attributes:
        state_indices: which dimensions of the state are the hand's x, y and z, metres.
        offset: (3,) metres from there to the point between the fingertips.
        views: one camera for each of `RobotSpec.views`, in their order.

    Raises:
        ConfigError: not three indices, or not three finite numbers of offset.
    """

    state_indices: tuple[int, int, int]
    offset: tuple[float, float, float]
    views: tuple[CameraView, ...]

    def __post_init__(self) -> None:
        if len(self.state_indices) != 3 or min(self.state_indices) < 0:
            raise ConfigError(
                f"gaze state indices {self.state_indices}: expected those of the hand's x, y and z"
            )
        if len(self.offset) != 3 or not np.isfinite(self.offset).all():
            raise ConfigError(f"gaze offset {self.offset}: expected 3 finite numbers, metres")

    def aim(self, state: np.ndarray) -> np.ndarray:
        """Measured states (..., s), not normalised → (..., v, 2) pixels in every view."""
        hand = np.asarray(state, dtype=np.float64)[..., list(self.state_indices)]  # (..., 3)
        target = hand + np.array(self.offset)
        return np.stack([view.project(target) for view in self.views], axis=-2)

    def near(self, other: Gaze) -> bool:
        """Whether it looks at the same point through the same cameras, but for rounding."""
        return (
            self.state_indices == other.state_indices
            and np.allclose(self.offset, other.offset, rtol=0, atol=1e-9)
            and len(self.views) == len(other.views)
            and all(one.near(two) for one, two in zip(self.views, other.views, strict=True))
        )

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Gaze:
        """Inverse of `dataclasses.asdict`, also after JSON made lists of tuples.

        Raises:
            ConfigError, KeyError, TypeError: malformed fields.
        """
        x, y, z = (int(index) for index in fields["state_indices"])
        dx, dy, dz = (float(metres) for metres in fields["offset"])
        matrices = [view["matrix"] for view in fields["views"]]
        views = [
            CameraView(tuple(tuple(float(number) for number in row) for row in matrix))
            for matrix in matrices
        ]
        return cls((x, y, z), (dx, dy, dz), tuple(views))
