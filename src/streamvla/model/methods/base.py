"""What a method of making actions is: settings, an expert, a training sample, and a reading.

    expert    the part of the model that reads a context         `Method.expert`
    sample    what it is given in training, and the target       `Method.sample`, `Method.quantity`
    reader    context + action state → actions                   `Method.reader`

A method is one file and one line in `registry`, or an entry point of another package. Training and
policies ask for no more than this, and know no method by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from streamvla.core.action_space import ActionSpace
from streamvla.core.compute import ObservationCost
from streamvla.core.errors import ConfigError
from streamvla.model.backbone import PrefixCache
from streamvla.model.expert import Expert, ExpertSize
from streamvla.model.normalisation import Normalisation

StateOrigin = Literal["observation", "episode"]
Age = TypeVar("Age", int, np.ndarray)


@dataclass(frozen=True)
class GenerationConfig:
    """One generation: H actions that depart from the action state x0.

    Attributes:
        horizon: H, actions per observation.
        state_origin: where delta dimensions of the action state are zero. "observation": at the
            capture of the observation, so x0 = Σ pending, bounded for endless episodes.
            "episode": at the start of the episode, as published.
        aligned: x0 is the action state from which the first action departs. False is an ablation:
            x0 is zero whatever was commanded, in training and in use alike (StreamingVLA,
            arXiv 2603.28565, without its alignment of action states).
        max_age: up to how many actions old an observation may be for the policy to be told so;
            older ones count as this. 0: it is not told (docs/decisions/0017). What is not aligned
            is not told either.
    """

    horizon: int = 10
    state_origin: StateOrigin = "observation"
    aligned: bool = True
    max_age: int = 0

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise ConfigError(f"horizon is {self.horizon}; expected at least 1 action")
        if self.max_age < 0:
            raise ConfigError(f"max_age is {self.max_age}; expected 0 or more actions")
        require_option("state_origin", self.state_origin, StateOrigin)

    def told_age(self, age: Age) -> Age:
        """What the policy is told of the age of its observation, in actions; same type.

        >>> GenerationConfig(max_age=6).told_age(np.array([2, 8])).tolist()
        [2, 6]
        """
        most = self.max_age if self.aligned else 0
        return min(age, most) if isinstance(age, int) else np.minimum(age, most)


# --- training --------------------------------------------------------------------------------

Sample = tuple[tuple[Tensor, ...], Tensor]
"""What the expert is given besides the context, and what it should say."""

Draw = Callable[[tuple[int, ...], torch.Generator], Tensor]
"""(shape, generator) → random numbers of that shape."""


class Draws(Protocol):
    """Random numbers of one training step, drawn for the whole batch."""

    def __call__(self, shape: tuple[int, ...], draw: Draw) -> Tensor:
        """What `draw` gives for the rows of all processes; of them, those of this one."""
        ...


def normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal numbers (`Draw`)."""
    return torch.randn(shape, generator=generator)


@dataclass(frozen=True)
class TrainingSamples:
    """What a training sample may be made of: b observations with m samples each, at unit scale.

    Attributes:
        start: (b, m, d) action state from which the first action departs.
        labels: (b, m, h, d) clean actions from there on, each for the state that was passed.
        executed: (b, m, h, d) the actions that were carried out there, noise included.
        age: (b, m) int64, how many actions the observation is old, as far as that is told.
        is_delta: (d,) bool.
    """

    start: Tensor
    labels: Tensor
    executed: Tensor
    age: Tensor
    is_delta: Tensor

    def first(self, count: int) -> TrainingSamples:
        """The first `count` of the m samples of every observation."""
        return TrainingSamples(
            self.start[:, :count],
            self.labels[:, :count],
            self.executed[:, :count],
            self.age[:, :count],
            self.is_delta,
        )


# --- use -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Context:
    """b encoded observations.

    Attributes:
        prefix: the model's cache.
        captured: (b, d) action states at capture, robot units.
        origin: (b, d) what is subtracted from action states, robot units.
        seeds: (b,) of the noise a method may need: functions of the observation, so that the same
            episode gives the same actions again.
        cost: of one of them.
    """

    prefix: PrefixCache
    captured: np.ndarray
    origin: np.ndarray
    seeds: tuple[int, ...]
    cost: ObservationCost = field(default_factory=ObservationCost)


@dataclass(frozen=True)
class Units:
    """Between the robot's units and the unit scale that an expert sees."""

    space: ActionSpace
    normalisation: Normalisation
    device: torch.device

    def relative(self, context: Context, action_states: np.ndarray) -> Tensor:
        """Action states as the expert sees them: (b, d) robot units → (b, 1, d) unit scale."""
        relative = self.normalisation.normalise_action_state(action_states - context.origin)
        return torch.from_numpy(relative).to(self.device).unsqueeze(1)

    def actions(self, values: Tensor) -> np.ndarray:
        """(..., d) unit scale → float64 robot units."""
        return self.normalisation.restore_action(values.cpu().numpy())


Reader = Callable[[Context, np.ndarray, int, int], Iterator[np.ndarray]]
"""(context, (b, d) action states, flow index, age as told) → `H − index` times the next actions
(b, d), float64, robot units, clipped to the action space. The work is done in `next`."""


class Method(GenerationConfig, ABC):
    """See the module's docstring. A subclass is a frozen dataclass of its settings."""

    name: ClassVar[str]

    tunable: ClassVar[tuple[str, ...]] = ()
    """Settings that may be changed without training again."""

    @property
    @abstractmethod
    def chunk_passes(self) -> int:
        """Expert passes before the first action; 0: each gives one (`PolicySpec.chunk_passes`)."""

    @abstractmethod
    def expert(self, size: ExpertSize) -> Expert:
        """The untrained expert."""

    @abstractmethod
    def sample(self, samples: TrainingSamples, draws: Draws) -> Sample:
        """What the expert is given in a training step, and what it should say."""

    def quantity(self, said: Tensor, inputs: tuple[Tensor, ...], is_delta: Tensor) -> Tensor:
        """What the expert said as the quantity that the target is of, same shape."""
        return said

    @abstractmethod
    def reader(self, expert: Any, units: Units) -> Reader:
        """How actions come from a context. The expert's weights must not change afterwards."""

    @property
    def settings(self) -> dict[str, float]:
        """Those of `tunable`."""
        return {name: getattr(self, name) for name in self.tunable}

    def to_json(self) -> dict[str, Any]:
        """`{"name": "action-flow", "horizon": 10, …}`."""
        return {"name": self.name, **asdict(self)}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`, without the name; a method says here what old files had."""
        return cls(**settings)


def require_option(name: str, value: str, options: Any) -> None:
    """Raise `ConfigError` unless `value` is one of the `Literal` type `options`."""
    if value not in get_args(options):
        raise ConfigError(f"{name} is {value!r}; use one of {get_args(options)}")
