"""Demonstrations in memory: episodes, and what they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import DatasetError, StreamVLAError

SCHEMA_VERSION = 2
_READABLE = (1, SCHEMA_VERSION)  # 1: the file has no checksum


@dataclass(frozen=True)
class DatasetMeta:
    """What every episode of a dataset shares.

    Attributes:
        robot: name of the robot that was demonstrated on.
        action_space: of `action` and `label`.
        state_names: one per dimension of `state`.
        control_period_ns: between frames, nominal.
        views: camera names.
        image_size: (height, width), pixels.
        tasks: task → its training instructions, of all its goals.
        noise: the collector's noise settings.
        seed: the collector's base seed.
        commit: source revision that started the dataset, "unknown" outside a repository.
        pilot: what tells the policy that drove (`data.pilot`); empty where experts drove alone.
        place_names: one per dimension of `Episode.places`; empty where places are not known.
    """

    robot: str
    action_space: ActionSpace
    state_names: tuple[str, ...]
    control_period_ns: int
    views: tuple[str, ...]
    image_size: tuple[int, int]
    tasks: Mapping[str, tuple[str, ...]]
    noise: Mapping[str, Any]
    seed: int
    commit: str
    place_names: tuple[str, ...] = ()
    pilot: Mapping[str, str] = field(default_factory=dict)

    def instructions_of(self, episode: Episode) -> tuple[str, ...]:
        """The training instructions that fit an episode."""
        return episode.instructions or self.tasks[episode.task]

    def to_json(self) -> dict[str, Any]:
        fields = asdict(self)
        fields["action_space"] = self.action_space.to_json()
        return {"schema_version": SCHEMA_VERSION, **fields}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> DatasetMeta:
        """Inverse of `to_json`.

        Raises:
            DatasetError: another schema version, a missing or malformed field.
        """
        version = fields.get("schema_version")
        if version not in _READABLE:
            raise DatasetError(
                f"schema version {version!r}, expected {SCHEMA_VERSION}: collect again with this "
                "version of streamvla"
            )
        try:
            height, width = fields["image_size"]
            return cls(
                robot=str(fields["robot"]),
                action_space=ActionSpace.from_json(fields["action_space"]),
                state_names=tuple(fields["state_names"]),
                control_period_ns=int(fields["control_period_ns"]),
                views=tuple(fields["views"]),
                image_size=(int(height), int(width)),
                tasks={task: tuple(said) for task, said in fields["tasks"].items()},
                noise=dict(fields["noise"]),
                seed=int(fields["seed"]),
                commit=str(fields["commit"]),
                place_names=tuple(fields.get("place_names", ())),
                pilot=dict(fields.get("pilot", {})),
            )
        except (KeyError, TypeError, ValueError, AttributeError, StreamVLAError) as error:
            raise DatasetError(
                f"missing or malformed field ({type(error).__name__}: {error}): restore the file, "
                "or collect again into an empty directory"
            ) from error


@dataclass(frozen=True)
class Episode:
    """One demonstration of `t` frames; frame i is what was seen before `action[i]`.

    Attributes:
        images: view → (t, height, width, 3) uint8, mapped from disk.
        state: (t, s) float32 measured proprioception.
        action: (t, d) float32 executed.
        label: (t, d) float32 the clean expert action at that instant.
        seed: the episode's seed.
        success_step: number of actions after which the task was first reached.
        instructions: the ways to say what this episode does; empty where the task has one goal,
            and they are the task's (`DatasetMeta.instructions_of`).
        places: (t, p) float32 metres, where the things that matter are: simulators know, real
            robots mostly do not. A target for training; no policy is given it.
        start: (d,) float64 action state before the first action (`core.interfaces.standing_at`);
            None in shards from before it was stored: all zeros.
    """

    task: str
    images: Mapping[str, np.ndarray]
    state: np.ndarray
    action: np.ndarray
    label: np.ndarray
    seed: int
    success_step: int
    instructions: tuple[str, ...] = ()
    places: np.ndarray | None = None
    start: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.action)


@dataclass(frozen=True)
class Demonstrations:
    """A validated dataset.

    Attributes:
        attempts: task → episodes tried to get the stored ones (the expert's failures are not
            stored).
    """

    meta: DatasetMeta
    episodes: tuple[Episode, ...]
    attempts: Mapping[str, int]

    @property
    def frame_count(self) -> int:
        """Frames over all episodes."""
        return sum(len(episode) for episode in self.episodes)

    def as_deltas(self) -> Demonstrations:
        """The same demonstrations with every action dimension read as a delta (ablation)."""
        meta = replace(self.meta, action_space=self.meta.action_space.as_deltas())
        return replace(self, meta=meta)

    def action_states(self, episode: Episode) -> np.ndarray:
        """(t + 1, d) float64 action state before each executed action, and after the last.

        They are those that a driver had at the same captures, up to the rounding of stored actions
        to float32. A shard from before `start` was stored is taken to begin at zeros: where its
        robot began elsewhere, absolute dimensions are wrong before the first action, and only
        there.
        """
        space = self.meta.action_space
        states = [space.initial_state() if episode.start is None else episode.start]
        for action in episode.action.astype(np.float64):
            states.append(space.advance(states[-1], action))
        return np.stack(states)
