"""A camera that shows the same picture again and again while the robot moves is frozen.

Its pictures come on time, so their age looks right, and the policy acts on the past. Equal pictures
alone prove nothing: a simulated world that stands still gives them too. So both are asked for:

    observation      4      5      6      7
    picture          A      A      A      B        checksums of the pixels
    hand moved       0    .03    .06    .09        since A was first seen, by its own sensors
    frozen           –      –    yes      –        2 repeats, and .06 ≥ 0.05
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import Frames


@dataclass(frozen=True)
class FrozenCamera:
    """When a camera counts as frozen.

    Attributes:
        repeats: observations in a row with exactly the picture before; None: never.
        moved: how far the robot has moved meanwhile: the measured state (`Frames.state`), in any
            dimension, in that one's unit (0.05: 5 cm, or 3°). A robot without one is never judged.
    """

    repeats: int | None = 2
    moved: float = 0.05

    def __post_init__(self) -> None:
        if self.repeats is not None and self.repeats < 1:
            raise ConfigError(f"frozen camera: repeats {self.repeats} must be ≥ 1, or None")
        if not self.moved > 0:
            raise ConfigError(
                f"frozen camera: moved {self.moved} must be > 0, or a world that stands still "
                "would count as a frozen camera"
            )


@dataclass(slots=True)
class _Picture:
    """The present picture of one view: its checksum, the state (s,) when it first came, how often
    it came again, and how far the robot has been from that state since."""

    checksum: int
    state: np.ndarray
    repeats: int = 0
    moved: float = 0.0


class CameraWatch:
    """Looks at the frames of every observation of one episode."""

    def __init__(self, rule: FrozenCamera) -> None:
        self._rule = rule
        self._pictures: dict[str, _Picture] = {}

    def look(self, frames: Frames) -> tuple[str, ...]:
        """The views that are frozen."""
        repeats = self._rule.repeats
        if repeats is None:
            return ()
        state = np.asarray(frames.state, dtype=float)
        views = frames.images.items()
        return tuple(name for name, image in views if self._frozen(name, image, state, repeats))

    def _frozen(self, name: str, image: np.ndarray, state: np.ndarray, repeats: int) -> bool:
        checksum = zlib.crc32(np.ascontiguousarray(image).data)
        picture = self._pictures.get(name)
        if picture is None or picture.checksum != checksum:
            self._pictures[name] = _Picture(checksum, state)
            return False
        picture.repeats += 1
        picture.moved = max(picture.moved, float(np.abs(state - picture.state).max(initial=0.0)))
        return picture.repeats >= repeats and picture.moved >= self._rule.moved
