"""Stress on a robot: wrappers that change its world, its sensors or its motors (`core.stress`)."""

from streamvla.robots.stress.wrapper import StressedRobot, stressed_robot

__all__ = ["StressedRobot", "stressed_robot"]
