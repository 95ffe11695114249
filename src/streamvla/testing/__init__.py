"""Public test material: scripted fakes, and contract tests to inherit."""

from streamvla.testing.fakes import ScriptedPolicy, StillRobot, unit_space

__all__ = ["ScriptedPolicy", "StillRobot", "unit_space"]
