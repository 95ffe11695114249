"""How smoothly the robot was commanded to move: SPARC, LDLJ, jerk. Methods section 8.

All figures come from the *commanded* path. A delta command says how far to go within one control
period, so it is a velocity (times the period); a hold is a zero velocity, and a halt shows as the
valley it is. Absolute dimensions move by the difference of successive commands; they count only
when a robot has no delta dimension (joint targets), so that a gripper's ±1 does not pose as
motion. Units are the action's own (`u`): u/s for speed, u/s³ for jerk; SPARC and LDLJ have none.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.clock import NS_PER_S

MIN_SAMPLES = 4


@dataclass(frozen=True)
class Smoothness:
    """Figures of one movement; None where the robot was never commanded to move.

    Attributes:
        sparc: spectral arc length; −1.41 for one ideal movement, more negative is less smooth.
        ldlj: log dimensionless jerk; −5.3 for one ideal movement, more negative is less smooth.
        mean_jerk, peak_jerk: norm of the commanded jerk, u/s³.
    """

    sparc: float | None
    ldlj: float | None
    mean_jerk: float | None
    peak_jerk: float | None

    def to_json(self) -> dict[str, float | None]:
        return asdict(self)


def motion_dims(space: ActionSpace) -> np.ndarray:
    """(m,) indices of the dimensions that count as motion: the deltas, or all without any."""
    delta = np.flatnonzero(space.is_delta())
    return delta if delta.size else np.arange(space.dim)


def commanded_velocity(
    starts_ns: np.ndarray, values: np.ndarray, period_ns: int, space: ActionSpace
) -> np.ndarray:
    """The commanded velocity, averaged over successive control periods.

    Each command moves at constant velocity for one period (less, if the next comes sooner) and
    nothing moves between commands; a late command thus leaves a gap:

        commands   |--a0--|--a1--|   halt   |--a2--|       |v|  ▇▇▇▇▇▇▇▇▁▁▁▁▁▁▁▁▇▇▇▇

    Args:
        starts_ns: (n,) when each command began, not decreasing.
        values: (n, d) commands in robot units.
        period_ns: control period.

    Returns:
        (k, m) velocity in u/s, one row per period from the first command to the end of the last.
    """
    if len(starts_ns) == 0:
        return np.zeros((0, motion_dims(space).size))
    dims = motion_dims(space)
    is_delta = space.is_delta()[dims]
    command = values[:, dims].astype(float)
    absolute_step = np.diff(command, axis=0, prepend=command[:1])
    displacement = np.where(is_delta, command, absolute_step)  # (n, m)

    begin = (starts_ns - starts_ns[0]).astype(float)
    end = np.minimum(begin + period_ns, np.append(begin[1:], np.inf))
    travelled = np.cumsum(displacement, axis=0)
    knots = np.column_stack([begin, end]).ravel()  # (2n,)
    path = np.stack([travelled - displacement, travelled], axis=1).reshape(-1, dims.size)

    edges = np.arange(np.ceil(end[-1] / period_ns - 1e-9) + 1) * period_ns
    sampled = np.column_stack([np.interp(edges, knots, column) for column in path.T])
    return np.diff(sampled, axis=0) * (NS_PER_S / period_ns)


def smoothness(velocity: np.ndarray, period_s: float) -> Smoothness:
    """All figures of one movement.

    Args:
        velocity: (k, m), u/s.
        period_s: time between rows.
    """
    if len(velocity) < MIN_SAMPLES or not np.any(velocity):
        return Smoothness(None, None, None, None)
    jerk = np.linalg.norm(_second_derivative(velocity, period_s), axis=1)
    return Smoothness(
        sparc=sparc(np.linalg.norm(velocity, axis=1), period_s),
        ldlj=ldlj(velocity, period_s),
        mean_jerk=float(jerk.mean()),
        peak_jerk=float(jerk.max()),
    )


def sparc(
    speed: np.ndarray,
    period_s: float,
    *,
    cutoff_hz: float = 10.0,
    amplitude_threshold: float = 0.05,
    padding: int = 4,
) -> float:
    """Spectral arc length of a speed profile (k,), ≤ 0; larger is smoother.

    `−∫₀^{ωc} sqrt((1/ωc)² + (dV̂/dω)²) dω`, `V̂ = V/V(0)`; ωc is the last frequency up to
    `cutoff_hz` at which `V̂` still reaches `amplitude_threshold`.
    Source: Balasubramanian et al., J. NeuroEngineering Rehabil. 12:112 (2015), with its constants.
    """
    bins = 2 ** (int(np.ceil(np.log2(len(speed)))) + padding)
    spectrum = np.abs(np.fft.rfft(speed, bins))
    spectrum /= spectrum[0]
    frequency = np.fft.rfftfreq(bins, period_s)
    loud = np.flatnonzero((frequency <= cutoff_hz) & (spectrum >= amplitude_threshold))
    spectrum, frequency = spectrum[: loud[-1] + 1], frequency[: loud[-1] + 1]
    if len(frequency) < 2:
        return 0.0
    return -float(np.hypot(np.diff(frequency) / frequency[-1], np.diff(spectrum)).sum())


def ldlj(velocity: np.ndarray, period_s: float) -> float:
    """Log dimensionless jerk of a velocity (k, m); larger is smoother.

    `−ln((T³/v_peak²) ∫ ‖d²v/dt²‖² dt)`. Source: Balasubramanian et al. (2015), as for SPARC.
    """
    duration_s = (len(velocity) - 1) * period_s
    peak = np.linalg.norm(velocity, axis=1).max()
    jerk = _second_derivative(velocity, period_s)
    integral = float((jerk**2).sum()) * period_s
    floor = np.finfo(float).tiny  # a constant velocity has no jerk, and no logarithm either
    return -float(np.log(max(duration_s**3 / peak**2 * integral, floor)))


def _second_derivative(velocity: np.ndarray, period_s: float) -> np.ndarray:
    """(k, m) → (k − 2, m), central differences."""
    return np.diff(velocity, n=2, axis=0) / period_s**2
