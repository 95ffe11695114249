"""Observation → actions in robot units: transforms and model behind the `Policy` interface."""

from streamvla.policy.base import ModelPolicy
from streamvla.policy.load import load_policy
from streamvla.policy.rollout import Rollout, roll_out
from streamvla.policy.shipped import (
    identify,
    known_tasks,
    resolve_checkpoint,
)
from streamvla.policy.sources import FoundPolicy, find_policy, identity_of

__all__ = [
    "FoundPolicy",
    "ModelPolicy",
    "Rollout",
    "find_policy",
    "identify",
    "identity_of",
    "known_tasks",
    "load_policy",
    "resolve_checkpoint",
    "roll_out",
]
