"""The policy: what it emits, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import ConfigError, SpecMismatchError
from streamvla.core.interfaces import FlowStart, Observation, PolicySpec
from streamvla.model.methods.action_flow import ActionFlowConfig
from streamvla.model.methods.base import StateOrigin
from streamvla.model.normalisation import Normalisation
from streamvla.policy import ModelPolicy
from tests.model.tiny import tiny_model

SPACE = ActionSpace(("x", "y", "grip"), ("delta", "delta", "absolute"), (-0.3,) * 3, (0.3,) * 3)
SPEC = PolicySpec(SPACE, 6, ("side", "front"), (32, 32), 2, 50_000_000)


def make_policy(state_origin: StateOrigin = "observation", max_age: int = 0) -> ModelPolicy:
    flow = ActionFlowConfig(horizon=6, state_origin=state_origin, max_age=max_age)
    scale = Normalisation((0.0, 0.0), (1.0, 1.0), (0.3, 0.5, 1.0))
    return ModelPolicy(tiny_model(), SPEC, flow, scale)


def make_observation(seed: int = 0, action_state: tuple[float, ...] = (0.4, -0.2, 0.5)):
    rng = np.random.default_rng(seed)
    return Observation(
        images={v: rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for v in SPEC.views},
        state=rng.normal(size=2).astype(np.float32),
        action_state=np.array(action_state),
        instruction="push the puck",
        captured_ns=0,
    )


POLICY = make_policy()
CONTEXT = POLICY.encode(make_observation())
STATES = st.lists(st.floats(-3, 3), min_size=3, max_size=3).map(np.array)


@settings(max_examples=25, deadline=None)
@given(start=STATES, index=st.integers(0, 5))
def test_emitted_deltas_sum_to_the_flow_displacement(start, index):
    """Σ emitted deltas = x_H − x_0 for what is sent, clipped actions included."""
    actions = list(POLICY.generate(CONTEXT, FlowStart(start, index)))
    assert len(actions) == 6 - index
    x = start
    for action in actions:
        assert action.dtype == np.float64
        assert (np.abs(action) <= 0.3).all()
        x = SPACE.advance(x, action)
    np.testing.assert_allclose(sum(actions)[:2], (x - start)[:2], rtol=0, atol=1e-12)
    assert x[2] == actions[-1][2]


def test_some_actions_are_clipped_in_these_tests():
    """The tiny model does exceed the limits, so the property above covers clipping."""
    actions = np.stack(list(POLICY.generate(CONTEXT, FlowStart(np.array([9.0, -9.0, 3.0])))))
    assert (np.abs(actions) == 0.3).any()


@settings(max_examples=10, deadline=None)
@given(start=STATES, index=st.integers(1, 5))
def test_starting_late_equals_the_tail(start, index):
    """Generating from index n at the state reached there gives the tail of the full flow."""
    full = list(POLICY.generate(CONTEXT, FlowStart(start)))
    x = start
    for action in full[:index]:
        x = SPACE.advance(x, action)
    tail = list(POLICY.generate(CONTEXT, FlowStart(x, index)))
    np.testing.assert_allclose(tail, full[index:], rtol=0, atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(start=STATES, age=st.integers(1, 3))
def test_an_old_observation_goes_on_where_a_fresh_one_would(start, age):
    """The clock counts from the observation: told that it is n actions old, a policy makes the
    tail of what it made when it was fresh, and n actions more."""
    policy = make_policy(max_age=3)
    context = policy.encode(make_observation())
    fresh = list(policy.generate(context, FlowStart(start)))
    x = start
    for action in fresh[:age]:
        x = SPACE.advance(x, action)
    late = list(policy.generate(context, FlowStart(x, age=age)))
    assert len(late) == 6
    np.testing.assert_allclose(late[: 6 - age], fresh[age:], rtol=0, atol=1e-12)


def test_an_age_beyond_what_was_trained_counts_as_the_largest():
    """A policy told ages up to 3 takes 5 as 3, one that is told none takes any as fresh."""
    for policy, age, taken in ((make_policy(max_age=3), 5, 3), (POLICY, 5, 0)):
        context = policy.encode(make_observation())
        one, other = (
            list(policy.generate(context, FlowStart(np.zeros(3), age=each)))
            for each in (age, taken)
        )
        np.testing.assert_array_equal(one, other)


def test_generation_is_lazy():
    """One expert call is made per action taken, none ahead."""
    policy, calls = make_policy(), 0
    step = policy.model.expert.step

    def counted(*inputs):
        nonlocal calls
        calls += 1
        return step(*inputs)

    policy.model.expert.step = counted
    actions = policy.generate(policy.encode(make_observation()), FlowStart(np.zeros(3)))
    assert calls == 0
    list(islice(actions, 2))
    assert calls == 2


@torch.inference_mode()
def test_kept_modulations_change_nothing():
    """What the policy keeps per flow index gives exactly what the expert computes from tau."""
    policy, x = make_policy(), torch.randn(1, 1, 3)
    prefix = policy.encode(make_observation()).prefix
    for index in range(6):
        kept = policy.model.expert.step(x, policy._read._modulations[index], prefix)
        assert torch.equal(kept, policy.model(x, torch.full((1, 1), index / 6), prefix))


def test_generation_leaves_gradients_alone():
    """Pausing between two actions does not leave inference mode on in the caller."""
    next(POLICY.generate(CONTEXT, FlowStart(np.zeros(3))))
    assert not torch.is_inference_mode_enabled()


def test_a_batch_equals_its_members():
    """Several observations encoded and integrated together give what each gives alone."""
    observations = [make_observation(seed) for seed in range(3)]
    observations[1] = replace(observations[1], instruction="open the big window slowly")
    starts = np.random.default_rng(5).normal(size=(3, 3))
    together = np.stack(
        list(POLICY.generate_batch(POLICY.encode_batch(observations), starts)), axis=1
    )
    for each, start, expected in zip(observations, starts, together, strict=True):
        alone = list(POLICY.generate(POLICY.encode(each), FlowStart(start)))
        np.testing.assert_allclose(alone, expected, atol=1e-5)


@pytest.mark.parametrize(("origin", "same"), [("observation", True), ("episode", False)])
def test_only_the_published_origin_depends_on_the_distant_past(origin, same):
    """Shifting the delta sums before capture changes nothing with the origin at observation."""
    policy, shift = make_policy(origin), np.array([5.0, -7.0, 0.0])
    near, far = (
        make_observation(action_state=tuple(np.array([0.4, -0.2, 0.5]) + s))
        for s in (np.zeros(3), shift)
    )
    pending = np.array([0.1, 0.2, 0.0])
    a = list(policy.generate(policy.encode(near), FlowStart(near.action_state + pending)))
    b = list(policy.generate(policy.encode(far), FlowStart(far.action_state + pending)))
    assert np.allclose(a, b, atol=1e-5) == same


def test_not_a_number_from_the_model_is_passed_on():
    """The policy does not hide a model's NaN: the governor must see and stop it."""
    policy = make_policy()
    with torch.no_grad():
        policy.model.expert.to_step.bias.fill_(float("nan"))
    actions = list(policy.generate(policy.encode(make_observation()), FlowStart(np.zeros(3))))
    assert len(actions) == 6
    assert np.isnan(actions).all()


def _without_view(o):
    return replace(o, images={"side": o.images["side"]})


def _float_image(o):
    return replace(o, images={**o.images, "side": o.images["side"].astype(np.float32)})


def _large_image(o):
    return replace(o, images={**o.images, "side": np.zeros((64, 64, 3), np.uint8)})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without_view, "no view 'front'"),
        (_float_image, "float32.*uint8"),
        (_large_image, r"\(64, 64, 3\).*\(32, 32, 3\)"),
        (lambda o: replace(o, state=np.zeros(5, np.float32)), r"state has shape \(5,\).*\(2,\)"),
        (lambda o: replace(o, state=np.array([0.0, np.nan])), "not finite"),
        (lambda o: replace(o, action_state=np.zeros(2)), r"action_state has shape \(2,\)"),
    ],
)
def test_unfit_observations_are_refused(spoil, message):
    """An observation the policy was not trained for raises, saying what it got and needs."""
    with pytest.raises(SpecMismatchError, match=message):
        POLICY.encode(spoil(make_observation()))


def test_impossible_starts_are_refused():
    """A flow index beyond the horizon, or states that do not match the context, raise."""
    with pytest.raises(ConfigError, match="6 is outside"):
        list(POLICY.generate(CONTEXT, FlowStart(np.zeros(3), 6)))
    with pytest.raises(ConfigError, match="age is -1"):
        list(POLICY.generate(CONTEXT, FlowStart(np.zeros(3), age=-1)))
    with pytest.raises(SpecMismatchError, match="do not match"):
        POLICY.generate_batch(CONTEXT, np.zeros((2, 3)))
