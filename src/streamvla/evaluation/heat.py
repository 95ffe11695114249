"""Numbers for the cells of an image, drawn over it as a heat map."""

from __future__ import annotations

import numpy as np

from streamvla.core.errors import ConfigError

_COLD, _HOT = np.array([0.16, 0.12, 0.45]), np.array([1.0, 0.84, 0.2])
"""Dark blue to yellow: apart for every eye, and in print."""


def overlay(
    frame: np.ndarray,
    heat: np.ndarray,
    coldest: float = 0.0,
    hottest: float | None = None,
    strength: float = 0.6,
) -> np.ndarray:
    """A camera frame under a heat map.

    Args:
        frame: (h, w, 3) uint8.
        heat: (rows, cols) numbers ≥ 0 of its cells, the first row at the top.
        coldest, hottest: what is drawn coldest and hottest, and all beyond; give the same for
            frames to be compared. None: the largest number here.
        strength: how much of the frame the hottest cells hide, from 0 to 1; the coldest hide a
            third of that.

    Returns:
        (h, w, 3) uint8.

    Raises:
        ConfigError: another shape, numbers that are negative or not finite, or nothing between
            coldest and hottest.

    >>> overlay(np.zeros((2, 2, 3), np.uint8), np.array([[0.0, 1.0]]))[0].tolist()
    [[8, 6, 23], [153, 129, 31]]
    """
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise ConfigError(f"a frame of shape {frame.shape}, {frame.dtype}; use (h, w, 3) uint8")
    if heat.ndim != 2 or not (np.isfinite(heat).all() and (heat >= 0).all()):
        raise ConfigError(f"heat of shape {heat.shape}; expected (rows, cols) finite numbers ≥ 0")
    if not 0 <= strength <= 1:
        raise ConfigError(f"overlay strength is {strength}; expected a share from 0 to 1")
    most = float(heat.max()) if hottest is None else hottest
    if hottest is not None and hottest <= coldest:
        raise ConfigError(f"heat from {coldest} to {hottest}; expected a hottest above the coldest")
    above = _resized(heat, frame.shape[:2])[..., None] - coldest
    share = (above / max(most - coldest, 1e-12)).clip(0, 1)
    colour = 255 * (_COLD + share * (_HOT - _COLD))
    hidden = strength * (1 + 2 * share) / 3
    return (frame * (1 - hidden) + colour * hidden).round().astype(np.uint8)


def _resized(heat: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """(rows, cols) → `size`, linear between the centres of the cells."""
    for axis, length in enumerate(size):
        cells = heat.shape[axis]
        at = ((np.arange(length) + 0.5) / length * cells - 0.5).clip(0, cells - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, cells - 1)
        part = (at - low).reshape([-1 if i == axis else 1 for i in range(2)])
        heat = heat.take(low, axis) * (1 - part) + heat.take(high, axis) * part
    return heat
