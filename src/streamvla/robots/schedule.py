"""Which command acts in which sub-step: how a simulated world moves with the clock.

A command acts for `s` sub-steps, then delta dimensions stop and absolute ones stay. Sub-steps lie
on an absolute grid from the reset, so no rounding accumulates. With s = 4:

    clock     0 ──── ¼ ──── ½ ──── ¾ ──── 1 ──── 1¼ ──── 1½   command durations since reset
    command   a0                          (a1 is late)   a1
    world        a0     a0     a0     a0     hold    hold    a1 …

A command that comes before its predecessor is through waits for it: as with a position-controlled
arm, which follows the sum of all deltas, no displacement is lost when a late tick is followed by a
punctual one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import ConfigError, RobotError

KEPT_COMMANDS = 2
"""Told by `CommandSchedule.backlog`: the one in force, and one that waits for it."""


class CommandSchedule:
    """The commands of one episode, cut into sub-steps.

    Args:
        space: of the commands.
        substeps: how many make one command.
        start_ns: the instant of the reset.
        command_duration_ns: how long one command acts.
        standing: (d,) where absolute dimensions are held until the first command comes; None for 0.

    Raises:
        ConfigError: a duration too short for its sub-steps.
    """

    def __init__(
        self,
        space: ActionSpace,
        substeps: int,
        start_ns: int,
        command_duration_ns: int,
        standing: np.ndarray | None = None,
    ) -> None:
        if command_duration_ns < substeps:
            raise ConfigError(
                f"command duration {command_duration_ns} ns: expected at least {substeps} ns, one "
                "per sub-step; nominal is the robot's control_period_ns"
            )
        self._space = space
        self._substeps = substeps
        self._start_ns = start_ns
        self._duration_ns = command_duration_ns
        self._command = space.initial_state() if standing is None else space.hold(standing)
        self._waiting: deque[np.ndarray] = deque()  # one entry per sub-step still to run
        self._done = 0
        self._latest_ns = start_ns

    def put(self, values: np.ndarray) -> None:
        """Let a command (d,) act for its sub-steps, clipped to its limits, after what still waits.

        This is the last line of defence before the arm.

        Raises:
            RobotError: not (d,), or not finite.
        """
        command = require_command(self._space, values)
        self._waiting.extend([self._space.clip(command)] * self._substeps)

    def backlog(self) -> np.ndarray:
        """(KEPT_COMMANDS · (1 + d),) what was put and did not act yet: of each command how many
        sub-steps, and its values; of more commands than that, the first ones."""
        rows = np.zeros((KEPT_COMMANDS, 1 + self._space.dim))
        first = -len(self._waiting) % self._substeps  # sub-steps of the first that are over
        for i in range(min(KEPT_COMMANDS, -(-len(self._waiting) // self._substeps))):
            start = max(0, i * self._substeps - first)
            rows[i] = ((i + 1) * self._substeps - first - start, *self._waiting[start])
        return rows.ravel()

    def resume(self, backlog: np.ndarray) -> int:
        """Put what another schedule's `backlog` told first; ns until that has acted."""
        for count, *values in backlog.reshape(KEPT_COMMANDS, -1):
            self._waiting.extend([np.array(values)] * int(count))
        return len(self._waiting) * self._duration_ns // self._substeps

    def due(self, now_ns: int) -> Iterator[np.ndarray]:
        """The command (d,) of each sub-step that ends at or before `now_ns` and has not run.

        Raises:
            RobotError: `now_ns` lies before an earlier call's.
        """
        if now_ns < self._latest_ns:
            raise RobotError(
                f"time went back from {self._latest_ns} to {now_ns} ns: expected one monotonic "
                "clock; drive the robot from a single one"
            )
        self._latest_ns = now_ns
        while self._next_end_ns() <= now_ns:
            if self._waiting:
                self._command = self._waiting.popleft()
            else:
                self._command = self._space.hold(self._command)
            self._done += 1
            yield self._command

    def _next_end_ns(self) -> int:
        return self._start_ns + (self._done + 1) * self._duration_ns // self._substeps


def require_command(space: ActionSpace, values: np.ndarray) -> np.ndarray:
    """A command (d,) as float64.

    Raises:
        RobotError: not (d,), or not finite.
    """
    command = np.asarray(values, dtype=np.float64)
    if command.shape != (space.dim,):
        raise RobotError(
            f"command of shape {command.shape}: expected ({space.dim},) for "
            f"{', '.join(space.names)}"
        )
    if not np.isfinite(command).all():
        raise RobotError(
            f"command {command.tolist()} is not finite: expected finite values; check the "
            "policy's output before it is sent"
        )
    return command
