"""The flow against closed forms (methods section 2)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from streamvla.core.errors import ConfigError
from streamvla.model.methods.action_flow import (
    ActionFlowConfig,
    action_path,
    flow_sample,
    led_to,
    noise_std,
    path_at,
    sample_tau,
    stabilised_velocity,
    step_of,
)
from streamvla.model.normalisation import Normalisation

PATH = torch.tensor([[0.0], [1.0], [0.5]])


@pytest.mark.parametrize(
    ("tau", "mean", "std", "velocity_at_07"),
    [(0.25, 0.5, 0.05886071, 1.2), (0.75, 0.75, 0.00796593, -0.8), (1.0, 0.5, 0.0029305, -1.8)],
)
def test_field_on_a_bent_path(tau, mean, std, velocity_at_07):
    """Mean, deviation and stabilised velocity match the closed form on 0 → 1 → 0.5."""
    time = torch.tensor(tau)
    assert path_at(PATH, time)[0].item() == pytest.approx(mean)
    assert noise_std(time, ActionFlowConfig()).item() == pytest.approx(std, rel=1e-5)
    velocity = stabilised_velocity(torch.tensor([0.7]), PATH, time, ActionFlowConfig())
    assert velocity.item() == pytest.approx(velocity_at_07, rel=1e-5)


def test_training_target_of_three_actions():
    """a = [1, 2, −1], tau = 0.5: x = 2, u = 6, noise .021654 and −.086615 in u per unit."""
    actions = torch.tensor([[1.0], [2.0], [-1.0]])
    path = action_path(torch.zeros(1), actions, torch.tensor([True]))
    tau, config = torch.tensor(0.5), ActionFlowConfig(horizon=3)
    delta = torch.tensor([True])
    x, u = flow_sample(path, tau, torch.zeros(1), delta, config)
    assert (x.item(), u.item()) == (pytest.approx(2.0), pytest.approx(6.0))
    noisy_x, noisy_u = flow_sample(path, tau, torch.ones(1), delta, config)
    assert (noisy_x - x).item() == pytest.approx(0.021654, rel=1e-4)
    assert (noisy_u - u).item() == pytest.approx(-0.086615, rel=1e-4)


@given(index=st.integers(0, 2), noise=st.floats(-3, 3))
def test_absolute_dimensions_contract_fully_in_one_step(index, noise):
    """From a state however wrong, the target step of an absolute dimension leads to a_i."""
    actions = torch.tensor([[1.0], [-1.0], [-1.0]])
    is_delta = torch.tensor([False])
    path = action_path(torch.zeros(1), actions, is_delta)
    config = ActionFlowConfig(horizon=3)
    x, u = flow_sample(path, torch.tensor(index / 3), torch.tensor([noise]), is_delta, config)
    assert (x + u / 3).item() == pytest.approx(actions[index].item(), abs=1e-5)
    assert step_of(actions[index], x, is_delta) == pytest.approx(u / 3, abs=1e-5)


@given(
    executed=st.lists(st.floats(-2, 2), min_size=3, max_size=3),
    labels=st.lists(st.floats(-2, 2), min_size=3, max_size=3),
    index=st.integers(0, 2),
)
def test_noise_that_was_executed_is_answered_by_the_label_of_its_state(executed, labels, index):
    """Step i of the flow is label i, from where the first i executed actions led; if what was
    executed is what was meant, that is the path itself."""
    config, is_delta = ActionFlowConfig(horizon=3), torch.tensor([True, False])
    carried = torch.tensor([executed, executed]).T  # (3, 2)
    said = torch.tensor([labels, labels]).T
    path = action_path(torch.zeros(2), carried, is_delta)
    tau = torch.tensor(index / 3)
    x, u = flow_sample(path, tau, torch.zeros(2), is_delta, config, led_to(path, said, is_delta))
    assert x[0].item() == pytest.approx(sum(executed[:index]), abs=1e-4)
    assert (u[0] / 3).item() == pytest.approx(labels[index], abs=1e-4)
    assert (x[1] + u[1] / 3).item() == pytest.approx(labels[index], abs=1e-4)
    torch.testing.assert_close(led_to(path, carried, is_delta), path[1:])


def test_euler_steps_with_the_exact_field_visit_the_path():
    """Integrating the exact field on the grid emits the demonstrated actions."""
    actions = torch.tensor([[1.0], [2.0], [-1.0], [0.5]])
    path = action_path(torch.tensor([3.0]), actions, torch.tensor([True]))
    config, x = ActionFlowConfig(horizon=4), torch.tensor([3.0])
    for i in range(4):
        step = stabilised_velocity(x, path, torch.tensor(i / 4), config) / 4
        torch.testing.assert_close(step, actions[i])
        x = x + step


@given(horizon=st.integers(5, 20), error=st.floats(-5, 5))
def test_a_step_shrinks_the_distance_to_the_path(horizon, error):
    """Off the path by e, one Euler step leaves (1 − k/H)·e."""
    config = ActionFlowConfig(horizon=horizon)
    path = torch.linspace(0, 1, horizon + 1, dtype=torch.float64)[:, None]
    tau = torch.tensor(2 / horizon, dtype=torch.float64)
    x = path[2] + error
    x = x + stabilised_velocity(x, path, tau, config) / horizon
    assert (x - path[3]).item() == pytest.approx((1 - config.k / horizon) * error, abs=1e-6)


@given(horizon=st.integers(1, 50), data=st.data())
def test_grid_times_fall_in_their_own_segment(horizon, data):
    """At tau = i/H in float32 the velocity is that of action i, not of its neighbour."""
    i = data.draw(st.integers(0, horizon - 1))
    path = torch.arange(horizon + 1).square().float()[:, None]
    _, velocity = path_at(path, torch.tensor(i) / horizon)
    assert velocity.item() == pytest.approx(horizon * (2 * i + 1))


@given(st.lists(st.lists(st.floats(-1, 1), min_size=2, max_size=2), min_size=1, max_size=12))
def test_normalisation_commutes_with_summing(actions):
    """normalise(cumsum(a)) = cumsum(normalise(a)): scale only, one scale for both."""
    import numpy as np

    statistics = Normalisation((0.0,), (1.0,), (0.37, 2.5))
    summed = statistics.normalise_action(np.cumsum(actions, axis=0))
    np.testing.assert_allclose(
        summed, np.cumsum(statistics.normalise_action(np.array(actions)), axis=0), atol=1e-4
    )


@pytest.mark.parametrize("sampling", ["grid", "uniform", "beta"])
def test_sampled_times_lie_in_the_unit_interval(sampling):
    """Every sampling stays within [0, 1]; the grid one uses i/H and never 1."""
    config = ActionFlowConfig(horizon=5, tau_sampling=sampling)
    tau = sample_tau((1000,), config, torch.Generator().manual_seed(0))
    assert ((tau >= 0) & (tau <= 1)).all()
    if sampling == "grid":
        assert set((tau * 5).round().int().tolist()) == {0, 1, 2, 3, 4}
    if sampling == "beta":
        assert tau.mean().item() == pytest.approx(0.6, abs=0.03)


@pytest.mark.parametrize(
    "wrong", [{"horizon": 0}, {"k": -1.0}, {"tau_sampling": "gird"}, {"state_origin": "now"}]
)
def test_impossible_settings_are_refused(wrong):
    """A flow setting out of range raises ConfigError naming the value."""
    with pytest.raises(ConfigError, match=str(next(iter(wrong.values())))):
        ActionFlowConfig(**wrong)
