"""Vision tokens that never reach the backbone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from streamvla.core.errors import ConfigError
from streamvla.model.methods.action_flow import ActionFlowConfig
from streamvla.model.prune import TokenPruner
from streamvla.model.vla import StreamingVLA
from streamvla.policy import ModelPolicy
from tests.model.tiny import TINY, tiny_inputs, tiny_model
from tests.policy.test_action_flow import SPEC, make_observation
from tests.policy.test_counting import SCALE

CELLS = 4  # of a view of the tiny model, which has 6 tokens


def pruned_model(share=0.75):
    """The tiny model, its weights as without pruning."""
    torch.manual_seed(0)
    model = StreamingVLA(replace(TINY, pruned_to=share)).eval()
    weights = tiny_model().state_dict()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert all(name.startswith("prune.") for name in missing)
    assert not unexpected
    return model


def test_without_pruning_there_is_no_pruner():
    """The default has no parameter more than before."""
    assert tiny_model().prune is None
    assert not any(name.startswith("prune") for name in tiny_model().state_dict())


@pytest.mark.parametrize(("share", "kept"), [(0.75, 9), (0.5, 6), (0.01, 4)])
def test_so_many_tokens_reach_the_backbone(share, kept):
    """Of 12 vision tokens the share, rounded up; never fewer than the 4 that are no cells."""
    prefix = pruned_model(share).encode(*tiny_inputs())
    assert prefix.vision == kept
    assert prefix.tokens == kept + 5 + 2  # words and padding, state and command


def test_what_is_no_cell_stays_as_it_is_and_the_order_is_kept():
    """Keypoints of every view are among the kept tokens, unscaled, behind their view's cells."""
    pruner = TokenPruner(8, 0.5)
    seen = torch.arange(2 * 6).float().view(1, 2, 6, 1).expand(1, 2, 6, 8).clone()
    kept = pruner(seen, CELLS, torch.ones(1, 8), torch.ones(1, 8))[0]
    firsts = kept[:, 0]
    assert {4.0, 5.0, 10.0, 11.0} <= set(firsts.tolist())
    nearest = (firsts[:, None] - torch.arange(12.0)).abs().argmin(1)
    assert nearest.tolist() == sorted(nearest.tolist())


def test_the_best_cells_are_kept():
    """With a key along one axis the cells that are largest on it remain."""
    pruner = TokenPruner(8, 8 / 12)
    with torch.no_grad():
        pruner.key.weight.zero_()
        pruner.key.weight[0, 0] = 1.0
        pruner.query.weight.zero_()
        pruner.query.bias.zero_()
        pruner.query.bias[0] = 1.0
    seen = torch.zeros(1, 2, 6, 8)
    seen[..., 1] = 1.0
    best = torch.tensor([[0, 3], [1, 2]])  # cells of either view
    for view, cells in enumerate(best):
        seen[0, view, cells, 0] = 5.0
    kept = pruner(seen, CELLS, torch.zeros(1, 8), torch.zeros(1, 8))[0]
    assert (kept[:, 0] > 4).sum() == 4


def test_it_depends_on_the_words_and_on_the_state():
    """Another instruction, or another state, changes the scores of the same cells."""
    torch.manual_seed(1)
    pruner = TokenPruner(8, 0.5)
    torch.nn.init.normal_(pruner.query.weight)
    seen = torch.randn(1, 2, 6, 8)
    still = torch.zeros(1, 8)
    plain = pruner(seen, CELLS, still, still)
    assert not torch.equal(plain, pruner(seen, CELLS, still + 3, still))
    assert not torch.equal(plain, pruner(seen, CELLS, still, still + 3))


def test_every_new_parameter_learns():
    """The loss of the actions reaches the scores, though the choice has no gradient."""
    model = pruned_model()
    prefix = model.encode(*tiny_inputs())
    model.expert(torch.randn(2, 1, 3), torch.zeros(2, 1), prefix).square().sum().backward()
    for name, parameter in model.prune.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_batch_prunes_one_by_one():
    """Two observations together keep what each keeps alone."""
    model = pruned_model()
    inputs = tiny_inputs()
    together = model.encode(*inputs)
    for row in range(2):
        alone = model.encode(*(each[row : row + 1] for each in inputs))
        for a, b in zip(together.keys, alone.keys, strict=True):
            torch.testing.assert_close(a[row : row + 1], b, rtol=1e-4, atol=1e-5)


def test_a_context_of_fewer_tokens_costs_less_and_says_so():
    """Attended tokens and FLOPs of context and action fall; the look's stay."""
    flow = ActionFlowConfig(horizon=6)
    whole, pruned = (
        ModelPolicy(model, SPEC, flow, SCALE) for model in (tiny_model(), pruned_model(0.5))
    )
    costs = [policy.cost(policy.encode(make_observation())) for policy in (whole, pruned)]
    assert [cost.visual_tokens_attended for cost in costs] == [12, 6]
    assert costs[0].visual_tokens == costs[1].visual_tokens == 12
    assert costs[0].look_flops == costs[1].look_flops
    assert costs[1].context_flops < 0.8 * costs[0].context_flops
    assert costs[1].action_flops < costs[0].action_flops


@pytest.mark.parametrize("share", [0.0, 1.5, -1.0, float("nan")])
def test_a_share_out_of_range_is_refused(share):
    """0, negative, above 1 and NaN are named."""
    with pytest.raises(ConfigError, match="pruned_to"):
        replace(TINY, pruned_to=share)
