"""The camera model of the robot that a dataset is of."""

from __future__ import annotations

from streamvla.core.cameras import Gaze
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import RobotSpec
from streamvla.data.demonstrations import DatasetMeta
from streamvla.robots.registry import suite_of


def gaze_of(meta: DatasetMeta) -> Gaze:
    """Where the gripper is in the dataset's views: `RobotSpec.gaze` of its tasks' suites.

    Raises:
        ConfigError: the robot of a task has none, is in no suite, or has other views, image size
            or state than the dataset.
    """
    found: list[Gaze] = []
    for task in meta.tasks:
        gaze = _spec_of(task, meta).gaze
        if gaze is None:
            raise _unknown(meta, f"task {task!r} has a robot without one")
        found.append(gaze)
    if not found or not all(gaze.near(found[0]) for gaze in found):
        raise _unknown(meta, f"tasks {', '.join(meta.tasks) or 'none'} have not one in common")
    return found[0]


def _spec_of(task: str, meta: DatasetMeta) -> RobotSpec:
    try:
        spec = suite_of(task).spec_of(task)
    except ConfigError as error:
        raise _unknown(meta, f"task {task!r} is in no suite") from error
    for name in ("views", "image_size", "state_names"):
        here, there = getattr(meta, name), getattr(spec, name)
        if here != there:
            raise _unknown(meta, f"its {name} are {here}, those of the suite's robot {there}")
    return spec


def _unknown(meta: DatasetMeta, why: str) -> ConfigError:
    return ConfigError(
        f"crops need a camera model (RobotSpec.gaze) of the dataset's robot {meta.robot!r}: {why}. "
        "Train without crops, or give the suite's robot one"
    )
