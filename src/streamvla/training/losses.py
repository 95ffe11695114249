"""The losses of the three methods, and the image augmentation that precedes them.

All are the mean squared error between what the expert says and a target at unit scale:

    method        the expert is given       target
    action-flow   x = xi(tau) + eps, tau    u/H = (xi'(tau) − k·eps)/H    `model/flow.py`
    chunk-flow    x_tau, tau, x0            A − noise                     `model/chunk.py`
    regression    x0                        A                             `model/regression.py`
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from streamvla.model.chunk import ChunkFlowConfig, chunk_sample
from streamvla.model.flow import ActionFlowConfig, action_path, flow_sample, sample_tau
from streamvla.model.methods import Method
from streamvla.model.models import Model
from streamvla.model.regression import RegressionConfig
from streamvla.policy.transforms import pixels_to_float
from streamvla.training.batches import Batch
from streamvla.training.distributed import Share

Sample = tuple[tuple[Tensor, ...], Tensor]
"""What the expert is given besides the prefix, and what it should say."""


class Objective(nn.Module):
    """Batch → loss of one method; a module, so that `Share.wrap` can watch its gradients."""

    def __init__(
        self,
        model: Model,
        method: Method,
        is_delta: Tensor,
        jitter: float = 0.0,
        share: Share | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.method = method
        self.is_delta = is_delta
        self.jitter = jitter
        self.share = share or Share()

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Mean squared error over this process's rows × m samples each; a scalar.

        `generator` lives on the CPU, so that a GPU draws the same samples.
        """
        inputs, target = self._sample(batch, generator)
        images = self._jitter_colours(pixels_to_float(batch.pixels), generator)
        prefix = self.model.encode(images, batch.words, batch.state, batch.command)
        predicted = self.model(*inputs, prefix)
        return (predicted.float() - target).square().mean()

    def _sample(self, batch: Batch, generator: torch.Generator) -> Sample:
        match self.method:
            case ActionFlowConfig():
                return self._action_flow(self.method, batch, generator)
            case ChunkFlowConfig():
                return self._chunk_flow(batch, generator)
            case RegressionConfig():
                return (batch.start,), batch.labels

    def _action_flow(
        self, flow: ActionFlowConfig, batch: Batch, generator: torch.Generator
    ) -> Sample:
        """The target is u/H, one step, at unit scale: u would weigh the same, H times too large."""
        path = action_path(batch.start, batch.labels, self.is_delta)  # (b, m, h+1, d)
        tau = self._own(sample_tau(self._global(path.shape[:2]), flow, generator))  # (b, m)
        noise = self._normal(batch.start.shape, generator)  # (b, m, d)
        x, velocity = flow_sample(path, tau, noise, flow)
        return (x, tau), velocity / flow.horizon

    def _chunk_flow(self, batch: Batch, generator: torch.Generator) -> Sample:
        shape = self._global(batch.start.shape[:2])
        tau = self._own(torch.rand(shape, generator=generator))  # (b, m)
        noise = self._normal(batch.labels.shape, generator)  # (b, m, h, d)
        x, velocity = chunk_sample(batch.labels, noise, tau)
        return (x, tau, batch.start), velocity

    def _jitter_colours(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Random gain (1 ± jitter) and offset (± jitter/2) per view and channel, same shape.

        Lighting and white balance vary; geometry does not. images: (b, v, 3, y, x) in [−1, 1].
        """
        if self.jitter == 0:
            return images
        shape = self._global((*images.shape[:3], 1, 1))
        gain, offset = torch.rand((2, *shape), generator=generator) * 2 - 1
        return images * (1 + self.jitter * self._own(gain)) + 0.5 * self.jitter * self._own(offset)

    def _normal(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        return self._own(torch.randn(self._global(shape), generator=generator))

    def _global(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a draw for the whole batch, of which this process keeps its rows."""
        return (shape[0] * self.share.world, *shape[1:])

    def _own(self, drawn: Tensor) -> Tensor:
        return self.share.own(drawn).to(self.is_delta.device)
