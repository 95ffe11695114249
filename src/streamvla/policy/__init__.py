"""Observation → actions in robot units: transforms and model behind the `Policy` interface."""

from streamvla.policy.action_flow import ActionFlowPolicy
from streamvla.policy.base import ModelPolicy, PolicyContext
from streamvla.policy.chunk import ChunkFlowPolicy, RegressionPolicy
from streamvla.policy.load import load_policy, make_policy
from streamvla.policy.rollout import Rollout, roll_out
from streamvla.policy.shipped import (
    identify,
    identify_policy,
    method_settings,
    resolve_checkpoint,
    trained_tasks,
)

__all__ = [
    "ActionFlowPolicy",
    "ChunkFlowPolicy",
    "ModelPolicy",
    "PolicyContext",
    "RegressionPolicy",
    "Rollout",
    "identify",
    "identify_policy",
    "load_policy",
    "make_policy",
    "method_settings",
    "resolve_checkpoint",
    "roll_out",
    "trained_tasks",
]
