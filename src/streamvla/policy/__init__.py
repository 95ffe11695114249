"""Observation → actions in robot units: transforms and model behind the `Policy` interface."""

from streamvla.policy.action_flow import ActionFlowPolicy, PolicyContext, load_policy
from streamvla.policy.shipped import identify, resolve_checkpoint, trained_tasks

__all__ = [
    "ActionFlowPolicy",
    "PolicyContext",
    "identify",
    "load_policy",
    "resolve_checkpoint",
    "trained_tasks",
]
