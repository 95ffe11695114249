"""Executed noise with clean labels: push the expert off its path and record how it comes back.

Source: DART (arXiv 1703.09327) injects noise into the demonstrator; ours comes in bursts, so that
most steps are clean and a burst still carries the arm centimetres away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamvla.core.errors import ConfigError


@dataclass(frozen=True)
class NoiseConfig:
    """How executed actions differ from the expert's. Units: actions, whose limits are ±1.

    Attributes:
        clean_fraction: share of episodes without any noise.
        sigma_low, sigma_high: each noisy episode draws its standard deviation between these.
        burst_start, burst_stop: chance per step that a burst starts, and that it stops.
        correlation: of the noise from one step of a burst to the next.
        displaced_fraction: share of noisy episodes that start displaced.
        displaced_steps: longest displacement; the arm moves in one random direction.
    """

    clean_fraction: float = 0.25
    sigma_low: float = 0.1
    sigma_high: float = 0.5
    burst_start: float = 0.1
    burst_stop: float = 0.3
    correlation: float = 0.7
    displaced_fraction: float = 0.5
    displaced_steps: int = 4

    def __post_init__(self) -> None:
        for name in (
            "clean_fraction",
            "burst_start",
            "burst_stop",
            "correlation",
            "displaced_fraction",
        ):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"noise: {name} is {value}, expected within [0, 1]")
        if not 0.0 <= self.sigma_low <= self.sigma_high:
            raise ConfigError(
                f"noise: sigma_low {self.sigma_low} and sigma_high {self.sigma_high}: "
                "expected 0 ≤ low ≤ high"
            )
        if self.displaced_steps < 1:
            raise ConfigError(f"noise: displaced_steps is {self.displaced_steps}, expected ≥ 1")


class ExecutionNoise:
    """The noise of one episode: a pure function of its generator's seed.

    Args:
        config: the distribution.
        is_delta: (d,) bool; only delta dimensions are perturbed, so the gripper stays the
            expert's.
        stream: the episode's own random stream.
    """

    def __init__(
        self, config: NoiseConfig, is_delta: np.ndarray, stream: np.random.Generator
    ) -> None:
        self._config = config
        self._is_delta = is_delta
        self._stream = stream
        self._clean = stream.random() < config.clean_fraction
        self._sigma = stream.uniform(config.sigma_low, config.sigma_high)
        self._displacement = stream.uniform(-1.0, 1.0, is_delta.size)
        displaced = stream.random() < config.displaced_fraction
        self._displaced_steps = (
            int(stream.integers(1, config.displaced_steps + 1)) if displaced else 0
        )
        self._in_burst = False
        self._value = np.zeros(is_delta.size)

    def perturb(self, label: np.ndarray) -> np.ndarray:
        """The action to execute at this step in place of the expert's: (d,) → (d,), unclipped."""
        if self._clean:
            return label
        if self._displaced_steps > 0:
            self._displaced_steps -= 1
            return np.where(self._is_delta, self._displacement, label)
        self._advance_burst()
        return label + np.where(self._is_delta, self._value, 0.0)

    def _advance_burst(self) -> None:
        """An AR(1) process of stationary deviation sigma while a burst lasts, else zero."""
        config, stream = self._config, self._stream
        fresh = self._sigma * stream.standard_normal(self._is_delta.size)
        switch = stream.random()
        if not self._in_burst:
            self._in_burst = switch < config.burst_start
            self._value = fresh if self._in_burst else np.zeros_like(fresh)
        elif switch < config.burst_stop:
            self._in_burst = False
            self._value = np.zeros_like(fresh)
        else:
            rho = config.correlation
            self._value = rho * self._value + np.sqrt(1.0 - rho**2) * fresh
