"""A suite: tasks on one robot, and all that is known of them.

`collect`, `train`, `eval` and `run` take any suite. One is added by a file that makes a `Suite`,
and a line in `robots.registry` or an entry point of another package:

    [project.entry-points."streamvla.suites"]
    bench = "my_package.bench:SUITE"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from streamvla.core.errors import ConfigError, did_you_mean
from streamvla.core.interfaces import Robot, RobotSpec
from streamvla.robots.instructions import Asked, Phrasings, Split


class TaskRobot(Robot, Protocol):
    """The robot of one task: it knows what it is asked for, and the ways to say it."""

    @property
    def task(self) -> str: ...

    @property
    def phrasings(self) -> Phrasings:
        """All the ways to say the present goal."""
        ...


class Expert(Protocol):
    """A teacher of one robot. It keeps no memory: ask it anywhere, and it knows how to go on."""

    def act(self) -> np.ndarray:
        """The clean action (d,) at the robot's present state, within the action space."""
        ...


@dataclass(frozen=True)
class Suite:
    """Tasks on one robot.

    Attributes:
        name: of the suite.
        spec: of the robots of all its tasks but those of `other_robots`; what their captures hold
            and what they measure may differ.
        tasks: their names; no other suite may have one of them.
        make: (task, split of the instructions, what is asked for) → robot. Raises `ConfigError` for
            what a task does not have, `RobotError` when a simulator is missing.
        instructions: task → its training instructions, of all its goals.
        expert: robot of one of its tasks → its teacher; None: there is none to collect with.
        policy: a policy source (`policy.sources`) for who names none; None: one must be named.
        variants: names of further tasks, which `make` takes too, that no table counts.
        parts: names of the suites it joins; its tasks are theirs.
        dial: whether a task may be made harder or easier: `NAME@1.5`; `make` takes such names.
        seconds: task → how long its expert may take, on the robot's clock; None: as long as that of
            any task.
        other_robots: task → specification of its robot, where that is another one than `spec`.
        remedy: of a suite that has no tasks as long as a package is missing: how to get them.
    """

    name: str
    spec: RobotSpec
    tasks: tuple[str, ...]
    make: Callable[[str, Split, Asked], TaskRobot]
    instructions: Callable[[str], tuple[str, ...]]
    expert: Callable[[Any], Expert] | None = None
    policy: str | None = None
    variants: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    dial: bool = False
    seconds: Callable[[str], float] | None = None
    other_robots: Mapping[str, RobotSpec] = field(default_factory=dict[str, RobotSpec])
    remedy: str = ""

    def spec_of(self, task: str) -> RobotSpec:
        """Of the robot of a task, but for what its captures hold and what it measures."""
        return self.other_robots.get(self.plain(task), self.spec)

    def plain(self, task: str) -> str:
        """The name of a task without its difficulty."""
        return task.partition("@")[0] if self.dial else task

    def has(self, task: str) -> bool:
        """Whether it is one of its tasks, or a variant of one, at any difficulty."""
        return self.plain(task) in (*self.tasks, *self.variants)

    def longest_s(self, task: str, otherwise_s: float) -> float:
        """How long an episode of a task may have to last, seconds, where any other has
        `otherwise_s`; never less than that."""
        return otherwise_s if self.seconds is None else max(otherwise_s, self.seconds(task))

    def require(self, task: str) -> None:
        """Raise `ConfigError` unless the suite has this task, or this variant of one."""
        if not self.has(task):
            names = (*self.tasks, *self.variants)
            raise did_you_mean(f"task of suite {self.name}", task, names)

    def teacher(self, robot: TaskRobot) -> Expert:
        """The expert of a robot that `make` made.

        Raises:
            ConfigError: the suite has none.
        """
        if self.expert is None:
            raise ConfigError(
                f"suite {self.name} has no expert, so nothing can be collected from its tasks; "
                "give the suite one, or record demonstrations otherwise"
            )
        return self.expert(robot)


def join(name: str, *suites: Suite) -> Suite:
    """Suites of one robot as one; the policy is the first one's.

    Raises:
        ConfigError: their robots differ.
    """
    first = suites[0]
    of = {task: suite for suite in suites for task in (*suite.tasks, *suite.variants)}
    for suite in suites[1:]:
        if suite.spec != first.spec:
            raise ConfigError(
                f"suites {first.name} and {suite.name} have different robots, "
                f"{first.spec.name} and {suite.spec.name}; name one of them"
            )
    return replace(
        first,
        name=name,
        tasks=tuple(task for suite in suites for task in suite.tasks),
        make=lambda task, split, asked: of[task].make(task, split, asked),
        instructions=lambda task: of[task].instructions(task),
        expert=lambda robot: of[robot.task].teacher(robot),
        variants=tuple(task for suite in suites for task in suite.variants),
        parts=tuple(suite.name for suite in suites),
        seconds=lambda task: of[task].longest_s(task, 0.0),
        other_robots={task: spec for suite in suites for task, spec in suite.other_robots.items()},
    )


def same_robot(one: RobotSpec, other: RobotSpec) -> bool:
    """Whether two specifications are of one kind of robot; what a capture holds, what is measured
    and what the task asks for may differ."""
    return _alike(one) == _alike(other)


def _alike(spec: RobotSpec) -> RobotSpec:
    """Without what depends on the scene and the task."""
    return replace(spec, capture=(), measures=(), stimulus="", knows_stimulus=False, place_names=())
