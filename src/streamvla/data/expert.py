"""Scripted experts: teachers that see the poses our policies must not."""

from __future__ import annotations

import warnings
from typing import Protocol

import numpy as np

from streamvla.core.errors import ConfigError, RobotError
from streamvla.core.interfaces import Robot
from streamvla.robots.instructions import Phrasings
from streamvla.robots.metaworld.robot import MetaWorldRobot
from streamvla.robots.metaworld.tasks import TASKS
from streamvla.robots.sawyer import ACTION_SPACE, SawyerRobot
from streamvla.robots.tabletop.experts import expert_action
from streamvla.robots.tabletop.robot import TabletopRobot


class TaughtRobot(Robot, Protocol):
    """A robot that can be demonstrated on: it knows its task, its scene, and how to say it."""

    @property
    def task(self) -> str: ...

    @property
    def phrasings(self) -> Phrasings: ...

    def places(self) -> np.ndarray:
        """(p,) metres: where the things that matter are at this instant."""
        ...


class Expert(Protocol):
    """A teacher of one robot. It keeps no memory: ask it anywhere, and it knows how to go on."""

    def act(self) -> np.ndarray:
        """The clean action (d,) at the robot's present state, within the action space."""
        ...


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


class TabletopExpert:
    """Our scripted expert for the goal that a language scene asks for at this instant."""

    def __init__(self, robot: TabletopRobot) -> None:
        self._robot = robot

    def act(self) -> np.ndarray:
        """The clean action, clipped to ±1: (4,) float64."""
        robot = self._robot
        return ACTION_SPACE.clip(expert_action(robot.scene, robot.arm, robot.goal))


def make_expert(robot: SawyerRobot) -> Expert:
    """The scripted expert of a robot.

    Raises:
        ConfigError: there is none for this kind of robot.
        RobotError: Meta-World is missing.
    """
    if isinstance(robot, MetaWorldRobot):
        return MetaWorldExpert(robot)
    if isinstance(robot, TabletopRobot):
        return TabletopExpert(robot)
    raise ConfigError(
        f"no scripted expert for {type(robot).__name__}: expected a Meta-World task or a language "
        "scene; pass an expert of your own to collect_episode"
    )
