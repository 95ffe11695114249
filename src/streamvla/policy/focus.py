"""What a policy attends to in the camera views, as numbers for every cell of the image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import Observation
from streamvla.model.focus import watching
from streamvla.policy.base import ModelPolicy
from streamvla.policy.transforms import stack_pixels, to_images


@dataclass(frozen=True)
class VisionAttention:
    """The share of all attention that each vision token has for one action, mean over the layers
    and heads of the expert.

    Attributes:
        grid: (v, rows, cols) of the cells of every view.
        others: (v, o) of the tokens a view has besides: keypoints, and what was asked for.
        layers: (layers, v, rows, cols) `grid` of each layer by itself.
    """

    grid: np.ndarray
    others: np.ndarray
    layers: np.ndarray

    @property
    def total(self) -> float:
        """The share of vision; the rest goes to words, state, command and the action itself."""
        return float(self.grid.sum() + self.others.sum())


def vision_attention(
    policy: ModelPolicy, observation: Observation, index: int = 0
) -> VisionAttention:
    """What the expert attends to for action `index` of those that follow an observation.

    Of a method that makes a whole chunk, what its passes attend to, and all actions of the chunk.

    Raises:
        ConfigError: the model does not say which cell a token is of, or has no such action.
    """
    grid = require_cells(policy)
    if not 0 <= index < policy.spec.horizon:
        raise ConfigError(f"action {index} is outside 0..{policy.spec.horizon - 1}")
    masses = _masses(policy, observation, index)  # (layers, v, l')
    cells = grid[0] * grid[1]
    layers = masses[:, :, :cells].reshape(len(masses), -1, *grid)
    return VisionAttention(layers.mean(0), masses[:, :, cells:].mean(0), layers)


def asked_places(policy: ModelPolicy, observation: Observation) -> np.ndarray:
    """Where in each view the keypoints are that the instruction steers: (v, k, 2) x and y from −1
    to 1; k = 0 of a model without them, or that encodes all views at once."""
    views = len(policy.spec.views)
    if not policy.model.encodes_single_views:
        return np.zeros((views, 0, 2))
    with torch.inference_mode():
        pixels = stack_pixels([observation], policy.spec).to(policy.device)
        images = to_images(pixels, observation.state[None], policy.model.crops)
        told = policy.told(observation.instruction).phrase
        words = policy.model.tokenise([told]).to(policy.device)
        located = policy.model.see(images, words).located[0]  # (1, v, 2k)
    return located[0].unflatten(-1, (-1, 2)).double().cpu().numpy()


def require_cells(policy: ModelPolicy) -> tuple[int, int]:
    """(rows, cols) of the cells of every view.

    Raises:
        ConfigError: the model does not say which cell a token is of.
    """
    grid = policy.model.token_grid
    if grid is None:
        raise ConfigError(
            f"{type(policy.model).__name__} does not say which cell of an image a token is of; "
            "override `token_grid`"
        )
    if policy.model.pruned_to < 1:
        raise ConfigError(
            "the policy's backbone reads only some of the vision tokens (pruned_to), so that cells "
            "have no attention of their own"
        )
    if policy.model.frames > 1:
        raise ConfigError(
            f"the policy's context is of {policy.model.frames} frames, so that a cell has "
            "attention of several instants; show a policy of one frame"
        )
    return grid


def _masses(policy: ModelPolicy, observation: Observation, index: int) -> np.ndarray:
    """(layers, v, l') of one action, mean over the passes that it needs."""
    focus = policy.model.expert.focus
    policy.focus_on(replace(focus, once=False))  # so that the cache keeps its tokens
    try:
        context = policy.encode(observation)
        actions = policy.generate_batch(context, observation.action_state[None])
        for _ in range(index if policy.spec.chunk_passes == 0 else 0):
            next(actions)
        with watching(policy.model.expert) as seen:
            next(actions)
    finally:
        policy.focus_on(focus)
    layers = len(policy.model.expert.blocks)
    passes = torch.stack(seen).squeeze((1, 2)).unflatten(0, (-1, layers)).mean(0)  # (layers, l_v)
    return passes.unflatten(-1, (len(policy.spec.views), -1)).double().cpu().numpy()
