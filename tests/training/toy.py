"""A toy robot on disk: a dot in a 32×32-pixel image tells how far to go; the hand goes there."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.data.store import DatasetMeta, Episode, shard_path, write_meta, write_shard

SPACE = ActionSpace(("dx", "grip"), ("delta", "absolute"), (-1.0, -1.0), (1.0, 1.0))
META = DatasetMeta(
    robot="toy",
    action_space=SPACE,
    state_names=("x",),
    control_period_ns=50_000_000,
    views=("top",),
    image_size=(32, 32),
    tasks={"go": ("go to the dot", "move to the dot"), "stay": ("stay where you are",)},
    noise={},
    seed=0,
    commit="unknown",
    place_names=("goal", "nothing"),
)


def toy_episode(task: str, seed: int, length: int = 20) -> Episode:
    """A quarter of the way a step, noisily executed; the grip closes for goals on the right."""
    rng = np.random.default_rng([seed, task == "go"])
    goal = rng.uniform(-4, 4) if task == "go" else 0.0
    images = np.zeros((length, 32, 32, 3), dtype=np.uint8)
    state, label, action = (np.zeros((length, n), dtype=np.float32) for n in (1, 2, 2))
    x = 0.0
    column = int(16 + 3 * goal)
    for t in range(length):
        images[t, 12:18, column - 2 : column + 3] = 255
        state[t, 0] = x
        label[t] = np.clip((goal - x) / 4, -1, 1), 1.0 if goal > 0 else -1.0
        action[t] = np.clip(label[t] + [rng.normal() * 0.1, 0.0], -1, 1)
        x += float(action[t, 0])
    places = np.tile(np.array([goal, 0.0], np.float32), (length, 1))
    return Episode(task, {"top": images}, state, action, label, seed, 10, places=places)


def write_toy_dataset(
    directory: Path, episodes: int = 12, first_seed: int = 0, length: int = 20
) -> Path:
    write_meta(directory, META)
    for task in META.tasks:
        seeds = range(first_seed, first_seed + episodes)
        made = [toy_episode(task, seed, length) for seed in seeds]
        write_shard(shard_path(directory, task, 0), made, attempts=episodes)
    return directory
