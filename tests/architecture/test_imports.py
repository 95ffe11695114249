"""Arrows go one way (docs/concepts.md): checked on the import graph itself."""

from __future__ import annotations

import ast
import re
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
    "data": {"core", "policy", "robots"},
    "training": {"core", "data", "model", "policy"},
    "runtime": {"core", "trace"},
    "evaluation": {"core", "runtime", "trace"},
    "adapters": {"core", "robots"},
    "testing": {"core", "robots", "runtime", "trace"},
}
"""Room → rooms it may import besides itself; `cli` may import all."""

MAY_IMPORT["studies"] = {*MAY_IMPORT}

ROOMS = {*MAY_IMPORT, "cli"}


def imported_rooms(source: str, package: str) -> set[str]:
    """The rooms that the source of a module in `package` imports, its own included."""
    names = [name for node in ast.walk(ast.parse(source)) for name in imported_names(node, package)]
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "streamvla" and len(part) > 1} & ROOMS


def imported_names(node: ast.AST, package: str) -> list[str]:
    """Dotted names that an import statement may bind, relative ones resolved."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        anchor = package.split(".")
        base = ".".join([*anchor[: len(anchor) - node.level + 1], *filter(None, [node.module])])
    return [f"{base}.{alias.name}" for alias in node.names]


@pytest.mark.parametrize(
    ("source", "rooms"),
    [
        ("import streamvla.runtime.buffer as b", {"runtime"}),
        ("from streamvla import runtime", {"runtime"}),
        ("from streamvla import trace as t, runtime as r", {"trace", "runtime"}),
        ("from streamvla.runtime import run", {"runtime"}),
        ("from streamvla.runtime.buffer import run", {"runtime"}),
        ("from ... import runtime", {"runtime"}),
        ("from ...runtime import run", {"runtime"}),
        ("from ...runtime.buffer import run", {"runtime"}),
        ("from .. import tabletop", {"robots"}),
        ("from . import scene", {"robots"}),
        ("from .scene import draw", {"robots"}),
        ("def late():\n    from streamvla import runtime", {"runtime"}),
        ("from streamvla import __version__", set()),
        ("import runtime, streamvlatrace.runtime", set()),
    ],
)
def test_the_check_sees_through_every_way_to_import(source, rooms):
    """Absolute, aliased, relative, and late imports are each traced to their room."""
    assert imported_rooms(source, "streamvla.robots.tabletop") == rooms


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_no_arrow_points_the_wrong_way(room):
    """No module of this room imports a room that the design does not allow it."""
    modules = list((SOURCE / room).rglob("*.py"))
    assert modules
    for module in modules:
        package = ".".join(module.parent.relative_to(SOURCE.parent).parts)
        rooms = imported_rooms(module.read_text(encoding="utf-8"), package)
        wrong = rooms - MAY_IMPORT[room] - {room}
        assert not wrong, f"{module.relative_to(SOURCE)} imports {sorted(wrong)}"


def test_the_streamer_names_no_method():
    """Its machine imports what executors are asked, and no executor."""
    machine = (SOURCE / "runtime/streamer/machine.py").read_text(encoding="utf-8")
    names = {n for node in ast.walk(ast.parse(machine)) for n in imported_names(node, "")}
    from_executors = {name for name in names if name.startswith("streamvla.runtime.executors")}
    assert from_executors
    assert all(name.startswith("streamvla.runtime.executors.base.") for name in from_executors)


def test_parts_are_asked_not_told_apart():
    """Outside its own file no module tests for the class of an executor, robot, method or model."""
    parts = {
        "executors": SOURCE / "runtime/executors",
        "methods": SOURCE / "model/methods",
        "robots": SOURCE / "robots",
    }
    own: dict[str, Path] = {}  # class → the file it is defined in
    for folder in parts.values():
        for module in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    own[node.name] = module
    own |= {"StreamingVLA": SOURCE / "model/vla.py", "VLAConfig": SOURCE / "model/vla.py"}
    own |= dict.fromkeys(("PretrainedVLA", "PretrainedConfig"), SOURCE / "model/pretrained.py")
    own |= dict.fromkeys(("ModelSize", "PretrainedSize"), SOURCE / "training/config.py")
    assert {"ActionFlow", "Synchronous", "PointRobot", "SawyerRobot", "ActionFlowConfig"} <= set(
        own
    )
    for module in SOURCE.rglob("*.py"):
        for name in classes_told_apart(module.read_text(encoding="utf-8")) & set(own):
            same_room = module.parent == own[name].parent and module.parent.name == "executors"
            assert own[name] == module or same_room, f"{module} tests for {name}"


def classes_told_apart(source: str) -> set[str]:
    """Names in what `isinstance`, `issubclass`, `type(…)`, `__class__` or `match` compare with."""
    found: list[ast.AST] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            found.append(node.args[1])
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            found += sides if any(map(_is_class_of, sides)) else []
        elif isinstance(node, ast.MatchClass):
            found.append(node.cls)
    return {name for node in found for name in re.findall(r"\w+", ast.unparse(node))}


def _is_class_of(node: ast.AST) -> bool:
    """Whether an expression is `type(…)` or `….__class__`."""
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) == "type"
    return isinstance(node, ast.Attribute) and node.attr == "__class__"


@pytest.mark.parametrize(
    "source",
    [
        "isinstance(m, Flow)",
        "isinstance(m, (Other, Flow))",
        "isinstance(m, methods.Flow | None)",
        "issubclass(type(m), Flow)",
        "type(m) is Flow",
        "type(m) == methods.Flow",
        "type(m) in (Other, Flow)",
        "m.__class__ is not Flow",
        "match m:\n    case Flow(): pass",
        "match m:\n    case methods.Flow(horizon=1): pass",
    ],
)
def test_the_check_sees_every_way_to_tell_apart(source):
    """Each way to test for a class is found, the class named by a module too."""
    assert "Flow" in classes_told_apart(source)


@pytest.mark.parametrize("where", ["policy", "training"])
def test_training_and_policies_import_no_method(where):
    """Of `model.methods` they import what all methods share (`base`, `registry`), and no method."""
    shared = tuple(f"streamvla.model.methods.{name}." for name in ("base", "registry"))
    imported = {
        name
        for module in (SOURCE / where).rglob("*.py")
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        for name in imported_names(node, ".".join(module.parent.relative_to(SOURCE.parent).parts))
        if name.startswith("streamvla.model.methods")
    }
    assert imported
    assert all(name.startswith(shared) for name in imported), imported


def test_every_room_is_known():
    """A new top-level package must be entered in the table above."""
    rooms = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert rooms == ROOMS


@pytest.mark.parametrize("module", ["runtime", "trace", "core", "testing"])
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
