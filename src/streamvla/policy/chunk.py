"""Chunk policies: the whole chunk in the first `next`, the rest of it for nothing."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from streamvla.core.interfaces import PolicySpec
from streamvla.model.methods.chunk_flow import ChunkFlowConfig, integrate
from streamvla.model.models import Model
from streamvla.model.normalisation import Normalisation
from streamvla.policy.base import ModelPolicy, PolicyContext


class ChunkPolicy(ModelPolicy):
    """What both chunk methods share: a chunk at unit scale → clipped actions in robot units.

    A generation that starts at flow step n > 0 gives the chunk from the *capture* on, without its
    first n actions (they were the pending ones): a late chunk is entered at the elapsed index.
    """

    def _actions(
        self, context: PolicyContext, start: np.ndarray, index: int, age: int
    ) -> Iterator[np.ndarray]:
        if index:
            start, age = context.captured, 0
        departs = self._relative(context, start)  # (b, 1, d)
        ages = torch.full(departs.shape[:2], age, device=self.device)  # (b, 1)
        with torch.inference_mode():
            chunk = self._chunk(context, departs, ages).squeeze(1)  # (b, h, d)
        actions = self.normalisation.restore_action(chunk.cpu().numpy())
        for i in range(index, self.spec.horizon):
            yield self.spec.action_space.clip(actions[:, i])

    @abstractmethod
    def _chunk(self, context: PolicyContext, start: Tensor, age: Tensor) -> Tensor:
        """The method: x0 (b, 1, d), age (b, 1) → the chunk (b, 1, h, d), at unit scale."""


class RegressionPolicy(ChunkPolicy):
    """`Policy` by regression (method: `model/methods/regression.py`); one expert pass a chunk."""

    def _chunk(self, context: PolicyContext, start: Tensor, age: Tensor) -> Tensor:
        return self.model(start, age, context.prefix)


class ChunkFlowPolicy(ChunkPolicy):
    """`Policy` by chunk flow matching (`methods/chunk_flow.py`); one expert pass per Euler step."""

    def __init__(
        self,
        model: Model,
        spec: PolicySpec,
        method: ChunkFlowConfig,
        normalisation: Normalisation,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(model, spec, method, normalisation, device)
        self._steps = method.euler_steps
        self._noise_scale = method.noise_scale

    def _chunk(self, context: PolicyContext, start: Tensor, age: Tensor) -> Tensor:
        def velocity(x: Tensor, tau: float) -> Tensor:
            times = torch.full(start.shape[:2], tau, device=self.device)  # (b, 1)
            return self.model(x, times, start, age, context.prefix)

        return integrate(velocity, self._noise(context), self._steps)

    def _noise(self, context: PolicyContext) -> Tensor:
        """(b, 1, h, d) scaled normal; each row a function of its observation alone."""
        shape = (1, self.spec.horizon, self.spec.action_space.dim)
        if self._noise_scale == 0:
            return torch.zeros(len(context.seeds), *shape, device=self.device)
        rows = [
            torch.randn(shape, generator=torch.Generator().manual_seed(seed))
            for seed in context.seeds
        ]
        return self._noise_scale * torch.stack(rows).to(self.device)
