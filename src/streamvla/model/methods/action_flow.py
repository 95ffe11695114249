"""Action flow matching: the flow variable is the action trajectory, so integrating it is acting.

    A[0]    A[1]    A[2]   ...  A[H]      action states (what has been commanded so far)
     |--a_0--|--a_1--|--a_2-- ...         actions
    tau=0   1/H     2/H    ...   1        flow time

Sources: Streaming Flow Policy (arXiv 2505.21851) for the stabilised field, StreamingVLA
(arXiv 2603.28565) section 4.1 for action states. Constants follow the published code
(k = 4, sigma0 = 0.16), not the paper (5, 0.4). We differ in three points: delta and absolute
dimensions are told apart (`action_path`); absolute dimensions contract fully in every step, from
wide noise (`flow_sample`); and `tau` is trained on the grid i/H by default, exactly where
inference asks, because the target velocity jumps there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from streamvla.core.errors import ConfigError
from streamvla.model.backbone import PrefixCache
from streamvla.model.expert import Expert, ExpertSize, Modulation
from streamvla.model.methods.base import (
    Context,
    Draws,
    Method,
    Reader,
    Sample,
    TrainingSamples,
    Units,
    require_option,
)

TauSampling = Literal["grid", "uniform", "beta"]
PathKind = Literal["executed", "labels"]


@dataclass(frozen=True)
class ActionFlowConfig(Method):
    """The flow and how it is trained.

    Attributes:
        k: how fast the field contracts towards the demonstrated path, per unit of flow time.
        sigma0: standard deviation of the perturbation at tau = 0, in units of the action scale.
        sigma_absolute: standard deviation of the perturbation of absolute dimensions, at every
            tau, in units of their scale.
        tau_sampling: "grid": i/H, i ~ U{0..H−1}; "uniform": U(0, 1);
            "beta": 0.999·Beta(1.5, 1) + 0.001, as the published code.
        path: what x follows in training: "executed": the actions that were, noise included, with
            the label of every state it leads through (docs/decisions/0015); "labels": the labels
            one after another, as the published code has it.
    """

    k: float = 4.0
    sigma0: float = 0.16
    sigma_absolute: float = 1.0
    tau_sampling: TauSampling = "grid"
    path: PathKind = "executed"

    name: ClassVar[str] = "action-flow"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("k", "sigma0", "sigma_absolute"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigError(f"flow {name} is {value}; expected a finite number ≥ 0")
        require_option("tau_sampling", self.tau_sampling, TauSampling)
        require_option("path", self.path, PathKind)

    @property
    def chunk_passes(self) -> int:
        """0: each expert pass gives one action."""
        return 0

    def expert(self, size: ExpertSize) -> ActionExpert:
        """It sees the age of an observation on its clock."""
        return ActionExpert(size)

    def sample(self, samples: TrainingSamples, draws: Draws) -> Sample:
        """The target is u/H, one step, at unit scale: u would weigh the same, H times too large."""
        followed = samples.executed if self.path == "executed" else samples.labels
        path = action_path(samples.start, followed, samples.is_delta)  # (b, m, h+1, d)
        meant = led_to(path, samples.labels, samples.is_delta)  # (b, m, h, d)
        tau = draws(path.shape[:2], lambda shape, source: sample_tau(shape, self, source))  # (b, m)
        noise = draws(
            samples.start.shape, lambda shape, source: torch.randn(shape, generator=source)
        )
        x, velocity = flow_sample(path, tau, noise, samples.is_delta, self, meant)
        return (x, clock(tau, samples.age, self.horizon)), velocity / self.horizon

    def quantity(self, said: Tensor, inputs: tuple[Tensor, ...], is_delta: Tensor) -> Tensor:
        return step_of(said, inputs[0], is_delta)

    def reader(self, expert: Any, units: Units) -> Reader:
        return ActionFlowReader(self, expert, units)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Files from before there was a choice of path followed the labels."""
        return cls(**{"path": "labels", **settings})


def action_path(start: Tensor, actions: Tensor, is_delta: Tensor) -> Tensor:
    """The action states that `actions` lead through: (..., d), (..., h, d) → (..., h+1, d).

    Delta dimensions are summed, absolute ones replaced (`ActionSpace.advance`):

    >>> delta = torch.tensor([True, False])
    >>> action_path(torch.tensor([5., 9.]), torch.tensor([[1., 1.], [2., 2.]]), delta).tolist()
    [[5.0, 9.0], [6.0, 1.0], [8.0, 2.0]]
    """
    start = start.unsqueeze(-2)  # (..., 1, d)
    following = torch.where(is_delta, start + actions.cumsum(-2), actions)  # (..., h, d)
    return torch.cat([start, following], dim=-2)


def led_to(path: Tensor, labels: Tensor, is_delta: Tensor) -> Tensor:
    """Where the label of each state of a path leads from it, each by itself: → (..., h, d).

    Shapes: path (..., h+1, d), labels (..., h, d), is_delta (d,).

    >>> path = torch.tensor([[0.], [5.], [6.]])
    >>> led_to(path, torch.tensor([[1.], [-3.]]), torch.tensor([True])).tolist()
    [[1.0], [2.0]]
    """
    return torch.where(is_delta, path[..., :-1, :] + labels, labels)


def path_at(path: Tensor, tau: Tensor, meant: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Position xi(tau) and velocity xi'(tau) of the piecewise-linear path through A[0..H].

    With i = clamp(floor(tau·H), 0, H−1): xi = A[i] + (tau·H − i)·(A[i+1] − A[i]) and
    xi' = H·(A[i+1] − A[i]), or H·(`meant`[i] − A[i]) where something else was meant to follow.
    Shapes: path (..., h+1, d), tau (...), meant (..., h, d) → (..., d) twice.

    >>> position, velocity = path_at(torch.tensor([[0.], [1.], [0.5]]), torch.tensor(0.25))
    >>> position.item(), velocity.item()
    (0.5, 2.0)
    """
    horizon = path.shape[-2] - 1
    # i/H·H may fall just short of i in floating point, which would be the segment before.
    steps = (tau * horizon + 1e-5).floor()
    segment = steps.clamp(0, horizon - 1).long()  # (...)
    index = segment[..., None, None].expand(*segment.shape, 1, path.shape[-1])  # (..., 1, d)
    here = path.gather(-2, index).squeeze(-2)  # (..., d)
    there = path.gather(-2, index + 1).squeeze(-2)  # (..., d)
    fraction = (tau * horizon - segment).unsqueeze(-1)  # (..., 1)
    aim = there if meant is None else meant.gather(-2, index).squeeze(-2)
    return here + fraction * (there - here), horizon * (aim - here)


def noise_std(tau: Tensor, config: ActionFlowConfig) -> Tensor:
    """Standard deviation of the perturbation at `tau`: sigma0·exp(−k·tau), same shape.

    >>> round(noise_std(torch.tensor(0.25), ActionFlowConfig()).item(), 8)
    0.05886071
    """
    return config.sigma0 * torch.exp(-config.k * tau)


def flow_sample(
    path: Tensor,
    tau: Tensor,
    noise: Tensor,
    is_delta: Tensor,
    config: ActionFlowConfig,
    meant: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A training pair: network input x = xi + eps and target u = xi' − k·eps.

    `noise` (..., d) is standard normal. Delta dimensions: eps = noise·sigma0·exp(−k·tau); the term
    −k·eps pulls a drifting state back, and the marginal of x is N(xi, sigma0²·exp(−2k·tau)).
    Absolute dimensions: eps = noise·sigma_absolute, k = H, so that one step (1/H) leads from
    wherever x is to the next command. A gripper command hardly ever changes; learned as a small
    change of the last one, it is copied for ever and drifts (docs/decisions/0007).

    Shapes: path (..., h+1, d), tau (...), is_delta (d,), meant (..., h, d) as for `path_at`
    → x (..., d), u (..., d).
    """
    position, velocity = path_at(path, tau, meant)
    shrinking = noise_std(tau, config).unsqueeze(-1)  # (..., 1)
    epsilon = noise * torch.where(is_delta, shrinking, config.sigma_absolute)  # (..., d)
    gain = torch.where(is_delta, config.k, float(config.horizon))  # (d,)
    return position + epsilon, velocity - gain * epsilon


def step_of(output: Tensor, x: Tensor, is_delta: Tensor) -> Tensor:
    """The step v/H that a network's output means: (..., d), (..., d), (d,) → (..., d).

    Delta dimensions: the output is the step. Absolute ones: it is the next command, and the step
    leads there from x.

    >>> delta = torch.tensor([True, False])
    >>> step_of(torch.tensor([0.5, 1.0]), torch.tensor([3.0, -1.0]), delta).tolist()
    [0.5, 2.0]
    """
    return torch.where(is_delta, output, output - x)


def stabilised_velocity(x: Tensor, path: Tensor, tau: Tensor, config: ActionFlowConfig) -> Tensor:
    """The exact field around one path: v(x, tau) = xi' − k·(x − xi); (..., d) → (..., d).

    >>> path = torch.tensor([[0.], [1.], [0.5]])
    >>> v = stabilised_velocity(torch.tensor([0.7]), path, torch.tensor(0.25), ActionFlowConfig())
    >>> round(v.item(), 6)
    1.2
    """
    position, velocity = path_at(path, tau)
    return velocity - config.k * (x - position)


def clock(tau: Tensor, age: Tensor, horizon: int) -> Tensor:
    """The flow time an expert is told: since the observation, tau + age/H; same shapes.

    What comes next depends on how long ago the image was; what has been commanded since, x, does
    not tell wherever the robot stands still (docs/decisions/0017).

    >>> clock(torch.tensor([0.0, 0.5]), torch.tensor([3, 3]), horizon=10).tolist()
    [0.30000001192092896, 0.800000011920929]
    """
    return tau + age / horizon


def sample_tau(
    shape: tuple[int, ...], config: ActionFlowConfig, generator: torch.Generator
) -> Tensor:
    """Flow times for training, float32 of `shape` (see `ActionFlowConfig.tau_sampling`)."""
    if config.tau_sampling == "grid":
        index = torch.randint(config.horizon, shape, generator=generator)
        return index / config.horizon
    uniform = torch.rand(shape, generator=generator)
    if config.tau_sampling == "uniform":
        return uniform
    return 0.999 * uniform ** (1 / 1.5) + 0.001  # Beta(1.5, 1) by inverting its CDF t^1.5


class ActionExpert(Expert):
    """(action state x, flow time, prefix) → the next step of the flow (`step_of`).

    One suffix token: x. The m samples of one observation do not see each other. Flow time counts
    from the observation (`clock`) if the policy is told its age, else from the first action.
    """

    def gather(self, x: Tensor, tau: Tensor, prefix: PrefixCache) -> Tensor:
        """(b, m, d), (b, m), cache of b observations → (b, m, 1, w)."""
        return self._gather(x, self.modulations(tau), prefix)

    def answer(self, gathered: Tensor) -> Tensor:
        """(b, m, 1, w) → (b, m, d)."""
        return super().answer(gathered).squeeze(2)

    def step(self, x: Tensor, modulations: Modulation, prefix: PrefixCache) -> Tensor:
        """As `forward`, with `modulations(tau)` made before: → (b, m, d)."""
        return self.answer(self._gather(x, modulations, prefix))

    def first_step(
        self, x: Tensor, modulations: Modulation, prefix: PrefixCache
    ) -> tuple[Tensor, PrefixCache]:
        """As `step` with m = 1, and the cache for the steps after it: where the first one chooses
        the vision tokens for all (`FocusConfig.once`), without the others."""
        if not self.focus.once:
            return self.step(x, modulations, prefix), prefix
        suffix = self.embed_state(x).unsqueeze(2)
        gathered, prefix = self.read_and_choose(suffix, modulations, prefix)
        return self.answer(gathered), prefix

    def _gather(self, x: Tensor, modulations: Modulation, prefix: PrefixCache) -> Tensor:
        return self.read(self.embed_state(x).unsqueeze(2), modulations, prefix)


class ActionFlowReader:
    """One expert pass an action (`Reader`).

    From action state x it repeats: v = field(x, i/H); emit a; x ← what a leads to. The emitted
    action is clipped to the action space's limits and the flow goes on from what was *emitted*, so
    for delta dimensions Σ emitted = x_H − x_0 always, and clipping cannot open a gap between the
    flow and the robot.

    The flow times are on the grid (age + i)/H, so what they do to the expert's norms is made once,
    here: the expert's weights must not change afterwards.
    """

    def __init__(self, method: ActionFlowConfig, expert: ActionExpert, units: Units) -> None:
        self._horizon = method.horizon
        self._expert = expert
        self._units = units
        is_delta = units.space.is_delta().copy()
        self._is_delta = torch.from_numpy(is_delta).to(units.device)
        with torch.inference_mode():
            steps = torch.arange(method.horizon + method.max_age, device=units.device)
            taus = steps / method.horizon
            self._modulations = [expert.modulations(tau.view(1, 1)) for tau in taus]

    def __call__(
        self, context: Context, start: np.ndarray, index: int, age: int
    ) -> Iterator[np.ndarray]:
        space, x = self._units.space, start
        is_delta = space.is_delta()
        prefix: PrefixCache | None = None  # of the steps after the first
        for i in range(index, self._horizon):
            step, prefix = self._step(context, x, age + i, prefix)  # (b, d): v/H
            action = space.clip(np.where(is_delta, step, x + step))
            x = space.advance(x, action)
            yield action

    def _step(
        self, context: Context, x: np.ndarray, elapsed: int, prefix: PrefixCache | None
    ) -> tuple[np.ndarray, PrefixCache]:
        """v/H so many actions after the observation: (b, d) → (b, d), robot units; and what the
        next step reads."""
        with torch.inference_mode():
            suffix = self._units.relative(context, x)  # (b, 1, d)
            modulations = self._modulations[elapsed]
            if prefix is None:
                output, prefix = self._expert.first_step(suffix, modulations, context.prefix)
            else:
                output = self._expert.step(suffix, modulations, prefix)
            step = step_of(output, suffix, self._is_delta).squeeze(1)  # (b, d)
        return self._units.actions(step), prefix
