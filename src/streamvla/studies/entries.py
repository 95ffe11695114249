"""What a sweep compares, as text: `[POLICY/]EXECUTOR[:SETTING][,OPTION=VALUE]…`.

synchronous:5
action-flow:auto,early=always,replan=as-fast
expert-chunks/async-chunks
action-flow:3,early=adaptive,eta=0.2+0.1,refused=fresh-look
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, get_args

from streamvla.core.errors import ConfigError, did_you_mean
from streamvla.core.numbers import exact
from streamvla.core.provenance import without_folders
from streamvla.runtime.executors.options import EarlyOptions, Refused, Replan, RuleName
from streamvla.runtime.executors.registry import executor_named

_SHORT = {"as-fast": "as-fast-as-possible"}


@dataclass(frozen=True)
class Entry:
    """An executor with its settings, and perhaps the policy that it drives.

    Attributes:
        policy: its source; None for every policy of the sweep.
        executor: `NAME` or `NAME:SETTING`.
        early: its options.
        label: executor and stated options, always written in the same way.
    """

    policy: str | None
    executor: str
    early: EarlyOptions
    label: str

    @property
    def row(self) -> tuple[str, str]:
        """(policy, executor) as a result names them: without the folders of this machine."""
        return without_folders(self.policy or ""), self.label


def parse_entry(text: str) -> Entry:
    """Of one executor of a sweep; see the module.

    Raises:
        ConfigError: no such executor or option, or a value that it cannot have.
    """
    head, *stated = text.split(",")
    policy, slash, executor = head.rpartition("/")
    if slash and not policy:
        raise ConfigError(f"executor {text!r}: no policy before the slash; leave the slash out")
    executor_named(executor.partition(":")[0])
    options = dict(_option(text, each) for each in stated)
    if len(options) < len(stated):
        raise ConfigError(f"executor {text!r}: an option is stated twice; state each once")
    words = [
        f"{each.name}={_word(options[each.name])}"
        for each in fields(EarlyOptions)
        if each.name in options
    ]
    return Entry(policy or None, executor, EarlyOptions(**options), ",".join([executor, *words]))


def _option(text: str, stated: str) -> tuple[str, Any]:
    name, equals, value = stated.partition("=")
    if name not in _READ:
        raise did_you_mean(f"option of executor {text!r}:", name, _READ)
    try:
        if equals:
            return name, _READ[name](value)
    except ValueError:
        pass
    raise ConfigError(f"executor {text!r}: {stated!r} is not {name}={_EXPECTED[name]}")


def _one_of(literal: Any) -> Callable[[str], str]:
    def read(text: str) -> str:
        word = _SHORT.get(text, text)
        if word not in get_args(literal):
            raise ValueError(text)
        return word

    return read


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


_READ: dict[str, Callable[[str], Any]] = {
    "early": _one_of(RuleName),
    "rate": _number,
    "norm": _number,
    "eta": lambda text: tuple(_number(each) for each in text.split("+")),
    "compensation": str,
    "refused": _one_of(Refused),
    "replan": _one_of(Replan),
}
_EXPECTED = {
    "early": "|".join(get_args(RuleName)),
    "rate": "NUMBER",
    "norm": "NUMBER",
    "eta": "NUMBER, or NUMBER+NUMBER for two views",
    "compensation": "none, or of state, context and clock-shift those that apply, joined by +",
    "refused": "|".join(get_args(Refused)),
    "replan": "when-due|as-fast",
}


def _word(value: Any) -> str:
    if isinstance(value, tuple):
        return "+".join(map(exact, value))
    return exact(value) if isinstance(value, float) else str(value)
