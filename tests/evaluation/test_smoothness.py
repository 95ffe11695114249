"""Smoothness against the movement with the smoothest possible speed."""

from __future__ import annotations

import numpy as np
import pytest

from streamvla.core.action_space import ActionSpace
from streamvla.core.clock import NS_PER_MS
from streamvla.evaluation.smoothness import commanded_velocity, ldlj, smoothness, sparc
from streamvla.testing.fakes import unit_space
from tests.evaluation.simulation import ARM

PERIOD_S = 0.01


def minimum_jerk(duration_s: float = 1.0) -> np.ndarray:
    """(k,) speed of the minimum-jerk movement over distance 1: 30·(t² − 2t³ + t⁴) / T."""
    t = np.arange(0, duration_s + PERIOD_S / 2, PERIOD_S) / duration_s
    return 30 * (t**2 - 2 * t**3 + t**4) / duration_s


def interrupted(halt_s: float) -> np.ndarray:
    """The same movement, stopped dead in its middle for a while."""
    speed = minimum_jerk()
    return np.concatenate([speed[:50], np.zeros(round(halt_s / PERIOD_S)), speed[50:]])


def test_sparc_of_the_ideal_movement() -> None:
    """A minimum-jerk movement of one second scores −1.41."""
    assert sparc(minimum_jerk(), PERIOD_S) == pytest.approx(-1.41, abs=0.01)


def test_ldlj_of_the_ideal_movement() -> None:
    """∫ jerk² = 720 and peak speed 15/8 for T = 1, so LDLJ = −ln(720 / (15/8)²) = −5.322."""
    fine = np.repeat(minimum_jerk(10.0)[:, None], 1, axis=1)
    assert ldlj(fine, PERIOD_S) == pytest.approx(-np.log(204.8), abs=0.01)


def test_neither_depends_on_how_far_or_how_fast() -> None:
    """Scaling a movement in amplitude changes nothing; LDLJ not in duration either."""
    speed = minimum_jerk()
    assert sparc(3 * speed, PERIOD_S) == pytest.approx(sparc(speed, PERIOD_S))
    assert ldlj(3 * speed[:, None], PERIOD_S) == pytest.approx(ldlj(speed[:, None], PERIOD_S))
    twice_as_long = minimum_jerk(2.0)[:, None]
    assert ldlj(twice_as_long, PERIOD_S) == pytest.approx(ldlj(speed[:, None], PERIOD_S), abs=0.05)


def test_a_halt_in_the_middle_is_less_smooth_and_a_longer_one_less_still() -> None:
    """Interrupting a movement lowers every figure."""
    figures = [
        smoothness(speed[:, None], PERIOD_S)
        for speed in (minimum_jerk(), interrupted(0.1), interrupted(0.3))
    ]
    scores = [figure.sparc for figure in figures if figure.sparc is not None]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 3
    jerks = [figure.ldlj for figure in figures if figure.ldlj is not None]
    assert jerks == sorted(jerks, reverse=True)


def test_a_robot_that_never_moves_has_no_smoothness() -> None:
    """Nothing divides by zero: no motion, no figure."""
    still = np.zeros((50, 3))
    assert set(smoothness(still, PERIOD_S).to_json().values()) == {None}
    assert set(smoothness(still[:0], PERIOD_S).to_json().values()) == {None}


def test_a_constant_velocity_has_finite_figures() -> None:
    """No jerk at all is no reason for an infinity."""
    figures = smoothness(np.ones((50, 2)), PERIOD_S)
    assert all(np.isfinite(value) for value in figures.to_json().values() if value is not None)


def test_delta_commands_are_velocities_and_the_gripper_does_not_count() -> None:
    """On the grid each command is one row, its deltas over the period; a hold is a zero row."""
    starts = np.arange(3) * 50 * NS_PER_MS
    values = np.array([[0.1, 0, 0, 1], [0, 0, 0, -1], [0.2, 0, -0.1, 1]])
    velocity = commanded_velocity(starts, values, 50 * NS_PER_MS, ARM)
    assert velocity == pytest.approx(values[:, :3] / 0.05)


def test_a_wait_between_commands_is_a_stretch_of_zero_velocity() -> None:
    """Event pacing sends nothing while the robot waits; the profile shows the valley."""
    starts = np.array([0, 50, 250]) * NS_PER_MS
    velocity = commanded_velocity(starts, np.full((3, 1), 0.1), 50 * NS_PER_MS, unit_space())
    assert velocity[:, 0] == pytest.approx([2, 2, 0, 0, 0, 2])


def test_a_wait_that_is_no_whole_period_keeps_the_distance() -> None:
    """Whatever the phase of the commands, the profile covers the commanded distance."""
    starts = np.array([0, 61, 127, 199]) * NS_PER_MS
    velocity = commanded_velocity(starts, np.full((4, 1), 0.1), 50 * NS_PER_MS, unit_space())
    assert velocity.sum() * 0.05 == pytest.approx(0.4)


def test_absolute_joints_move_by_their_differences() -> None:
    """Without a delta dimension every joint counts, and holding one is standing still."""
    joints = ActionSpace(("a", "b"), ("absolute", "absolute"), (-3, -3), (3, 3))
    starts = np.arange(4) * 50 * NS_PER_MS
    values = np.array([[1.0, 1.0], [1.1, 1.0], [1.1, 1.0], [1.1, 0.8]])
    velocity = commanded_velocity(starts, values, 50 * NS_PER_MS, joints)
    assert velocity == pytest.approx(np.array([[0, 0], [2, 0], [0, 0], [0, -4]]), abs=1e-9)
