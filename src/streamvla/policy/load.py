"""Checkpoint or model → the policy of its method."""

from __future__ import annotations

from pathlib import Path

import torch

from streamvla.core.action_space import ActionSpace
from streamvla.core.interfaces import PolicySpec
from streamvla.model.checkpoint import load_checkpoint
from streamvla.model.chunk import ChunkFlowConfig
from streamvla.model.flow import ActionFlowConfig
from streamvla.model.methods import Method
from streamvla.model.models import Model
from streamvla.model.normalisation import Normalisation
from streamvla.model.regression import RegressionConfig
from streamvla.policy.action_flow import ActionFlowPolicy
from streamvla.policy.base import ModelPolicy
from streamvla.policy.chunk import ChunkFlowPolicy, RegressionPolicy
from streamvla.policy.saliency import load_saliency, saliency_path


def make_policy(
    model: Model,
    spec: PolicySpec,
    method: Method,
    normalisation: Normalisation,
    device: torch.device | str = "cpu",
) -> ModelPolicy:
    """The policy of `method`; `model` must hold that method's expert."""
    match method:
        case ActionFlowConfig():
            return ActionFlowPolicy(model, spec, method, normalisation, device)
        case ChunkFlowConfig():
            return ChunkFlowPolicy(model, spec, method, normalisation, device)
        case RegressionConfig():
            return RegressionPolicy(model, spec, method, normalisation, device)


def load_policy(
    path: Path | str,
    action_space: ActionSpace | None = None,
    device: torch.device | str = "cpu",
) -> ModelPolicy:
    """The policy in a checkpoint file; with its saliency predictor, if one lies beside it.

    Args:
        action_space: of the robot it shall drive; None to accept any.

    Raises:
        CheckpointError: the file is missing, damaged, or not a streamvla checkpoint; or the
            predictor beside it is, or was trained on another sight.
        SpecMismatchError: it was trained for another action space.
    """
    found = load_checkpoint(path, action_space)
    policy = make_policy(found.build_model(), found.spec, found.method, found.normalisation, device)
    beside = saliency_path(Path(path))
    if beside.is_file():
        saliency = load_saliency(beside, policy)
        calibration = saliency.calibration
        policy.attach(saliency.build(), calibration)
    return policy
