"""Contact dynamics: a MuJoCo model with other friction, masses, damping or gains than nominal.

The model is edited after each reset and restored before the next, so that resets find it as built.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import Robot
from streamvla.core.stress import coin, stream_of
from streamvla.robots.stress.wrapper import StressedRobot

SCALED: dict[str, dict[str, int]] = {
    "friction": {"geom_friction": 1, "pair_friction": 1},
    "mass": {
        "body_mass": 1,
        "body_inertia": 1,
        "body_subtreemass": 1,
        "body_invweight0": -1,
        "dof_invweight0": -1,
    },
    "damping": {"dof_damping": 1},
    "actuator-gain": {"actuator_gainprm": 1, "actuator_biasprm": 1},
}
"""Name of the stress → array of `mjModel` → the power of the factor that multiplies it: inertias
grow with the masses, inverse weights shrink."""


def rescaled(robot: Robot, factor: float, name: str) -> Robot:
    """A robot with the arrays `SCALED[name]` of its model scaled by `factor` or by `1 / factor`,
    drawn with equal chances at every reset.

    Raises:
        ConfigError: the robot has no MuJoCo model.
    """
    if not hasattr(robot, "physics"):
        raise ConfigError(
            f"stress {name!r} edits a MuJoCo model, and robot {robot.spec.name!r} has none (a "
            "property `physics`): leave it out there"
        )
    return _Rescaled(robot, factor, name)


class _Rescaled(StressedRobot):
    def __init__(self, robot: Robot, factor: float, name: str) -> None:
        super().__init__(robot, name)
        self._factor = factor
        self._built: Mapping[str, np.ndarray] = {}

    def reset(self, seed: int, now_ns: int, command_duration_ns: int) -> None:
        stream = stream_of(self._name, seed)
        self._restore()
        super().reset(seed, now_ns, command_duration_ns)
        model, factor = self._robot.physics, self._factor ** coin(stream)
        self._built = {name: getattr(model, name).copy() for name in SCALED[self._name]}
        for name, power in SCALED[self._name].items():
            getattr(model, name)[:] *= factor**power

    def close(self) -> None:
        self._restore()
        super().close()

    def _restore(self) -> None:
        for name, built in self._built.items():
            getattr(self._robot.physics, name)[:] = built
        self._built = {}
