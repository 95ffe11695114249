"""Chunk flow matching: noise → a whole chunk of H actions, as in π0.

    tau = 0   noise (H, d)  ──Euler, n steps──►  tau = 1   actions a_0 … a_{H−1}

Every action needs all n steps, so the first one is ready no sooner than the last: the baseline
that action flow matching (`action_flow.py`) is measured against, on the same backbone and trunk.

Source: π0 (arXiv 2410.24164) section IV and appendix B, with tau from 0 (noise) to 1 (actions) as
in the paper (its released code runs time the other way, see `to_openpi`). We differ in two points:
tau ~ U(0, 1), and the chunk is conditioned on the action state x0 from which it departs, rolled
forward over what is pending (VLASH, arXiv 2512.01031), so that it can be trained and compensated
for late images exactly as action flow matching is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Self

import torch
from torch import Tensor, nn

from streamvla.core.errors import ConfigError
from streamvla.model.backbone import PrefixCache
from streamvla.model.expert import Expert, ExpertSize
from streamvla.model.methods.base import (
    Context,
    Draws,
    Method,
    Reader,
    Sample,
    TrainingSamples,
    Units,
    normal,
)
from streamvla.model.methods.chunks import chunk_reader


@dataclass(frozen=True)
class ChunkFlowConfig(Method):
    """See the module's docstring.

    Attributes:
        euler_steps: expert passes from noise to actions.
        noise_scale: the flow starts at this multiple of standard normal noise. 1 is what it is
            trained on and samples the learned distribution; 0 always starts at the noise's mean,
            so that the chunk is a function of the observation (docs/decisions/0023).
    """

    euler_steps: int = 10
    noise_scale: float = 1.0

    name: ClassVar[str] = "chunk-flow"
    tunable: ClassVar[tuple[str, ...]] = ("noise_scale", "euler_steps")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.euler_steps, int) or self.euler_steps < 1:
            raise ConfigError(f"euler_steps is {self.euler_steps}; expected a whole number ≥ 1")
        if not (math.isfinite(self.noise_scale) and self.noise_scale >= 0):
            raise ConfigError(f"noise_scale is {self.noise_scale}; expected a finite number ≥ 0")

    @property
    def chunk_passes(self) -> int:
        return self.euler_steps

    def expert(self, size: ExpertSize) -> ChunkExpert:
        return ChunkExpert(replace(size, max_age=self.max_age), self.horizon)

    def sample(self, samples: TrainingSamples, draws: Draws) -> Sample:
        """tau ~ U(0, 1); the target is the velocity A − noise."""
        start, labels = samples.start, samples.labels
        tau = draws(start.shape[:2], lambda shape, source: torch.rand(shape, generator=source))
        noise = draws(labels.shape, normal)
        x, velocity = chunk_sample(labels, noise, tau)
        return (x, tau, start, samples.age), velocity

    def reader(self, expert: Any, units: Units) -> Reader:
        """One expert pass per Euler step, all of them before the first action."""

        def make(context: Context, start: Tensor, age: Tensor) -> Tensor:
            def velocity(x: Tensor, tau: float) -> Tensor:
                times = torch.full(start.shape[:2], tau, device=units.device)  # (b, 1)
                return expert(x, times, start, age, context.prefix)

            return integrate(velocity, self._noise(context, units), self.euler_steps)

        return chunk_reader(make, self.horizon, units)

    def _noise(self, context: Context, units: Units) -> Tensor:
        """(b, 1, h, d) scaled normal; each row a function of its observation alone."""
        shape = (1, self.horizon, units.space.dim)
        if self.noise_scale == 0:
            return torch.zeros(len(context.seeds), *shape, device=units.device)
        rows = [
            torch.randn(shape, generator=torch.Generator().manual_seed(seed))
            for seed in context.seeds
        ]
        return self.noise_scale * torch.stack(rows).to(units.device)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """In files of schema 3 and before `euler_steps` was called `steps`."""
        named = dict(settings)
        if "steps" in named:
            named["euler_steps"] = named.pop("steps")
        return cls(**named)


def chunk_sample(actions: Tensor, noise: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """A training pair: x_tau = (1 − tau)·noise + tau·A and u = A − noise.

    Shapes: actions and noise (..., h, d), tau (...) → (..., h, d) twice.

    >>> x, u = chunk_sample(torch.tensor([[4.]]), torch.tensor([[2.]]), torch.tensor(0.25))
    >>> x.item(), u.item()
    (2.5, 2.0)
    """
    time = tau[..., None, None]
    return (1 - time) * noise + time * actions, actions - noise


def integrate(velocity: Callable[[Tensor, float], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Euler from noise at tau = 0 to actions at tau = 1; `velocity(x, tau)` keeps x's shape.

    >>> integrate(lambda x, tau: torch.tensor(3.0), torch.tensor(1.0), steps=4).item()
    4.0
    """
    x = noise
    for step in range(steps):
        x = x + velocity(x, step / steps) / steps
    return x


def to_openpi(tau: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
    """Flow time and velocity as openpi's released code has them, and back: its own inverse.

    There time t = 1 − tau runs from actions to noise, x_t = t·noise + (1 − t)·A, u = noise − A.
    """
    return 1 - tau, -velocity


class ChunkExpert(Expert):
    """(noisy chunk, flow time, x0, age of the observation, prefix) → velocity of the chunk.

    H tokens with bidirectional attention among themselves: a noisy action, its place in the
    chunk, and x0, embedded as action flow matching embeds its state.
    """

    def __init__(self, size: ExpertSize, horizon: int) -> None:
        super().__init__(size)
        self.from_action: Final = nn.Linear(size.action_dim, size.width)
        self.place: Final = nn.Parameter(torch.randn(horizon, size.width) * 0.02)

    def gather(
        self, noisy: Tensor, tau: Tensor, start: Tensor, age: Tensor, prefix: PrefixCache
    ) -> Tensor:
        """(b, m, h, d), (b, m), (b, m, d), (b, m), cache of b observations → (b, m, h, w)."""
        departs = self.embed_state(start).unsqueeze(2)  # (b, m, 1, w)
        suffix = self.from_action(noisy) + self.place + departs
        return self.read(suffix, self.modulations(tau, age), prefix)
