"""Arrows go one way (docs/concepts.md): checked on the import graph itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "streamvla"

MAY_IMPORT = {
    "core": set(),
    "trace": {"core"},
    "model": {"core"},
    "robots": {"core"},
    "policy": {"core", "model"},
    "data": {"core", "robots"},
    "training": {"core", "data", "model", "policy"},
    "runtime": {"core", "trace"},
    "evaluation": {"core", "trace", "runtime"},
    "testing": {"core", "runtime", "trace"},
}
"""Room → rooms it may import besides itself; `cli` may import all."""


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("streamvla.")}
    return rooms


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_no_arrow_points_the_wrong_way(room):
    """No module of this room imports a room that the design does not allow it."""
    modules = list((SOURCE / room).rglob("*.py"))
    assert modules
    for module in modules:
        wrong = imported_rooms(module) - MAY_IMPORT[room] - {room}
        assert not wrong, f"{module.relative_to(SOURCE)} imports {sorted(wrong)}"


def test_every_room_is_known():
    """A new top-level package must be entered in the table above."""
    rooms = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert rooms == set(MAY_IMPORT) | {"cli"}


@pytest.mark.parametrize("module", ["runtime", "trace", "core"])
def test_the_robot_side_never_loads_torch(module):
    """Importing this room in a fresh interpreter leaves torch and mujoco unloaded."""
    code = (
        f"import sys, streamvla.{module}; "
        "print([name for name in ('torch', 'mujoco') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_only_the_clock_module_reads_the_time():
    """No module but core/clock.py imports time or datetime."""
    readers = {
        module.relative_to(SOURCE).as_posix()
        for module in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and {a.name for a in node.names} & {"time", "datetime"})
        or (isinstance(node, ast.ImportFrom) and node.module in {"time", "datetime"})
    }
    assert readers == {"core/clock.py"}
