"""Latency as a component: how long each stage takes, constant, jittered, or as measured."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from streamvla.core.clock import ms_to_ns
from streamvla.core.compute import ObservationCost
from streamvla.core.errors import ConfigError, did_you_mean
from streamvla.core.numbers import exact


class LatencyModel(Protocol):
    """Stage durations; asked once per stage run, so a run is a function of its seed."""

    def observe_ns(self) -> int:
        """Capture to context, for one observation."""
        ...

    def generate_ns(self) -> int:
        """One flow step: one action."""
        ...

    def execute_ns(self) -> int:
        """One command on the robot (event pacing)."""
        ...


@dataclass(frozen=True)
class LatencyProfile:
    """Nominal stage times.

    Attributes:
        observe_ns: `T_o`, per observation.
        generate_ns: `g = T_g / H`, per action.
        execute_ns: `e = T_e / H`, per action: the control period.
        emulated: stages are padded up to these times; false when they are what was measured.
        look_ns: the part of `T_o` until the cameras' tokens are there: all that a refused
            observation costs, besides predictor calls. None for all of it.
        predict_ns: one call of the saliency predictor, on top of `T_o`.
    """

    name: str
    observe_ns: int
    generate_ns: int
    execute_ns: int
    emulated: bool = True
    look_ns: int | None = None
    predict_ns: int = 0

    def __post_init__(self) -> None:
        if self.predict_ns < 0 or not 0 <= (self.look_ns or 0) <= self.observe_ns:
            raise ConfigError(
                f"latency profile {self.name!r}: a prediction of {self.predict_ns} ns must be ≥ 0, "
                f"a look of {self.look_ns} ns no longer than observing, {self.observe_ns} ns"
            )
        if self.observe_ns < 0 or self.generate_ns < 0 or self.execute_ns <= 0:
            raise ConfigError(
                f"latency profile {self.name!r}: observe {self.observe_ns} ns and generate "
                f"{self.generate_ns} ns must be ≥ 0, execute {self.execute_ns} ns must be > 0"
            )

    def zero_halt_lead(self, *, predicts: bool = False, passes: int = 1) -> int:
        """The smallest lead `n` with `n·e ≥ T_o + passes·g` (StreamingVLA, appendix C).

        Args:
            predicts: each observation is foreseen, which takes one call of the predictor.
            passes: of the expert until the first action is made; all of them for a chunk.
        """
        observe_ns = self.observe_ns + self.predict_ns * predicts
        return math.ceil((observe_ns + passes * self.generate_ns) / self.execute_ns)

    def sighting_ns(
        self, observe_ns: int, calls: int, *, refused: bool, cost: ObservationCost | None = None
    ) -> int:
        """How long an observe stage takes that would take `observe_ns` for a whole context.

        Args:
            calls: of the predictor.
            refused: it ended after the look.
            cost: the look and the rest take these shares of their times here; without a `look_ns`
                all of it takes the larger share. That a saving which was measured on one machine
                saves the same share on another is an assumption.
        """
        look_ns = self.observe_ns if self.look_ns is None else self.look_ns
        context_ns = self.observe_ns - look_ns
        if cost is not None and (cost.look_time, cost.context_time) != (1.0, 1.0):
            look, context = cost.look_time, cost.context_time
            look = max(look, context) if self.look_ns is None else look
            needed_ns = look * look_ns + context * context_ns
            observe_ns = round(observe_ns * needed_ns / max(self.observe_ns, 1))
            look_ns, context_ns = round(look * look_ns), round(context * context_ns)
        if refused and self.look_ns is not None:
            observe_ns = max(look_ns, observe_ns - context_ns)
        return observe_ns + calls * self.predict_ns

    def scaled(self, factor: float) -> LatencyProfile:
        """With stages that take `factor` times as long, at the same control period."""
        if factor == 1:
            return self
        look_ns = None if self.look_ns is None else round(factor * self.look_ns)
        return replace(
            self,
            name=f"{self.name}@{exact(factor)}",
            observe_ns=round(factor * self.observe_ns),
            generate_ns=round(factor * self.generate_ns),
            look_ns=look_ns,
            predict_ns=round(factor * self.predict_ns),
        )

    @property
    def label(self) -> str:
        """`paper-20hz (emulated: observe 107 ms, generate 33 ms, execute 50 ms)`."""
        kind = "emulated" if self.emulated else "measured"
        times = (self.observe_ns, self.generate_ns, self.execute_ns)
        observe, generate, execute = (f"{value / 1e6:.4g} ms" for value in times)
        return f"{self.name} ({kind}: observe {observe}, generate {generate}, execute {execute})"


def profile_ms(
    name: str,
    observe: float,
    generate: float,
    execute: float,
    *,
    emulated: bool = True,
    look: float | None = None,
    predict: float = 0.0,
) -> LatencyProfile:
    """A profile from milliseconds.

    >>> profile_ms("a800", 58, 18, 27).zero_halt_lead()
    3
    """
    if not all(math.isfinite(value) for value in (observe, generate, execute)):
        raise ConfigError(
            f"stage times must be finite milliseconds, got {observe}, {generate}, {execute}"
        )
    times = (ms_to_ns(observe), ms_to_ns(generate), ms_to_ns(execute))
    look_ns = None if look is None else ms_to_ns(look)
    return LatencyProfile(
        name, *times, emulated=emulated, look_ns=look_ns, predict_ns=ms_to_ns(predict)
    )


PROFILES: dict[str, LatencyProfile] = {
    profile.name: profile
    for profile in (
        profile_ms("paper-a800", 58, 18, 27, look=18, predict=3),
        profile_ms("paper-20hz", 107, 33, 50, look=33, predict=3),
        profile_ms("edge-20hz", 214, 33, 50, look=65, predict=3),
    )
}
"""Emulated profiles. `paper-a800` is StreamingVLA's own (π0.5, LIBERO, A800); `paper-20hz` has the
same ratios at a 20 Hz robot; `edge-20hz` has an observer twice as slow. Looking is the image
encoders' share of observing in π0 (arXiv 2410.24164, table of inference times: 14 of 46 ms);
predicting is what our predictor takes (`docs/how-to/early-observation.md`)."""


def named_profile(name: str) -> LatencyProfile:
    """The emulated profile of that name, or one scaled: `paper-20hz@0.5` observes and generates in
    half the time, at the same control period. `delay-150ms` observes for so long and generates in
    no time.

    Raises:
        ConfigError: with a suggestion when there is none; or the scale is no number ≥ 0.
    """
    if delay := re.fullmatch(r"delay-(\d+)ms", name):
        return profile_ms(name, int(delay[1]), 0, 50)
    plain, at, factor = name.partition("@")
    if plain not in PROFILES:
        raise did_you_mean("profile", plain, [*PROFILES, "measured"])
    return PROFILES[plain].scaled(_scale(name, factor)) if at else PROFILES[plain]


def _scale(name: str, text: str) -> float:
    try:
        factor = float(text)
    except ValueError:
        factor = -1.0
    if not (math.isfinite(factor) and factor >= 0):
        raise ConfigError(
            f"profile {name}: {text!r} is no scale; expected a number ≥ 0, as in paper-20hz@0.5"
        )
    return factor


class ConstantLatency:
    """Every stage takes its nominal time."""

    def __init__(self, profile: LatencyProfile) -> None:
        self._profile = profile

    def observe_ns(self) -> int:
        return self._profile.observe_ns

    def generate_ns(self) -> int:
        return self._profile.generate_ns

    def execute_ns(self) -> int:
        return self._profile.execute_ns


class JitteredLatency:
    """Log-normal stage times around the profile's means.

    Args:
        variation: coefficient of variation (standard deviation / mean), ≥ 0.
        seed: of this model's own generator.
    """

    def __init__(self, profile: LatencyProfile, variation: float, seed: int) -> None:
        if not (math.isfinite(variation) and variation >= 0):
            raise ConfigError(f"jitter {variation} must be a finite number ≥ 0")
        self._profile = profile
        self._sigma = math.sqrt(math.log1p(variation**2))
        self._random = random.Random(seed)

    def _draw(self, mean_ns: int) -> int:
        factor = self._random.lognormvariate(-(self._sigma**2) / 2, self._sigma)
        return round(mean_ns * factor)

    def observe_ns(self) -> int:
        return self._draw(self._profile.observe_ns)

    def generate_ns(self) -> int:
        return self._draw(self._profile.generate_ns)

    def execute_ns(self) -> int:
        return self._draw(self._profile.execute_ns)


class EmpiricalLatency:
    """Stage times as they were measured: replayed in order, or drawn at random with a seed.

    Args:
        observe, generate, execute: measured durations, ns, each with at least one entry.
        seed: draw with replacement from this seed; None replays in order, from the start again
            when the record ends.
    """

    def __init__(
        self,
        observe: Sequence[int],
        generate: Sequence[int],
        execute: Sequence[int],
        seed: int | None = None,
    ) -> None:
        for stage, record in (("observe", observe), ("generate", generate), ("execute", execute)):
            if not record or min(record) < 0:
                raise ConfigError(f"the latency record of {stage!r} is empty or has negative times")
        self._records = (tuple(observe), tuple(generate), tuple(execute))
        self._positions = [0, 0, 0]
        self._random = None if seed is None else random.Random(seed)

    def _next(self, stage: int) -> int:
        record = self._records[stage]
        if self._random is not None:
            return self._random.choice(record)
        position = self._positions[stage]
        self._positions[stage] = (position + 1) % len(record)
        return record[position]

    def observe_ns(self) -> int:
        return self._next(0)

    def generate_ns(self) -> int:
        return self._next(1)

    def execute_ns(self) -> int:
        return self._next(2)
