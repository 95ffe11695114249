"""Executors by name: import strings for ours, entry points for others."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from streamvla.core.errors import ConfigError
from streamvla.runtime.executors import registry
from streamvla.runtime.executors.synchronous import Synchronous


@pytest.fixture
def installed(monkeypatch):
    """Make packages that declare these executors look installed."""

    def install(*points: tuple[str, str]) -> None:
        found = [EntryPoint(name, where, "streamvla.executors") for name, where in points]
        monkeypatch.setattr("streamvla.core.registry.entry_points", lambda group: found)
        monkeypatch.setattr(registry._EXECUTORS, "_found", None)

    return install


def test_every_name_is_that_of_its_class():
    """The name in the registry is the one the executor's own slug and header use."""
    names = registry.executors()
    assert names == tuple(registry.executor_named(name).name for name in names)


def test_importing_the_registry_imports_no_executor():
    """Ours are strings until the first look-up."""
    code = (
        "import sys, streamvla.runtime.executors.registry as r; r.executors(); "
        "names = set(sys.modules); assert not any('async_chunks' in each for each in names); "
        "r.executor_named('async-chunks')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_package_adds_an_executor_by_its_entry_point(installed):
    """It is found by the name it is declared with."""
    installed(("mine", "streamvla.runtime.executors.synchronous:Synchronous"))
    assert registry.executor_named("mine") is Synchronous


def test_a_name_taken_twice_and_a_class_that_is_missing_are_refused(installed):
    """The message names the entry point that is to blame."""
    installed(("synchronous", "other.package:Mine"))
    with pytest.raises(ConfigError, match=r"'synchronous': .* and other\.package:Mine; rename"):
        registry.executors()
    installed(("broken", "streamvla.runtime.executors.synchronous:Missing"))
    with pytest.raises(ConfigError, match=r"cannot import .*synchronous:Missing"):
        registry.executor_named("broken")
