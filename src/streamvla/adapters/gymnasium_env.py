"""The tasks of all suites as Gymnasium environments, registered when this module is imported:

    import gymnasium
    import streamvla.adapters.gymnasium_env

    gymnasium.make("streamvla/reach-v0")
    gymnasium.make("streamvla/follow-moving-target-v0", difficulty=0.5)

or, without the second import, `make("streamvla.adapters.gymnasium_env:streamvla/reach-v0")`.

The world waits for `step`, as everywhere in Gymnasium, and each `step` is one control period; with
our runtime it does not wait (`run`).
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from streamvla.core.clock import NS_PER_S
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import measured_by, picture_of
from streamvla.robots.registry import is_robot, make_robot, suite_of, task_names

MAX_STEPS = 300


class RobotEnv(gymnasium.Env):
    """A robot of ours. One `step` is one command, and one control period of the world.

    Observation: {"images": {view: (height, width, 3) uint8}, "state": (s,) float32}. Reward 1 and
    the end of the episode (`terminated`) when the task is reached. `info` has "instruction",
    "success" ("is_success", for those who look there) and, by its name, whatever the robot measures
    (`RobotSpec.measures`), such as "score" and "missed" of a tempo task.

    Args:
        task: one of `robots.registry.task_names()`.
        render_mode: "rgb_array" or None.
        difficulty: of a task that has one (`Suite.dial`); None for the one that is reported.

    Raises:
        ConfigError: an unknown task, or a difficulty of a task that has none.
        RobotError: the simulator or an offscreen OpenGL library is missing.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (Gymnasium's)

    def __init__(
        self, task: str, render_mode: str | None = None, difficulty: float | None = None
    ) -> None:
        self._robot = make_robot(_at(task, difficulty))
        spec = self._robot.spec
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": round(NS_PER_S / spec.control_period_ns)}
        shape = (*spec.image_size, 3)
        self.observation_space: gymnasium.spaces.Dict = gymnasium.spaces.Dict(
            {
                "images": gymnasium.spaces.Dict(
                    {view: gymnasium.spaces.Box(0, 255, shape, np.uint8) for view in spec.views}
                ),
                "state": gymnasium.spaces.Box(-np.inf, np.inf, (len(spec.state_names),)),
            }
        )
        low, high = np.array(spec.action_space.low), np.array(spec.action_space.high)
        self.action_space: gymnasium.spaces.Box = gymnasium.spaces.Box(
            low.astype(np.float32), high.astype(np.float32), dtype=np.float32
        )
        self._now_ns = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(2**31)) if seed is None else seed
        self._now_ns = 0
        self._robot.reset(drawn, 0, self._robot.spec.control_period_ns)
        return self._observed(), self._told()

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self._robot.command(np.asarray(action, dtype=np.float64), self._now_ns)
        self._now_ns += self._robot.spec.control_period_ns
        self._robot.advance_to(self._now_ns)
        told = self._told()
        success = told["success"]
        return self._observed(), float(success), success, False, told

    def render(self) -> Any:
        return picture_of(self._robot, self._robot.capture(), (240, 240))

    def close(self) -> None:
        self._robot.close()

    def _observed(self) -> dict[str, Any]:
        frames = self._robot.observe(self._robot.capture())
        return {"images": dict(frames.images), "state": frames.state}

    def _told(self) -> dict[str, Any]:
        success = bool(self._robot.success)
        told = {"instruction": self._robot.instruction, "success": success, "is_success": success}
        return told | measured_by(self._robot)


def _at(task: str, difficulty: float | None) -> str:
    if difficulty is None:
        return task
    if is_robot(task) or not suite_of(task).dial:
        raise ConfigError(
            f"task {task} has no difficulty, but {difficulty} was asked for: leave it out, or take "
            "a task of a suite with a dial, such as those of tempo"
        )
    return f"{task}@{difficulty}"


def _steps_of(task: str) -> int:
    """15 seconds of the robot's time, or as many as the suite says that the task takes."""
    if is_robot(task):
        return MAX_STEPS
    suite = suite_of(task)
    return round(suite.longest_s(task, 15.0) * NS_PER_S / suite.spec_of(task).control_period_ns)


for _task in task_names():
    gymnasium.register(
        id=f"streamvla/{_task}-v0",
        entry_point="streamvla.adapters.gymnasium_env:RobotEnv",
        kwargs={"task": _task},
        max_episode_steps=_steps_of(_task),
    )
