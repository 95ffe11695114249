"""A suite's expert as a policy: it sees the true state as it was at capture, and no later one.

    capture                generation starts         first new action
    truth ── encode ──┬── executed ──┬── prefix ──┬── a0 a1 a2 …
                      └ the commands sent since, then those still pending: rolled on its own robot

It owns a robot of the task, takes the captured state over, lets every command act that lies between
the capture and its first action, and then asks the teacher and acts, H times. So it does perfectly
what a learned policy is trained to imitate, and whatever it loses under an executor, a latency
profile or a stress is the price of timing alone. An executor that does not say what is executed
meanwhile (`FlowStart.age` 0) gets actions from the captured state, as from a policy that believes
that it is there still.

A *timed* expert goes by the clock instead: it lets everything act that is said to be executed
before its actions are there, and the robot stand for what is left of the stated delay, whatever the
executor compensates. That is the best a rival could be trained to do that is told its own latency,
from the third chunk of an episode on: of the first two the executor states no delay
(`runtime.executors.delay`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from streamvla.core.compute import ObservationCost
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import FlowStart, Observation, PolicySpec
from streamvla.robots.registry import suite_of
from streamvla.robots.truth import TruthRobot, TruthView

HORIZON = 10


@dataclass(frozen=True, slots=True)
class _Context:
    truth: np.ndarray  # (n,)
    action_state: np.ndarray  # (d,) at the capture


class ExpertPolicy:
    """The expert of one task. Implements `Policy`.

    Args:
        task: of a suite with an expert, whose robots are `TruthRobot`s.
        horizon: H, actions a generation.
        chunk_passes: 0: it streams, one action a pass; n: the chunk is there after n passes.
        timed: it considers all that is executed until its actions are there.

    Raises:
        ConfigError: there is no such task, or its expert cannot drive.
        RobotError: the simulator is missing.
    """

    def __init__(
        self, task: str, horizon: int = HORIZON, chunk_passes: int = 0, *, timed: bool = False
    ) -> None:
        if horizon < 1 or chunk_passes < 0:
            raise ConfigError(
                f"expert: horizon {horizon} must be ≥ 1, passes a chunk {chunk_passes} ≥ 0"
            )
        suite = suite_of(task)
        robot = suite.make(task, "train", "own")
        view = TruthView(robot)
        self._robot = cast(TruthRobot, robot)
        self._teacher = suite.teacher(robot)
        self._present: _World | None = None
        self._timed = timed
        self._spec = PolicySpec(
            action_space=view.spec.action_space,
            horizon=horizon,
            views=(),
            image_size=view.spec.image_size,
            state_dim=len(view.spec.state_names),
            control_period_ns=view.spec.control_period_ns,
            chunk_passes=chunk_passes,
            sees_truth=True,
        )

    @property
    def spec(self) -> PolicySpec:
        return self._spec

    def encode(self, observation: Observation) -> _Context:
        return _Context(np.array(observation.state), np.array(observation.action_state))

    def generate(self, context: _Context, start: FlowStart) -> Iterator[np.ndarray]:
        world = _World(self._robot, context)
        self._present = world
        if start.executed is not None:
            world.acted(start.executed[: start.in_force])  # the truth has them
        between = self._between(start)
        for command in between:
            world.act(command)
        if self._timed:
            for _ in range(start.delay - _rows(start.prefix)):
                world.stand()
        elapsed = min(start.elapsed, self._spec.horizon) if self._timed else 0
        for _ in range(elapsed):
            yield world.hold()  # for an instant that is over when it comes
        for _ in range(start.index + elapsed, self._spec.horizon):
            action = self._teacher.act()
            truth = self._robot.truth()
            yield action
            if self._present is not world:  # another generation had the robot meanwhile
                world.go_on_from(truth)
                self._present = world
            world.act(action)

    def _between(self, start: FlowStart) -> np.ndarray:
        """(k, d) the commands between the capture and the first new action, as far as they are
        considered."""
        nothing = np.empty((0, self._spec.action_space.dim))
        if not self._timed and start.age == 0 and start.index == 0:
            return nothing
        executed = nothing if start.executed is None else start.executed[start.in_force :]
        return np.concatenate([executed, nothing if start.prefix is None else start.prefix])


class CostedExpert(ExpertPolicy):
    """An expert whose observations take a stated share of the emulated stage times, as those of a
    policy that saves computation do. Implements `CountingPolicy`.

    It sees no pictures, so it counts no tokens and no operations.

    Args:
        cost: of every observation.
        task, horizon, chunk_passes, timed: as of `ExpertPolicy`.
    """

    def __init__(
        self,
        cost: ObservationCost,
        task: str,
        horizon: int = HORIZON,
        chunk_passes: int = 0,
        *,
        timed: bool = False,
    ) -> None:
        super().__init__(task, horizon, chunk_passes, timed=timed)
        self._cost = cost
        shares = {"look": cost.look_time, "context": cost.context_time}
        self._spec = replace(self._spec, counts=True, settings=shares)

    def cost(self, made: _Context) -> ObservationCost:
        """Of any observation."""
        return self._cost


class _World:
    """What one generation imagines, on a robot that others use too."""

    def __init__(self, robot: TruthRobot, context: _Context) -> None:
        self._robot = robot
        self._state = context.action_state
        self.go_on_from(context.truth)

    def go_on_from(self, truth: np.ndarray) -> None:
        self._now_ns = self._robot.assume(truth, self._state)
        self._robot.advance_to(self._now_ns)

    def act(self, command: np.ndarray) -> None:
        """Let a command (d,) act for one control period."""
        spec = self._robot.spec
        self._robot.command(command, self._now_ns)
        self._now_ns += spec.control_period_ns
        self._robot.advance_to(self._now_ns)
        self._state = spec.action_space.advance(self._state, spec.action_space.clip(command))

    def acted(self, commands: np.ndarray) -> None:
        """Those (k, d) are in the truth that was taken over, and not in the action state."""
        space = self._robot.spec.action_space
        for command in commands:
            self._state = space.advance(self._state, space.clip(command))

    def stand(self) -> None:
        """Let a control period pass in which the robot holds."""
        self.act(self.hold())

    def hold(self) -> np.ndarray:
        """(d,) the command that holds it."""
        return self._robot.spec.action_space.hold(self._state)


def _rows(actions: np.ndarray | None) -> int:
    return 0 if actions is None else len(actions)
