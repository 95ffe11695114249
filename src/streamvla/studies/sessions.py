"""How `run` drives an episode: the control loop beside the model's threads, or in its own process.

Both take the same plans, so everything else about a run is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, Protocol

from streamvla.core.cameras import Gaze
from streamvla.core.interfaces import Policy, Robot, check_fit
from streamvla.runtime import RealtimeDriver
from streamvla.runtime.drivers.film import Captures, Film
from streamvla.runtime.drivers.stages import StageTimes
from streamvla.runtime.processes.driver import ProcessDriver
from streamvla.runtime.processes.plan import EpisodePlan
from streamvla.runtime.processes.privileges import RealtimeSettings
from streamvla.studies.episodes import know_gripper, policy_of
from streamvla.trace import FileTrace

DriverName = Literal["thread", "process"]


class Driver(Protocol):
    """Runs episodes of one task after another."""

    def use(self, task: str) -> Robot:
        """Set the task's robot up; the one returned renders captures."""
        ...

    def measure(self, seed: int, repeats: int) -> list[StageTimes]:
        """What every stage costs where it will run; also the warm-up."""
        ...

    def run(self, plan: EpisodePlan, film: Captures) -> None:
        """Run one episode; if the plan wants it filmed, `film` gets the captures, come what may.

        Raises:
            StageFailedError: a stage or a process died; the robot was stopped first.
        """
        ...

    def close(self) -> None: ...


def make_driver(
    name: DriverName,
    source: str,
    policy: Policy,
    settings: RealtimeSettings,
    saving: Mapping[str, float] | None = None,
) -> Driver:
    """The driver of that name for this policy, which came from `source`.

    Args:
        settings: of the executor process, if there is one.
        saving: settings of the policy, as of `load_on_one_thread`.
    """
    if name == "process":
        make_policy = partial(load_on_one_thread, source, dict(saving or {}))
        return ProcessRunner(make_policy, settings, sees_truth=policy.spec.sees_truth)
    return ThreadRunner(policy)


def load_on_one_thread(source: str, saving: Mapping[str, float] | None = None) -> Policy:
    """The policy of a source (`policy.sources`), PyTorch's arithmetic on one thread: the other
    cores are for control and rendering.

    Args:
        saving: settings that save computation (`studies.dial.saving_settings`).
    """
    import torch

    torch.set_num_threads(1)
    return policy_of(source, settings=saving)


def _knowing(make_policy: Callable[[], Policy], gaze: Gaze | None) -> Policy:
    policy = make_policy()
    know_gripper(policy, gaze)
    return policy


class _OneRobot:
    """The robot of the present task."""

    def __init__(self) -> None:
        self._robot: Robot | None = None
        self._task = ""

    @property
    def robot(self) -> Robot:
        assert self._robot is not None, "call `use` first"
        return self._robot

    def change(self, task: str, sees_truth: bool) -> bool:
        """Make the task's robot, unless it is the present one; whether it was made."""
        from streamvla.robots.registry import make_robot

        if self._robot is not None and self._task == task:
            return False
        self.close()
        self._robot, self._task = make_robot(task, sees_truth=sees_truth), task
        return True

    def close(self) -> None:
        if self._robot is not None:
            self._robot.close()
            self._robot = None


class ThreadRunner:
    """Everything in this process. Implements `Driver`."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._driver = RealtimeDriver()
        self._present = _OneRobot()

    def use(self, task: str) -> Robot:
        if self._present.change(task, self._policy.spec.sees_truth):
            check_fit(self._policy.spec, self._present.robot.spec)
            know_gripper(self._policy, self._present.robot.spec.gaze)
        return self._present.robot

    def measure(self, seed: int, repeats: int) -> list[StageTimes]:
        robot = self._present.robot
        robot.reset(seed, self._driver.clock.now_ns(), robot.spec.control_period_ns)
        return self._driver.measure(robot, self._policy, repeats)

    def run(self, plan: EpisodePlan, film: Captures) -> None:
        robot = self._present.robot
        filming = Film(robot, film)
        watch = filming if plan.film else None
        with filming, FileTrace(plan.trace, plan.header, background=True) as trace:
            start_ns = self._driver.clock.now_ns() + plan.reset_ns
            robot.reset(plan.seed, start_ns, plan.settings.profile.execute_ns)
            episode = plan.settings.episode(self._policy, robot, trace, watch)
            self._driver.run(episode, start_ns, faults=plan.faults)

    def close(self) -> None:
        self._present.close()
        self._driver.close()


class ProcessRunner:
    """Control loop and model in processes of their own; here a robot that only renders films.
    Implements `Driver`."""

    def __init__(
        self,
        make_policy: Callable[[], Policy],
        settings: RealtimeSettings,
        *,
        sees_truth: bool = False,
    ) -> None:
        self._make_policy = make_policy
        self._sees_truth = sees_truth
        self._settings = settings
        self._driver: ProcessDriver | None = None
        self._present = _OneRobot()

    def use(self, task: str) -> Robot:
        from streamvla.robots.registry import make_robot

        if self._present.change(task, self._sees_truth):
            self._stop()
            self._driver = ProcessDriver(
                partial(make_robot, task, sees_truth=self._sees_truth),
                partial(_knowing, self._make_policy, self._present.robot.spec.gaze),
                settings=self._settings,
            )
        return self._present.robot

    def measure(self, seed: int, repeats: int) -> list[StageTimes]:
        return self._running().measure(repeats, seed)

    def run(self, plan: EpisodePlan, film: Captures) -> None:
        driver = self._running()
        try:
            driver.run(plan)
        finally:
            film += driver.captures

    def close(self) -> None:
        self._stop()
        self._present.close()

    def _running(self) -> ProcessDriver:
        assert self._driver is not None, "call `use` first"
        return self._driver

    def _stop(self) -> None:
        if self._driver is not None:
            self._driver.close()
            self._driver = None
