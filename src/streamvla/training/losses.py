"""The action flow matching loss, and the image augmentation that precedes it."""

from __future__ import annotations

import torch
from torch import Tensor

from streamvla.model.flow import FlowConfig, action_path, flow_sample, sample_tau, step_of
from streamvla.model.vla import StreamingVLA
from streamvla.policy.transforms import pixels_to_float
from streamvla.training.batches import Batch


def action_flow_loss(
    model: StreamingVLA,
    batch: Batch,
    is_delta: Tensor,
    flow: FlowConfig,
    generator: torch.Generator,
    jitter: float = 0.0,
    future_weight: float = 0.0,
) -> Tensor:
    """mean ‖f(x, tau) − u/H‖² over b observations × m flow samples; a scalar.

    With `future_weight`, plus that times the mean squared error of the foreseen states: where the
    arm will be tells where object and goal are, with far less noise than single actions do
    (docs/decisions/0008).

    The network predicts v/H, one step of the flow, which has unit scale; predicting v would weigh
    nothing differently but start H times too large. `generator` lives on the CPU, so that a GPU
    draws the same samples.
    """
    device = batch.start.device
    path = action_path(batch.start, batch.labels, is_delta)  # (b, m, h+1, d)
    tau = sample_tau(tuple(path.shape[:2]), flow, generator).to(device)  # (b, m)
    noise = torch.randn(batch.start.shape, generator=generator).to(device)  # (b, m, d)
    x, velocity = flow_sample(path, tau, noise, is_delta, flow)
    images = jitter_colours(pixels_to_float(batch.pixels), jitter, generator)
    prefix = model.encode(images, batch.words, batch.state, batch.command)
    output, future = model.foresee(x, tau, prefix)
    predicted = step_of(output.float(), x, is_delta)
    loss = (predicted - velocity / flow.horizon).square().mean()
    if future_weight == 0:
        return loss
    missed = (future.float() - batch.future.unsqueeze(1)).square().mean()
    return loss + future_weight * missed


def jitter_colours(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Random gain (1 ± strength) and offset (± strength/2) per view and channel, same shape.

    Lighting and white balance vary; geometry does not. images: (b, v, 3, y, x) in [−1, 1].
    """
    if strength == 0:
        return images
    shape = (*images.shape[:3], 1, 1)
    gain, offset = (torch.rand((2, *shape), generator=generator) * 2 - 1).to(images.device)
    return images * (1 + strength * gain) + 0.5 * strength * offset
