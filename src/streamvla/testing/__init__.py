"""Public test material: scripted fakes, and contract tests to inherit."""

from streamvla.testing.fakes import AnticipatingPolicy, ScriptedPolicy, StillRobot, unit_space

__all__ = ["AnticipatingPolicy", "ScriptedPolicy", "StillRobot", "unit_space"]
