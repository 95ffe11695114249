"""Checkpoint → policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import ConfigError
from streamvla.model.checkpoint import Checkpoint, load_checkpoint
from streamvla.model.defaults import DEFAULTS_NAME
from streamvla.model.focus import TUNABLE
from streamvla.model.methods.base import Method
from streamvla.model.phrases import Phrases
from streamvla.policy.base import NEAREST_PHRASE, ModelPolicy, policy_for
from streamvla.policy.saliency import load_saliency, saliency_path


def load_policy(
    path: Path | str,
    action_space: ActionSpace | None = None,
    device: torch.device | str = "cpu",
    settings: Mapping[str, Any] | None = None,
) -> ModelPolicy:
    """The policy in a checkpoint file; with its saliency predictor, if one lies beside it.

    Args:
        action_space: of the robot it shall drive; None to accept any.
        settings: of its method, instead of its own: those in `Method.tunable`, such as
            `{"noise_scale": 0.5, "euler_steps": 5}` of chunk flow; or of its focus, those in
            `model.focus.TUNABLE`: `{"patch_k": 0.5}`. Or
            `{"nearest_phrase": None}`: read instructions as the nearest phrasing of the training
            (`model/phrases.py`), a number instead of None for another threshold.

    Raises:
        ConfigError: a setting that its method does not have, or out of range.
        CheckpointError: the file is missing, damaged, or not a streamvla checkpoint; or the
            predictor beside it is, or was trained on another sight.
        SpecMismatchError: it was trained for another action space.
    """
    found = load_checkpoint(path, action_space)
    settings = settings or {}
    of_focus = {name: value for name, value in settings.items() if name in TUNABLE}
    apart = {*of_focus, NEAREST_PHRASE}
    rest = {name: value for name, value in settings.items() if name not in apart}
    method = _tuned(found.method, rest)
    spec = replace(found.spec, chunk_passes=method.chunk_passes)
    model = found.build_model()
    policy = policy_for(model, spec, method, found.normalisation, device, found.clarity)
    if of_focus:
        policy.focus_on(replace(policy.model.expert.focus, **of_focus))
    if NEAREST_PHRASE in settings:
        policy.retrieve(_phrases_of(Path(path), found, settings[NEAREST_PHRASE]))
    beside = saliency_path(Path(path))
    if beside.is_file():
        saliency = load_saliency(beside, policy)
        calibration = saliency.calibration
        policy.attach(saliency.build(), calibration)
    return policy


def _phrases_of(path: Path, found: Checkpoint, threshold: float | None) -> Phrases:
    """With its own threshold for None."""
    if found.phrases is None:
        raise ConfigError(
            f"{NEAREST_PHRASE} of {path}: neither its header nor {DEFAULTS_NAME} beside it lists "
            "the phrasings of its training (phrases), as that of the shipped policies does; leave "
            "it out"
        )
    return found.phrases if threshold is None else replace(found.phrases, threshold=threshold)


def _tuned(method: Method, settings: Mapping[str, Any]) -> Method:
    for name, value in settings.items():
        if name not in method.tunable:
            known = ", ".join(method.tunable) or "none"
            raise ConfigError(
                f"{name} {value}: a policy by {method.name} has no such setting (it has {known}); "
                "leave it out, or use a policy of another method"
            )
    return replace(method, **settings)
