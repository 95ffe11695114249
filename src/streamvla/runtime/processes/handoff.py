"""What passes between the executor process and the model process.

    executor ── ObserveRequest, StartGenerate, CancelGenerate ──►  model      (channel)
             ◄── contexts ready, actions: fixed-size records ────             (ring, and a bell)
             ◄── what fits no record: errors, misshapen actions,
                 what was foreseen: messages of a fixed layout ──             (channel)

Both count episodes: what a suspended model still sends for an earlier one is ignored.

The robot side trusts nothing it gets: no pickle, every length, number and text is checked before it
is used (`from_record`, `decode`), and whatever is wrong is a `HandoffError`, which ends the episode
in the robot's stop. What a result then says (an unknown observation, a step out of order) is the
streamer's to judge. The other way, requests are pickled: the model side trusts the robot's.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from streamvla.core.actions import is_array
from streamvla.core.compute import COST_NUMBERS, ObservationCost
from streamvla.core.errors import ConfigError, HandoffError
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
    """The record of one result: `values` holds the `dim` numbers of an action, or a goal; `cost`
    what an observation cost, NaN where that was not counted."""
    whole = ("kind", "episode", "observation", "generation", "index")
    fields = [(name, np.int64) for name in (*whole, "started_ns", "made_ns")]
    return np.dtype(
        [*fields, ("values", np.float64, (dim,)), ("cost", np.float64, (COST_NUMBERS,))]
    )


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
        case ContextReady(observation, None, (), cost=cost):
            row["kind"], row["observation"] = _CONTEXT, observation
            row["cost"] = _cost_row(cost)
        case ContextReady(observation, goal, (), cost=cost):
            row["kind"], row["observation"] = _CONTEXT_WITH_GOAL, observation
            row["values"], row["cost"] = goal, _cost_row(cost)
        case ActionMade(started_ns, generation, index, values):
            row["kind"], row["started_ns"] = _ACTION, started_ns
            row["generation"], row["index"], row["values"] = generation, index, values
        case other:
            raise TypeError(f"{type(other).__name__} does not fit into a record")
    return out


def from_record(row: np.void) -> Delivered:
    """What a record says.

    Raises:
        HandoffError: a kind of record that there is not, or a cost that is none.
    """
    kind = int(row["kind"])
    result: StageResult | None = None
    if kind == _BEGUN:
        result = ObserveBegun(int(row["observation"]))
    elif kind == _CONTEXT:
        result = ContextReady(int(row["observation"]), cost=_cost_from(row["cost"]))
    elif kind == _CONTEXT_WITH_GOAL:
        cost = _cost_from(row["cost"])
        result = ContextReady(int(row["observation"]), row["values"].copy(), cost=cost)
    elif kind == _ACTION:
        result = ActionMade(
            int(row["started_ns"]), int(row["generation"]), int(row["index"]), row["values"].copy()
        )
    elif kind != _IDLE:
        raise HandoffError(f"a record of kind {kind}, which there is not")
    return Delivered(int(row["episode"]), int(row["made_ns"]), result)


# --- messages --------------------------------------------------------------------------------

MOST_BYTES = 1 << 16
"""Of a message to the robot side."""

_HEAD = struct.Struct("<B3xiqqqq")
"""Kind, small number, episode, made_ns, and two numbers that depend on the kind."""
_STAGES = ("observe", "generate", "model")
_ERROR, _SEEN, _ODD_ACTION = 1, 2, 3
_MOST_TEXT = 4096
_MOST_NUMBERS = 4096


def encode(delivered: Delivered) -> bytes:
    """A result that fits no record, in at most `MOST_BYTES`. What cannot be said so is the error of
    its stage. Inverse of `decode`."""
    head = (delivered.episode, delivered.made_ns)
    try:
        match delivered.result:
            case StageError(stage, message):
                text = message.encode(errors="replace")[:_MOST_TEXT]
                return _HEAD.pack(_ERROR, _STAGES.index(stage), *head, 0, 0) + text
            case ContextReady() as seen:
                return _encode_seen(seen, head)
            case ActionMade(started_ns, generation, index, values):
                numbers = _HEAD.pack(_ODD_ACTION, index, *head, started_ns, generation)
                return numbers + _encode_array(_numeric(values))
            case other:
                raise HandoffError(f"{type(other).__name__} fits no message")
    except (HandoffError, TypeError, ValueError, struct.error) as error:
        stage = "observe" if isinstance(delivered.result, ContextReady) else "generate"
        return encode(replace(delivered, result=StageError(stage, f"{error}")))


def decode(message: bytes) -> Delivered:
    """What a message says.

    Raises:
        HandoffError: it is none of `encode`'s.
    """
    if not _HEAD.size <= len(message) <= MOST_BYTES:
        raise HandoffError(f"a message of {len(message)} bytes")
    numbers: tuple[int, ...] = _HEAD.unpack_from(message)
    kind, small, episode, made_ns, first, second = numbers
    body = message[_HEAD.size :]
    result: StageResult
    if kind == _ERROR and 0 <= small < len(_STAGES) and len(body) <= _MOST_TEXT:
        result = StageError(_STAGES[small], body.decode(errors="replace"))
    elif kind == _SEEN and small in (0, 1):
        result = _decode_seen(first, body, refused=bool(small))
    elif kind == _ODD_ACTION:
        values, rest = _decode_array(body)
        if rest:
            raise HandoffError(f"{len(rest)} bytes behind an action")
        result = ActionMade(first, second, small, values)
    else:
        raise HandoffError(f"a message of kind {kind}, {small}, with {len(body)} bytes")
    return Delivered(episode, made_ns, result)


def _encode_seen(seen: ContextReady, head: tuple[int, int]) -> bytes:
    goal = np.zeros(0) if seen.goal is None else _numeric(seen.goal)
    said, *clarity = seen.unclear or ("",)
    before, instead, *similarity = seen.rephrased or ("", "")
    words = tuple(each.replace("\0", " ") for each in (said, before, instead))
    stated = seen.unclear or seen.rephrased or seen.frozen
    text = "\0".join((*words, *seen.frozen) if stated else ()).encode()
    if len(text) > _MOST_TEXT:
        raise HandoffError(f"instruction and names of frozen views with {len(text)} bytes")
    numbers = _HEAD.pack(_SEEN, int(seen.refused), *head, seen.observation, 0)
    cost = np.array(_cost_row(seen.cost))
    sureness = (np.array(clarity, float), np.array(similarity, float))
    arrays = (goal, np.array(seen.saliency, float), cost, *sureness)
    return b"".join((numbers, *map(_encode_array, arrays), text))


def _decode_seen(observation: int, body: bytes, *, refused: bool) -> ContextReady:
    goal, body = _decode_array(body)
    saliency, body = _decode_array(body)
    cost, body = _decode_array(body)
    clarity, body = _decode_array(body)
    similarity, text = _decode_array(body)
    if len(text) > _MOST_TEXT:
        raise HandoffError(f"instruction and names of frozen views with {len(text)} bytes")
    for what, number in (("clarity", clarity), ("similarity", similarity)):
        if number.size > 1 or not np.isfinite(number).all():
            raise HandoffError(f"a {what} that is no finite number")
    if saliency.size and (saliency.ndim != 2 or not np.isfinite(saliency).all()):
        raise HandoffError("a saliency that is no table of finite numbers")
    texts = text.decode(errors="replace").split("\0") if text else [""] * 3
    if len(texts) < 3:
        raise HandoffError(f"{len(texts)} texts of an instruction; expected 3")
    said, before, instead, *frozen = texts
    unclear = (said, float(clarity.item())) if clarity.size else None
    rephrased = (before, instead, float(similarity.item())) if similarity.size else None
    table: list[list[float]] = saliency.tolist() if saliency.size else []
    rows = tuple(tuple(row) for row in table)
    stated = goal if goal.size else None
    told = (rows, refused, _cost_from(cost), unclear, rephrased)
    return ContextReady(observation, stated, tuple(frozen), *told)


def _cost_row(cost: ObservationCost | None) -> tuple[float, ...]:
    return (math.nan,) * COST_NUMBERS if cost is None else cost.to_row()


def _cost_from(row: np.ndarray) -> ObservationCost | None:
    if row.shape == (COST_NUMBERS,) and np.isnan(row).all():
        return None
    try:
        return ObservationCost.from_row(tuple(row.ravel().tolist()))
    except ConfigError as error:
        raise HandoffError(f"{error}") from error


def _numeric(values: object) -> np.ndarray:
    """As float64; what is no array of numbers is one NaN, which the governor refuses."""
    if is_array(values) and values.dtype.kind in "fiu":
        return values.astype(np.float64)
    return np.array([np.nan])


def _encode_array(array: np.ndarray) -> bytes:
    if array.ndim > 3 or array.size > _MOST_NUMBERS:
        raise HandoffError(f"an array of shape {array.shape}")
    shape = struct.pack("<B3I", array.ndim, *array.shape, *(1,) * (3 - array.ndim))
    return shape + np.ascontiguousarray(array, "<f8").tobytes()


def _decode_array(body: bytes) -> tuple[np.ndarray, bytes]:
    """float64, and the bytes behind it."""
    start = struct.calcsize("<B3I")
    if len(body) < start:
        raise HandoffError("an array without its shape")
    ndim, *sizes = struct.unpack_from("<B3I", body)
    count = math.prod(sizes)
    if ndim > 3 or count > _MOST_NUMBERS or any(size != 1 for size in sizes[ndim:]):
        raise HandoffError(f"an array of {ndim} dimensions {sizes}")
    end = start + 8 * count
    if len(body) < end:
        raise HandoffError(f"an array of {sizes} in {len(body) - start} bytes")
    values = np.frombuffer(body[start:end], "<f8").reshape(sizes[:ndim])
    return values.astype(np.float64), body[end:]


def fits(record: np.dtype, result: StageResult | None) -> bool:
    """Whether a result can be a record: no words, and numbers of the right shape."""
    match result:
        case StageError():
            return False
        case ActionMade(values=values):
            return _is_vector(record, values)
        case ContextReady(goal=goal, frozen=frozen, saliency=saliency):
            return not (frozen or saliency or result.unclear or result.rephrased) and (
                goal is None or _is_vector(record, goal)
            )
        case _:
            return True


def _is_vector(record: np.dtype, values: object) -> bool:
    return (
        is_array(values) and values.dtype.kind in "fiu" and values.shape == record["values"].shape
    )
