"""What moved in a camera's view that the gripper did not move.

cells of 16 px     . . . A A A        o  something moved by itself: it counts
                   . o . # # #        #  within so many pixels of the gripper, where it was or
                   . . . # # #           where it is: expected to change
                                      A  above, where the arm hangs, if that is asked for
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamvla.policy.reuse import CELL_PX

BELOW_PX = 24.0
"""How far under the gripper what it holds reaches."""


def largest_change_away(
    before: np.ndarray,
    now: np.ndarray,
    around: Sequence[np.ndarray],
    radius_px: float,
    arm_px: float = 0.0,
) -> float:
    """The largest mean absolute difference of a cell, grey levels, of those that count.

    Args:
        before, now: (y, x, 3) uint8.
        around: (2,) pixels x, y each: cells that come closer to one than `radius_px` do not count.
        arm_px: instead, cells whose middle is at most so many pixels to one side of one, and no
            lower than `BELOW_PX` under it, do not count; 0: as `radius_px` says.

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
        if arm_px:
            y, x = (np.arange(count) * CELL_PX + CELL_PX / 2 for count in (rows, columns))
            hidden = (np.abs(x - place[0]) <= arm_px) & (y[:, None] <= place[1] + BELOW_PX)
        else:
            hidden = _distance(place, rows, columns) < radius_px
        cells[hidden] = 0.0
    return float(cells.max())


def _distance(place: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """(rows, columns) pixels from a place (x, y) to the nearest point of every cell."""
    offsets = []
    for at, count in ((place[1], rows), (place[0], columns)):
        first = np.arange(count) * CELL_PX
        offsets.append(np.maximum(np.maximum(first - at, at - first - CELL_PX), 0.0))
    return np.hypot(offsets[0][:, None], offsets[1][None, :])
