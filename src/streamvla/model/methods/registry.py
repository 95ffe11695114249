"""The methods of making actions: a union of small configurations, one algorithm a file.

action-flow   `flow`         one action per expert pass; the flow variable is the action state
chunk-flow    `chunk`        noise → H actions in n passes, as π0
regression    `regression`   H actions in one pass, deterministic
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, get_args

from streamvla.core.errors import did_you_mean
from streamvla.model.expert import Expert, ExpertSize
from streamvla.model.methods.action_flow import ActionExpert, ActionFlowConfig
from streamvla.model.methods.chunk_flow import ChunkExpert, ChunkFlowConfig
from streamvla.model.methods.regression import RegressionConfig, RegressionExpert

Method = ActionFlowConfig | ChunkFlowConfig | RegressionConfig

METHODS: dict[str, type[Method]] = {kind.name: kind for kind in get_args(Method)}


def make_expert(size: ExpertSize, method: Method) -> Expert:
    """The untrained expert of a method; parameter counts agree within one per cent."""
    if isinstance(method, ActionFlowConfig):
        return ActionExpert(size)  # it sees the age on its clock
    size = replace(size, max_age=method.max_age)
    if isinstance(method, ChunkFlowConfig):
        return ChunkExpert(size, method.horizon)
    return RegressionExpert(size, method.horizon)


def method_to_json(method: Method) -> dict[str, Any]:
    """`{"name": "action-flow", "horizon": 10, …}`."""
    return {"name": method.name, **asdict(method)}


def method_from_json(fields: Mapping[str, Any]) -> Method:
    """Inverse of `method_to_json`; a missing setting has its default, the path that of old files.

    Raises:
        ConfigError: an unknown method, or a setting out of range.
        TypeError: a setting the method does not have.
    """
    settings = dict(fields)
    name = settings.pop("name")
    if name not in METHODS:
        raise did_you_mean("method", name, METHODS)
    if "steps" in settings:
        settings["euler_steps"] = settings.pop("steps")  # its name in files of schema 3 and before
    if name == ActionFlowConfig.name:
        settings = {"path": "labels", **settings}  # from before there was a choice
    return METHODS[name](**settings)
