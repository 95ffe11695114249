"""Start a training from a policy that exists."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from streamvla.core.errors import ConfigError
from streamvla.model.checkpoint import Checkpoint
from streamvla.model.interface import Model

_EXPERT = "expert."
_MAY_BE_FRESH = (
    "expert.from_age.",
    "expert.to_future.",
    "expert.to_places.",
    "to_places.",
    "from_places.",
)
_OF_FOCUS = ".focus."


def start_from(models: Mapping[str, Model], start: Checkpoint, who: str) -> None:
    """Take a policy's weights, in place: those of its context, which all models share; and those
    of its expert for the model of the same method, if there is one.

    What tells of places, of what is to come or of the observation's age, if it is of another shape
    or the policy has none, stays fresh; so does focus (`model.focus`), if the policy has none.

    Args:
        models: method → model.
        who: what the policy is called in the message.

    Raises:
        ConfigError: the policy has another size.
    """
    first = next(iter(models.values()))
    context = {name: t for name, t in start.weights.items() if not name.startswith(_EXPERT)}
    _take(first, context, who)
    if start.vocabulary is not None:
        first.list_words(start.vocabulary)
    if start.method.name in models:
        expert = {name: t for name, t in start.weights.items() if name.startswith(_EXPERT)}
        _take(models[start.method.name], expert, who)


def _take(model: Model, weights: Mapping[str, Tensor], who: str) -> None:
    """Load a part of a model: its context, or its expert."""
    in_expert = next(iter(weights)).startswith(_EXPERT)
    own = model.state_dict()
    part = {name for name in own if name.startswith(_EXPERT) == in_expert}
    taken = {}
    for name in sorted(part | weights.keys()):
        here, there = own.get(name), weights.get(name)
        if here is not None and there is not None and here.shape == there.shape:
            taken[name] = there
        elif there is None and _OF_FOCUS in name:
            continue
        elif not name.startswith(_MAY_BE_FRESH):
            raise ConfigError(
                f"{who} is of another size: {name} has shape {_shape(there)}, in this training "
                f"{_shape(here)}; start from a policy of the same size, horizon and robot"
            )
    model.load_state_dict({**own, **taken})


def _shape(tensor: Tensor | None) -> tuple[int, ...] | str:
    return "none" if tensor is None else tuple(tensor.shape)
