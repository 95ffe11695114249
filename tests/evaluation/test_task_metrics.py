"""How a task went, against motions whose figures are known in closed form."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from streamvla.core.clock import NS_PER_MS, NS_PER_S
from streamvla.evaluation.metrics import RunMetrics, aggregate, metrics_of
from streamvla.evaluation.task_metrics import CONTACT_LIMIT_N, TaskMetrics, pooled
from streamvla.runtime import ActionFlow
from streamvla.runtime.drivers.episode import Episode, EpisodeLimits
from streamvla.runtime.drivers.simulated import run_simulated
from streamvla.runtime.streamer.machine import Streamer
from streamvla.runtime.timing.latency import ConstantLatency, named_profile
from streamvla.testing.fakes import ScriptedPolicy, StillRobot, unit_space
from streamvla.trace import Ended, MemoryTrace, ObserveRequested
from streamvla.trace.events import Measured, Stopping, TraceEvent

PERIOD_NS = 50 * NS_PER_MS
HAND = ("hand_x_m", "hand_y_m", "hand_z_m")


def moved(
    path: Callable[[np.ndarray], Sequence[np.ndarray]],
    seconds: float = 2.0,
    instants: np.ndarray | None = None,
    arm: str = "",
) -> list[TraceEvent]:
    """What a hand measures on `path` (times → x, y, z)."""
    times = np.arange(0, seconds + 0.01, 0.05) if instants is None else instants
    rows = np.stack(np.broadcast_arrays(*path(times), times)[:3], axis=1)
    names = [f"{arm}{name}" for name in HAND]
    return [
        Measured(round(t * NS_PER_S), dict(zip(names, map(float, row), strict=True)))
        for t, row in zip(times, rows, strict=True)
    ]


def task_of(events: list[TraceEvent]) -> TaskMetrics:
    return metrics_of(events, PERIOD_NS, "grid").task


def forces(*values: float) -> list[TraceEvent]:
    return [
        Measured(step * PERIOD_NS, {"contact_force_n": value}) for step, value in enumerate(values)
    ]


def test_a_straight_line_has_efficiency_1_its_length_and_no_oscillation():
    """Three metres at constant speed along a diagonal."""
    found = task_of(moved(lambda t: (t, t, 0.5 * t)))
    assert found.hand_path_m == pytest.approx(3.0)
    assert found.trajectory_efficiency == pytest.approx(1.0)
    assert found.oscillation_mm == pytest.approx(0, abs=1e-9)
    assert found.mean_hand_jerk == pytest.approx(0, abs=1e-6)


def test_a_semicircle_has_efficiency_2_over_pi():
    """Its diameter by its arc, but for the polygon of 40 sides that is measured."""
    found = task_of(moved(lambda t: (np.cos(np.pi * t / 2), np.sin(np.pi * t / 2), 0)))
    assert found.hand_path_m == pytest.approx(np.pi, rel=1e-3)
    assert found.trajectory_efficiency == pytest.approx(2 / np.pi, rel=1e-3)


def test_there_and_back_has_efficiency_0_and_a_resting_hand_has_none():
    """Where nothing moved there is nothing to divide by."""
    back = task_of(moved(lambda t: (np.abs(t - 1), 0, 0)))
    assert (back.hand_path_m, back.trajectory_efficiency) == (pytest.approx(2), pytest.approx(0))
    resting = task_of(moved(lambda t: (0 * t, 0, 1)))
    assert (resting.hand_path_m, resting.trajectory_efficiency) == (0, None)
    assert resting.oscillation_mm == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("cycles_hz", [1.0, 4.0, 5.0])
def test_a_vibration_oscillates_by_what_the_parabola_leaves_of_it(cycles_hz):
    """A sinusoid of amplitude A leaves (1 − H)·A/√2, H the gain of the quadratic smoother of
    2m + 1 points, whose weights are 3(3m² + 3m − 1 − 5k²) / ((2m + 1)(4m² + 4m − 3))."""
    m, k = 5, np.arange(-5, 6)
    weights = 3 * (3 * m**2 + 3 * m - 1 - 5 * k**2) / ((2 * m + 1) * (4 * m**2 + 4 * m - 3))
    gain = (weights * np.cos(2 * np.pi * cycles_hz * 0.05 * k)).sum()
    found = task_of(
        moved(lambda t: (t, t**2, 0.004 * np.sin(2 * np.pi * cycles_hz * t + 0.4)), 3.45)
    )
    assert found.oscillation_mm == pytest.approx(4 * (1 - gain) / np.sqrt(2), rel=1e-6)


def test_a_fast_vibration_counts_nearly_whole_and_a_slow_curve_hardly():
    """5 Hz gives its amplitude by √2 within a fifth; a tenth of a hertz less than a thousandth."""
    fast = task_of(moved(lambda t: (0.004 * np.sin(10 * np.pi * t + 0.4), 0, 0), 4)).oscillation_mm
    slow = task_of(moved(lambda t: (0.004 * np.sin(0.2 * np.pi * t), 0, 0), 20)).oscillation_mm
    assert fast == pytest.approx(4 / np.sqrt(2), rel=0.2)
    assert slow is not None
    assert slow < 4e-3


@pytest.mark.parametrize("even", [True, False])
def test_a_cubic_has_its_constant_jerk_on_any_instants(even):
    """x = j·t³/6 with j = 12 m/s³, on the control grid and on uneven instants."""
    drawn = np.sort(np.random.default_rng(0).uniform(0, 2, 40))
    instants = None if even else np.unique(np.round(drawn, 2))
    found = task_of(moved(lambda t: (2 * t**3, t**2, 3 * t), instants=instants))
    assert found.mean_hand_jerk == pytest.approx(12, rel=1e-4)
    assert found.peak_hand_jerk == pytest.approx(12, rel=1e-3)


def test_constant_acceleration_does_not_oscillate_on_uneven_instants():
    """The parabola is fitted in time, not in counts."""
    instants = np.cumsum(np.tile([0.05, 0.13, 0.05, 0.02], 12))
    found = task_of(moved(lambda t: (t**2, -t, 1), instants=instants))
    assert found.oscillation_mm == pytest.approx(0, abs=1e-6)


def test_two_hands_add_up_their_paths():
    """A straight metre and a metre there and back: two metres of path, efficiency one half."""
    left = moved(lambda t: (t / 2, 0, 0), arm="left_")
    right = moved(lambda t: (np.abs(t - 1) / 2, 0, 0), arm="right_")
    both = [
        Measured(one.t_ns, {**one.values, **other.values, "left_energy_j": 1, "right_energy_j": 2})
        for one, other in zip(left, right, strict=True)
    ]
    found = task_of(both)
    assert found.hand_path_m == pytest.approx(2)
    assert found.trajectory_efficiency == pytest.approx(0.5)
    assert found.energy_j == 3


def test_a_contact_above_the_limit_counts_once_however_long_it_lasts():
    """Two rises above the limit, the second one measured twice, are two failures; the limit itself
    is none."""
    limit = CONTACT_LIMIT_N
    found = task_of(forces(0, limit, limit + 1, 3, limit + 5, limit + 2, 0))
    assert (found.contact_failures, found.contact_force_peak_n) == (2, limit + 5)
    assert task_of(forces(0, limit)).contact_failures == 0


def test_score_missed_and_energy_are_the_last_and_nothing_after_stopping_counts():
    """What the robot measures while it comes to rest is no part of the episode."""
    rows = [(2.0, 0.0, 1.0), (6.0, 1.0, 4.5), (10.0, 3.0, 9.0)]
    measured = [
        Measured(step * PERIOD_NS, dict(zip(("score", "missed", "energy_j"), row, strict=True)))
        for step, row in enumerate(rows)
    ]
    stopping = Stopping(75 * NS_PER_MS, "time-limit")
    found = task_of([*measured[:2], stopping, measured[2], Ended(PERIOD_NS, False, "time-limit")])
    assert (found.score, found.missed, found.energy_j) == (6.0, 1, 4.5)


def test_completion_time_runs_to_the_success_and_not_to_the_end_of_the_stop():
    """Requested at 100 ms, reached at 1.6 s, at rest at 2 s: 1.5 s; None without success."""
    begin = ObserveRequested(100 * NS_PER_MS, 0, 0)
    reached = Stopping(1600 * NS_PER_MS, "success")
    assert task_of([begin, reached, Ended(2 * NS_PER_S, True, "success")]).completion_time_s == 1.5
    late = Stopping(1600 * NS_PER_MS, "time-limit")
    failed = task_of([begin, late, Ended(2 * NS_PER_S, False, "time-limit")])
    assert failed.completion_time_s is None
    assert task_of([begin]).completion_time_s is None


def test_an_episode_without_measurements_has_the_keys_and_no_figures():
    """Every figure is None, in the JSON of one run, of several, and of none."""
    names = set(TaskMetrics().to_json())
    run = metrics_of([ObserveRequested(0, 0, 0)], PERIOD_NS, "grid")
    for figures in (run.to_json(), aggregate([run, run]), aggregate([])):
        assert {figures[name] for name in names} == {None}
    assert aggregate([run])["score_ci"] is None


def test_too_short_an_episode_has_no_jerk_and_no_oscillation():
    """Three positions have no third difference, ten no window of 500 ms."""
    short = task_of(moved(lambda t: (t, 0, 0), 0.1))
    assert (short.mean_hand_jerk, short.oscillation_mm) == (None, None)
    longer = task_of(moved(lambda t: (t, 0, 0), 0.45))
    assert longer.mean_hand_jerk is not None
    assert longer.oscillation_mm is None


def test_episodes_are_pooled_by_means_sums_and_maxima():
    """Scores and times are averaged over those that have them; misses add up; peaks are maxima."""
    runs = [
        TaskMetrics(score=10, completion_time_s=2, missed=0, contact_force_peak_n=5),
        TaskMetrics(score=4, missed=3, contact_force_peak_n=150, contact_failures=1),
        TaskMetrics(),
    ]
    figures = pooled(runs)
    assert (figures["score"], figures["completion_time_s"], figures["missed"]) == (7, 2, 3)
    assert (figures["contact_force_peak_n"], figures["contact_failures"]) == (150, 1)
    assert figures["score_ci"] == (4, 10)
    assert pooled(runs[:1])["score_ci"] is None


class Scored(StillRobot):
    """Every command of 1 moves its hand by 10 mm; a millimetre is a hundredth of a point, 1.5 s of
    motion at full speed a success."""

    def __init__(self) -> None:
        super().__init__(unit_space(), PERIOD_NS)
        self._spec = replace(self._spec, measures=(*HAND, "score"))
        self._x_m = 0.0

    def reset(self, seed: int, now_ns: int, command_duration_ns: int) -> None:
        self._x_m, self.success = 0.0, False

    def command(self, values: np.ndarray, now_ns: int) -> None:
        self._x_m += 0.01 * float(values[0])
        self.success = self._x_m >= 0.3

    def measure(self) -> np.ndarray:
        return np.array([self._x_m, 0.0, 0.0, 10 * self._x_m])


def driven(value: float) -> RunMetrics:
    """An episode of 3 s on the grid in which every action is `value`."""
    trace, space = MemoryTrace(), unit_space()
    policy = ScriptedPolicy(space, 10, PERIOD_NS, lambda *_: np.array([value]))
    streamer = Streamer(space, 10, ActionFlow(3), "grid", trace)
    profile = named_profile("paper-20hz")
    episode = Episode(Scored(), policy, streamer, trace, profile, EpisodeLimits(3 * NS_PER_S))
    run_simulated(episode, ConstantLatency(profile))
    return metrics_of(trace.events, PERIOD_NS, "grid", space)


def test_a_measured_robot_that_is_driven_has_the_figures_of_its_motion():
    """30 commands of 10 mm: a score of 3, a straight path of 30 cm, success after them and after
    the start-up."""
    run = driven(1.0)
    found = run.task
    assert run.success is True
    assert found.score == pytest.approx(3.0)
    assert found.hand_path_m == pytest.approx(0.3)
    assert found.trajectory_efficiency == pytest.approx(1.0)
    assert run.startup_ms is not None
    halted_s = PERIOD_NS * run.starved_ticks / NS_PER_S
    assert found.completion_time_s == pytest.approx(
        1.5 + run.startup_ms / 1000 + halted_s, abs=0.06
    )
    json.dumps([run.to_json(), aggregate([run, driven(0.2)])], allow_nan=False)


def test_a_slow_episode_scores_less_and_has_no_completion_time():
    """A fifth of the speed does not get there in 3 s."""
    both = aggregate([driven(1.0), driven(0.2)])
    slow = driven(0.2).task
    assert slow.completion_time_s is None
    assert slow.score is not None
    assert 0 < slow.score < 2
    assert both["completion_time_s"] == driven(1.0).task.completion_time_s
    assert both["score"] == pytest.approx((3 + slow.score) / 2)
