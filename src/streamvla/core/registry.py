"""Named parts of one kind: ours by import string, those of other packages by entry point.

    [project.entry-points."streamvla.suites"]
    bench = "my_package.bench:SUITE"

A part is imported when it is first asked for, so that a list of names costs nothing.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from streamvla.core.errors import ConfigError, did_you_mean


class Registry:
    """The parts of one kind.

    Args:
        kind: what a part is called in messages, such as "executor".
        group: of the entry points of other packages, such as "streamvla.executors".
        ours: name → "package.module:attribute".
    """

    def __init__(self, kind: str, group: str, ours: Mapping[str, str]) -> None:
        self._kind = kind
        self._group = group
        self._ours = dict(ours)
        self._loaded: dict[str, Any] = {}
        self._found: dict[str, str] | None = None

    def names(self) -> tuple[str, ...]:
        """Ours first, then those of the packages that are installed.

        Raises:
            ConfigError: two parts have the same name.
        """
        return tuple(self._places())

    def load(self, name: str) -> Any:
        """The part of this name.

        Raises:
            ConfigError: there is none, or what it names cannot be imported.
        """
        places = self._places()
        if name not in places:
            raise did_you_mean(self._kind, name, places)
        if name not in self._loaded:
            self._loaded[name] = import_attribute(places[name], f"{self._kind} {name!r}")
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._places()

    def _places(self) -> Mapping[str, str]:
        if self._found is None:
            found = dict(self._ours)
            for point in entry_points(group=self._group):
                if point.name in found:
                    raise ConfigError(
                        f"two installed {self._kind} parts are called {point.name!r}: "
                        f"{found[point.name]} and {point.value}; rename or uninstall one"
                    )
                found[point.name] = point.value
            self._found = found
        return self._found


_IMPORT = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_import(text: str) -> bool:
    """Whether it is written as "package.module:attribute".

    >>> is_import("my_package.robots:make"), is_import("synchronous:5")
    (True, False)
    """
    return _IMPORT.fullmatch(text) is not None


def import_beside(text: str, what: str) -> Any:
    """As `import_attribute`; a module in the working directory is found, as `python -m` would.

    Raises:
        ConfigError: it cannot be imported.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return import_attribute(text, what)


def import_attribute(text: str, what: str) -> Any:
    """What "package.module:attribute" names.

    Raises:
        ConfigError: it cannot be imported; `what` says in the message what it was to be.
    """
    module, _, attribute = text.partition(":")
    try:
        found: Any = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{what}: cannot import {text} ({error}); install its package, or correct the name"
        ) from error
    return found
