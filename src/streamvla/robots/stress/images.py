"""Sensors: where the cameras stand, and what becomes of pictures and measured state on the way.

`observe` may run on another robot object, in the model's process. So all that a picture depends on
is in its capture: an array `stress_NAME` with the episode's seed and the instant, or what was drawn
from the seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import ArraySpec, Capture, Frames, Robot
from streamvla.core.stress import coin, stream_of
from streamvla.robots.sawyer import CAMERA_OFFSET
from streamvla.robots.stress.wrapper import StressedRobot, extra_array, require_captures

METRES_PER_DEGREE = 0.01
"""How much nearer or farther a camera stands, at most, that is turned by a degree."""

Draw = Callable[[np.random.Generator], np.ndarray]
Change = Callable[[Frames, np.ndarray], Frames]


def camera_pose(robot: Robot, degrees: float, name: str) -> Robot:
    """Every camera of every view elsewhere: azimuth and elevation are off by this, as the root of
    the sum of their squares, and the distance by up to `METRES_PER_DEGREE` a degree.

    Raises:
        ConfigError: its cameras cannot be moved.
    """
    if not robot.spec.views:
        return robot
    count = getattr(robot, "movable_cameras", 0)
    if not count:
        raise ConfigError(
            f"stress {name!r}: the cameras of robot {robot.spec.name!r} cannot be moved (a property"
            " `movable_cameras`, and an array `camera_offset` of captures that its `observe` "
            "reads): leave it out there"
        )
    array = ArraySpec(CAMERA_OFFSET, (count, 3))

    def draw(stream: np.random.Generator) -> np.ndarray:
        angle = stream.uniform(-np.pi, np.pi, count)
        farther = METRES_PER_DEGREE * stream.uniform(-1, 1, count)
        return degrees * np.stack([np.cos(angle), np.sin(angle), farther], axis=1)  # (v, 3)

    return _PerEpisode(robot, name, array, draw, lambda frames, _: frames)


def camera_blur(robot: Robot, percent: float, name: str) -> Robot:
    """A Gaussian whose standard deviation is this share of the picture's height."""
    if not robot.spec.views:
        return robot
    weights = gaussian(percent / 100 * robot.spec.image_size[0])
    return _Changed(robot, name, lambda image: blurred(image, weights))


def camera_exposure(robot: Robot, stops: float, name: str) -> Robot:
    """Every picture of the episode so many stops (factors of two) too bright or too dark."""
    if not robot.spec.views:
        return robot
    require_captures(robot, name)

    def change(frames: Frames, gain: np.ndarray) -> Frames:
        seen = np.clip(np.round(np.arange(256) * float(gain[0])), 0, 255).astype(np.uint8)
        return with_images(frames, lambda image: seen[image])

    array = extra_array(name, (1,), "float64")
    return _PerEpisode(robot, name, array, lambda s: np.array([2.0 ** (stops * coin(s))]), change)


def camera_noise(robot: Robot, levels: float, name: str) -> Robot:
    """Gaussian noise of this standard deviation on every pixel and colour."""
    if not robot.spec.views:
        return robot
    require_captures(robot, name)

    def noisy(image: np.ndarray, stream: np.random.Generator) -> np.ndarray:
        noise = levels * stream.standard_normal(image.shape, dtype=np.float32)
        return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)

    return _PerInstant(
        robot, name, lambda frames, s: with_images(frames, lambda image: noisy(image, s))
    )


def proprioception_noise(robot: Robot, thousandths: float, name: str) -> Robot:
    """Gaussian noise on every dimension of the state, in thousandths of its unit."""
    if not robot.spec.views:
        return robot
    require_captures(robot, name)

    def noisy(frames: Frames, stream: np.random.Generator) -> Frames:
        noise = thousandths / 1000 * stream.standard_normal(frames.state.shape)
        return replace(frames, state=(frames.state + noise).astype(frames.state.dtype))

    return _PerInstant(robot, name, noisy, of_state=True)


def with_images(frames: Frames, change: Callable[[np.ndarray], np.ndarray]) -> Frames:
    """Frames with every image (height, width, 3) uint8 changed."""
    return replace(frames, images={view: change(image) for view, image in frames.images.items()})


def gaussian(sigma: float) -> np.ndarray:
    """(2r + 1,) weights that sum to 1, r = 3σ rounded up."""
    radius = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return (weights / weights.sum()).astype(np.float32)


def blurred(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(height, width, 3) uint8 convolved with weights (2r + 1,) both ways; its borders go on."""
    height, width = image.shape[:2]
    radius = len(weights) // 2
    padded = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="edge")
    padded = padded.astype(np.float32)
    rows = np.zeros((height, *padded.shape[1:]), np.float32)
    for i, weight in enumerate(weights):
        rows += weight * padded[i : i + height]
    both = np.zeros(image.shape, np.float32)
    for i, weight in enumerate(weights):
        both += weight * rows[:, i : i + width]
    return np.rint(both).astype(np.uint8)


class _Changed(StressedRobot):
    """The same change to every image."""

    def __init__(self, robot: Robot, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__(robot, name)
        self._change = change

    def observe(self, capture: Capture) -> Frames:
        return with_images(self._robot.observe(capture), self._change)


class _PerEpisode(StressedRobot):
    """Something is drawn at the reset, and every capture of the episode has it."""

    def __init__(
        self, robot: Robot, name: str, array: ArraySpec, draw: Draw, change: Change
    ) -> None:
        super().__init__(robot, name)
        self._spec = replace(self._spec, capture=(*self._spec.capture, array))
        self._array, self._draw, self._change = array, draw, change
        self._drawn = np.zeros(array.shape)

    def reset(self, seed: int, now_ns: int, command_duration_ns: int) -> None:
        self._drawn = self._draw(stream_of(self._name, seed))
        super().reset(seed, now_ns, command_duration_ns)

    def capture(self) -> Capture:
        return {**self._robot.capture(), self._array.name: self._drawn.copy()}

    def observe(self, capture: Capture) -> Frames:
        return self._change(self._robot.observe(capture), capture[self._array.name])


class _PerInstant(StressedRobot):
    """Something is drawn for every instant; the capture says which.

    Args:
        of_state: the change is to the state alone.
    """

    def __init__(
        self,
        robot: Robot,
        name: str,
        change: Callable[[Frames, np.random.Generator], Frames],
        *,
        of_state: bool = False,
    ) -> None:
        super().__init__(robot, name)
        array = extra_array(name, (2,), "int64")
        self._spec = replace(self._spec, capture=(*self._spec.capture, array))
        self._array, self._change, self._of_state = array.name, change, of_state

    @property
    def state_arrays(self) -> tuple[str, ...]:
        inside = self._robot.state_arrays
        return (*inside, self._array) if self._of_state else inside

    def capture(self) -> Capture:
        instant = np.array([self._seed, self._now_ns - self._start_ns], np.int64)
        return {**self._robot.capture(), self._array: instant}

    def observe(self, capture: Capture) -> Frames:
        seed, elapsed_ns = (int(number) for number in capture[self._array])
        stream = stream_of(f"{self._name} {elapsed_ns}", seed)
        return self._change(self._robot.observe(capture), stream)
