"""Start a training from a policy that exists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name everyone uses)
from torch import Tensor

from streamvla.core.errors import ConfigError
from streamvla.model.checkpoint import Checkpoint
from streamvla.model.interface import Model, Trained

_EXPERT = "expert."
_VISION = "vision."
_CROP_VISION = "crop_vision."
_MEMORY = "memory."
_POSITION = "vision.position"
_MAY_BE_FRESH = (
    "expert.from_age.",
    "expert.to_future.",
    "expert.to_places.",
    "to_places.",
    "from_places.",
    _CROP_VISION,
    "crop_aim.",
    "prune.",
    _MEMORY,
    "ages.",
)
_OF_FOCUS = ".focus."


def start_from(
    models: Mapping[str, Model], start: Checkpoint, who: str, trained: Trained = "all"
) -> None:
    """Take a policy's weights, in place: those of its context, which all models share; and those
    of its expert for the model of the same method, if there is one.

    What tells of places, of what is to come or of the observation's age, if it is of another shape
    or the policy has none, stays fresh; so does focus (`model.focus`), if the policy has none.

    A model with crops takes more from a policy that looks at whole views (`_with_crops`).

    Args:
        models: method → model.
        who: what the policy is called in the message.
        trained: what will learn.

    Raises:
        ConfigError: the policy has another size, or a memory that these models have not; or they
            have a memory that is not the policy's and will not learn.
    """
    first = next(iter(models.values()))
    _require_memory(first, start.model, who, trained)
    context = {name: t for name, t in start.weights.items() if not name.startswith(_EXPERT)}
    if first.crops is not None:
        context = _with_crops(context, first.state_dict())
    _take(first, context, who)
    if start.vocabulary is not None:
        first.list_words(start.vocabulary)
    if start.method.name in models:
        expert = {name: t for name, t in start.weights.items() if name.startswith(_EXPERT)}
        _take(models[start.method.name], expert, who)


def _require_memory(model: Model, config: Any, who: str, trained: Trained) -> None:
    """Raise `ConfigError` if what `config` learned to remember by would be lost."""
    mine, theirs = model.memory, config.memory
    if mine is None and theirs is not None:
        raise ConfigError(
            f"{who} has a memory ({theirs}), and this training has none, which would drop it; give "
            "it the same (memory window, summaries and recurrent)"
        )
    if mine is not None and theirs is None and trained == "expert":
        raise ConfigError(
            f"train is 'expert' with a memory, and {who} has none: the memory would stay random. "
            "Train the memory, or all"
        )
    frames = getattr(config, "frames", 1)
    if frames not in (1, model.frames):
        raise ConfigError(
            f"{who} makes a context of {frames} frames, this training of {model.frames}; give it "
            "the same number"
        )


def _with_crops(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a policy that looks at whole views, for a model of shapes `own` with crops.

    Both encoders start as the policy's: its layers do not depend on the size of a picture. Of its
    positions, the grid's (l', w) are averaged over the cells that a smaller grid joins. What does
    not fit stays fresh: of the crops' encoder all that knows their geometry, and all of it if it
    has other channels. The weights of a policy with crops are returned as they are.
    """
    if any(name.startswith(_CROP_VISION) for name in weights):
        return dict(weights)
    taken = dict(weights)
    for name, tensor in weights.items():
        twin = _CROP_VISION + name.removeprefix(_VISION)
        if not name.startswith(_VISION) or twin not in own:
            continue
        if name == _POSITION:
            taken[name] = _pooled(tensor, len(own[name]))
            tensor = _pooled(tensor, len(own[twin]))
        if tensor.shape == own[twin].shape:
            taken[twin] = tensor
    return taken


def _pooled(position: Tensor, tokens: int) -> Tensor:
    """Positions (l, w) of a square grid and of the tokens behind it, for so many tokens in all.

    As it is where the new grid is not a whole number of times smaller.
    """
    side = int(len(position) ** 0.5)
    behind = len(position) - side**2
    smaller = int(max(0, tokens - behind) ** 0.5)
    if smaller == 0 or smaller**2 + behind != tokens or side % smaller:
        return position
    grid = position[: side**2].T.unflatten(-1, (side, side)).unsqueeze(0)  # (1, w, y, x)
    pooled = F.avg_pool2d(grid, side // smaller).flatten(2)[0].T  # (l', w)
    return torch.cat([pooled, position[side**2 :]])


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
        elif name.startswith(_MEMORY) and any(each.startswith(_MEMORY) for each in weights):
            raise ConfigError(
                f"{who} has a memory of another size: {name} has shape {_shape(there)}, in this "
                f"training {_shape(here)}; give it the same summaries, width and recurrent"
            )
        elif not name.startswith(_MAY_BE_FRESH):
            raise ConfigError(
                f"{who} is of another size: {name} has shape {_shape(there)}, in this training "
                f"{_shape(here)}; start from a policy of the same size, horizon and robot"
            )
    model.load_state_dict({**own, **taken})


def _shape(tensor: Tensor | None) -> tuple[int, ...] | str:
    return "none" if tensor is None else tuple(tensor.shape)
