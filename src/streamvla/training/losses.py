"""The losses of the methods, and the image augmentation that precedes them.

All are the mean squared error between what the expert says and a target at unit scale; what the
expert is given, and the target, are the method's (`Method.sample`).

To each are added two read-outs of what its expert gathered: the measured state some periods later,
and the places of the things that matter. Both tell where to go with far less noise than single
actions do (docs/decisions/0008). Several methods share one encoding of each observation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from streamvla.model.backbone import PrefixCache
from streamvla.model.crops import Images, cut
from streamvla.model.interface import Model
from streamvla.model.methods.base import Draw, Method, Sample, TrainingSamples
from streamvla.policy.transforms import pixels_to_float
from streamvla.training.batches import Batch
from streamvla.training.distributed import Share


class Objective(nn.Module):
    """Batch → loss of one method or of several on one encoding.

    A module, so that `Share.wrap` can watch its gradients.

    Args:
        models: one for each method; all but their experts are the same modules.
        chunk_samples: of a batch's m samples, how many a chunk method is given.
        jitter: strength of colour jitter.
        future_weight, places_weight: of the read-outs.
        clip: observations of an episode that stand behind one another in a batch, for a memory.
        places_alone: only what vision tells about the places of things counts; no expert is asked.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        methods: Mapping[str, Method],
        is_delta: Tensor,
        chunk_samples: int,
        jitter: float = 0.0,
        future_weight: float = 0.0,
        places_weight: float = 0.0,
        share: Share | None = None,
        *,
        clip: int = 1,
        places_alone: bool = False,
    ) -> None:
        super().__init__()
        self.clip = clip
        self.places_alone = places_alone
        self.models: Final = nn.ModuleDict(dict(models))
        self.methods: dict[str, Method] = dict(methods)
        self.is_delta = is_delta
        self.chunk_samples = chunk_samples
        self.jitter = jitter
        self.weights: dict[str, float] = {"future": future_weight, "places": places_weight}
        self.share: Share = share or Share()

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared errors over this process's rows × m samples each.

        `generator` lives on the CPU, so that a GPU draws the same samples.

        Returns:
            The sum to minimise, a scalar; and its parts, unweighted and detached: "places" as
            vision alone tells them, "METHOD", "METHOD/future", "METHOD/places".
        """
        if self.places_alone:
            return self._places(batch, generator)
        samples = {
            name: self._sample(method, batch, generator) for name, method in self.methods.items()
        }
        images = self._images(batch, generator)
        context: Any = self.models[next(iter(self.methods))]
        inputs = (batch.words, batch.state, batch.command)
        prefix, located = context.encode_and_locate(images, *inputs, self.clip)
        prefix = self._remembering(context, prefix, batch)
        loss, parts = torch.zeros((), device=self.is_delta.device), {}
        if located.shape[-1]:
            missed = _missed(located, batch)
            loss, parts = self.weights["places"] * missed, {"places": missed.detach()}
        for name, sample in samples.items():
            for part, error in self._errors(name, sample, batch, prefix).items():
                loss = loss + self.weights.get(part, 1.0) * error
                parts[f"{name}/{part}" if part else name] = error.detach()
        return loss, parts

    def _remembering(self, context: Any, prefix: PrefixCache, batch: Batch) -> PrefixCache:
        """With what a memory makes of each clip."""
        if context.memory is None:
            return prefix
        moments = context.moment(batch.words, batch.state, batch.command, batch.elapsed)
        first = batch.first_state
        if not context.config.proprioception:
            first = torch.zeros_like(first)
        compact = context.memory.clip(prefix, moments, self.clip, batch.number, first)
        return context.memory.appended(prefix, compact)

    def _places(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        images = self._images(batch, generator)
        context: Any = self.models[next(iter(self.methods))]
        missed = _missed(context.locate(images, batch.words), batch)
        return missed, {"places": missed.detach()}

    def _errors(
        self, name: str, sample: Sample, batch: Batch, prefix: PrefixCache
    ) -> dict[str, Tensor]:
        """Mean squared errors of one method: "" its actions, "future" and "places"."""
        model: Any = self.models[name]
        inputs, target = sample
        gathered = model.expert.gather(*inputs, prefix)  # (b, m, t, w)
        predicted = model.expert.answer(gathered).float()
        predicted = self.methods[name].quantity(predicted, inputs, self.is_delta)
        errors = {"": _mean_square(predicted - target, batch)}
        told = model.expert.read_out(gathered)
        targets = {
            "future": (told.future, batch.future.flatten(1)),
            "places": (told.places, batch.places),
        }
        for part, (said, meant) in targets.items():
            if said.shape[-1]:
                errors[part] = _mean_square(said.float() - meant.unsqueeze(1), batch)
        return errors

    def _sample(self, method: Method, batch: Batch, generator: torch.Generator) -> Sample:
        """A method that makes whole chunks gets fewer samples: each is H tokens there."""
        samples = TrainingSamples(
            batch.start, batch.labels, batch.executed, batch.age, self.is_delta
        )
        if method.chunk_passes:
            samples = samples.first(self.chunk_samples)

        def draws(shape: tuple[int, ...], draw: Draw) -> Tensor:
            return self._own(draw(self._global(shape), generator))

        return method.sample(samples, draws)

    def _images(self, batch: Batch, generator: torch.Generator) -> Images:
        """What the model looks at, in jittered colours: a crop has those of its view."""
        images = self._jitter_colours(pixels_to_float(batch.pixels), generator)
        context: Any = self.models[next(iter(self.methods))]
        return images if context.crops is None else cut(images, batch.corners, context.crops)

    def _jitter_colours(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Random gain (1 ± jitter) and offset (± jitter/2) per view and channel, same shape.

        Lighting and white balance vary, between clips and not within one; geometry does not.
        images: (b, v, 3, y, x) in [−1, 1].
        """
        if self.jitter == 0:
            return images
        b, v, c = images.shape[:3]
        shape = self._global((b // self.clip, v, c, 1, 1))
        drawn = torch.rand((2, *shape), generator=generator) * 2 - 1
        gain, offset = (self._own(each).repeat_interleave(self.clip, 0) for each in drawn)
        return images * (1 + self.jitter * gain) + 0.5 * self.jitter * offset

    def _global(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a draw for the whole batch, of which this process keeps its rows."""
        return (shape[0] * self.share.world, *shape[1:])

    def _own(self, drawn: Tensor) -> Tensor:
        return self.share.own(drawn).to(self.is_delta.device)


def _missed(located: Tensor, batch: Batch) -> Tensor:
    """Mean squared error of the places (b, p) that vision tells."""
    return _mean_square(located.float() - batch.places, batch)


def _mean_square(error: Tensor, batch: Batch) -> Tensor:
    """Of (b, …), each observation with its weight."""
    weight = batch.weight.view(-1, *(1,) * (error.dim() - 1))
    return (error.square() * weight).mean()
