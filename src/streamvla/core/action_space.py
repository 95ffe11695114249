"""What an action means: names, units, limits, and which dimensions are deltas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from streamvla.core.errors import ConfigError, SpecMismatchError

DimensionKind = Literal["delta", "absolute"]


@dataclass(frozen=True)
class ActionSpace:
    """The actions of one robot, `d` dimensions.

    A *delta* dimension adds to what was commanded before (a Cartesian step); an *absolute* one
    replaces it (a joint target, a gripper command). The **action state** is the command carried
    forward: the running sum of delta dimensions, the last command of absolute ones:

        action        a0    a1    a2              delta: state = 0, a0, a0+a1, a0+a1+a2
        state      s0    s1    s2    s3        absolute: state = c, a0, a1,    a2

    Source: StreamingVLA (arXiv 2603.28565) section 4.1, which treats every dimension as delta;
    we choose per dimension so that a ±1 gripper command does not grow without bound.
    """

    names: tuple[str, ...]
    kinds: tuple[DimensionKind, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        sizes = {len(self.names), len(self.kinds), len(self.low), len(self.high)}
        if len(sizes) != 1 or not self.names:
            raise ConfigError(
                f"action space: names, kinds, low and high must have one equal length ≥ 1, got "
                f"{len(self.names)}, {len(self.kinds)}, {len(self.low)}, {len(self.high)}"
            )
        for kind in self.kinds:
            if kind not in ("delta", "absolute"):
                raise ConfigError(f"action space: kind {kind!r} is neither 'delta' nor 'absolute'")
        for name, low, high in zip(self.names, self.low, self.high, strict=True):
            if not low < high:
                raise ConfigError(f"action space: {name}: low {low} is not below high {high}")

    @property
    def dim(self) -> int:
        """Number of dimensions `d`."""
        return len(self.names)

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The delta mask and the limits as arrays; made once, they are on the tick path."""
        delta = np.array([kind == "delta" for kind in self.kinds])
        arrays = (delta, np.array(self.low), np.array(self.high))
        for array in arrays:
            array.flags.writeable = False
        return arrays

    def is_delta(self) -> np.ndarray:
        """(d,) bool, true where the dimension is a delta; read-only."""
        return self._arrays[0]

    def initial_state(self) -> np.ndarray:
        """(d,) float64 action state before any command: zeros."""
        return np.zeros(self.dim)

    def advance(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """The action state after `action`: (..., d), (..., d) → (..., d)."""
        return np.where(self._arrays[0], state + action, action)

    def clip(self, action: np.ndarray) -> np.ndarray:
        """`action` limited to [low, high]: (..., d) → (..., d)."""
        _, low, high = self._arrays
        return np.minimum(np.maximum(action, low), high)

    def hold(self, state: np.ndarray) -> np.ndarray:
        """The command that keeps the robot where it was sent: (d,) → (d,).

        Zero for delta dimensions, the last command for absolute ones.
        """
        return np.where(self._arrays[0], 0.0, state)

    def as_deltas(self) -> ActionSpace:
        """This space with every dimension read as a delta, as StreamingVLA does (ablation)."""
        return replace(self, kinds=("delta",) * self.dim)

    def require(self, other: ActionSpace, who: str) -> None:
        """Raise `SpecMismatchError` unless `other` is the same space."""
        if self != other:
            raise SpecMismatchError(
                f"{who} has another action space: {_describe(other)}; expected {_describe(self)}. "
                "Use a checkpoint or dataset made for this robot."
            )

    def to_json(self) -> dict[str, list[Any]]:
        return {
            "names": list(self.names),
            "kinds": list(self.kinds),
            "low": list(self.low),
            "high": list(self.high),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ActionSpace:
        """Inverse of `to_json`. Raises `ConfigError` on missing or malformed fields."""
        try:
            return cls(
                names=tuple(str(name) for name in fields["names"]),
                kinds=tuple(fields["kinds"]),
                low=tuple(float(value) for value in fields["low"]),
                high=tuple(float(value) for value in fields["high"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"malformed action space {fields!r}: {error}") from error


def _describe(space: ActionSpace) -> str:
    parts = zip(space.names, space.kinds, space.low, space.high, strict=True)
    return "(" + ", ".join(f"{name}:{kind} {lo:g}..{hi:g}" for name, kind, lo, hi in parts) + ")"
