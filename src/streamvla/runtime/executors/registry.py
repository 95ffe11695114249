"""Executors by name."""

from __future__ import annotations

from streamvla.core.errors import ConfigError, did_you_mean
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.executors.base import Executor
from streamvla.runtime.executors.synchronous import Synchronous


def named_executor(name: str, *, lead: int = 0, execute_horizon: int | None = None) -> Executor:
    """The executor of that name; `ConfigError` for an unknown one or a setting it has not."""
    if name == Synchronous.name:
        if lead:
            raise ConfigError(
                f"lead {lead}: the synchronous executor never observes early; "
                "use --executor action-flow or leave --lead out"
            )
        return Synchronous(execute_horizon)
    if name == ActionFlow.name:
        if execute_horizon is not None:
            raise ConfigError(
                f"execute horizon {execute_horizon}: action flow executes all H actions; "
                "use --executor synchronous or leave --execute-horizon out"
            )
        return ActionFlow(lead)
    raise did_you_mean("executor", name, [Synchronous.name, ActionFlow.name])
