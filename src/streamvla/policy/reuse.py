"""Views that did not change are not encoded again.

    capture      1         2         3
    camera A     a1 new    a1 kept   a2 new     something moved between 2 and 3
    camera B     b1 new    b1 kept   b1 kept    a slow camera, or nothing moves before it

A view counts as unchanged while no cell of 16×16 px differs by more than a tolerance from what was
encoded; with the tolerance 0 the tokens are those of a new encoding. Streaming token compression
(STC) reuses single tokens of a vision transformer from reference frames; a convolution needs
the neighbours of all that changed, so ours reuses whole views.

A camera may also have a rate: it is looked at only every n-th observation, and in between its last
tokens are used again, whatever it shows.

    observation        1         2         3         4
    A, every one       a1 new    a2 new    a3 new    a4 new
    B, every second    b1 new    b1 rests  b3 new    b3 rests
    oldest frame       of 1      of 1      of 3      of 3      (`ObservationCost.frames_old_ns`)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from streamvla.core.compute import ObservationCost
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import Observation
from streamvla.model.crops import CroppedViews, Images
from streamvla.model.interface import Seen
from streamvla.policy.base import ModelPolicy, Sight

CELL_PX = 16
REUSE = "reuse"
EVERY = "every_"
"""Before a camera's name: the setting that says its rate."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the views showed when each was encoded: pixels (v, y, x, 3), geometry of crops (v, 3) if
    there are any, the words (1, l) of the instruction, and what became of them; of each view, of
    which capture the tokens are good, and how many observations ago it was looked at."""

    pixels: np.ndarray
    geometry: np.ndarray
    words: torch.Tensor
    seen: Seen
    captured_ns: tuple[int, ...]
    ago: tuple[int, ...]


class ReusingPolicy(ModelPolicy):
    """A policy that encodes only the views that changed. Batches are encoded whole.

    Args:
        policy: whose model, predictor and phrases it shares.
        tolerance: mean absolute difference of a cell in grey levels, up to which a view counts as
            unchanged; None: every view whose turn it is is encoded.
        times: what a look takes at which no view is encoded, and what an encoding takes before its
            first view, both as shares of a look that encodes all. Measured with the shipped policy
            on one thread of an AMD EPYC: .12, and .77 for one view of two.
        every: camera → n: it is looked at every n-th observation; default 1. With a rate above 1 it
            does not anticipate: what was not looked at cannot be foreseen.

    Raises:
        ConfigError: a tolerance that is no number ≥ 0, a rate that is no whole number ≥ 1 or of a
            camera that the policy does not have, or a model whose views cannot be encoded one by
            one.
    """

    def __init__(
        self,
        policy: ModelPolicy,
        tolerance: float | None,
        times: tuple[float, float] = (0.12, 0.54),
        every: Mapping[str, float] | None = None,
    ) -> None:
        if tolerance is not None and not 0 <= tolerance < np.inf:
            raise ConfigError(f"reuse: tolerance {tolerance}; expected a number ≥ 0, grey levels")
        if not policy.model.encodes_single_views:
            raise ConfigError(
                "reuse and camera rates: a policy with a pretrained backbone encodes all views at "
                "once; leave them out"
            )
        spec = policy.spec
        self._every = camera_rates(spec.views, every or {})
        parts = (policy.model, spec, policy.method, policy.normalisation)
        super().__init__(*parts, policy.device, policy.understanding)
        slow = {view: n for view, n in zip(spec.views, self._every, strict=True) if n > 1}
        settings = {**spec.settings, **({} if tolerance is None else {REUSE: tolerance})}
        settings |= {EVERY + view: float(n) for view, n in slow.items()}
        self.spec = replace(spec, remembers=True, settings=settings)
        self.predictor, self.phrases = policy.predictor, policy.phrases
        if slow:
            self.predictor = None
            self.spec = replace(self.spec, anticipates=False, thresholds=(), longest_lead=None)
        self._tolerance = tolerance
        self._times = times
        self._now_ns = 0
        self._kept: _Kept | None = None

    def begin(self) -> None:
        """An episode begins: every view is encoded."""
        for each in (self.stream, self.frames):
            if each is not None:
                each.begin()
        self._kept = None

    def look_batch(self, observations: Sequence[Observation]) -> Sight:
        """As the policy inside; of one observation, only the views that changed are encoded."""
        self._now_ns = observations[0].captured_ns
        return super().look_batch(observations)

    def _encode_views(
        self, pixels: torch.Tensor, images: Images, words: torch.Tensor
    ) -> tuple[torch.Tensor, ObservationCost]:
        if len(pixels) > 1:
            return super()._encode_views(pixels, images, words)
        frames, geometry = pixels[0].cpu().numpy(), _geometry(images)
        due = self._due(words, len(frames))
        changed = self._changed(frames, geometry, words, due)
        seen, flops = self._see(images, words, changed)
        self._remember(frames, geometry, words, seen, changed)
        self._kept = kept = self._looked_at(due)
        tokens = self.model.look_at(seen)
        cost = self._look_cost(tokens, len(changed), flops)
        none, before = self._times
        share = len(changed) / len(frames)
        return tokens, replace(
            cost,
            cache_hits=len(frames) * (2 if self.model.crops else 1) - cost.encodes,
            look_time=before + (1 - before) * share if changed else none,
            frames_old_ns=self._now_ns - min(kept.captured_ns),
        )

    def _due(self, words: torch.Tensor, views: int) -> list[int]:
        """The views whose turn it is: all, where the instruction or the episode is another."""
        kept = self._kept
        if kept is None or not torch.equal(kept.words, words):
            return list(range(views))
        return [
            view
            for view in range(views)
            if kept.ago[view] + 1 >= self._every[view] or kept.captured_ns[view] > self._now_ns
        ]

    def _changed(
        self, frames: np.ndarray, geometry: np.ndarray, words: torch.Tensor, due: list[int]
    ) -> list[int]:
        """Of the views whose turn it is, those that have to be encoded."""
        kept, tolerance = self._kept, self._tolerance
        if kept is None or tolerance is None or not torch.equal(kept.words, words):
            return due
        moved = (geometry != kept.geometry).any(-1)
        return [
            view
            for view in due
            if moved[view] or largest_change(kept.pixels[view], frames[view]) > tolerance
        ]

    def _looked_at(self, due: list[int]) -> _Kept:
        """What is kept, the views whose turn it was good for the capture of now."""
        kept, now_ns = self._kept, self._now_ns
        assert kept is not None  # `_remember` came before
        captured = enumerate(kept.captured_ns)
        return replace(
            kept,
            captured_ns=tuple(now_ns if view in due else at_ns for view, at_ns in captured),
            ago=tuple(0 if view in due else ago + 1 for view, ago in enumerate(kept.ago)),
        )

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
        kept = self._kept
        if kept is None:
            zeros = (0,) * len(frames)
            self._kept = _Kept(frames.copy(), geometry, words, seen, zeros, zeros)
            return
        pixels, where = kept.pixels, kept.geometry.copy()
        pixels[changed], where[changed] = frames[changed], geometry[changed]
        self._kept = replace(kept, pixels=pixels, geometry=where, words=words, seen=seen)


def camera_rates(views: Sequence[str], every: Mapping[str, float]) -> tuple[int, ...]:
    """Of every view, each how many observations it is looked at.

    Raises:
        ConfigError: a rate that is no whole number ≥ 1, or of a camera that is none of the views.

    >>> camera_rates(("side", "front"), {"front": 2})
    (1, 2)
    """
    for view, rate in every.items():
        if view not in views:
            raise ConfigError(
                f"camera {view!r}: the policy has {', '.join(views)}; name one of these"
            )
        if not (1 <= rate < np.inf and rate == int(rate)):
            raise ConfigError(
                f"camera {view}: every {rate:g} observations; expected a whole number, at least 1"
            )
    return tuple(int(every.get(view, 1)) for view in views)


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
