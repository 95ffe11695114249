"""The whole state of a simulated world, for experts that drive like policies.

    robot            capture ─► truth (n,) ─┐
                                            ▼
    expert policy    its own robot: assume the truth, roll the pending commands, ask the teacher

A `TruthRobot` tells everything that its simulator needs to go on from this instant, and can take
such a state over from another robot of its task. It names the episode's seed, for what was laid
out in the beginning; what nobody could know at that instant (a goal that will jump, a push, a turn)
does not happen in an assumed world.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import ArraySpec, Capture, Frames, RobotSpec
from streamvla.robots.suite import TaskRobot

TRUTH = "truth"
"""Name of its array in a capture."""


class TruthRobot(TaskRobot, Protocol):
    """A simulated robot whose state can be told and taken over."""

    def truth(self) -> np.ndarray:
        """(n,) float64: the state of its world at this instant; n is the same at every one."""
        ...

    def assume(self, truth: np.ndarray, action_state: np.ndarray) -> int:
        """Go on from (n,) another robot's truth, at instant 0 of an episode of its own.

        Args:
            action_state: (d,) where absolute dimensions are held until the first command.

        Returns:
            How long, ns, a command that was in force, and did not act to its end, will act still:
            the next one is due then. 0 between two commands.
        """
        ...


class TruthView:
    """A robot of a task whose only observation is the truth. Implements `Robot`; what else the
    robot can do, it can do through this too.

    Args:
        robot: a `TruthRobot`; closing this closes it.

    Raises:
        ConfigError: it does not tell the truth.
    """

    def __init__(self, robot: Any) -> None:
        if not (hasattr(robot, "truth") and hasattr(robot, "assume")):
            raise ConfigError(
                f"the robot of task {getattr(robot, 'task', robot)!r} does not tell the whole "
                "state of its world (robots.truth.TruthRobot), so its expert cannot drive from "
                "what was captured; give it the methods `truth` and `assume`"
            )
        self._robot = robot
        robot.reset(0, 0, robot.spec.control_period_ns)
        size = len(robot.truth())
        self._spec = replace(
            robot.spec,
            views=(),
            gaze=None,
            state_names=tuple(f"{TRUTH}_{i}" for i in range(size)),
            capture=(*robot.spec.capture, ArraySpec(TRUTH, (size,))),
        )

    @property
    def spec(self) -> RobotSpec:
        return self._spec

    def capture(self) -> Capture:
        return {**self._robot.capture(), TRUTH: self._robot.truth()}

    def observe(self, capture: Capture) -> Frames:
        """No images; the state (n,) is float64, for a simulator goes on from it."""
        return Frames({}, capture[TRUTH])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._robot, name)
