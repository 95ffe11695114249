"""Deterministic regression of the chunk: the floor for both flows.

One pass, mean squared error. Where demonstrations disagree it gives their mean, which may be
nobody's action: the reason to use flows at all. Trunk and conditioning are those of the flows
(`chunk_flow.py`), with H learned queries (ACT, arXiv 2304.13705, without its latent variable) in
place of noisy actions, and flow time fixed at 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn

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
)
from streamvla.model.methods.chunks import chunk_reader


@dataclass(frozen=True)
class RegressionConfig(Method):
    """See the module's docstring."""

    name: ClassVar[str] = "regression"

    @property
    def chunk_passes(self) -> int:
        return 1

    def expert(self, size: ExpertSize) -> RegressionExpert:
        return RegressionExpert(replace(size, max_age=self.max_age), self.horizon)

    def sample(self, samples: TrainingSamples, draws: Draws) -> Sample:
        return (samples.start, samples.age), samples.labels

    def reader(self, expert: Any, units: Units) -> Reader:
        """One expert pass a chunk."""

        def make(context: Context, start: Tensor, age: Tensor) -> Tensor:
            return expert(start, age, context.prefix)

        return chunk_reader(make, self.horizon, units)


class RegressionExpert(Expert):
    """(x0, age of the observation, prefix) → the chunk."""

    def __init__(self, size: ExpertSize, horizon: int) -> None:
        super().__init__(size)
        self.query: Final = nn.Parameter(torch.randn(horizon, size.width) * 0.02)

    def gather(self, start: Tensor, age: Tensor, prefix: PrefixCache) -> Tensor:
        """(b, m, d), (b, m), cache of b observations → (b, m, h, w)."""
        departs = self.embed_state(start).unsqueeze(2)  # (b, m, 1, w)
        tau = torch.zeros((1, 1), device=start.device)
        return self.read(self.query + departs, self.modulations(tau, age), prefix)
