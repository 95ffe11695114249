"""Meta-World as a robot: a Sawyer arm at 20 Hz, two cameras, a world that moves with the clock.

Source: Meta-World (arXiv 1910.10897), the V3 environments of the package `metaworld`.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from streamvla.core.errors import ConfigError, RobotError, did_you_mean
from streamvla.robots.gl import import_mujoco
from streamvla.robots.instructions import Asked, Phrasings, Split
from streamvla.robots.jump import farthest
from streamvla.robots.metaworld.tasks import GREEN, HIDDEN, TASKS, MetaWorldTask
from streamvla.robots.sawyer import SawyerRobot

GOAL_RADIUS_M = 0.03
REACH = "reach"


class MetaWorldRobot(SawyerRobot):
    """One Meta-World task behind the `Robot` interface.

    The poses of object and goal are hidden: the policy gets pixels and its own state.

    Args:
        task: a name of `TASKS`.
        split: which phrasings of the instruction to draw from, "train" or "heldout"; only language
            scenes have "independent" ones.
        asked: "own" or "blank"; a scene with one goal has no other to ask for.
        moved: the goal is moved in the middle of the episode, and only then counts ("reach").

    Raises:
        ConfigError: unknown task or split, or `asked` is "swapped".
        RobotError: the simulator or an offscreen OpenGL library is missing.
    """

    def __init__(
        self, task: str, split: Split = "train", asked: Asked = "own", *, moved: bool = False
    ) -> None:
        if task not in TASKS:
            raise did_you_mean("task", task, TASKS)
        if asked == "swapped":
            raise ConfigError(
                f"task {task!r} has one goal, so its instruction cannot be swapped for another's: "
                "expected asked 'own' or 'blank'; the language scenes have several goals each"
            )
        if moved and task != REACH:
            raise ConfigError(f"the goal of task {task!r} cannot be moved; expected {REACH!r}")
        self._environment = _make_environment(TASKS[task])
        model, data = self._environment.model, self._environment.data
        super().__init__(task, model, data, split, asked, moved=moved)
        self._observation = np.zeros(39)
        self._success = False

    @property
    def phrasings(self) -> Phrasings:
        return TASKS[self.task].phrasings

    @property
    def success(self) -> bool:
        """Meta-World's own success flag, true from the first environment step that set it.

        Not before the goal was moved, if it will be.
        """
        self._running()
        return self._success and self._jump is None

    @property
    def privileged_observation(self) -> np.ndarray:
        """(39,) Meta-World's own state, poses included: for scripted experts only."""
        self._running()
        return self._observation

    def places(self) -> np.ndarray:
        observed = self.privileged_observation
        return np.concatenate([observed[4:7], observed[11:14], observed[36:39]])

    def close(self) -> None:
        super().close()
        self._environment.close()

    def _begin(self, seed: int) -> None:
        self._environment.np_random = np.random.default_rng(seed)
        environment = self._environment
        environment.reset()
        # Some tasks place their things after the poses of the reset were computed.
        import_mujoco().mj_forward(environment.model, environment.data)
        self._observation = environment._get_obs()
        self._success = False

    def _substep(self, command: np.ndarray) -> None:
        self._observation, _, _, _, info = self._environment.step(command)
        self._success = self._success or bool(info["success"])

    def _move_goal(self, stream: np.random.Generator) -> None:
        environment = self._environment
        space = environment.goal_space
        candidates = stream.uniform(space.low, space.high, (8, 3))
        self._set_goal(farthest(environment._target_pos, candidates))
        self._observation = environment._get_obs()
        self._success = False

    def _scene_truth(self) -> np.ndarray:
        """Where the goal is, whether it was reached, and what the environment saw a step ago."""
        environment = self._environment
        reached = [float(self._success)]
        return np.concatenate([environment._target_pos, reached, environment._prev_obs])

    def _assume_scene(self, truth: np.ndarray) -> None:
        environment = self._environment
        self._set_goal(truth[:3].copy())
        self._success = bool(truth[3])
        environment._prev_obs = truth[4:].copy()
        self._observation = environment._get_obs()
        environment._prev_obs = truth[4:].copy()

    def _set_goal(self, position: np.ndarray) -> None:
        """Where the task ends, and its marker, if the scene has one."""
        environment = self._environment
        environment._target_pos = position
        if _GOAL_SITE in _site_names(environment.model):
            environment.model.site(_GOAL_SITE).pos = position

    def _measured(self) -> np.ndarray:
        return self._observation[:4]


_GOAL_SITE = "goal"


def _site_names(model: Any) -> set[str]:
    return {model.site(index).name for index in range(model.nsite)}


def _make_environment(task: MetaWorldTask) -> Any:
    """The Meta-World environment, fully observable, randomised from its own seeded stream."""
    import_mujoco()
    try:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    except ImportError as error:
        raise RobotError(
            f"cannot import metaworld: {error}. Install it with pip install 'streamvla[sim]'."
        ) from error
    environment = ALL_V3_ENVIRONMENTS[task.environment]()
    environment._set_task_called = True
    environment._freeze_rand_vec = False
    environment.seeded_rand_vec = True
    environment.max_path_length = sys.maxsize
    # The expert needs the goal; the cached observation space would clip it to zero.
    environment._partially_observable = False
    del environment.sawyer_observation_space
    _make_visible(environment.model, task)
    return environment


def _make_visible(model: Any, task: MetaWorldTask) -> None:
    """Colour goal and objects so that they can be found in 96 pixels (see `MetaWorldTask`)."""
    for index in range(model.nsite):
        if "goal" in model.site(index).name:
            model.site_rgba[index] = HIDDEN
    if task.goal_marker is not None:
        marker = model.site(task.goal_marker).id
        model.site_rgba[marker] = GREEN
        model.site_size[marker] = GOAL_RADIUS_M
    for name, colour in task.recolour.items():
        same_body = model.geom_bodyid == model.geom_bodyid[model.geom(name).id]
        model.geom_matid[same_body] = -1
        model.geom_rgba[same_body] = colour
