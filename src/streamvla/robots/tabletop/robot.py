"""Language scenes as a robot: arm, cameras and actions of Meta-World, several goals a scene."""

from __future__ import annotations

import numpy as np

from streamvla.core.errors import did_you_mean
from streamvla.robots.instructions import Asked, Phrasings, Split
from streamvla.robots.sawyer import SawyerRobot
from streamvla.robots.tabletop import balls, blocks, buttons, drawers, knobs
from streamvla.robots.tabletop.arm import Arm
from streamvla.robots.tabletop.paraphrases import paraphrased
from streamvla.robots.tabletop.scene import HAND_START_HIGH_M, HAND_START_LOW_M, Family, Scene

FAMILIES: dict[str, Family] = {
    name: paraphrased(name, family)
    for name, family in {
        "press-named-button": buttons.FAMILY,
        "reach-named-ball": balls.FAMILY,
        "open-named-drawer": drawers.FAMILY,
        "slide-named-knob": knobs.FAMILY,
        "put-named-block": blocks.FAMILY,
    }.items()
}


class TabletopRobot(SawyerRobot):
    """One family of language scenes behind the `Robot` interface.

    The first goal that is reached decides: reaching another one first is no success, so that
    a policy that tries them all gets no credit. Layout, goal and phrasing come from three
    independent streams of the seed: nothing in the picture tells what is asked for.

    Args:
        task: a name of `FAMILIES`.
        split: which phrasings of the instruction to draw from, "train", "heldout" or "independent".
        asked: "own": the seed's goal; "swapped": another goal of the same scene; "blank": success
            is the seed's goal, and the instruction is empty.

    Raises:
        ConfigError: unknown task, split, or value of `asked`.
        RobotError: the simulator or an offscreen OpenGL library is missing.
    """

    def __init__(self, task: str, split: Split = "train", asked: Asked = "own") -> None:
        if task not in FAMILIES:
            raise did_you_mean("task", task, FAMILIES)
        self._family = FAMILIES[task]
        self._arm = Arm(self._family.scene.furnish)
        self._scene = self._family.scene(self._arm)
        super().__init__(task, self._arm.model, self._arm.data, split, asked)
        self._goal = ""
        self._reached: str | None = None

    @property
    def arm(self) -> Arm:
        """The arm with its poses: for scripted experts only."""
        return self._arm

    @property
    def scene(self) -> Scene:
        """The scene with its poses: for scripted experts only."""
        return self._scene

    @property
    def goals(self) -> tuple[str, ...]:
        """What can be asked for in this episode; never fewer than two."""
        self._running()
        return self._scene.goals

    @property
    def goal(self) -> str:
        """What is asked for, one of `goals`."""
        self._running()
        return self._goal

    @property
    def phrasings(self) -> Phrasings:
        return self._family.phrasings[self.goal]

    @property
    def reached(self) -> str | None:
        """The first of `goals` that was reached since `reset`, if any."""
        self._running()
        return self._reached

    @property
    def success(self) -> bool:
        """Whether the goal asked for was reached, and before any other."""
        return self.reached == self._goal

    @property
    def reached_other(self) -> bool:
        """Whether a goal was reached first that was not asked for."""
        return self.reached not in (None, self._goal)

    def places(self) -> np.ndarray:
        thing, target = self._scene.places_m(self.goal)
        return np.concatenate([thing, np.zeros(3), target])

    def instruct(self, goal: str) -> None:
        """Ask for another goal of the present scene; the scene stays as it is.

        Raises:
            ConfigError: the scene has no such goal.
        """
        if goal not in self.goals:
            raise did_you_mean("goal in this scene", goal, self.goals)
        self._goal = goal

    def _begin(self, seed: int) -> None:
        layout = np.random.default_rng([seed, 0])
        self._arm.reset()
        self._scene.place(layout)
        self._arm.settle(layout.uniform(HAND_START_LOW_M, HAND_START_HIGH_M))
        self._goal = _choose_goal(self._scene.goals, seed, self._asked)
        self._reached = None

    def _substep(self, command: np.ndarray) -> None:
        self._arm.act(command)
        if self._reached is None:
            self._reached = self._scene.reached()

    def _scene_truth(self) -> np.ndarray:
        """Numbers of the goal asked for and of the one reached (−1: none), among `goals`."""
        reached = -1 if self._reached is None else self.goals.index(self._reached)
        return np.array([self.goals.index(self._goal), reached], dtype=np.float64)

    def _assume_scene(self, truth: np.ndarray) -> None:
        goal, reached = (int(number) for number in truth)
        self._goal = self.goals[goal]
        self._reached = None if reached < 0 else self.goals[reached]

    def _measured(self) -> np.ndarray:
        return np.array([*self._arm.hand_m, self._arm.opening])


def _choose_goal(goals: tuple[str, ...], seed: int, asked: Asked) -> str:
    """The goal of the episode `seed`, or another one: from a stream of its own."""
    stream = np.random.default_rng([seed, 3])
    own, step = int(stream.integers(len(goals))), int(stream.integers(1, len(goals)))
    return goals[(own + step) % len(goals)] if asked == "swapped" else goals[own]
