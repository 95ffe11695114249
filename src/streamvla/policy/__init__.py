"""Observation → actions in robot units: transforms and model behind the `Policy` interface."""

from streamvla.policy.action_flow import ActionFlowPolicy, PolicyContext, load_policy

__all__ = ["ActionFlowPolicy", "PolicyContext", "load_policy"]
