"""Choosing an offscreen OpenGL backend."""

import ctypes

import pytest

from streamvla.core.errors import RobotError
from streamvla.robots.gl import choose_gl_backend
from streamvla.robots.metaworld import MetaWorldRobot


def test_egl_is_preferred_when_both_are_there():
    """With every library present and nothing chosen, the backend is EGL."""
    assert choose_gl_backend(None, loads=lambda name: True) == "egl"


def test_osmesa_is_the_fallback():
    """Without libEGL, OSMesa is chosen."""
    assert choose_gl_backend(None, loads=lambda name: "OSMesa" in name) == "osmesa"


def test_the_users_choice_stands():
    """A backend set by the user is never replaced."""
    assert choose_gl_backend("osmesa", loads=lambda name: True) == "osmesa"
    assert choose_gl_backend("glfw", loads=lambda name: False) == "glfw"


def test_the_users_choice_without_its_library_is_refused():
    """MUJOCO_GL=egl without libEGL is an error that names the library, not a silent fallback."""
    with pytest.raises(RobotError, match=r"libEGL\.so\.1 is missing.*libegl1"):
        choose_gl_backend("egl", loads=lambda name: "OSMesa" in name)


def test_a_missing_library_names_the_debian_packages(monkeypatch):
    """Making a robot without any OpenGL library fails with one error naming the packages."""

    def no_library(name, *rest):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with pytest.raises(RobotError, match="libegl1 libgl1-mesa-dri libosmesa6"):
        MetaWorldRobot("reach")
