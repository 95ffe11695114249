"""What passes between the executor process and the model process.

    executor ── ObserveRequest, StartGenerate, CancelGenerate ──►  model      (channel)
             ◄── contexts ready, actions: fixed-size records ────             (ring, and a bell)
             ◄── what fits no record: errors, misshapen actions,
                 what was foreseen ──────────────────────────────             (channel)

Both count episodes: what a suspended model still sends for an earlier one is ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from streamvla.runtime.drivers.cameras import FrozenCamera
from streamvla.runtime.drivers.stages import (
    ActionMade,
    ContextReady,
    ObserveBegun,
    StageError,
    StageResult,
)
from streamvla.runtime.executors.base import Foresee
from streamvla.runtime.faults.plan import FaultPlan
from streamvla.runtime.timing.latency import LatencyModel, LatencyProfile

# --- requests --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AwaitIdle:
    """Answer with a record without a result once nothing of an earlier episode runs any more."""

    episode: int


@dataclass(frozen=True, slots=True)
class BeginEpisode:
    """The episode's first tick is at `start_ns`."""

    episode: int
    profile: LatencyProfile
    start_ns: int
    faults: FaultPlan
    frozen: FrozenCamera
    latency: LatencyModel | None = None


@dataclass(frozen=True, slots=True)
class EndEpisode:
    """The episode is over: start nothing more for it."""


@dataclass(frozen=True, slots=True)
class ObserveRequest:
    """Make the context of this capture; `action_state` is (d,), `foresee` as in `StartObserve`."""

    observation: int
    action_state: np.ndarray
    capture: Any
    instruction: str
    captured_ns: int
    foresee: Foresee | None = None


@dataclass(frozen=True, slots=True)
class MeasureRequest:
    """Run every stage `repeats` times on this capture and tell the owner how long each took."""

    capture: Any
    instruction: str
    repeats: int


# --- results ---------------------------------------------------------------------------------

_IDLE, _BEGUN, _CONTEXT, _CONTEXT_WITH_GOAL, _ACTION = range(5)


def result_record(dim: int) -> np.dtype:
    """The record of one result: `values` holds the `dim` numbers of an action, or a goal."""
    whole = ("kind", "episode", "observation", "generation", "index")
    fields = [(name, np.int64) for name in (*whole, "started_ns", "made_ns")]
    return np.dtype([*fields, ("values", np.float64, (dim,))])


@dataclass(frozen=True, slots=True)
class Delivered:
    """A result on its way.

    Attributes:
        made_ns: when the model process had it.
        result: None says that the model is idle and takes the episode up.
    """

    episode: int
    made_ns: int
    result: StageResult | None


def to_record(record: np.dtype, delivered: Delivered) -> np.ndarray:
    """(1,) record of a result that `fits`. Inverse of `from_record`."""
    out = np.zeros(1, record)
    row = out[0]
    row["episode"], row["made_ns"] = delivered.episode, delivered.made_ns
    match delivered.result:
        case None:
            row["kind"] = _IDLE
        case ObserveBegun(observation):
            row["kind"], row["observation"] = _BEGUN, observation
        case ContextReady(observation, None, ()):
            row["kind"], row["observation"] = _CONTEXT, observation
        case ContextReady(observation, goal, ()):
            row["kind"], row["observation"] = _CONTEXT_WITH_GOAL, observation
            row["values"] = goal
        case ActionMade(started_ns, generation, index, values):
            row["kind"], row["started_ns"] = _ACTION, started_ns
            row["generation"], row["index"], row["values"] = generation, index, values
        case other:
            raise TypeError(f"{type(other).__name__} does not fit into a record")
    return out


def from_record(row: np.void) -> Delivered:
    """What a record says."""
    kind = int(row["kind"])
    result: StageResult | None = None
    if kind == _BEGUN:
        result = ObserveBegun(int(row["observation"]))
    elif kind == _CONTEXT:
        result = ContextReady(int(row["observation"]))
    elif kind == _CONTEXT_WITH_GOAL:
        result = ContextReady(int(row["observation"]), row["values"].copy())
    elif kind == _ACTION:
        result = ActionMade(
            int(row["started_ns"]), int(row["generation"]), int(row["index"]), row["values"].copy()
        )
    return Delivered(int(row["episode"]), int(row["made_ns"]), result)


def fits(record: np.dtype, result: StageResult | None) -> bool:
    """Whether a result can be a record: no words, and numbers of the right shape."""
    match result:
        case StageError():
            return False
        case ActionMade(values=values):
            return _is_vector(record, values)
        case ContextReady(goal=goal, frozen=frozen, saliency=saliency):
            return not (frozen or saliency) and (goal is None or _is_vector(record, goal))
    return True


def _is_vector(record: np.dtype, values: object) -> bool:
    return (
        isinstance(values, np.ndarray)
        and values.dtype.kind in "fiu"
        and values.shape == record["values"].shape
    )
