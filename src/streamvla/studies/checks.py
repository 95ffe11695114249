"""What several commands check of their settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from streamvla.core.errors import ConfigError
from streamvla.core.seeds import FIRST_EVALUATION_SEED
from streamvla.runtime.executors.base import Executor
from streamvla.runtime.executors.options import EarlyOptions


def require_seconds(seconds: float) -> None:
    """Raise `ConfigError` unless an episode may last this long."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise ConfigError(f"seconds {seconds}: an episode's limit must be finite and above 0")


def require_jitter(jitter: float) -> None:
    """Raise `ConfigError` unless stage times may vary so much."""
    if not (math.isfinite(jitter) and jitter >= 0):
        raise ConfigError(f"jitter {jitter} must be a finite number ≥ 0")


def require_fresh_seed(seed: int) -> None:
    """Raise `ConfigError` for an episode that a policy may have been trained on."""
    if seed < FIRST_EVALUATION_SEED:
        raise ConfigError(
            f"seed {seed}: evaluation seeds start at {FIRST_EVALUATION_SEED}; below it are the "
            "demonstrations the policy was trained on"
        )


def require_effect(
    builds: Sequence[Callable[[EarlyOptions], Executor]], options: EarlyOptions
) -> None:
    """Raise `ConfigError` for an option of early observation that changes no executor.

    Args:
        builds: options → executor, of every executor that is asked for.
    """
    for name, other in _OTHERWISE.items():
        stated = getattr(options, name)
        if stated == getattr(EarlyOptions(), name):
            continue
        changed = replace(options, **{name: other(stated)})
        if not any(_differs(build, options, changed) for build in builds):
            said = ",".join(map(str, stated)) if isinstance(stated, tuple) else stated
            raise ConfigError(
                f"--{name} {said} changes nothing under the executors asked for: leave it out, or "
                "use one that observes early, such as action-flow:auto"
            )


_OTHERWISE: dict[str, Callable[[Any], Any]] = {
    "early": lambda stated: "always" if stated == "none" else "none",
    "rate": lambda stated: 1.0 - stated / 2,
    "norm": lambda stated: stated + 1.0,
    "eta": lambda stated: tuple(each + 1.0 for each in stated),
    "compensation": lambda stated: "state" if stated == "none" else "none",
    "refused": lambda stated: "second-look" if stated == "fresh-look" else "fresh-look",
    "replan": lambda stated: "when-due" if stated != "when-due" else "as-fast-as-possible",
}
"""Option → another value of it."""


def _differs(
    build: Callable[[EarlyOptions], Executor], options: EarlyOptions, changed: EarlyOptions
) -> bool:
    try:
        return build(options) != build(changed)
    except ConfigError:
        return True  # one of them is refused, so the option means something here
