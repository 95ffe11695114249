"""Meta-World's scripted policies as teachers: they see the poses that our policies must not."""

from __future__ import annotations

import warnings

import numpy as np

from streamvla.core.errors import RobotError
from streamvla.robots.metaworld.robot import MetaWorldRobot
from streamvla.robots.metaworld.tasks import TASKS
from streamvla.robots.sawyer import ACTION_SPACE


class MetaWorldExpert:
    """Meta-World's scripted policy for the task of a robot.

    Raises:
        RobotError: Meta-World is missing.
    """

    def __init__(self, robot: MetaWorldRobot) -> None:
        try:
            from metaworld.policies import ENV_POLICY_MAP
        except ImportError as error:
            raise RobotError(
                f"cannot import metaworld: {error}. Install it with pip install 'streamvla[sim]'."
            ) from error
        self._robot = robot
        self._policy = ENV_POLICY_MAP[TASKS[robot.task].environment]()

    def act(self) -> np.ndarray:
        """The clean action, clipped to ±1: (4,) float64."""
        with warnings.catch_warnings():
            # It warns that its own gains exceed ±1; clipping is what Meta-World does with that.
            warnings.filterwarnings("ignore", message="Constant")
            action = self._policy.get_action(self._robot.privileged_observation)
        return ACTION_SPACE.clip(np.asarray(action, dtype=np.float64))
