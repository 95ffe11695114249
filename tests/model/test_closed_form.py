"""Learned fields against what theory says they converge to, on toys of one dimension.

Two demonstrations start at 0 and go to +1 or to −1, equally often; nothing in the context tells
which. Experts here are real ones that read a prefix of one token.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from streamvla.model.backbone import PrefixCache
from streamvla.model.expert import Expert, ExpertSize
from streamvla.model.methods.action_flow import (
    ActionExpert,
    ActionFlowConfig,
    flow_sample,
    noise_std,
    path_at,
    sample_tau,
    stabilised_velocity,
)
from streamvla.model.methods.chunk_flow import ChunkExpert, chunk_sample, integrate
from streamvla.model.methods.regression import RegressionExpert

HORIZON, SAMPLES = 5, 256
SIZE = ExpertSize(
    action_dim=1, layers=2, width=48, condition_width=32, heads=2, head_dim=16, expansion=2
)
PREFIX = PrefixCache(
    tuple(torch.ones(1, 2, 1, 16) for _ in range(2)),
    tuple(torch.ones(1, 2, 1, 16) for _ in range(2)),
    torch.zeros(1, 1, 1, 1),
)
FORK = torch.stack([torch.linspace(0, end, HORIZON + 1) for end in (1.0, -1.0)])[..., None]
"""(2, h+1, 1) action states of the two demonstrations."""
ACTIONS = FORK.diff(dim=1)  # (2, h, 1)
CONFIG = ActionFlowConfig(horizon=HORIZON, k=2.0, sigma0=0.3, tau_sampling="grid")

Sample = Callable[[torch.Generator], tuple[tuple[Tensor, ...], Tensor]]


def fit(expert: Expert, sample: Sample, steps: int) -> Expert:
    """Minimise the mean squared error of `expert(*inputs, prefix)` to the target."""
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(expert.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        inputs, target = sample(generator)
        loss = (expert(*inputs, PREFIX) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return expert.eval()


def flow_samples(paths: Tensor, config: ActionFlowConfig) -> Sample:
    """Training pairs of action flow matching for equally likely paths (j, h+1, 1)."""

    def sample(generator: torch.Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        chosen = torch.randint(len(paths), (1, SAMPLES), generator=generator)
        tau = sample_tau((1, SAMPLES), config, generator)
        noise = torch.randn((1, SAMPLES, 1), generator=generator)
        x, velocity = flow_sample(paths[chosen], tau, noise, torch.tensor([True]), config)
        return (x, tau), velocity / config.horizon

    return sample


def posterior_velocity(x: Tensor, tau: Tensor, paths: Tensor, config: ActionFlowConfig) -> Tensor:
    """Σ_j p(j | x, tau)·v_j(x, tau), p(j | x, tau) ∝ N(x; xi_j(tau), sigma0²·exp(−2k·tau)).

    What the minimiser of the loss is (Streaming Flow Policy, arXiv 2505.21851, section 4): the
    conditional fields, weighted by how likely each path is to have led here. Shapes: x and the
    result (s,), tau a scalar, paths (j, h+1, 1).
    """
    std = noise_std(tau, config)
    centres = torch.stack([path_at(path, tau)[0] for path in paths])  # (j, 1)
    weights = (-0.5 * ((x - centres) / std).square()).softmax(dim=0)  # (j, s)
    fields = [stabilised_velocity(x[:, None], path, tau, config)[:, 0] for path in paths]
    return (weights * torch.stack(fields)).sum(0)


@pytest.fixture(scope="module")
def forked_flow() -> Expert:
    torch.manual_seed(0)
    return fit(ActionExpert(SIZE), flow_samples(FORK, CONFIG), steps=600)


@torch.inference_mode()
def follow(expert: Expert, x: Tensor) -> list[Tensor]:
    """Euler on the grid from action states (s,): the states at every step."""
    states = [x]
    for i in range(HORIZON):
        tau = torch.full((1, len(x)), i / HORIZON)
        x = x + expert(x[None, :, None], tau, PREFIX)[0, :, 0]
        states.append(x)
    return states


@pytest.mark.parametrize("step", range(HORIZON))
def test_the_learned_field_approaches_the_posterior_weighted_velocity(forked_flow, step):
    """Where data lie, the learned field is within 10 % (r.m.s.) of Σ p(path | x)·v_path(x)."""
    tau = torch.tensor(step / HORIZON)
    std = float(noise_std(tau, CONFIG))
    centres = [float(path_at(path, tau)[0]) for path in FORK]
    near = torch.cat([centre + std * torch.linspace(-1.5, 1.5, 31) for centre in centres])
    exact = posterior_velocity(near, tau, FORK, CONFIG) / HORIZON
    with torch.inference_mode():
        learned = forked_flow(near[None, :, None], tau.expand(1, len(near)), PREFIX)[0, :, 0]
    error = (learned - exact).square().mean().sqrt()
    assert error < 0.1 * exact.square().mean().sqrt()


def test_two_paths_average_their_velocities_only_where_they_cannot_be_told_apart(forked_flow):
    """At the fork the field is the mean of both paths' velocities; two steps on it is one's own."""
    with torch.inference_mode():
        fork, branch = (
            float(forked_flow(torch.full((1, 1, 1), x), torch.full((1, 1), tau), PREFIX))
            for x, tau in ((0.0, 0.0), (0.4, 2 / HORIZON))
        )
    assert abs(fork) < 0.04
    assert branch == pytest.approx(0.2, abs=0.04)


def test_learned_error_off_the_path_contracts_as_the_exact_field_does():
    """Off one path by e, each learned step leaves (1 − k/H)·e, within a tenth, for three steps."""
    config = ActionFlowConfig(horizon=HORIZON, k=2.0, sigma0=0.16)
    torch.manual_seed(0)
    expert = fit(ActionExpert(SIZE), flow_samples(FORK[:1], config), steps=400)
    states = torch.stack(follow(expert, torch.tensor([-0.15, 0.15])))  # (h+1, 2)
    gap = states[:, 1] - states[:, 0]
    for i in range(3):
        assert gap[i + 1] / gap[i] == pytest.approx(1 - config.k / HORIZON, abs=0.1)


def test_action_flow_keeps_the_modes_from_perturbed_starts(forked_flow):
    """From starts N(0, sigma0²) 80 % or more end within .25 of ±1 (99 % by the exact field)."""
    start = CONFIG.sigma0 * torch.randn(400, generator=torch.Generator().manual_seed(1))
    exact, learned = start, follow(forked_flow, start)[-1]
    for i in range(HORIZON):
        tau = torch.tensor(i / HORIZON)
        exact = exact + posterior_velocity(exact, tau, FORK, CONFIG) / HORIZON
    for end, least in ((exact, 0.98), (learned, 0.8)):
        assert ((end.abs() - 1).abs() < 0.25).float().mean() > least
        assert 0.3 < (end > 0).float().mean() < 0.7


def test_chunk_flow_keeps_the_modes_where_regression_averages_them():
    """Chunk flow ends at ±1 from nearly all noise, both alike often; regression ends at 0."""
    labels = ACTIONS / ACTIONS.abs().max()  # unit scale

    def chosen(generator: torch.Generator) -> Tensor:
        return labels[torch.randint(2, (1, SAMPLES), generator=generator)]  # (1, m, h, 1)

    def chunk_samples(generator: torch.Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        actions = chosen(generator)
        tau = torch.rand((1, SAMPLES), generator=generator)
        noise = torch.randn(actions.shape, generator=generator)
        x, velocity = chunk_sample(actions, noise, tau)
        return (x, tau, start, fresh), velocity

    start = torch.zeros(1, SAMPLES, 1)
    fresh = torch.zeros(1, SAMPLES, dtype=torch.long)
    torch.manual_seed(0)
    flow = fit(ChunkExpert(SIZE, HORIZON), chunk_samples, steps=250)
    floor = fit(
        RegressionExpert(SIZE, HORIZON),
        lambda generator: ((start, fresh), chosen(generator)),
        steps=60,
    )
    with torch.inference_mode():
        noise = torch.randn((1, SAMPLES, HORIZON, 1), generator=torch.Generator().manual_seed(2))
        made = integrate(
            lambda x, tau: flow(x, torch.full((1, SAMPLES), tau), start, fresh, PREFIX),
            noise,
            steps=10,
        )
        averaged = floor(start, fresh, PREFIX)
    ends = made.mean(dim=(0, 2, 3))  # mean action of each chunk: ±1 for a demonstrated one
    assert ((ends.abs() - 1).abs() < 0.25).float().mean() > 0.9
    assert 0.3 < (ends > 0).float().mean() < 0.7
    assert averaged.abs().max() < 0.15
