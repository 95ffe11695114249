"""Demonstrations → training batches. A batch is a pure function of (seed, step).

    frame      t     t+1 ... t+δ    ...   t+δ+H−1
    image      seen
    executed   a_t   a_t+1 ...  |                    x0 = what was executed from t to t+δ
    label                       l_t+δ ... l_t+δ+H−1  the path to learn, from x0 on

The image at t is paired with m offsets δ ~ U{0..max_offset}: the policy learns to act from an
image that is δ actions old (training-time offset augmentation, as VLASH, arXiv 2512.01031, does
for chunks; compensation 3 of early observation). Executed actions carry noise while labels are the
expert's clean choice at the state the noise led to (DART, arXiv 1703.09327). Later labels of a
chunk therefore answer noise the image cannot show; the regression averages over it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from torch import Tensor

from streamvla.core.errors import ConfigError, DatasetError, did_you_mean
from streamvla.data.store import Demonstrations, Episode
from streamvla.model.flow import FlowConfig
from streamvla.model.normalisation import Normalisation
from streamvla.policy.transforms import flow_origin, words_tensor

START_FRAMES = 5
"""What counts as the start of an episode in `SamplingConfig.start_fraction`."""


@dataclass(frozen=True)
class Batch:
    """One training batch; action quantities at unit scale, relative to the flow's origin.

    Attributes:
        pixels: (b, v, y, x, 3) uint8.
        words: (b, l) int64.
        state: (b, s) normalised.
        command: (b, d) action state at capture.
        start: (b, m, d) action state at capture + offset, from what was executed.
        labels: (b, m, h, d) clean actions from there on.
        future: (b, f, s) normalised state some frames later, less the state now.
    """

    pixels: Tensor
    words: Tensor
    state: Tensor
    command: Tensor
    start: Tensor
    labels: Tensor
    future: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True)
class SamplingConfig:
    """How frames become samples.

    Attributes:
        batch_size: b, observations a batch.
        samples: m, (δ, tau, noise) samples per observation; they share one image encoding.
        max_offset: largest δ; 0 switches the augmentation off.
        task_weights: task → how often it is drawn, relative to 1 for those not named.
        start_fraction: share of the draws that go to the first `START_FRAMES` frames of an
            episode. Every run looks there, and there the arm's place tells nothing of what to do
            next; drawn evenly, they are a few percent.
        shift_px: each view is moved by up to this many pixels each way, edges repeated. Small,
            because a pixel is about a centimetre of table.
    """

    batch_size: int = 64
    samples: int = 8
    max_offset: int = 6
    shift_px: int = 2
    start_fraction: float = 0.0
    task_weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("samples", 1), ("max_offset", 0), ("shift_px", 0)):
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"sampling {name} is {value}; expected at least {least}")
        if not 0 <= self.start_fraction <= 1:
            raise ConfigError(
                f"sampling start_fraction is {self.start_fraction}; expected a share from 0 to 1"
            )


class BatchSampler:
    """Draws batches from training episodes, every task equally often."""

    def __init__(
        self,
        demonstrations: Demonstrations,
        episodes: Sequence[Episode],
        normalisation: Normalisation,
        flow: FlowConfig,
        config: SamplingConfig,
        seed: int,
        future_steps: tuple[int, ...],
    ) -> None:
        self.meta = demonstrations.meta
        self.episodes = episodes
        self.normalisation = normalisation
        self.flow = flow
        self.config = config
        self.seed = seed
        self._action_states = [demonstrations.action_states(episode) for episode in episodes]
        self._frames = _eligible_frames(episodes, flow.horizon)
        self._starts = {
            task: frames[frames[:, 1] < START_FRAMES] for task, frames in self._frames.items()
        }
        self._future_steps = np.array(future_steps)
        self._task_probabilities = _task_probabilities(tuple(self._frames), config.task_weights)

    def batch(self, step: int) -> Batch:
        """The batch of one training step."""
        rng = np.random.default_rng([self.seed, step])
        tasks = list(self._frames)
        rows = []
        chances = self._task_probabilities
        for task in rng.choice(len(tasks), size=self.config.batch_size, p=chances):
            at_start = rng.random() < self.config.start_fraction
            frames = (self._starts if at_start else self._frames)[tasks[task]]  # (frames, 2)
            episode, t = frames[rng.integers(len(frames))]
            rows.append(self._sample(int(episode), int(t), rng))
        words = words_tensor([str(row.pop("instruction")) for row in rows])
        stacked = {
            name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]
        }
        return Batch(words=words, **stacked)

    def _sample(self, index: int, t: int, rng: np.random.Generator) -> dict[str, np.ndarray | str]:
        """One row of a batch: an image at frame t and m chunks that start up to δ later."""
        episode, horizon = self.episodes[index], self.flow.horizon
        last = min(self.config.max_offset, len(episode) - horizon - t)
        starts = t + rng.integers(last + 1, size=self.config.samples)  # (m,) frames t+δ
        states = self._action_states[index]
        origin = flow_origin(self.meta.action_space, states[t], self.flow.state_origin)
        chunks = episode.label[starts[:, None] + np.arange(horizon)]  # (m, h, d)
        said = self.meta.instructions_of(episode)
        now = self.normalisation.normalise_state(episode.state[t])
        later = np.minimum(t + self._future_steps, len(episode) - 1)
        return {
            "pixels": np.stack(
                [
                    shift_image(episode.images[view][t], rng, self.config.shift_px)
                    for view in self.meta.views
                ]
            ),
            "instruction": said[rng.integers(len(said))],
            "state": now,
            "future": self.normalisation.normalise_state(episode.state[later]) - now,
            "command": self.normalisation.normalise_action(states[t] - origin),
            "start": self.normalisation.normalise_action(states[starts] - origin),
            "labels": self.normalisation.normalise_action(chunks),
        }


def _task_probabilities(tasks: tuple[str, ...], weights: Mapping[str, float]) -> np.ndarray:
    """(tasks,) chances that sum to 1.

    Raises:
        ConfigError: a weight for a task that is not there, or not above 0.
    """
    for task, weight in weights.items():
        if task not in tasks:
            raise did_you_mean("task", task, tasks)
        if not 0 < weight < np.inf:
            raise ConfigError(f"task weight {task}={weight}: expected a finite number above 0")
    chances = np.array([weights.get(task, 1.0) for task in tasks])
    return chances / chances.sum()


def shift_image(image: np.ndarray, rng: np.random.Generator, limit: int) -> np.ndarray:
    """Move an image by up to `limit` pixels each way, repeating its edge: (y, x, 3) → same."""
    height, width = image.shape[:2]
    dy, dx = rng.integers(-limit, limit + 1, size=2)
    rows = np.clip(np.arange(height) + dy, 0, height - 1)
    columns = np.clip(np.arange(width) + dx, 0, width - 1)
    return image[rows][:, columns]


def split_holdout(
    demonstrations: Demonstrations, per_task: int
) -> tuple[list[Episode], list[Episode]]:
    """Training episodes, and the last `per_task` of every task, which training never sees.

    Raises:
        DatasetError: a task has too few episodes.
    """
    training: list[Episode] = []
    held_out: list[Episode] = []
    for task in demonstrations.meta.tasks:
        episodes = [each for each in demonstrations.episodes if each.task == task]
        if episodes and len(episodes) <= per_task:
            raise DatasetError(
                f"task {task!r} has {len(episodes)} episodes; training needs more than the "
                f"{per_task} held out. Collect more episodes."
            )
        cut = len(episodes) - per_task
        training += episodes[:cut]
        held_out += episodes[cut:]
    return training, held_out


def _eligible_frames(episodes: Sequence[Episode], horizon: int) -> dict[str, np.ndarray]:
    """Task → (frames, 2) int: episode number and frame t with H labels from t on."""
    pairs: dict[str, list[np.ndarray]] = {}
    for number, episode in enumerate(episodes):
        t = np.arange(len(episode) - horizon + 1)
        pairs.setdefault(episode.task, []).append(np.stack([np.full_like(t, number), t], axis=1))
    frames = {task: np.concatenate(parts) for task, parts in pairs.items()}
    for task, found in frames.items():
        if not len(found):
            raise DatasetError(
                f"task {task!r}: every episode is shorter than the horizon of {horizon} actions. "
                "Lower the horizon or record longer past success."
            )
    if not frames:
        raise DatasetError("the dataset has no episodes; collect some with `streamvla collect`")
    return frames
