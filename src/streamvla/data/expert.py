"""Meta-World's scripted policies as a teacher: they see the poses that our policies must not."""

from __future__ import annotations

import warnings

import numpy as np

from streamvla.core.errors import RobotError, did_you_mean
from streamvla.robots.gl import import_mujoco
from streamvla.robots.metaworld import ACTION_SPACE, TASKS


class ScriptedExpert:
    """The scripted policy of one task.

    Raises:
        ConfigError: unknown task.
        RobotError: Meta-World or an offscreen OpenGL library is missing.
    """

    def __init__(self, task: str) -> None:
        if task not in TASKS:
            raise did_you_mean("task", task, TASKS)
        import_mujoco()  # Meta-World imports MuJoCo, whose backend must be chosen before
        try:
            from metaworld.policies import ENV_POLICY_MAP
        except ImportError as error:
            raise RobotError(
                f"cannot import metaworld: {error}. Install it with pip install 'streamvla[sim]'."
            ) from error
        self._policy = ENV_POLICY_MAP[TASKS[task].environment]()

    def act(self, privileged_observation: np.ndarray) -> np.ndarray:
        """The clean action at this state, clipped to ±1: (39,) → (4,) float64."""
        with warnings.catch_warnings():
            # It warns that its own gains exceed ±1; clipping is what Meta-World does with that.
            warnings.filterwarnings("ignore", message="Constant")
            action = self._policy.get_action(privileged_observation)
        return ACTION_SPACE.clip(np.asarray(action, dtype=np.float64))
