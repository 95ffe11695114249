"""Views that did not change are not encoded again.

    capture      1         2         3
    camera A     a1 new    a1 kept   a2 new     something moved between 2 and 3
    camera B     b1 new    b1 kept   b1 kept    a slow camera, or nothing moves before it

A view counts as unchanged while no cell of 16×16 px differs by more than a tolerance from what was
encoded; with the tolerance 0 the tokens are those of a new encoding. Streaming token compression
(STC) reuses single tokens of a vision transformer from reference frames; a convolution needs
the neighbours of all that changed, so ours reuses whole views.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from streamvla.core.compute import ObservationCost
from streamvla.core.errors import ConfigError
from streamvla.model.crops import CroppedViews, Images
from streamvla.model.interface import Seen
from streamvla.policy.base import ModelPolicy

CELL_PX = 16
REUSE = "reuse"


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the views showed when each was encoded: pixels (v, y, x, 3), geometry of crops (v, 3) if
    there are any, the words (1, l) of the instruction, and what became of them."""

    pixels: np.ndarray
    geometry: np.ndarray
    words: torch.Tensor
    seen: Seen


class ReusingPolicy(ModelPolicy):
    """A policy that encodes only the views that changed. Batches are encoded whole.

    Args:
        policy: whose model and predictor it shares.
        tolerance: mean absolute difference of a cell in grey levels, up to which a view counts as
            unchanged.
        times: what a look takes at which no view is encoded, and what an encoding takes before its
            first view, both as shares of a look that encodes all. Measured with the shipped policy
            on one thread of an AMD EPYC: .12, and .77 for one view of two.

    Raises:
        ConfigError: a tolerance that is no number ≥ 0, or a model whose views cannot be encoded
            one by one.
    """

    def __init__(
        self, policy: ModelPolicy, tolerance: float, times: tuple[float, float] = (0.12, 0.54)
    ) -> None:
        if not 0 <= tolerance < np.inf:
            raise ConfigError(f"reuse: tolerance {tolerance}; expected a number ≥ 0, grey levels")
        if not policy.model.encodes_single_views:
            raise ConfigError(
                "reuse: a policy with a pretrained backbone encodes all views at once; leave reuse "
                "out"
            )
        spec = policy.spec
        parts = (policy.model, spec, policy.method, policy.normalisation)
        super().__init__(*parts, policy.device, policy.understanding)
        settings = {**spec.settings, REUSE: tolerance}
        self.spec = replace(spec, remembers=True, settings=settings)
        self.predictor = policy.predictor
        self._tolerance = tolerance
        self._times = times
        self._kept: _Kept | None = None

    def begin(self) -> None:
        """An episode begins: every view is encoded."""
        self._kept = None

    def _encode_views(
        self, pixels: torch.Tensor, images: Images, words: torch.Tensor
    ) -> tuple[torch.Tensor, ObservationCost]:
        if len(pixels) > 1:
            return super()._encode_views(pixels, images, words)
        frames, geometry = pixels[0].cpu().numpy(), _geometry(images)
        changed = self._changed(frames, geometry, words)
        seen, flops = self._see(images, words, changed)
        self._remember(frames, geometry, words, seen, changed)
        tokens = self.model.look_at(seen)
        cost = self._look_cost(tokens, len(changed), flops)
        none, before = self._times
        share = len(changed) / len(frames)
        return tokens, replace(
            cost,
            cache_hits=len(frames) * (2 if self.model.crops else 1) - cost.encodes,
            look_time=before + (1 - before) * share if changed else none,
        )

    def _changed(self, frames: np.ndarray, geometry: np.ndarray, words: torch.Tensor) -> list[int]:
        """The views that have to be encoded."""
        kept = self._kept
        if kept is None or not torch.equal(kept.words, words):
            return list(range(len(frames)))
        moved = (geometry != kept.geometry).any(-1)
        return [
            view
            for view in range(len(frames))
            if moved[view] or largest_change(kept.pixels[view], frames[view]) > self._tolerance
        ]

    def _see(self, images: Images, words: torch.Tensor, changed: list[int]) -> tuple[Seen, int]:
        """What all views show now, and the operations that took."""
        kept = self._kept
        if kept is not None and not changed:
            return kept.seen, 0
        some = _only(images, changed)
        key = ("see", len(changed), tuple(words.shape))
        newer, flops = self._flops.run(key, lambda: self.model.see(some, words, changed))
        if kept is None or len(changed) == len(self.spec.views):
            return newer, flops
        return kept.seen.with_views(changed, newer), flops

    def _remember(
        self,
        frames: np.ndarray,
        geometry: np.ndarray,
        words: torch.Tensor,
        seen: Seen,
        changed: list[int],
    ) -> None:
        """A view that was kept is compared with the frame that was encoded, not with the last one:
        slow changes add up."""
        if self._kept is None:
            self._kept = _Kept(frames.copy(), geometry, words, seen)
            return
        pixels, where = self._kept.pixels, self._kept.geometry.copy()
        pixels[changed], where[changed] = frames[changed], geometry[changed]
        self._kept = _Kept(pixels, where, words, seen)


def largest_change(before: np.ndarray, now: np.ndarray) -> float:
    """Of two frames (y, x, 3) uint8 the largest mean absolute difference of a cell, grey levels.

    >>> frame = np.zeros((32, 32, 3), np.uint8)
    >>> largest_change(frame, frame), largest_change(frame, frame + np.uint8(3))
    (0.0, 3.0)
    """
    if np.array_equal(before, now):
        return 0.0
    difference = np.abs(before.astype(np.int16) - now)
    height, width = (side // CELL_PX * CELL_PX for side in difference.shape[:2])
    cells = difference[:height, :width].reshape(height // CELL_PX, CELL_PX, width // CELL_PX, -1)
    return float(cells.reshape(*cells.shape[:3], -1).mean((1, 3)).max())


def _geometry(images: Images) -> np.ndarray:
    """(v, 3) of the crops of one observation; (v, 0) without crops."""
    if isinstance(images, CroppedViews):
        return images.geometry[0].cpu().numpy()
    return np.zeros((images.shape[1], 0))


def _only(images: Images, views: list[int]) -> Images:
    if isinstance(images, CroppedViews):
        return images.only(views)
    return images[:, views]
