"""streamvla: robots driven by vision-language-action models that never wait for the model.

    import streamvla as sv

    result = sv.run(policy, robot, sv.ActionFlow(lead="auto"), seconds=30)

The names below are loaded when they are first used; none of them but `load_policy` needs PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_WHERE = {
    "ActionFlow": "streamvla.runtime.executors.action_flow",
    "ActionSpace": "streamvla.core.action_space",
    "AsyncChunks": "streamvla.runtime.executors.async_chunks",
    "GymnasiumRobot": "streamvla.adapters.gymnasium_robot",
    "Observation": "streamvla.core.interfaces",
    "Policy": "streamvla.core.interfaces",
    "PolicySpec": "streamvla.core.interfaces",
    "Result": "streamvla.drive",
    "Robot": "streamvla.core.interfaces",
    "RobotSpec": "streamvla.core.interfaces",
    "Running": "streamvla.drive",
    "Synchronous": "streamvla.runtime.executors.synchronous",
    "chunk_policy": "streamvla.adapters.functions",
    "load_policy": "streamvla.policy",
    "make_robot": "streamvla.robots.registry",
    "run": "streamvla.drive",
    "simulate": "streamvla.drive",
    "start": "streamvla.drive",
}

if TYPE_CHECKING:
    from streamvla.adapters.functions import chunk_policy
    from streamvla.adapters.gymnasium_robot import GymnasiumRobot
    from streamvla.core.action_space import ActionSpace
    from streamvla.core.interfaces import Observation, Policy, PolicySpec, Robot, RobotSpec
    from streamvla.drive import Result, Running, run, simulate, start
    from streamvla.policy import load_policy
    from streamvla.robots.registry import make_robot
    from streamvla.runtime.executors.action_flow import ActionFlow
    from streamvla.runtime.executors.async_chunks import AsyncChunks
    from streamvla.runtime.executors.synchronous import Synchronous

__all__ = [
    "ActionFlow",
    "ActionSpace",
    "AsyncChunks",
    "GymnasiumRobot",
    "Observation",
    "Policy",
    "PolicySpec",
    "Result",
    "Robot",
    "RobotSpec",
    "Running",
    "Synchronous",
    "chunk_policy",
    "load_policy",
    "make_robot",
    "run",
    "simulate",
    "start",
]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        found = getattr(import_module(_WHERE[name]), name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"streamvla.{name} needs {error.name}, which is not installed: "
            "pip install 'streamvla[all]'"
        ) from error
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
