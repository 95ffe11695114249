"""Robots, simulated and real, behind `core.interfaces.Robot`; see `registry` for names."""
