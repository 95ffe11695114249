"""How long the robot's calls take: the control thread makes them, and a slow one costs ticks."""

from __future__ import annotations

import logging
from statistics import median

from streamvla.core.clock import NS_PER_MS, Clock
from streamvla.core.interfaces import Robot

_CALLS = ("advance_to", "capture", "command")
_REPEATS = 5
_MOST_OF_A_PERIOD = 0.5

_log = logging.getLogger("streamvla")


class RobotSide:
    """Time spent in the robot's calls since the latest control instant.

    Args:
        clock: the world's.
    """

    def __init__(self, clock: Clock) -> None:
        self._now_ns = clock.now_ns
        self.took_ns: dict[str, int] = dict.fromkeys(_CALLS, 0)

    def begin(self) -> int:
        """Before a call; what `end` wants to know."""
        return self._now_ns()

    def end(self, call: str, begun_ns: int) -> None:
        self.took_ns[call] += self._now_ns() - begun_ns

    def restart(self) -> None:
        took_ns = self.took_ns
        for call in _CALLS:
            took_ns[call] = 0

    def why_late(self, late_ns: int) -> str:
        """What held the loop up for so long, in words."""
        call, took_ns = max(self.took_ns.items(), key=lambda each: each[1])
        if 2 * took_ns < late_ns:
            return "the control loop did not run"
        return f"the robot's {call} took {took_ns / NS_PER_MS:.0f} ms"


def check_robot_side(robot: Robot, clock: Clock) -> str | None:
    """Before motion: whether `capture` and `advance_to` leave time for the rest; None: they do.

    `command` cannot be tried before; at run time all three are watched. What is wrong is also
    logged as a warning.
    """
    period_ns = robot.spec.control_period_ns
    times: dict[str, list[int]] = {"advance_to": [], "capture": []}
    for _ in range(_REPEATS):
        begun_ns = clock.now_ns()
        robot.advance_to(begun_ns)
        moved_ns = clock.now_ns()
        robot.capture()
        times["advance_to"].append(moved_ns - begun_ns)
        times["capture"].append(clock.now_ns() - moved_ns)
    slow = {call: median(took) for call, took in times.items()}
    if sum(slow.values()) <= _MOST_OF_A_PERIOD * period_ns:
        return None
    parts = " and ".join(f"{call} {took_ns / NS_PER_MS:.1f} ms" for call, took_ns in slow.items())
    text = (
        f"robot {robot.spec.name}: {parts}, of a control period of {period_ns / NS_PER_MS:g} ms: "
        "the control loop will fall behind; read cameras in a thread of their own, or lower the "
        "rate"
    )
    _log.warning("%s", text)
    return text
