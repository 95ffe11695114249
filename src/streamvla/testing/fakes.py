"""A robot that does nothing and a policy that follows a script: timelines without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.compute import ObservationCost
from streamvla.core.interfaces import (
    Anticipation,
    Capture,
    FlowStart,
    Frames,
    Observation,
    PolicySpec,
    RobotSpec,
)

_IMAGE = np.zeros((1, 1, 3), np.uint8)


def unit_space(dim: int = 1) -> ActionSpace:
    """`dim` delta dimensions within ±1."""
    names = tuple(f"x{i}" for i in range(dim))
    return ActionSpace(names, ("delta",) * dim, (-1.0,) * dim, (1.0,) * dim)


class StillRobot:
    """Takes every command, keeps it, and never moves.

    Args:
        standing: (d,) where its absolute dimensions are measured to be; None for zeros.

    Attributes:
        commands: `(now_ns, values)` of every command since `reset`, if `keep` was set.
        success: set it to end an episode.
    """

    def __init__(
        self,
        space: ActionSpace,
        period_ns: int,
        *,
        keep: bool = True,
        standing: np.ndarray | None = None,
    ) -> None:
        self._standing = space.initial_state() if standing is None else standing
        self._spec = RobotSpec(
            "still", space, ("camera",), (1, 1), (), period_ns, measures_standing=True
        )
        self._keep = keep
        self.commands: list[tuple[int, np.ndarray]] = []
        self.success = False
        self.instruction = "stay"

    @property
    def spec(self) -> RobotSpec:
        return self._spec

    def standing(self) -> np.ndarray:
        return self._standing

    def reset(self, seed: int, now_ns: int, command_duration_ns: int) -> None:
        self.commands.clear()

    def command(self, values: np.ndarray, now_ns: int) -> None:
        if self._keep:
            self.commands.append((now_ns, values))

    def advance_to(self, now_ns: int) -> None:
        pass

    def capture(self) -> Capture:
        return {}

    def observe(self, capture: Capture) -> Frames:
        return Frames({"camera": _IMAGE}, np.zeros(0, np.float32))

    def close(self) -> None:
        pass


Script = Callable[[Observation, FlowStart, int], np.ndarray]
"""(observation, where the flow starts, flow step) → action (d,)."""


class ScriptedPolicy:
    """A policy whose context is the observation itself and whose actions come from `script`.

    Args:
        chunk_passes: what its spec says; 0 streams.
        robot: the one it is made for; None for `StillRobot`.
    """

    def __init__(
        self,
        space: ActionSpace,
        horizon: int,
        period_ns: int,
        script: Script | None = None,
        chunk_passes: int = 0,
        robot: RobotSpec | None = None,
    ) -> None:
        robot = robot or StillRobot(space, period_ns).spec
        self.spec: PolicySpec = PolicySpec(
            space,
            horizon,
            robot.views,
            robot.image_size,
            len(robot.state_names),
            period_ns,
            chunk_passes,
        )
        zero = np.zeros(space.dim)
        self._script: Script = script or (lambda observation, start, index: zero)

    def encode(self, observation: Observation) -> Observation:
        return observation

    def generate(self, context: Observation, start: FlowStart) -> Iterator[np.ndarray]:
        for index in range(start.index, self.spec.horizon):
            yield self._script(context, start, index)


class GoalPolicy(ScriptedPolicy):
    """A scripted policy that tells where the motion should end.

    Args:
        goal: the context, which is the observation → (d,) action state, or None.
    """

    def __init__(
        self,
        space: ActionSpace,
        horizon: int,
        period_ns: int,
        goal: Callable[[Observation], np.ndarray | None],
        script: Script | None = None,
    ) -> None:
        super().__init__(space, horizon, period_ns, script)
        self.spec: PolicySpec = replace(self.spec, tells_goal=True)
        self._goal = goal

    def goal(self, context: Observation) -> np.ndarray | None:
        return self._goal(context)


class CountingPolicy(ScriptedPolicy):
    """A scripted policy that counts.

    Args:
        costs: of its observations, one after another; the last one of all that follow.
    """

    def __init__(
        self,
        space: ActionSpace,
        horizon: int,
        period_ns: int,
        costs: Sequence[ObservationCost],
        script: Script | None = None,
    ) -> None:
        super().__init__(space, horizon, period_ns, script)
        self.spec: PolicySpec = replace(self.spec, counts=True)
        self._costs = list(costs)

    def cost(self, made: Observation) -> ObservationCost:
        return self._costs.pop(0) if len(self._costs) > 1 else self._costs[0]


SaliencyScript = Callable[[Observation, np.ndarray], Sequence[float]]
"""(observation, motion (d,)) → ‖Δ‖ of every view."""


class AnticipatingPolicy(ScriptedPolicy):
    """A scripted policy that foresees: its sight is the observation, its changes are the motions.

    Attributes:
        changes: what the contexts were corrected by, in order; None for not at all.
    """

    def __init__(
        self,
        space: ActionSpace,
        horizon: int,
        period_ns: int,
        script: Script | None = None,
        saliency: SaliencyScript | None = None,
    ) -> None:
        super().__init__(space, horizon, period_ns, script)
        self.spec: PolicySpec = replace(self.spec, anticipates=True)
        self.changes: list[np.ndarray | None] = []
        self._saliency: SaliencyScript = saliency or (lambda observation, motion: [0.0])

    def look(self, observation: Observation) -> Observation:
        return observation

    def anticipate(self, sight: Observation, motions: np.ndarray) -> Anticipation:
        rows = np.array([self._saliency(sight, motion) for motion in motions], dtype=float)
        return Anticipation(rows, list(motions))

    def contextualise(self, sight: Observation, change: np.ndarray | None = None) -> Observation:
        self.changes.append(change)
        return sight
