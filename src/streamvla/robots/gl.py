"""Offscreen OpenGL for MuJoCo: pick a backend before MuJoCo is imported.

MuJoCo reads `MUJOCO_GL` once, when it is first imported; so every import of MuJoCo in this
package goes through `import_mujoco`.

    MUJOCO_GL set by the user ─────────────────────────────► that one, or an error
    libEGL is there and makes a context (tried in a child) ► egl
    libOSMesa is there ────────────────────────────────────► osmesa
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType

from streamvla.core.errors import RobotError, did_you_mean

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

_BACKENDS = ("egl", "osmesa", "glfw", "glx")

_PROBE_TIMEOUT_S = 60
_PROBE = """
import os
try:
    from mujoco.egl import GLContext
    GLContext(8, 8).make_current()
except Exception as error:
    print(error, flush=True)
    os._exit(1)
os._exit(0)
"""


def library_loads(name: str) -> bool:
    """Whether the shared library `name` can be loaded."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def egl_failure() -> str | None:
    """Why EGL makes no context here, or None when it does: a driver may be missing (about 0.3 s).

    Tried in a child process, because MuJoCo cannot change its backend once it is imported.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _PROBE],
            env={**os.environ, "MUJOCO_GL": "egl"},
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_PROBE_TIMEOUT_S} s"
    if done.returncode == 0:
        return None
    return (done.stdout.strip() or f"exit code {done.returncode}").rstrip(".")


def choose_gl_backend(
    chosen: str | None,
    loads: Callable[[str], bool] = library_loads,
    failure: Callable[[], str | None] = egl_failure,
) -> str:
    """The value `MUJOCO_GL` should have.

    Args:
        chosen: what the user set, or None.
        loads: whether a shared library can be loaded (replaced in tests).
        failure: why EGL makes no context, or None (replaced in tests).

    Raises:
        ConfigError: the user chose a backend that does not exist.
        RobotError: no offscreen OpenGL is there, or not the library of the user's choice.
    """
    chosen = (chosen or "").strip().lower()
    if chosen:
        return _users_choice(chosen, loads)
    found = [name for name, files in _LIBRARIES.items() if any(loads(file) for file in files)]
    reason = "libEGL.so.1 is missing"
    if "egl" in found:
        reason = failure()
        if reason is None:
            return "egl"
    if "osmesa" in found:
        return "osmesa"
    raise RobotError(
        f"no offscreen OpenGL here. EGL: {reason}. OSMesa: libOSMesa.so.8 is missing. {REMEDY}"
    )


def _users_choice(chosen: str, loads: Callable[[str], bool]) -> str:
    if chosen not in _BACKENDS:
        raise did_you_mean("MUJOCO_GL", chosen, _BACKENDS)
    libraries = _LIBRARIES.get(chosen)
    if libraries is not None and not any(loads(name) for name in libraries):
        raise RobotError(f"MUJOCO_GL={chosen} but the library {libraries[0]} is missing. {REMEDY}")
    return chosen


def select_gl_backend() -> str:
    """Choose a backend and put it into the environment: processes started later need not choose.

    Raises:
        ConfigError, RobotError: as `choose_gl_backend`.
    """
    backend = choose_gl_backend(os.environ.get("MUJOCO_GL"))
    os.environ["MUJOCO_GL"] = backend
    return backend


def import_mujoco() -> ModuleType:
    """Import MuJoCo with an offscreen backend.

    Raises:
        ConfigError: `MUJOCO_GL` names no backend.
        RobotError: MuJoCo is not installed, or no offscreen OpenGL is there.
    """
    if find_spec("mujoco") is None:
        raise RobotError("mujoco is not installed. Install it with pip install 'streamvla[sim]'.")
    backend = select_gl_backend()
    try:
        import mujoco
    # The GL bindings raise whatever their platform layer raises: a boundary, so all of it becomes
    # the one error that names the packages.
    except Exception as error:
        raise RobotError(f"cannot import mujoco, MUJOCO_GL={backend}: {error}. {REMEDY}") from error
    _quieten_finalisers(mujoco)
    return mujoco


def _quieten_finalisers(mujoco: ModuleType) -> None:
    """Let half-built renderers go quietly.

    One whose constructor raised lacks what its own `__del__` frees, and Python prints a page about
    each. With these defaults there is nothing to free.
    """
    mujoco.Renderer._gl_context = mujoco.Renderer._mjr_context = None
    mujoco.gl_context.GLContext._context = None
