"""The last word before the robot: limits, fallbacks, the safe stop."""
