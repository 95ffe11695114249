"""Suites and robots by name: ours, and those of other packages (entry points)."""

from __future__ import annotations

from typing import cast

from streamvla.core.errors import ConfigError, did_you_mean
from streamvla.core.interfaces import Robot, RobotSpec
from streamvla.core.registry import Registry, import_beside, is_import
from streamvla.robots.instructions import Asked, Split
from streamvla.robots.suite import Suite, TaskRobot, same_robot
from streamvla.robots.truth import TruthView

SUITES = Registry(
    "suite",
    "streamvla.suites",
    {
        "metaworld": "streamvla.robots.metaworld.suite:METAWORLD",
        "language": "streamvla.robots.tabletop.suite:LANGUAGE",
        "all": "streamvla.robots.sawyer_tasks:ALL",
        "tempo": "streamvla.robots.tempo.suite:TEMPO",
        "tempo-arm": "streamvla.robots.tempo.suite:TEMPO_ARM",
        "tempo-aloha": "streamvla.robots.tempo.suite:TEMPO_ALOHA",
        "memory": "streamvla.robots.memory.suite:MEMORY",
        "point": "streamvla.robots.point:POINT",
        "libero-spatial": "streamvla.robots.libero.suite:SPATIAL",
        "libero-object": "streamvla.robots.libero.suite:OBJECT",
        "libero-goal": "streamvla.robots.libero.suite:GOAL",
        "libero-10": "streamvla.robots.libero.suite:LONG",
        "libero-90": "streamvla.robots.libero.suite:NINETY",
        "libero": "streamvla.robots.libero.suite:LIBERO",
    },
)
"""Each entry is a `Suite`."""

ROBOTS = Registry("robot", "streamvla.robots", {})
"""Robots without tasks: each entry is called without arguments and gives a `Robot`."""


def suite_named(name: str) -> Suite:
    """The suite of that name.

    Raises:
        ConfigError: there is none, or its package cannot be imported.
    """
    return SUITES.load(name)


def suite_tasks(name: str) -> tuple[str, ...]:
    """The tasks of a suite.

    Raises:
        ConfigError: as for `suite_named`, or it has none as long as a package is missing.
    """
    suite = suite_named(name)
    if not suite.tasks:
        raise ConfigError(f"suite {name} has no tasks here: {suite.remedy or 'expected some'}")
    return suite.tasks


def suite_of(task: str) -> Suite:
    """The suite that has a task, or a variant of one.

    Raises:
        ConfigError: none has, or two have.
    """
    found = [suite for suite in _plain_suites() if suite.has(task)]
    if len(found) > 1:
        names = " and ".join(suite.name for suite in found)
        raise ConfigError(f"suites {names} both have a task {task!r}; rename it in one of them")
    if not found:
        raise did_you_mean("task", task, task_names())
    return found[0]


def one_robot_of(tasks: tuple[str, ...]) -> Suite:
    """The suite of the first task, if the robots of all the tasks are of one kind.

    Raises:
        ConfigError: an unknown task, or another robot.
    """
    first = suite_of(tasks[0])
    for task in tasks[1:]:
        suite = suite_of(task)
        one, other = first.spec_of(tasks[0]), suite.spec_of(task)
        if not same_robot(one, other):
            raise ConfigError(
                f"tasks {tasks[0]} and {task} have different robots, {one.name} and "
                f"{other.name}: expected one robot; take them apart"
            )
    return first


def task_names() -> tuple[str, ...]:
    """Every name `make_robot` knows: tasks of all suites, their variants, and robots' names."""
    suites = _plain_suites()
    tasks = [task for suite in suites for task in (*suite.tasks, *suite.variants)]
    return (*tasks, *ROBOTS.names())


def is_robot(name: str) -> bool:
    """Whether it is a robot without tasks: one of `ROBOTS`, or an import string."""
    return name in ROBOTS or is_import(name)


def require_task(name: str) -> None:
    """Raise `ConfigError` unless `make_robot` knows the name."""
    known = name in ROBOTS or any(suite.has(name) for suite in _plain_suites())
    if not is_import(name) and not known:
        raise did_you_mean("task", name, task_names())


def training_instructions(task: str) -> tuple[str, ...]:
    """All training phrasings of a task of a suite, over all the goals it can have.

    Raises:
        ConfigError: the task is in no suite.
    """
    return suite_of(task).instructions(task)


def make_robot(
    task: str, split: Split = "train", asked: Asked = "own", *, sees_truth: bool = False
) -> Robot:
    """The robot of a task; `reset` it before use and `close` it after.

    Args:
        task: one of `task_names()`, or "package.module:make", a function that gives a robot.
        split: which instructions to draw from, "train", "heldout" or, of language scenes,
            "independent".
        asked: the episode's own goal, another goal of the same scene ("swapped", language scenes
            only), or nothing ("blank").
        sees_truth: for a policy that does (`PolicySpec.sees_truth`): its only observation is the
            state of the simulated world.

    Raises:
        ConfigError: unknown task or split, or a task that cannot be asked so or does not tell.
        RobotError: the simulator or an offscreen OpenGL library is missing.
    """
    if sees_truth:
        return cast(Robot, TruthView(make_robot(task, split, asked)))
    if is_robot(task):
        if asked != "own" or split != "train":
            raise ConfigError(
                f"robot {task!r} has no tasks, so only its own instruction: expected asked 'own' "
                "and instructions 'train'"
            )
        return _imported(task) if is_import(task) else ROBOTS.load(task)()
    return make_task_robot(task, split, asked)


def _imported(source: str) -> Robot:
    """What "package.module:make" gives when it is called."""
    made = import_beside(source, "robot")()
    if not isinstance(getattr(made, "spec", None), RobotSpec):
        raise ConfigError(
            f"robot {source} gave {type(made).__name__} without a `spec`: expected a Robot "
            "(streamvla.core.interfaces)"
        )
    return made


def make_task_robot(task: str, split: Split = "train", asked: Asked = "own") -> TaskRobot:
    """The robot of a task of a suite; arguments and errors as for `make_robot`."""
    return suite_of(task).make(task, split, asked)


def _plain_suites() -> list[Suite]:
    """All suites but those that join others."""
    suites = [suite_named(name) for name in SUITES.names()]
    return [suite for suite in suites if not suite.parts]
