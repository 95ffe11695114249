"""Training with focus attention, from the weights of a policy without."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from streamvla.core.errors import ConfigError
from streamvla.model.checkpoint import load_checkpoint
from streamvla.model.focus import FocusConfig
from streamvla.model.methods.action_flow import ActionFlowConfig
from streamvla.model.methods.chunk_flow import ChunkFlowConfig
from streamvla.training import train
from tests.training.small import SMALL, small_config
from tests.training.toy import write_toy_dataset


@pytest.mark.parametrize("autocast", [False, True])
def test_focus_is_learned_from_a_policy_without_it(tmp_path, autocast):
    """Started with --init, cascaded attention of both methods trains, in bfloat16 too: every
    parameter of the focus moves, its settings stand in the policy, and it cannot be dropped."""
    methods = (ActionFlowConfig(horizon=5), ChunkFlowConfig(horizon=5))
    mixed = replace(
        small_config(write_toy_dataset(tmp_path / "toy"), tmp_path / "mixed"), methods=methods
    )
    mixed = replace(mixed, steps=4, autocast=autocast)
    train(mixed)
    focus = FocusConfig("cascaded", 0.5, "element")
    cascaded = replace(
        mixed, out=tmp_path / "cascaded", init=mixed.out, model=replace(SMALL, focus=focus)
    )
    result = train(replace(cascaded, seeded_keypoints=0.0))
    for path in result.policies.values():
        learned = load_checkpoint(path)
        assert learned.model.expert_size().focus == focus
        fresh = learned.model.build(learned.method).state_dict()
        own = [name for name in fresh if ".focus." in name]
        assert own
        assert all(torch.isfinite(learned.weights[name]).all() for name in own)
        assert not any(torch.equal(learned.weights[name], fresh[name]) for name in own)
    with pytest.raises(ConfigError, match=r"another size: .*\.focus\."):
        train(replace(mixed, out=tmp_path / "back", init=cascaded.out))
