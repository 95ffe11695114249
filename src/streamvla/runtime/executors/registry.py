"""Executors by name: ours, and those of other packages.

Each is stated as `package.module:Class`, and imported by the first look-up. One of ours is a
file and a line in `_OURS`; another package adds one by an entry point,
`[project.entry-points."streamvla.executors"]`. The class is an `Executor` with a class method
`configured(Request)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from streamvla.core.errors import ConfigError, did_you_mean
from streamvla.core.interfaces import Policy
from streamvla.runtime.executors.base import Executor
from streamvla.runtime.executors.options import EarlyOptions, Request
from streamvla.runtime.timing.latency import LatencyProfile

GROUP = "streamvla.executors"

_OURS = {
    "action-flow": "streamvla.runtime.executors.action_flow:ActionFlow",
    "async-chunks": "streamvla.runtime.executors.async_chunks:AsyncChunks",
    "synchronous": "streamvla.runtime.executors.synchronous:Synchronous",
}


@cache
def executors() -> Mapping[str, type[Any]]:
    """Name → class, of every executor that is installed.

    Raises:
        ConfigError: an installed package's cannot be imported, or takes a name twice.
    """
    found: dict[str, type[Any]] = {}
    ours = [EntryPoint(name, where, GROUP) for name, where in _OURS.items()]
    for point in (*ours, *entry_points(group=GROUP)):
        if point.name in found:
            raise ConfigError(f"two executors are called {point.name!r}; rename {point.value}")
        try:
            found[point.name] = point.load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"executor {point.name!r}: cannot import {point.value} ({error}); install its "
                "package again, or uninstall it"
            ) from error
    return found


def executor_named(name: str) -> type[Any]:
    """The class of that name; `ConfigError` for an unknown one."""
    if name not in executors():
        raise did_you_mean("executor", name, executors())
    return executors()[name]


def parse_executor(
    text: str,
    profile: LatencyProfile,
    horizon: int,
    options: EarlyOptions | None = None,
    policy: Policy | None = None,
    *,
    seed: int = 0,
    shared_accelerator: bool = True,
) -> Executor:
    """`NAME` or `NAME:N`, for example `synchronous:5` or `action-flow:auto`; see `Request`.

    Raises:
        ConfigError: unknown executor or option, or a number out of range.
    """
    name, _, setting = text.partition(":")
    options = options or EarlyOptions()
    request = Request(text, setting, profile, horizon, options, policy, seed, shared_accelerator)
    executor: Executor = executor_named(name).configured(request)
    executor.executed(horizon)
    return executor
