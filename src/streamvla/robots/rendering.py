"""Render captured instants of a MuJoCo scene, away from the thread that steps it.

    control thread:   step ─ capture ─ step ─ step ─ step ─ …
                                └─► render thread: pose own copy ─ draw view ─ draw view

An OpenGL context belongs to one thread. A renderer here owns one thread and draws only there, on
its own copy of the model, so `render` may be called from anywhere while physics steps on.
"""

from __future__ import annotations

import copy
import weakref
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamvla.core.cameras import CameraView
from streamvla.core.errors import RobotError
from streamvla.core.interfaces import Capture
from streamvla.robots.gl import REMEDY, import_mujoco

# MuJoCo ships no type stubs, and importing it here would choose a backend too early.
MjModel = Any
MjData = Any
MjvCamera = Any

FIELD_OF_VIEW_DEG = 45.0
"""Of free cameras, from top to bottom: MuJoCo's default of `vis.global.fovy`."""


@dataclass(frozen=True)
class Camera:
    """A free camera: looks at a point from a distance. Metres and degrees.

    Azimuth 0 looks along +x, 90 along +y; a negative elevation looks down.
    """

    lookat: tuple[float, float, float]
    distance: float
    azimuth: float
    elevation: float

    def moved(self, azimuth: float, elevation: float, distance: float) -> Camera:
        """Turned about what it looks at by so many degrees, and so many metres farther away."""
        return Camera(
            self.lookat,
            self.distance + distance,
            self.azimuth + azimuth,
            self.elevation + elevation,
        )

    def view(self, size: tuple[int, int]) -> CameraView:
        """Where it shows a point, in an image of (height, width) pixels.

        Exact for MuJoCo's free camera in a scene that leaves `vis.global.fovy` at its default.
        """
        azimuth, elevation = np.radians([self.azimuth, self.elevation])
        forward = np.array(
            [
                np.cos(elevation) * np.cos(azimuth),
                np.cos(elevation) * np.sin(azimuth),
                np.sin(elevation),
            ]
        )
        right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
        turned = np.stack([right, np.cross(forward, right), forward])  # right, down, ahead
        position = np.array(self.lookat) - self.distance * forward
        height, width = size
        focal = height / 2 / np.tan(np.radians(FIELD_OF_VIEW_DEG) / 2)
        lens = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        matrix = lens @ np.column_stack([turned, -turned @ position])
        return CameraView(tuple(map(tuple, matrix.tolist())))


LAYOUT = ("body_pos", "body_quat", "site_pos", "geom_rgba")
"""Of the model, where an episode put what does not move by itself: fixed from reset to reset.

Scenes place drawers, windows and goals, and colour them, by editing the model, not the state.
(bodies, 3) metres, (bodies, 4), (sites, 3) metres, and (geoms, 4) within [0, 1].
"""

POSE = ("qpos", "mocap_pos", "mocap_quat")
"""Of the state: generalised positions, and motion-capture bodies: (bodies, 3) and (bodies, 4)."""


def layout_of(model: MjModel, names: tuple[str, ...] = LAYOUT) -> Capture:
    """A copy of these arrays of the model."""
    return {name: getattr(model, name).copy() for name in names}


def pose_of(data: MjData) -> Capture:
    """A copy of the arrays `POSE` of this instant."""
    return {name: getattr(data, name).copy() for name in POSE}


def full_state(model: MjModel, data: MjData) -> np.ndarray:
    """(n,) float64 all that the next step depends on: `mjSTATE_INTEGRATION`."""
    mujoco = import_mujoco()
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, data, state, kind)
    return state


def set_full_state(model: MjModel, data: MjData, values: np.ndarray) -> int:
    """Put the first n of the values, as `full_state` gave them, in force; n."""
    mujoco = import_mujoco()
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    size = mujoco.mj_stateSize(model, kind)
    mujoco.mj_setState(model, data, np.asarray(values[:size], dtype=np.float64), kind)
    mujoco.mj_forward(model, data)
    return size


class SceneRenderer:
    """Draws captures that hold `layout` and `POSE`. Thread-safe: calls queue up for the one render
    thread.

    Args:
        model: the scene; copied, so the caller may go on editing it.
        layout: which arrays of the model a capture has.
        faithful: shadows, anti-aliasing and reflections as the scene has them, at 10-30 times the
            cost on a CPU: for policies that were trained on such pictures.
        hidden: groups of geoms that are not drawn, such as those of collision meshes.
    """

    def __init__(
        self,
        model: MjModel,
        *,
        layout: tuple[str, ...] = LAYOUT,
        faithful: bool = False,
        hidden: tuple[int, ...] = (),
    ) -> None:
        self._mujoco = import_mujoco()
        self._model = copy.deepcopy(model)
        if not faithful:
            _make_cheap(self._model)
        self._layout = layout
        self._faithful = faithful
        self._options = self._mujoco.MjvOption()
        self._options.geomgroup[list(hidden)] = 0
        self._data = self._mujoco.MjData(self._model)
        self._by_size: dict[tuple[int, int], Any] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="render")
        self._closed = False
        self._forgotten = weakref.finalize(self, _ABANDONED.append, (self._thread, self._by_size))
        self._forgotten.atexit = False
        _free_abandoned()

    def render(
        self, capture: Capture, cameras: tuple[Camera | str, ...], size: tuple[int, int]
    ) -> list[np.ndarray]:
        """One (height, width, 3) uint8 RGB image per camera, one of ours or a name in the scene.

        Raises:
            RobotError: no OpenGL context could be made, or the renderer was closed.
        """
        if self._closed:
            raise RobotError("this robot was closed and renders no more: make a new one")
        return self._thread.submit(self._draw, capture, cameras, size).result()

    def close(self) -> None:
        """Free the OpenGL contexts; safe to call twice."""
        if not self._closed:
            self._closed = True
            self._forgotten.detach()
            self._thread.submit(_free, self._by_size).result()
            self._thread.shutdown()

    def _draw(
        self, capture: Capture, cameras: tuple[Camera | str, ...], size: tuple[int, int]
    ) -> list[np.ndarray]:
        renderer = self._renderer(size)
        self._assume(capture)
        images = []
        for camera in cameras:
            eye = camera if isinstance(camera, str) else self._free_camera(camera)
            renderer.update_scene(self._data, eye, self._options)
            if not self._faithful:
                renderer.scene.flags[self._mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
            images.append(renderer.render())
        return images

    def _assume(self, capture: Capture) -> None:
        model, data = self._model, self._data
        for name in self._layout:
            getattr(model, name)[:] = capture[name]
        for name in POSE:
            getattr(data, name)[:] = capture[name]
        self._mujoco.mj_kinematics(model, data)
        self._mujoco.mj_comPos(model, data)
        self._mujoco.mj_camlight(model, data)

    def _free_camera(self, camera: Camera) -> MjvCamera:
        free = self._mujoco.MjvCamera()
        free.type = self._mujoco.mjtCamera.mjCAMERA_FREE
        free.lookat[:] = camera.lookat
        free.distance, free.azimuth, free.elevation = (
            camera.distance,
            camera.azimuth,
            camera.elevation,
        )
        return free

    def _renderer(self, size: tuple[int, int]) -> Any:
        if size not in self._by_size:
            height, width = size
            self._model.vis.global_.offheight, self._model.vis.global_.offwidth = height, width
            try:
                self._by_size[size] = self._mujoco.Renderer(self._model, height, width)
            # The GL bindings raise whatever their platform layer raises: a boundary, so all of it
            # becomes the one error that names the packages.
            except Exception as error:
                reason = str(error).rstrip(".")
                raise RobotError(f"cannot make an OpenGL context: {reason}. {REMEDY}") from error
        return self._by_size[size]


_ABANDONED: deque[tuple[ThreadPoolExecutor, dict[tuple[int, int], Any]]] = deque()
"""Threads and contexts of renderers that were collected without `close`. The collector runs in any
thread, and there must not free them: it would delete objects of that thread's own context, which
go by the same numbers."""


def _free_abandoned() -> None:
    while _ABANDONED:
        thread, by_size = _ABANDONED.popleft()
        thread.submit(_free, by_size)
        thread.shutdown(wait=False)


def _free(by_size: dict[tuple[int, int], Any]) -> None:
    """In the thread that made them."""
    for renderer in by_size.values():
        renderer.close()
    by_size.clear()


def _make_cheap(model: MjModel) -> None:
    """Turn off what costs 10-30 times on a CPU: shadows and anti-aliasing."""
    model.light_castshadow[:] = 0
    model.vis.quality.offsamples = 0
