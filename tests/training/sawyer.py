"""Short episodes of the Sawyer arm, made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from streamvla.data.store import DatasetMeta, Episode, shard_path, write_meta, write_shard
from streamvla.robots.sawyer import ACTION_SPACE, GAZE, PLACE_NAMES, SPEC

LENGTH = 16


def sawyer_episode(seed: int) -> Episode:
    """A hand wanders over the table; a white square of 2×2 px is where it is in every view."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(LENGTH, 3)) * 0.01
    hand = np.array([0.0, 0.65, 0.15]) + np.cumsum(steps, axis=0)
    state = np.column_stack([hand, np.ones(LENGTH)]).astype(np.float32)
    images = {view: np.zeros((LENGTH, 96, 96, 3), np.uint8) for view in SPEC.views}
    for view, places in zip(SPEC.views, GAZE.aim(state).swapaxes(0, 1), strict=True):
        for t, (u, v) in enumerate(np.rint(places).astype(int)):
            images[view][t, v - 1 : v + 1, u - 1 : u + 1] = 255
    moves = rng.uniform(-1, 1, (LENGTH, 4)).astype(np.float32)
    places = np.tile(rng.normal(size=9).astype(np.float32), (LENGTH, 1))
    return Episode("reach", images, state, moves, moves, seed, 10, places=places)


def write_sawyer_dataset(folder: Path, episodes: int = 6) -> Path:
    """A dataset of the task reach, at that folder."""
    meta = DatasetMeta(
        robot=SPEC.name,
        action_space=ACTION_SPACE,
        state_names=SPEC.state_names,
        control_period_ns=SPEC.control_period_ns,
        views=SPEC.views,
        image_size=SPEC.image_size,
        tasks={"reach": ("reach the goal",)},
        noise={},
        seed=0,
        commit="unknown",
        place_names=PLACE_NAMES,
    )
    write_meta(folder, meta)
    made = map(sawyer_episode, range(episodes))
    write_shard(shard_path(folder, "reach", 0), made, attempts=episodes)
    return folder
