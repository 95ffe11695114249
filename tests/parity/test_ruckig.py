"""The limiter's stop beside Ruckig's, which plans in continuous time."""

from __future__ import annotations

import math

import ruckig

from streamvla.runtime.governor.limits import AxisLimits, AxisMotion, approach_velocity


def test_the_stop_is_at_most_two_ticks_longer_than_the_time_optimal_one():
    """Ruckig's jerk-limited stop, planned in continuous time, is a lower bound on ours."""
    for velocity, acceleration, jerk in [(1.0, 0.2, 0.06), (1.0, 0.5, 0.02), (0.3, 0.05, 0.01)]:
        planner, trajectory = ruckig.Ruckig(1), ruckig.Trajectory(1)
        task = ruckig.InputParameter(1)
        task.control_interface = ruckig.ControlInterface.Velocity
        task.current_velocity, task.target_velocity = [velocity], [0.0]
        task.max_acceleration, task.max_jerk = [acceleration], [jerk]
        planner.calculate(task, trajectory)
        limits = AxisLimits(-math.inf, math.inf, -1.0, 1.0, acceleration, jerk, seeks=False)
        motion, ticks = AxisMotion(0.0, velocity, 0.0), 0
        while abs(motion.velocity) > 1e-9:
            motion, ticks = motion.after(approach_velocity(limits, motion, 0.0)), ticks + 1
        assert trajectory.duration - 1 <= ticks <= trajectory.duration + 2
