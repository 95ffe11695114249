"""Offscreen OpenGL for MuJoCo: pick a backend before MuJoCo is imported.

MuJoCo reads `MUJOCO_GL` once, when it is first imported; so every import of MuJoCo in this
package goes through `import_mujoco`.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from types import ModuleType

from streamvla.core.errors import RobotError

REMEDY = (
    "Install it (Debian: apt-get install libegl1 libgl1-mesa-dri libosmesa6), or choose a backend "
    "yourself with MUJOCO_GL=egl, osmesa or glfw, set before Python starts."
)

# Shared libraries per backend, newest first; the order of backends is the order of preference
# (measured equal within 10 % on a CPU; EGL also reaches a GPU).
_LIBRARIES: dict[str, tuple[str, ...]] = {
    "egl": ("libEGL.so.1",),
    "osmesa": ("libOSMesa.so.8", "libOSMesa.so.6"),
}


def library_loads(name: str) -> bool:
    """Whether the shared library `name` can be loaded."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def choose_gl_backend(chosen: str | None, loads: Callable[[str], bool] = library_loads) -> str:
    """The value `MUJOCO_GL` should have.

    Args:
        chosen: what the user set, or None.
        loads: whether a shared library can be loaded (replaced in tests).

    Raises:
        RobotError: no offscreen OpenGL library is there, or not the one the user chose.
    """
    if chosen:
        libraries = _LIBRARIES.get(chosen)
        if libraries is not None and not any(loads(name) for name in libraries):
            raise RobotError(
                f"MUJOCO_GL={chosen} but the library {libraries[0]} is missing. {REMEDY}"
            )
        return chosen
    for backend, libraries in _LIBRARIES.items():
        if any(loads(name) for name in libraries):
            return backend
    raise RobotError(f"no offscreen OpenGL library found (EGL or OSMesa). {REMEDY}")


def import_mujoco() -> ModuleType:
    """Import MuJoCo with an offscreen backend.

    Raises:
        RobotError: MuJoCo is not installed, or no offscreen OpenGL library is there.
    """
    os.environ["MUJOCO_GL"] = choose_gl_backend(os.environ.get("MUJOCO_GL"))
    try:
        import mujoco
    except ImportError as error:
        raise RobotError(
            f"cannot import mujoco: {error}. Install it with pip install 'streamvla[sim]'."
        ) from error
    return mujoco
