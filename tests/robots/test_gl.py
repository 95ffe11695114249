"""Choosing an offscreen OpenGL backend."""

import ctypes
import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from streamvla.core.errors import ConfigError, RobotError
from streamvla.robots import rendering
from streamvla.robots.gl import choose_gl_backend, egl_failure
from streamvla.robots.metaworld.robot import MetaWorldRobot
from streamvla.robots.registry import make_robot

ROOT = Path(__file__).resolve().parents[2]


def never_asked() -> str | None:
    raise AssertionError("EGL was probed though the choice does not depend on it")


@pytest.mark.parametrize("chosen", [None, "", " "])
def test_egl_is_preferred_when_both_are_there(chosen):
    """With every library present and nothing chosen, the backend is EGL."""
    assert choose_gl_backend(chosen, lambda name: True, failure=lambda: None) == "egl"


def test_egl_without_a_context_falls_back_to_osmesa():
    """libEGL alone does not decide: where it makes no context, OSMesa is chosen."""
    assert choose_gl_backend(None, lambda name: True, failure=lambda: "no driver") == "osmesa"


def test_neither_is_one_error_with_reason_and_packages():
    """EGL without a context and no OSMesa: one error with EGL's reason and the packages."""
    with pytest.raises(RobotError, match=r"EGL: no driver\. OSMesa: .*missing.*libosmesa6"):
        choose_gl_backend(None, lambda name: "EGL" in name, failure=lambda: "no driver")


def test_an_unknown_backend_is_refused_by_name():
    """MUJOCO_GL=osmes is a ConfigError that proposes osmesa; case does not matter."""
    with pytest.raises(ConfigError, match="unknown MUJOCO_GL 'osmes': did you mean 'osmesa'"):
        choose_gl_backend("osmes", lambda name: True, never_asked)
    assert choose_gl_backend("EGL", lambda name: True, never_asked) == "egl"


@pytest.mark.render
def test_the_probe_finds_a_missing_driver(monkeypatch, tmp_path):
    """An EGL library without any driver behind it is found out, with a reason."""
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_DIRS", str(tmp_path))
    assert egl_failure()


HALF_BUILT = """
from streamvla.core.errors import RobotError
from streamvla.robots import rendering
from streamvla.robots.gl import import_mujoco
from streamvla.robots.rendering import SceneRenderer, layout_of, pose_of
mujoco = import_mujoco()
model = mujoco.MjModel.from_xml_string("<mujoco/>")
renderer = SceneRenderer(model)
try:
    renderer.render({**layout_of(model), **pose_of(mujoco.MjData(model))}, (), (8, 8))
except RobotError as error:
    print(error)
renderer.close()
"""


@pytest.mark.render
def test_a_context_that_fails_late_is_one_error_and_no_more(tmp_path):
    """Without a driver for the user's own choice: one RobotError and nothing on stderr."""
    driverless = {"MUJOCO_GL": "egl", "__EGL_VENDOR_LIBRARY_DIRS": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", HALF_BUILT],
        env={**os.environ, **driverless},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cannot make an OpenGL context" in done.stdout
    assert "apt-get install libegl1" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("library", "installs"),
    [("libEGL.so.1", False), ("libOSMesa.so.8", False), ("libGL.so.1", True)],
)
def test_setup_is_content_with_either_library(tmp_path, library, installs):
    """scripts/setup.sh calls apt-get only where neither EGL nor OSMesa is there."""
    commands = {
        "ldconfig": f"echo '{library} (libc6,x86-64) => /lib/{library}'",
        "apt-get": f"touch {tmp_path}/installed",
        "sudo": f"touch {tmp_path}/installed",
        "python3": "exit 0",
        "venv/bin/python": "exit 0",
        "venv/bin/pip": "exit 0",
    }
    for name, body in commands.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = ["sh", str(ROOT / "scripts" / "setup.sh"), str(tmp_path / "venv")]
    subprocess.run(script, env=env, cwd=tmp_path, capture_output=True, check=True)
    assert (tmp_path / "installed").exists() == installs


def test_osmesa_is_the_fallback():
    """Without libEGL, OSMesa is chosen."""
    assert choose_gl_backend(None, loads=lambda name: "OSMesa" in name) == "osmesa"


def test_the_users_choice_stands():
    """A backend set by the user is never replaced."""
    assert choose_gl_backend("osmesa", lambda name: True, never_asked) == "osmesa"
    assert choose_gl_backend("glfw", lambda name: False, never_asked) == "glfw"


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


@pytest.mark.render
def test_a_renderer_that_nobody_closed_is_freed_in_its_own_thread():
    """Collected in another thread it waits until the next one is made, and that one draws."""
    first = make_robot("reach")
    first.reset(0, 0, 50_000_000)
    first.observe(first.capture())
    renderer = weakref.ref(first._renderer)
    del first
    gc.collect()
    assert renderer() is None
    assert len(rendering._ABANDONED) == 1
    second = make_robot("reach")
    second.reset(0, 0, 50_000_000)
    assert second.observe(second.capture()).images["side"].std() > 0
    assert not rendering._ABANDONED
    second.close()
