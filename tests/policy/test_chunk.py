"""Chunk policies: whole chunks, honest latency, the same inputs as action flow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import FlowStart
from streamvla.model.methods.base import Units
from streamvla.model.methods.chunk_flow import ChunkFlowConfig
from streamvla.model.methods.regression import RegressionConfig
from streamvla.model.normalisation import Normalisation
from streamvla.policy import ModelPolicy
from tests.model.tiny import tiny_model

from .test_action_flow import SPEC, make_observation

SCALE = Normalisation((0.0, 0.0), (1.0, 1.0), (0.3, 0.5, 1.0))
METHODS = [ChunkFlowConfig(horizon=6, euler_steps=4), RegressionConfig(horizon=6)]


def chunk_policy(method: ChunkFlowConfig | RegressionConfig) -> ModelPolicy:
    spec = replace(SPEC, chunk_passes=method.chunk_passes)
    return ModelPolicy(tiny_model(method=method), spec, method, SCALE)


@pytest.mark.parametrize("method", METHODS)
def test_all_the_work_is_in_the_first_next(method):
    """The expert runs exactly `chunk_passes` times before the first action and never after."""
    policy, calls = chunk_policy(method), 0
    forward = policy.model.expert.forward

    def counted(*inputs):
        nonlocal calls
        calls += 1
        return forward(*inputs)

    policy.model.expert.forward = counted
    actions = policy.generate(policy.encode(make_observation()), FlowStart(np.zeros(3)))
    assert calls == 0
    next(actions)
    assert calls == method.chunk_passes
    assert len(list(actions)) == 5
    assert calls == method.chunk_passes


@pytest.mark.parametrize(("scale", "same"), [(0.0, True), (0.25, False), (1.0, False)])
def test_without_noise_a_chunk_is_a_function_of_what_is_seen(scale, same):
    """The instant of an observation draws the noise, and nothing else depends on it."""
    policy = chunk_policy(replace(METHODS[0], noise_scale=scale))
    now, later = make_observation(), replace(make_observation(), captured_ns=10**9)
    chunks = [list(policy.generate(policy.encode(o), FlowStart(np.zeros(3)))) for o in (now, later)]
    assert np.array_equal(*chunks) == same


def test_noise_is_scaled_before_it_is_integrated():
    """Half the noise is half of each draw: the start of the flow, not its end."""
    full, half = (replace(METHODS[0], noise_scale=scale) for scale in (1.0, 0.5))
    context = chunk_policy(full).encode(make_observation())
    units = Units(SPEC.action_space, SCALE, torch.device("cpu"))
    assert torch.equal(full._noise(context, units), 2 * half._noise(context, units))


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_equals_its_members(method):
    """Several observations together give what each gives alone, chunk noise included."""
    policy = chunk_policy(method)
    observations = [make_observation(seed) for seed in range(3)]
    starts = np.random.default_rng(5).normal(size=(3, 3))
    together = np.stack(
        list(policy.generate_batch(policy.encode_batch(observations), starts)), axis=1
    )
    for each, start, expected in zip(observations, starts, together, strict=True):
        alone = list(policy.generate(policy.encode(each), FlowStart(start)))
        np.testing.assert_allclose(alone, expected, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_repeated_observation_gives_the_same_actions(method):
    """Two policies with the same weights agree on the same observation: runs can be repeated."""
    one, two = chunk_policy(method), chunk_policy(method)
    one.generate(one.encode(make_observation(7)), FlowStart(np.zeros(3)))  # drawn in between
    first, second = (
        list(p.generate(p.encode(make_observation()), FlowStart(np.zeros(3)))) for p in (one, two)
    )
    np.testing.assert_array_equal(first, second)


def test_chunk_noise_differs_between_observations():
    """Two observations do not share their noise."""
    policy = chunk_policy(METHODS[0])
    seeds = policy.encode_batch([make_observation(seed) for seed in range(3)]).seeds
    assert len(set(seeds)) == 3


@pytest.mark.parametrize("method", METHODS)
def test_a_late_chunk_is_entered_at_the_elapsed_index(method):
    """From flow step n the chunk is the one made at capture, without its first n actions."""
    policy, observation = chunk_policy(method), make_observation()
    context = policy.encode(observation)
    whole = list(policy.generate(context, FlowStart(observation.action_state)))
    late = list(policy.generate(context, FlowStart(observation.action_state + 1, 2)))
    np.testing.assert_array_equal(late, whole[2:])


@pytest.mark.parametrize("method", METHODS)
def test_actions_stay_within_limits(method):
    """Every action of a chunk is clipped to the action space and is float64."""
    policy = chunk_policy(method)
    context = policy.encode(make_observation())
    actions = np.stack(list(policy.generate(context, FlowStart(np.array([9.0, -9.0, 3.0])))))
    assert actions.dtype == np.float64
    assert actions.shape == (6, 3)
    assert (np.abs(actions) <= 0.5).all()


@pytest.mark.parametrize("method", METHODS)
def test_without_alignment_the_start_does_not_matter(method):
    """The ablation: actions are the same wherever the generation departs from."""
    policy = chunk_policy(replace(method, aligned=False))
    context = policy.encode(make_observation())
    near, far = (list(policy.generate(context, FlowStart(np.full(3, x)))) for x in (0.0, 2.0))
    np.testing.assert_array_equal(near, far)


def test_a_spec_of_another_method_is_refused():
    """A chunk method with a streaming spec raises: drivers would time it wrongly."""
    method = METHODS[0]
    with pytest.raises(ConfigError, match="chunk passes 0 are not those of its method chunk-flow"):
        ModelPolicy(tiny_model(method=method), SPEC, method, SCALE)
