"""The methods of making actions by name: ours, and those of other packages.

Ours:

    action-flow   `action_flow`   one action per expert pass; the flow variable is the action state
    chunk-flow    `chunk_flow`    noise → H actions in n passes, as π0
    regression    `regression`    H actions in one pass, deterministic
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamvla.core.registry import Registry
from streamvla.model.methods.base import Method

METHODS = Registry(
    "method",
    "streamvla.methods",
    {
        "action-flow": "streamvla.model.methods.action_flow:ActionFlowConfig",
        "chunk-flow": "streamvla.model.methods.chunk_flow:ChunkFlowConfig",
        "regression": "streamvla.model.methods.regression:RegressionConfig",
    },
)
"""Each entry is a subclass of `Method`."""

DEFAULT = "action-flow"


def method_named(name: str) -> type[Method]:
    """The class of a method; `ConfigError` for an unknown name."""
    return METHODS.load(name)


def default_method() -> Method:
    """Action flow matching with its default settings."""
    return method_named(DEFAULT)()


def method_from_json(fields: Mapping[str, Any]) -> Method:
    """Inverse of `Method.to_json`; a missing setting has its default, or what old files had.

    Raises:
        ConfigError: an unknown method, or a setting out of range.
        TypeError: a setting the method does not have.
    """
    settings = dict(fields)
    return method_named(settings.pop("name")).from_settings(settings)
