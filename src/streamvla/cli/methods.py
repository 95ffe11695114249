"""Methods by name: `synchronous`, `synchronous:5`, `action-flow:3`, `action-flow:auto`."""

from __future__ import annotations

import math

from streamvla.core.errors import ConfigError
from streamvla.runtime.executors import ActionFlow, Executor, Synchronous, named_executor
from streamvla.runtime.latency import LatencyProfile

AUTO = "auto"


def parse_method(text: str, profile: LatencyProfile, horizon: int) -> Executor:
    """`NAME` or `NAME:N`: N is the execute horizon (synchronous) or the lead (action-flow).

    `action-flow:auto` takes the smallest lead that reaches zero halt at `profile`, H − 1 at most.

    Raises:
        ConfigError: unknown method, or a number out of range.
    """
    name, _, setting = text.partition(":")
    if name == ActionFlow.name and setting == AUTO:
        executor: Executor = ActionFlow(min(profile.zero_halt_lead(), horizon - 1))
    elif not setting:
        executor = named_executor(name)
    else:
        number = _whole_number(text, setting)
        synchronous = name == Synchronous.name
        executor = named_executor(
            name,
            lead=0 if synchronous else number,
            execute_horizon=number if synchronous else None,
        )
    executor.executed(horizon)
    return executor


def require_seconds(seconds: float) -> None:
    """Raise `ConfigError` unless an episode may last this long."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise ConfigError(f"seconds {seconds}: an episode's limit must be finite and above 0")


def label(executor: Executor, horizon: int) -> str:
    """`synchronous, 5 of 10`; `action flow, lead 3`."""
    if isinstance(executor, Synchronous):
        return f"synchronous, {executor.executed(horizon)} of {horizon}"
    return f"action flow, lead {executor.lead}"


def slug(executor: Executor) -> str:
    """The method as a folder name: `synchronous-5`, `action-flow-3`."""
    if isinstance(executor, Synchronous):
        return "synchronous" + (f"-{executor.execute_horizon}" if executor.execute_horizon else "")
    return f"{executor.name}-{executor.lead}"


def _whole_number(text: str, setting: str) -> int:
    if not setting.isdecimal():
        raise ConfigError(
            f"method {text!r}: {setting!r} is no whole number; write for example "
            "synchronous:5, action-flow:3 or action-flow:auto"
        )
    return int(setting)
