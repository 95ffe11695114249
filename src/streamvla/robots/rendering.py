"""Render captured instants of a MuJoCo scene, away from the thread that steps it.

    control thread:   step ─ capture ─ step ─ step ─ step ─ …
                                └─► render thread: pose own copy ─ draw view ─ draw view

An OpenGL context belongs to one thread. A renderer here owns one thread and draws only there, on
its own copy of the model, so `render` may be called from anywhere while physics steps on.
"""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamvla.core.errors import RobotError
from streamvla.core.interfaces import Capture
from streamvla.robots.gl import REMEDY, import_mujoco

# MuJoCo ships no type stubs, and importing it here would choose a backend too early.
MjModel = Any
MjData = Any
MjvCamera = Any


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


LAYOUT = ("body_pos", "body_quat", "site_pos", "geom_rgba")
"""Of the model, where an episode put what does not move by itself: fixed from reset to reset.

Scenes place drawers, windows and goals, and colour them, by editing the model, not the state.
(bodies, 3) metres, (bodies, 4), (sites, 3) metres, and (geoms, 4) within [0, 1].
"""

POSE = ("qpos", "mocap_pos", "mocap_quat")
"""Of the state: generalised positions, and motion-capture bodies: (bodies, 3) and (bodies, 4)."""


def layout_of(model: MjModel) -> Capture:
    """A copy of the arrays `LAYOUT`."""
    return {name: getattr(model, name).copy() for name in LAYOUT}


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
    """Draws captures that hold `LAYOUT` and `POSE`. Thread-safe: calls queue up for the one render
    thread.

    Args:
        model: the scene; copied, so the caller may go on editing it.
    """

    def __init__(self, model: MjModel) -> None:
        self._mujoco = import_mujoco()
        self._model = _cheap_to_render(copy.deepcopy(model))
        self._data = self._mujoco.MjData(self._model)
        self._by_size: dict[tuple[int, int], Any] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="render")
        self._closed = False

    def render(
        self, capture: Capture, cameras: tuple[Camera, ...], size: tuple[int, int]
    ) -> list[np.ndarray]:
        """One (height, width, 3) uint8 RGB image per camera.

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
            self._thread.submit(self._free).result()
            self._thread.shutdown()

    def _draw(
        self, capture: Capture, cameras: tuple[Camera, ...], size: tuple[int, int]
    ) -> list[np.ndarray]:
        renderer = self._renderer(size)
        self._assume(capture)
        images = []
        for camera in cameras:
            renderer.update_scene(self._data, self._free_camera(camera))
            renderer.scene.flags[self._mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
            images.append(renderer.render())
        return images

    def _assume(self, capture: Capture) -> None:
        model, data = self._model, self._data
        for name in LAYOUT:
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

    def _free(self) -> None:
        for renderer in self._by_size.values():
            renderer.close()
        self._by_size.clear()


def _cheap_to_render(model: MjModel) -> MjModel:
    """Turn off what costs 10-30 times on a CPU: shadows and anti-aliasing."""
    model.light_castshadow[:] = 0
    model.vis.quality.offsamples = 0
    return model
