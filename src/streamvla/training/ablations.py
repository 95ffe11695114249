"""Ablations by name: one change each to an otherwise equal training.

    streamvla train --ablation unshared-normalisation --out runs/unshared-normalisation …

The settings that are numbers (k, sigma0, horizon, largest offset, tau sampling) are flags of
`streamvla train` as well; presets make the rows of a table one word each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from streamvla.core.errors import ConfigError, did_you_mean
from streamvla.model.methods.registry import DEFAULT
from streamvla.training.config import TrainConfig

Change = Callable[[TrainConfig], TrainConfig]


def _method(**settings: Any) -> Change:
    """A change of settings that every method has."""
    return lambda config: replace(
        config, methods=tuple(replace(method, **settings) for method in config.methods)
    )


def _flow(**settings: Any) -> Change:
    """A change of settings that not every method has: of those that do."""

    def change(config: TrainConfig) -> TrainConfig:
        able = [method for method in config.methods if settings.keys() <= asdict(method).keys()]
        if not able:
            names = ", ".join(method.name for method in config.methods)
            raise ConfigError(
                f"{', '.join(settings)}: method {names} has no such setting; use --method "
                f"{DEFAULT}, or leave the setting or ablation out"
            )
        methods = tuple(
            replace(method, **settings) if method in able else method for method in config.methods
        )
        return replace(config, methods=methods)

    return change


def _without_proprioception(config: TrainConfig) -> TrainConfig:
    size: Any = config.model
    return replace(config, model=replace(size, proprioception=False))


def _without_offset(config: TrainConfig) -> TrainConfig:
    fresh = replace(config, sampling=replace(config.sampling, max_offset=0))
    return _method(max_age=0)(fresh)


ABLATIONS: dict[str, Change] = {
    "unshared-normalisation": lambda c: replace(c, normalisation="unshared"),
    "unaligned": _method(aligned=False),
    "all-delta": lambda c: replace(c, all_delta=True),
    "origin-episode": _method(state_origin="episode"),
    "no-contraction": _flow(k=0.0),
    "no-perturbation": _flow(sigma0=0.0),
    "paper-constants": _flow(k=5.0, sigma0=0.4),
    "label-path": _flow(path="labels"),
    "tau-uniform": _flow(tau_sampling="uniform"),
    "tau-beta": _flow(tau_sampling="beta"),
    "no-proprioception": _without_proprioception,
    "no-offset": _without_offset,
    "age-untold": _method(max_age=0),
    "horizon-5": _method(horizon=5),
    "horizon-20": _method(horizon=20),
}
"""Name → change. `unshared-normalisation`, `unaligned`, `all-delta` and `origin-episode` undo what
this system does otherwise than the published one, or what that one shows to matter."""


def ablate(config: TrainConfig, name: str) -> TrainConfig:
    """The training with one change; `ConfigError` for an unknown name."""
    if name not in ABLATIONS:
        raise did_you_mean("ablation", name, ABLATIONS)
    return ABLATIONS[name](config)


def with_flow_settings(config: TrainConfig, **settings: Any) -> TrainConfig:
    """Action-flow settings where they are not None; `ConfigError` if the method has none."""
    given = {name: value for name, value in settings.items() if value is not None}
    return _flow(**given)(config) if given else config
