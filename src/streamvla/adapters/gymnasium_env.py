"""Our robots as Gymnasium environments, registered when this module is imported:

    gymnasium.make("streamvla.adapters.gymnasium_env:streamvla/reach-v0")

The world waits for `step`, as everywhere in Gymnasium; with our runtime it does not (`run`).
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from streamvla.core.interfaces import picture_of
from streamvla.robots.registry import make_robot, task_names

MAX_STEPS = 300


class RobotEnv(gymnasium.Env):
    """A robot of ours. One `step` is one command at nominal speed.

    Observation: {"images": {view: (height, width, 3) uint8}, "state": (s,) float32}; the
    instruction is in `info`. Reward 1 and the end of the episode when the task is reached.

    Args:
        task: one of `robots.registry.task_names()`.
        render_mode: "rgb_array" or None.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (Gymnasium's)

    def __init__(self, task: str, render_mode: str | None = None) -> None:
        self._robot = make_robot(task)
        spec = self._robot.spec
        self.render_mode = render_mode
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
        return self._observed(), {"instruction": self._robot.instruction}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self._robot.command(np.asarray(action, dtype=np.float64), self._now_ns)
        self._now_ns += self._robot.spec.control_period_ns
        self._robot.advance_to(self._now_ns)
        success = self._robot.success
        told = {"instruction": self._robot.instruction, "is_success": success}
        return self._observed(), float(success), success, False, told

    def render(self) -> Any:
        return picture_of(self._robot, self._robot.capture(), (240, 240))

    def close(self) -> None:
        self._robot.close()

    def _observed(self) -> dict[str, Any]:
        frames = self._robot.observe(self._robot.capture())
        return {"images": dict(frames.images), "state": frames.state}


for _task in task_names():
    gymnasium.register(
        id=f"streamvla/{_task}-v0",
        entry_point="streamvla.adapters.gymnasium_env:RobotEnv",
        kwargs={"task": _task},
        max_episode_steps=MAX_STEPS,
    )
