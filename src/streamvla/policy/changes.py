"""What moved in a camera's view that the gripper did not move.

cells of 16 px     . . . . . .        o  something moved by itself: it counts
                   . o . # # #        #  within so many pixels of the gripper, where it was or
                   . . . # # #           where it is: expected to change
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamvla.policy.reuse import CELL_PX


def largest_change_away(
    before: np.ndarray, now: np.ndarray, around: Sequence[np.ndarray], radius_px: float
) -> float:
    """The largest mean absolute difference of a cell, grey levels, of those that count.

    Args:
        before, now: (y, x, 3) uint8.
        around: (2,) pixels x, y each: cells that come closer to one than `radius_px` do not count.

    >>> frame = np.zeros((32, 32, 3), np.uint8)
    >>> moved = frame.copy()
    >>> moved[:16, :16] = 90
    >>> largest_change_away(frame, moved, [], 4), largest_change_away(
    ...     frame, moved, [np.array([3, 3])], 4)
    (90.0, 0.0)
    """
    rows, columns = (side // CELL_PX for side in before.shape[:2])
    difference = np.abs(before.astype(np.int16) - now)[: rows * CELL_PX, : columns * CELL_PX]
    cells = difference.reshape(rows, CELL_PX, columns, CELL_PX, -1).mean((1, 3, 4))
    for place in around:
        cells[_distance(place, rows, columns) < radius_px] = 0.0
    return float(cells.max())


def _distance(place: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """(rows, columns) pixels from a place (x, y) to the nearest point of every cell."""
    offsets = []
    for at, count in ((place[1], rows), (place[0], columns)):
        first = np.arange(count) * CELL_PX
        offsets.append(np.maximum(np.maximum(first - at, at - first - CELL_PX), 0.0))
    return np.hypot(offsets[0][:, None], offsets[1][None, :])
