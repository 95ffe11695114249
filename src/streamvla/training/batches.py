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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from streamvla.core.clock import NS_PER_S
from streamvla.core.errors import ConfigError, DatasetError, did_you_mean
from streamvla.data.store import Demonstrations, Episode
from streamvla.model.crops import CropConfig
from streamvla.model.instruction import words_tensor
from streamvla.model.methods.base import GenerationConfig
from streamvla.model.normalisation import Normalisation
from streamvla.policy.transforms import flow_origin
from streamvla.training.distributed import Share

START_FRAMES = 5
"""What counts as the start of an episode in `SamplingConfig.start_fraction`."""

LEAST_PLACE_STD = 0.01
"""Metres: what moves less than this is not blown up to unit deviation."""

Tokenise = Callable[[Sequence[str]], Tensor]
"""b instructions → (b, l) int64."""


@dataclass(frozen=True)
class Batch:
    """One training batch; action quantities at unit scale, relative to the flow's origin.

    Attributes:
        pixels: (b, v, y, x, 3) uint8.
        words: (b, l) int64.
        state: (b, s) normalised.
        command: (b, d) action state at capture.
        start: (b, m, d) action state at capture + offset, from what was executed.
        age: (b, m) int64 the offset, as far as a policy is told it (`GenerationConfig.max_age`).
        labels: (b, m, h, d) clean actions from there on: of every state that was passed through.
        executed: (b, m, h, d) the actions that were carried out there, noise included.
        future: (b, f, s) normalised state some frames later, less the state now.
        places: (b, p) where things are in the image, normalised; p = 0 where data do not tell.
        corners: (b, v, 2) int64 where the crops of `pixels` begin; v = 0 where none are cut.
        elapsed: (b,) s since the observation before; 0 for the first of a clip.
        number: (b,) int64 of the observation in its stream (`BatchSampler.window`).
        first_state: (b, s) normalised, of the first frame of the episode.
        weight: (b,) in the loss, 1 on average: 0 where a last frame was drawn again.
    """

    pixels: Tensor
    words: Tensor
    state: Tensor
    command: Tensor
    start: Tensor
    age: Tensor
    labels: Tensor
    executed: Tensor
    future: Tensor
    places: Tensor
    corners: Tensor
    elapsed: Tensor
    number: Tensor
    first_state: Tensor
    weight: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True)
class SamplingConfig:
    """How frames become samples.

    Attributes:
        batch_size: b, observations a batch, over all processes.
        samples: m, (δ, tau, noise) samples per observation; they share one image encoding.
        chunk_samples: how many of them, at most, a chunk method trains on: each is H tokens there.
        max_offset: largest δ; 0 switches the augmentation off.
        clip: T, how many observations of an episode are drawn together, in order, for a model with
            a memory; 1: each stands alone. Clips begin where episodes do, as often as
            `start_fraction` says, or else anywhere where the longest one has room before the
            episode ends. Where an episode ends before its clip, its last frame is drawn again, and
            does not count in the loss.
        clip_stride: (least, most) control periods between them, drawn anew for each.
        task_weights: task → how often it is drawn, relative to 1 for those not named.
        start_fraction: share of the draws that go to the first `START_FRAMES` frames of an
            episode. Every run looks there, and there the arm's place tells nothing of what to do
            next; drawn evenly, they are a few percent.
        shift_px: each view is moved by up to this many pixels each way, edges repeated. Small,
            because a pixel is about a centimetre of table.
        word_dropout: share of an instruction's words that are left out, never all: so that no
            single sentence is learned by heart.
    """

    batch_size: int = 64
    samples: int = 8
    chunk_samples: int = 2
    max_offset: int = 6
    shift_px: int = 0
    start_fraction: float = 0.0
    word_dropout: float = 0.0
    clip: int = 1
    clip_stride: tuple[int, int] = (8, 12)
    task_weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        leasts = {"batch_size": 1, "samples": 1, "chunk_samples": 1, "max_offset": 0, "shift_px": 0}
        leasts |= {"clip": 1}
        for name, least in leasts.items():
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"sampling {name} is {value}; expected at least {least}")
        for name in ("start_fraction", "word_dropout"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"sampling {name} is {value}; expected a share from 0 to 1")
        if self.batch_size % self.clip:
            raise ConfigError(
                f"sampling batch_size is {self.batch_size}, clip {self.clip}; expected a multiple: "
                "a batch is of whole clips"
            )
        least, most = self.clip_stride
        if not 1 <= least <= most:
            raise ConfigError(
                f"sampling clip_stride is {self.clip_stride}; expected two numbers of control "
                "periods, at least 1, the smaller one first"
            )


@dataclass(frozen=True)
class PlaceScale:
    """Mean and deviation of the places of things over the training episodes: (p,) metres."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def fit(cls, episodes: Sequence[Episode]) -> PlaceScale:
        """p = 0 unless every episode tells its places."""
        told = [episode.places for episode in episodes if episode.places is not None]
        if not told or len(told) < len(episodes):
            return cls(np.zeros(0), np.ones(0))
        places = np.concatenate(told)  # (frames, p)
        std = places.std(axis=0, dtype=np.float64)
        return cls(places.mean(axis=0, dtype=np.float64), np.maximum(std, LEAST_PLACE_STD))

    @property
    def dim(self) -> int:
        """p."""
        return len(self.mean)

    def of(self, episode: Episode, t: int) -> np.ndarray:
        """(p,) float32, normalised: where things are in frame t."""
        if self.dim == 0 or episode.places is None:
            return np.zeros(0, np.float32)
        return ((episode.places[t] - self.mean) / self.std).astype(np.float32)


@dataclass(frozen=True)
class _Pick:
    """What was drawn for one row of a batch: frame, chunks, words and image shifts."""

    episode: int
    t: int
    starts: np.ndarray  # (m,) frames t + δ
    instruction: str
    shifts: np.ndarray  # (v, 2) pixels up and left
    jitter: np.ndarray  # (v, 2) pixels right and down, of the crops
    before: int | None = None  # the frame of the observation before in the clip
    number: int = 0  # of the observation in its stream
    again: bool = False  # the last frame once more


class BatchSampler:
    """Draws batches from training episodes, every task equally often but for `task_weights`.

    Of every batch only the rows of `share` are made.

    Args:
        window: N of the model's memory. Where a clip is shorter, its numbers jump once, at a random
            place behind its first observation and so far that the last is N at most: else the
            memory would meet most distances only when it drives.
    """

    def __init__(
        self,
        demonstrations: Demonstrations,
        episodes: Sequence[Episode],
        normalisation: Normalisation,
        generation: GenerationConfig,
        config: SamplingConfig,
        seed: int,
        future_steps: tuple[int, ...],
        share: Share | None = None,
        tokenise: Tokenise = words_tensor,
        crops: CropConfig | None = None,
        window: int = 0,
    ) -> None:
        self.meta: Final = demonstrations.meta
        self.episodes = episodes
        self.normalisation = normalisation
        self.generation = generation
        self.config = config
        self.seed = seed
        self.places: Final = PlaceScale.fit(episodes)
        self._tokenise = tokenise
        self._crops = crops
        self._rows = (share or Share()).rows(config.batch_size)
        own = self._rows.stop - self._rows.start
        if own % config.clip:
            raise ConfigError(
                f"{own} of {config.batch_size} observations a process, clip {config.clip}: a clip "
                f"cannot be shared; use a batch size that is a multiple of {config.clip} times the "
                f"processes, {config.clip * config.batch_size // own}"
            )
        self._action_states = [demonstrations.action_states(episode) for episode in episodes]
        every = _eligible_frames(episodes, generation.horizon)
        self._starts = {task: frames[frames[:, 1] < START_FRAMES] for task, frames in every.items()}
        room = (config.clip - 1) * config.clip_stride[1]
        self._frames = _eligible_frames(episodes, generation.horizon, room)
        self._longest_jump = max(0, window - (config.clip - 1))
        self._future_steps = np.array(future_steps)
        self._task_probabilities = _task_probabilities(tuple(self._frames), config.task_weights)

    def batch(self, step: int) -> Batch:
        """The batch of one training step."""
        rng = np.random.default_rng([self.seed, step])
        tasks = list(self._frames)
        chances = self._task_probabilities
        clips = self.config.batch_size // self.config.clip
        drawn = rng.choice(len(tasks), size=clips, p=chances)
        picks = [pick for task in drawn for pick in self._clip(tasks[task], rng)]
        rows = [self._row(pick) for pick in picks[self._rows]]
        counted = np.array([not pick.again for pick in picks])
        weight = (counted / counted.mean()).astype(np.float32)[self._rows]
        words = self._tokenise([str(row.pop("instruction")) for row in rows])
        stacked = {
            name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]
        }
        return Batch(words=words, weight=torch.from_numpy(weight), **stacked)

    def _clip(self, task: str, rng: np.random.Generator) -> list[_Pick]:
        """Draw observations of one episode, in order; they are told and shifted alike."""
        pick = self._pick(task, rng)
        clip = [pick]
        least, most = self.config.clip_stride
        last = len(self.episodes[pick.episode]) - self.generation.horizon
        while len(clip) < self.config.clip:
            before = clip[-1].t
            t = min(before + int(rng.integers(least, most + 1)), last)
            starts = t + self._offsets(pick.episode, t, rng)
            again = t == before
            clip.append(replace(pick, t=t, starts=starts, before=before, again=again))
        numbers = self._numbers(len(clip), rng)
        return [replace(each, number=n) for each, n in zip(clip, numbers, strict=True)]

    def _numbers(self, length: int, rng: np.random.Generator) -> list[int]:
        """Of the observations of a clip in their stream, with a jump."""
        numbers = np.arange(length)
        if length > 1 and self._longest_jump:
            behind = rng.integers(1, length)
            numbers[behind:] += rng.integers(self._longest_jump + 1)
        return numbers.tolist()

    def _offsets(self, episode: int, t: int, rng: np.random.Generator) -> np.ndarray:
        """(m,) how much later than frame t chunks start."""
        last = len(self.episodes[episode]) - self.generation.horizon - t
        return rng.integers(min(self.config.max_offset, last) + 1, size=self.config.samples)

    def _pick(self, task: str, rng: np.random.Generator) -> _Pick:
        """Draw an image at frame t and m chunks that start up to δ later."""
        at_start = rng.random() < self.config.start_fraction
        frames = (self._starts if at_start else self._frames)[task]  # (frames, 2)
        index, t = (int(number) for number in frames[rng.integers(len(frames))])
        episode = self.episodes[index]
        starts = t + self._offsets(index, t, rng)
        limit = self.config.shift_px
        shifts = rng.integers(-limit, limit + 1, size=(len(self.meta.views), 2))
        phrasings = self.meta.instructions_of(episode)
        said = phrasings[int(rng.integers(len(phrasings)))]
        if self.config.word_dropout:
            said = thinned(said, self.config.word_dropout, rng)
        jitter = np.zeros(shifts.shape)
        if self._crops is not None:  # last, so that all else is drawn as without crops
            limit = self._crops.jitter_px
            jitter = rng.uniform(-limit, limit, shifts.shape)
        return _Pick(index, t, starts, said, shifts, jitter)

    def _row(self, pick: _Pick) -> dict[str, np.ndarray | str]:
        """One row of a batch."""
        episode, states = self.episodes[pick.episode], self._action_states[pick.episode]
        captured = states[pick.t]
        origin = flow_origin(self.meta.action_space, captured, self.generation.state_origin)
        starts = (
            states[pick.starts]
            if self.generation.aligned
            else origin[None].repeat(len(pick.starts), axis=0)
        )
        chunks = pick.starts[:, None] + np.arange(self.generation.horizon)  # (m, h) frames
        now = self.normalisation.normalise_state(episode.state[pick.t])
        later = np.minimum(pick.t + self._future_steps, len(episode) - 1)
        views = zip(self.meta.views, pick.shifts, strict=True)
        images = [shift_image(episode.images[view][pick.t], shift) for view, shift in views]
        return {
            "pixels": np.stack(images),
            "instruction": pick.instruction,
            "state": now,
            "future": self.normalisation.normalise_state(episode.state[later]) - now,
            "places": self.places.of(episode, pick.t),
            "corners": self._corners(episode.state[pick.t], pick),
            "elapsed": np.array(self._elapsed_s(pick), np.float32),
            "number": np.array(pick.number),
            "first_state": self.normalisation.normalise_state(episode.state[0]),
            "command": self.normalisation.normalise_action_state(captured - origin),
            "age": self.generation.told_age(pick.starts - pick.t),
            "start": self.normalisation.normalise_action_state(starts - origin),
            "labels": self.normalisation.normalise_action(episode.label[chunks]),
            "executed": self.normalisation.normalise_action(episode.action[chunks]),
        }

    def _elapsed_s(self, pick: _Pick) -> float:
        frames = 0 if pick.before is None else pick.t - pick.before
        return frames * self.meta.control_period_ns / NS_PER_S

    def _corners(self, state: np.ndarray, pick: _Pick) -> np.ndarray:
        """(v, 2) int64, in the views as they were shifted; (0, 2) without crops."""
        if self._crops is None:
            return np.zeros((0, 2), np.int64)
        moved = pick.jitter - pick.shifts[:, ::-1]
        return self._crops.corners(state, self.meta.image_size[0], moved)


def thinned(instruction: str, share: float, rng: np.random.Generator) -> str:
    """An instruction without about this share of its words; as it is if none would be left.

    >>> thinned("press the red button", 0.5, np.random.default_rng(1))
    'press the button'
    """
    words = np.array(instruction.split())
    kept = words[rng.random(len(words)) >= share]
    return " ".join(kept if len(kept) else words)


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


def shift_image(image: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Move an image by `shift` pixels up and left, repeating its edge: (y, x, 3) → same."""
    height, width = image.shape[:2]
    rows = np.clip(np.arange(height) + shift[0], 0, height - 1)
    columns = np.clip(np.arange(width) + shift[1], 0, width - 1)
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


def _eligible_frames(
    episodes: Sequence[Episode], horizon: int, room: int = 0
) -> dict[str, np.ndarray]:
    """Task → (frames, 2) int: episode number and frame t with H labels from t + room on; of an
    episode too short for that its first frame."""
    pairs: dict[str, list[np.ndarray]] = {}
    for number, episode in enumerate(episodes):
        count = len(episode) - horizon + 1
        t = np.arange(min(count, max(1, count - room)))
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
