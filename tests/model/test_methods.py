"""The three methods on one backbone: fair in size, each its own algorithm."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from streamvla.core.errors import ConfigError
from streamvla.model.methods.action_flow import ActionFlowConfig
from streamvla.model.methods.chunk_flow import ChunkFlowConfig, chunk_sample, integrate, to_openpi
from streamvla.model.methods.registry import METHODS, method_from_json, method_named
from streamvla.model.methods.regression import RegressionConfig
from streamvla.model.vla import StreamingVLA, VLAConfig, parameter_count
from tests.model.tiny import TINY, tiny_inputs, tiny_model

FRESH = torch.zeros(1, 1, dtype=torch.long)
CHUNK, REGRESSION = ChunkFlowConfig(horizon=5), RegressionConfig(horizon=5)


def test_methods_have_equal_parameter_counts():
    """At the default size the methods differ by less than one per cent in parameters."""
    config = VLAConfig(action_dim=4, state_dim=4)
    counts = [parameter_count(StreamingVLA(config, method_named(name)())) for name in METHODS]
    assert max(counts) < 1.01 * min(counts)


def test_methods_start_from_the_same_backbone():
    """One seed gives all methods the same backbone weights before training."""
    config = VLAConfig(**{**vars(TINY)})
    states = []
    for kind in map(method_named, METHODS):
        torch.manual_seed(3)
        states.append(StreamingVLA(config, kind()).backbone.state_dict())
    for name, tensor in states[0].items():
        assert all(torch.equal(tensor, state[name]) for state in states)


@pytest.mark.parametrize("kind", list(map(method_named, METHODS)))
def test_a_method_survives_json(kind):
    """A method read back from its JSON equals the one written."""
    method = kind(horizon=7, state_origin="episode", aligned=False)
    assert method_from_json(method.to_json()) == method


def test_an_unknown_method_is_refused_with_a_suggestion():
    """A misspelt method raises ConfigError naming the nearest one."""
    with pytest.raises(ConfigError, match="did you mean 'chunk-flow'"):
        method_from_json({"name": "chunk-flwo"})


def test_chunk_flow_with_the_exact_velocity_lands_on_the_actions():
    """u = A − noise is constant along the way: any number of Euler steps reaches A from noise."""
    actions, noise = torch.randn(6, 2), torch.randn(6, 2)
    for steps in (1, 10):
        reached = integrate(lambda x, tau: actions - noise, noise, steps)
        torch.testing.assert_close(reached, actions)


def test_chunk_samples_lie_between_noise_and_actions():
    """x_tau is noise at tau = 0 and the actions at tau = 1, and moves with velocity u between."""
    actions, noise = torch.randn(3, 6, 2), torch.randn(3, 6, 2)
    tau = torch.tensor([0.0, 0.25, 1.0])
    x, u = chunk_sample(actions, noise, tau)
    torch.testing.assert_close(x[0], noise[0])
    torch.testing.assert_close(x[2], actions[2])
    torch.testing.assert_close(noise[1] + 0.25 * u[1], x[1])


def test_openpi_time_is_the_mirror_of_ours():
    """In openpi's formulas a point has time 1 − tau and velocity −u; converting undoes itself."""
    actions, noise, tau = torch.randn(6, 2), torch.randn(6, 2), torch.tensor(0.3)
    x, u = chunk_sample(actions, noise, tau)
    time, velocity = to_openpi(tau, u)
    torch.testing.assert_close(x, time * noise + (1 - time) * actions)
    torch.testing.assert_close(velocity, noise - actions)
    torch.testing.assert_close(to_openpi(time, velocity), (tau, u))


@torch.inference_mode()
def test_chunks_of_one_observation_do_not_see_each_other():
    """m chunks against one prefix give what m separate calls give."""
    model = tiny_model(method=CHUNK)
    prefix = model.encode(*tiny_inputs())
    noisy, tau, start = torch.randn(2, 4, 5, 3), torch.rand(2, 4), torch.randn(2, 4, 3)
    inputs = (noisy, tau, start, torch.zeros(2, 4, dtype=torch.long))
    together = model(*inputs, prefix)
    apart = [model(*(each[:, i : i + 1] for each in inputs), prefix) for i in range(4)]
    torch.testing.assert_close(together, torch.cat(apart, 1), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_attention_within_a_chunk_is_bidirectional():
    """Changing the last noisy action changes the velocity of the first, and the other way round."""
    model = tiny_model(method=CHUNK)
    prefix = model.encode(*tiny_inputs(1))
    noisy, tau, start = torch.randn(1, 1, 5, 3), torch.rand(1, 1), torch.randn(1, 1, 3)
    before = model(noisy, tau, start, FRESH, prefix)
    for changed, watched in ((4, 0), (0, 4)):
        other = noisy.clone()
        other[:, :, changed] += 1
        after = model(other, tau, start, FRESH, prefix)
        assert not torch.allclose(before[:, :, watched], after[:, :, watched])


@torch.inference_mode()
def test_group_attention_equals_pytorchs_own():
    """Tokens of a chunk attending to prefix and chunk match scaled_dot_product_attention."""
    from streamvla.model.backbone import LayerCache
    from streamvla.model.expert import attend

    q, k, v = torch.randn(3, 2, 2, 3, 5, 8)  # (b, n, m, t, k) each
    keys, values = torch.randn(2, 2, 2, 7, 8)
    bias = torch.zeros(2, 1, 1, 7)
    bias[1, ..., 4:] = float("-inf")
    mixed = attend(q, k, v, LayerCache(keys, values, bias))
    for group in range(3):
        joint_keys = torch.cat([keys, k[:, :, group]], 2)
        joint_values = torch.cat([values, v[:, :, group]], 2)
        mask = torch.cat([bias, torch.zeros(2, 1, 1, 5)], -1)
        expected = nn.functional.scaled_dot_product_attention(
            q[:, :, group], joint_keys, joint_values, attn_mask=mask
        )
        torch.testing.assert_close(mixed[:, :, group], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [CHUNK, REGRESSION])
@torch.inference_mode()
def test_the_flow_start_reaches_every_action(method):
    """Changing x0 changes every action of the chunk: offset augmentation can be learned."""
    model = tiny_model(method=method)
    prefix = model.encode(*tiny_inputs(1))
    noise = (torch.randn(1, 1, 5, 3), torch.rand(1, 1)) if method is CHUNK else ()
    start = torch.zeros(1, 1, 3)
    moved = model(*noise, start + 0.5, FRESH, prefix) - model(*noise, start, FRESH, prefix)
    assert (moved.abs().amax(dim=-1) > 1e-6).all()


@pytest.mark.parametrize("method", [CHUNK, REGRESSION])
@torch.inference_mode()
def test_an_age_that_is_told_reaches_every_action_and_none_is_where_it_is_not(method):
    """With `max_age` every age changes the whole chunk; without, none does."""
    told = tiny_model(method=replace(method, max_age=2))
    untold = tiny_model(method=method)
    prefix = told.encode(*tiny_inputs(1))
    noise = (torch.randn(1, 1, 5, 3), torch.rand(1, 1)) if method is CHUNK else ()
    start = torch.zeros(1, 1, 3)

    def chunks(model: StreamingVLA) -> list[torch.Tensor]:
        return [model(*noise, start, FRESH + age, prefix) for age in range(3)]

    assert all(torch.equal(chunks(untold)[0], chunk) for chunk in chunks(untold))
    for one, other in pairwise(chunks(told)):
        assert ((one - other).abs().amax(dim=-1) > 1e-6).all()


def test_hidden_proprioception_changes_nothing_but_itself():
    """With proprioception off, measured state does not reach the cache; the command still does."""
    torch.manual_seed(0)
    model = StreamingVLA(VLAConfig(**{**vars(TINY), "proprioception": False})).eval()
    images, words, state, command = tiny_inputs()
    with torch.inference_mode():
        one, other = (model.encode(images, words, s, command) for s in (state, state + 1))
        moved = model.encode(images, words, state, command + 1)
    assert torch.equal(one.keys[-1], other.keys[-1])
    assert not torch.equal(one.keys[-1], moved.keys[-1])


@pytest.mark.parametrize(
    ("kind", "wrong"), [(ChunkFlowConfig, {"euler_steps": 0}), (RegressionConfig, {"horizon": 0})]
)
def test_impossible_settings_are_refused(kind, wrong):
    """A setting out of range raises ConfigError naming the value."""
    with pytest.raises(ConfigError, match="is 0"):
        kind(**wrong)


def test_passes_before_the_first_action():
    """Action flow streams; chunk flow needs all its Euler steps, regression one pass."""
    passes = [ActionFlowConfig().chunk_passes, CHUNK.chunk_passes, REGRESSION.chunk_passes]
    assert passes == [0, 10, 1]
