"""Executors by name: ours, and those of other packages.

Each is stated as `package.module:Class`, and imported by the first look-up. One of ours is a
file and a line in `_EXECUTORS`; another package adds one by an entry point,
`[project.entry-points."streamvla.executors"]`. The class is an `Executor` with a class method
`configured(Request)`.
"""

from __future__ import annotations

from typing import Any

from streamvla.core.interfaces import Policy
from streamvla.core.registry import Registry
from streamvla.runtime.executors.base import Executor
from streamvla.runtime.executors.options import EarlyOptions, Request
from streamvla.runtime.timing.latency import LatencyProfile

_EXECUTORS = Registry(
    "executor",
    "streamvla.executors",
    {
        "action-flow": "streamvla.runtime.executors.action_flow:ActionFlow",
        "async-chunks": "streamvla.runtime.executors.async_chunks:AsyncChunks",
        "synchronous": "streamvla.runtime.executors.synchronous:Synchronous",
    },
)


def executors() -> tuple[str, ...]:
    """The names of all that are installed, ours first.

    Raises:
        ConfigError: two have the same name.
    """
    return _EXECUTORS.names()


def executor_named(name: str) -> type[Any]:
    """The class of that name.

    Raises:
        ConfigError: there is none, or it cannot be imported.
    """
    return _EXECUTORS.load(name)


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
