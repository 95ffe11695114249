"""Observation → actions in robot units: transforms and model behind the `Policy` interface."""

from streamvla.policy.action_flow import ActionFlowPolicy
from streamvla.policy.base import ModelPolicy, PolicyContext
from streamvla.policy.chunk import ChunkFlowPolicy, RegressionPolicy
from streamvla.policy.load import load_policy, make_policy
from streamvla.policy.rollout import Rollout, roll_out
from streamvla.policy.shipped import (
    identify,
    known_tasks,
    resolve_checkpoint,
)
from streamvla.policy.sources import FoundPolicy, find_policy, identity_of

__all__ = [
    "ActionFlowPolicy",
    "ChunkFlowPolicy",
    "FoundPolicy",
    "ModelPolicy",
    "PolicyContext",
    "RegressionPolicy",
    "Rollout",
    "find_policy",
    "identify",
    "identity_of",
    "known_tasks",
    "load_policy",
    "make_policy",
    "resolve_checkpoint",
    "roll_out",
]
