"""The limiter: exact bounds on the tick grid, for ever; and the stop it makes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamvla.core.action_space import ActionSpace
from streamvla.core.clock import ms_to_ns
from streamvla.core.errors import ConfigError
from streamvla.core.limits import MotionLimits
from streamvla.runtime.governor.limits import (
    AxisLimits,
    AxisMotion,
    MotionLimiter,
    approach_velocity,
    next_velocity,
)
from streamvla.testing import unit_space

from .motion import violations
from .scenario import MIXED

SLOW = AxisLimits(-math.inf, math.inf, -1.0, 1.0, 0.2, 0.06, seeks=False)


def run(limits: AxisLimits, wishes: list[float], rule=next_velocity) -> list[float]:
    motion, velocities = AxisMotion(), []
    for wish in wishes:
        motion = motion.after(rule(limits, motion, wish))
        velocities.append(motion.velocity)
    return velocities


positive = st.floats(0.01, 3.0)
wish = st.one_of(st.floats(-5, 5), st.sampled_from([0.0, 1e6, -1e6]))


@settings(deadline=None, max_examples=300)
@given(
    fastest=positive,
    acceleration=positive,
    jerk=positive,
    reach=st.one_of(st.just(math.inf), st.floats(0.1, 20.0)),
    seeks=st.booleans(),
    wishes=st.lists(st.tuples(wish, st.integers(1, 12), st.booleans()), min_size=1, max_size=8),
)
def test_no_sequence_of_wishes_exceeds_any_limit(fastest, acceleration, jerk, reach, seeks, wishes):
    """Whatever is asked for, position, velocity, acceleration and jerk keep their bounds."""
    limits = AxisLimits(-reach, reach, -fastest, fastest, acceleration, jerk, seeks)
    motion = AxisMotion()
    for value, ticks, smooth in wishes:
        for _ in range(ticks):
            rule = approach_velocity if smooth else next_velocity
            after = motion.after(rule(limits, motion, value))
            assert abs(after.velocity) <= fastest + 1e-9
            assert abs(after.acceleration) <= acceleration + 1e-9
            assert abs(after.acceleration - motion.acceleration) <= jerk + 1e-9
            assert abs(after.position) <= reach + 1e-9
            motion = after


def test_the_stop_from_full_speed_is_a_trapezoid_of_acceleration_without_undershoot():
    """From v = 1 at A = 0.2, J = 0.06 the stop takes eight ticks and never goes below zero."""
    motion = AxisMotion(0.0, 1.0, 0.0)
    velocities = []
    for _ in range(9):
        motion = motion.after(approach_velocity(SLOW, motion, 0.0))
        velocities.append(motion.velocity)
    assert velocities == pytest.approx([0.94, 0.82, 0.64, 0.44, 0.24, 0.1, 0.02, 0.0, 0.0])


def test_an_absolute_dimension_arrives_at_its_target_and_does_not_pass_it():
    """Approaching 3 from rest, an absolute dimension ends at 3 and was never beyond."""
    limits = AxisLimits(-5.0, 5.0, -1.0, 1.0, 0.2, 0.06, seeks=True)
    motion, positions = AxisMotion(), []
    for _ in range(40):
        motion = motion.after(approach_velocity(limits, motion, 3.0 - motion.position))
        positions.append(motion.position)
    assert positions[-1] == pytest.approx(3.0)
    assert max(positions) <= 3.0 + 1e-9


@given(actions=st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), max_size=30))
def test_undeclared_limits_change_no_legal_action(actions):
    """Under `MotionLimits.of_space` any sequence within the action space passes as it is."""
    limiter = MotionLimiter(MIXED, MotionLimits.of_space(MIXED))
    for action in actions:
        values, exceeded = limiter.move(limiter.wanted_velocity(np.array(action)))
        assert exceeded == ""
        assert values == pytest.approx(action, abs=1e-12)


@pytest.mark.parametrize(
    ("wishes", "exceeded"),
    [
        ([(2.0, 0.0)], "velocity of dx"),
        ([(0.9, 0.0)], "acceleration of dx"),
        ([(0.3, 0.0), (0.0, 0.0)], "jerk of dx"),
        ([(0.0, 2.5)], "position of grip"),
    ],
)
def test_what_was_exceeded_is_named(wishes, exceeded):
    """The first limit that refuses a wish is given by its name and its dimension."""
    limits = MotionLimits((-math.inf, -1.0), (math.inf, 1.0), (1.0, 2.0), (0.5, 4.0), (0.35, 8.0))
    limiter = MotionLimiter(MIXED, limits)
    for wanted in wishes:
        _, found = limiter.move(np.array(wanted))
    assert found == exceeded


def test_si_limits_become_action_units_per_period():
    """At 20 Hz with 0.04 m a unit: 0.8 m/s is 1, 8 m/s² is 0.5, 160 m/s³ is 0.5."""
    space = ActionSpace(("dx",), ("delta",), (-1.0,), (1.0,))
    limits = MotionLimits.from_si(space, ms_to_ns(50), [0.04], [0.8], [8.0], [160.0])
    assert limits.velocity == pytest.approx((1.0,))
    assert limits.acceleration == pytest.approx((0.5,))
    assert limits.jerk == pytest.approx((0.5,))


def test_the_independent_check_sees_what_is_wrong():
    """The checker the other tests rely on finds a jump in velocity, acceleration and jerk."""
    limits = MotionLimits((-9.0, -1.0), (9.0, 1.0), (1.0, 2.0), (0.5, 4.0), (0.35, 8.0))
    found = violations(MIXED, limits, [np.array([2.0, 0.0])])
    assert [text.split()[0] for text in found] == ["velocity", "acceleration", "jerk"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MotionLimits((0.0,), (1.0,), (0.0,), (1.0,), (1.0,)), "velocity 0.0 must be"),
        (lambda: MotionLimits((1.0,), (0.5,), (1.0,), (1.0,), (1.0,)), "is no range"),
        (
            lambda: MotionLimits((0.5,), (1.0,), (1.0,), (1.0,), (1.0,)).require(unit_space()),
            "must contain 0",
        ),
        (lambda: MotionLimits((0.0,), (1.0,), (1.0, 1.0), (1.0,), (1.0,)), "equal length"),
        (lambda: MotionLimits.from_si(MIXED, 1, [1], [1], [1], [1]), "need 2 entries"),
        (lambda: MotionLimiter(MIXED, MotionLimits((0,), (1,), (1,), (1,), (1,))), "of 1 dim"),
    ],
)
def test_limits_that_make_no_sense_are_refused(make, message):
    """Every bad limit raises ConfigError naming what was wrong."""
    with pytest.raises(ConfigError, match=message):
        make()
