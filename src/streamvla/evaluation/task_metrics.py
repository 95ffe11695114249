"""How a task went, from what the robot measured (`Measured`). Every definition is here.

Figures are of the whole episode, from its first measurement to the last one before `Stopping`; of
a robot that does not measure what a figure needs, the figure is None.

- `score`: the last one, 0 to 10; over episodes the mean, with a 95 % bootstrap interval over
  episodes (None with fewer than two). Where all scores are equal the interval has no width.
- `completion_time_s`: from the first observation request (or command) to success, on the robot's
  clock, model and waiting included; None for an episode that did not end by success. Its mean is
  therefore over successes only: read it beside the success rate.
- `missed`: what was lost for good, such as blocks, balls or lights; each task says what it counts
  (`docs/tempo.md`). Over episodes the sum.
- `hand_path_m`: how far the hand moved, Σ ‖xᵢ − xᵢ₋₁‖.
- `trajectory_efficiency`: ‖x_last − x_first‖ / `hand_path_m`, 1 for a straight line, 2/π for a
  semicircle. It compares episodes of one task: a task that must come back has a low one anyway.
- `oscillation_mm`: what of the hand's motion is faster than a smooth curve, a root mean square:

      x(t)  ·─·─·─·─·─·─·    distance of the middle position from the parabola fitted to all
            └─ 500 ms ─┘     positions of a window around it (least squares in time)

  Constant acceleration gives 0. A vibration of amplitude A along a line gives nearly A/√2 once it
  is faster than about 4 Hz (at 20 Hz control); faster than half the control rate it is not seen.
- `mean_hand_jerk`, `peak_hand_jerk`: norm of the hand's jerk, m/s³, six times the third divided
  difference of positions in time (exact for a cubic, whatever the instants). The jerk that
  *commands* ask for is `smoothness`.
- `energy_j`: spent by the joints, as the robot counts it; over episodes the mean.
- `contact_force_peak_n`: the largest contact force.
- `contact_failures`: how often the contact force rose above `CONTACT_LIMIT_N`; measurements above
  it in a row count once.

**Two hands** (`left_hand_x_m`, `right_hand_x_m`, …): paths, energies and contact failures add up,
efficiency is Σ distances / Σ paths, oscillation and mean jerk are over the positions of both, peaks
the larger one.

**Sources.** Completion time, jerk, oscillation, trajectory efficiency and energy are what LIBERO-LQ
(vla2026.github.io/libero-lq) reports. It says in words what each is, and has published neither
formulas nor code. Its trajectory efficiency is the "total path length", our `hand_path_m`; the
ratio is ours. Its oscillation is "short-horizon oscillations of the end-effector position"; window
and fit are ours. Its energy is "estimated from joint torques and velocities" and normalised, we do
not know by what; ours is in joules. Its "joint rotation efficiency" is left out: the robots here
measure no joints.

Positions are known on control instants only. Under grid pacing these are even; under event pacing,
or with ticks left out, they are not, and a simulated hand stands on its sub-steps, so that jerk is
then an estimate from above.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from streamvla.core.clock import NS_PER_S
from streamvla.evaluation.stats import bootstrap_mean

CONTACT_LIMIT_N = 140.0
"""What a human hand may bear when it is clamped: ISO/TS 15066:2016, table A.2, fingers and hands,
quasi-static."""

OSCILLATION_WINDOW_S = 0.5
LEAST_PATH_M = 1e-3
"""A hand that moved less has no efficiency."""

MEASUREMENT_LIMIT = 1 << 16
"""Positions that are kept, the first ones: 55 minutes at 20 Hz."""

_ARMS = ("", "left_", "right_")
_AXES = ("hand_x_m", "hand_y_m", "hand_z_m")


@dataclass(frozen=True)
class TaskMetrics:
    """The figures of one episode, defined in the module's docstring; None where not measured."""

    score: float | None = None
    completion_time_s: float | None = None
    missed: int | None = None
    hand_path_m: float | None = None
    trajectory_efficiency: float | None = None
    oscillation_mm: float | None = None
    mean_hand_jerk: float | None = None
    peak_hand_jerk: float | None = None
    energy_j: float | None = None
    contact_force_peak_n: float | None = None
    contact_failures: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


_SUMS = ("missed", "contact_failures")
_MAXIMA = ("peak_hand_jerk", "contact_force_peak_n")


def pooled(runs: Sequence[TaskMetrics]) -> dict[str, Any]:
    """The figures of several episodes as one: sums, maxima and means, over those that have each.

    Returns:
        the names of `TaskMetrics`, and "score_ci", the interval of the mean score.
    """
    figures: dict[str, Any] = {}
    for name in TaskMetrics().to_json():
        values = [value for run in runs if (value := getattr(run, name)) is not None]
        figures[name] = pooled_figure(name, values)
    scores = [run.score for run in runs if run.score is not None]
    return figures | {"score_ci": bootstrap_mean(scores)[1:] if len(scores) > 1 else None}


def pooled_figure(name: str, values: Sequence[float]) -> float | None:
    """One figure of several episodes: the sum, the largest or the mean, by its name; None of
    none."""
    if not values:
        return None
    if name in _SUMS:
        return sum(values)
    return max(values) if name in _MAXIMA else float(np.mean(values))


class Measurements:
    """What a robot measured in one episode; `add` in order of time."""

    def __init__(self) -> None:
        self._instants_ns = array("q")
        self._hands: dict[str, array[float]] = {}
        self._last: Mapping[str, float] = {}
        self._force_peak_n: dict[str, float] = {}
        self._failures = 0

    def add(self, t_ns: int, values: Mapping[str, float]) -> None:
        """Take what was measured at one instant; a second time at the same instant, forces only."""
        self._add_forces(values)
        self._last = values
        instants = self._instants_ns
        if len(instants) >= MEASUREMENT_LIMIT or (instants and t_ns <= instants[-1]):
            return
        instants.append(t_ns)
        for arm in _ARMS:
            if f"{arm}{_AXES[0]}" in values:
                positions = self._hands.setdefault(arm, array("d"))
                positions.extend(values[f"{arm}{axis}"] for axis in _AXES)

    def _add_forces(self, values: Mapping[str, float]) -> None:
        for arm in _ARMS:
            name = f"{arm}contact_force_n"
            if name in values:
                was_above = self._last.get(name, 0.0) > CONTACT_LIMIT_N
                self._failures += values[name] > CONTACT_LIMIT_N and not was_above
                self._force_peak_n[arm] = max(self._force_peak_n.get(arm, 0.0), values[name])

    def result(self, completion_time_s: float | None) -> TaskMetrics:
        """The figures; `completion_time_s` is passed through."""
        times = np.array(self._instants_ns, dtype=np.int64)
        hands = [np.array(positions).reshape(-1, 3) for positions in self._hands.values()]
        energies = [self._last[name] for arm in _ARMS if (name := f"{arm}energy_j") in self._last]
        missed = self._last.get("missed")
        return TaskMetrics(
            score=self._last.get("score"),
            completion_time_s=completion_time_s,
            missed=None if missed is None else round(missed),
            energy_j=sum(energies) if energies else None,
            contact_force_peak_n=max(self._force_peak_n.values(), default=None),
            contact_failures=self._failures if self._force_peak_n else None,
            **hand_figures((times - times[:1]) / NS_PER_S, hands),
        )


def hand_figures(times_s: np.ndarray, hands: Sequence[np.ndarray]) -> dict[str, float | None]:
    """What the hands' motion gives.

    Args:
        times_s: (n,) increasing.
        hands: (n, 3) positions of each, metres.
    """
    jerks = np.concatenate([hand_jerk(times_s, hand) for hand in hands] or [np.zeros(0)])
    deviations = [deviation_m(times_s, hand) for hand in hands]
    squares = np.concatenate(deviations or [np.zeros(0)]) ** 2
    paths = [np.linalg.norm(np.diff(hand, axis=0), axis=1).sum() for hand in hands]
    path_m = float(sum(paths))
    straight_m = float(sum(np.linalg.norm(hand[-1] - hand[0]) for hand in hands))
    return {
        "hand_path_m": path_m if hands else None,
        "trajectory_efficiency": straight_m / path_m if path_m >= LEAST_PATH_M else None,
        "oscillation_mm": float(1e3 * np.sqrt(squares.mean())) if squares.size else None,
        "mean_hand_jerk": float(jerks.mean()) if jerks.size else None,
        "peak_hand_jerk": float(jerks.max()) if jerks.size else None,
    }


def hand_jerk(times_s: np.ndarray, positions_m: np.ndarray) -> np.ndarray:
    """(n,) and (n, 3) → (max(n − 3, 0),) norm of the jerk, m/s³, of every four in a row."""
    if len(times_s) < 4:
        return np.zeros(0)
    divided = positions_m
    for order in (1, 2, 3):
        spans = times_s[order:] - times_s[:-order]
        divided = np.diff(divided, axis=0) / spans[:, None]
    return 6 * np.linalg.norm(divided, axis=1)


def deviation_m(times_s: np.ndarray, positions_m: np.ndarray) -> np.ndarray:
    """(n,) and (n, 3) → (k,) distance of positions from the parabola fitted around each.

    A window holds 2m + 1 positions, 500 ms of them, at least 5; k = max(n − 2m, 0).
    """
    if len(times_s) < 5:
        return np.zeros(0)
    period_s = float(np.median(np.diff(times_s)))
    half = max(2, round(OSCILLATION_WINDOW_S / 2 / period_s))
    width = 2 * half + 1
    if len(times_s) < width:
        return np.zeros(0)
    sliding = np.lib.stride_tricks.sliding_window_view
    middles = slice(half, len(times_s) - half)
    offsets = (sliding(times_s, width) - times_s[middles, None]) / OSCILLATION_WINDOW_S  # (k, w)
    powers = np.stack([np.ones_like(offsets), offsets, offsets**2], axis=-1)  # (k, w, 3)
    weights = np.linalg.pinv(powers)[:, 0]  # (k, w): what gives the parabola's value in the middle
    fitted = np.einsum("kw,kdw->kd", weights, sliding(positions_m, width, axis=0))
    return np.linalg.norm(positions_m[middles] - fitted, axis=1)
