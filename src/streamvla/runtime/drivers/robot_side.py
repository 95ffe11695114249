"""How long the robot's calls take: the control thread makes them, and a slow one costs ticks."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from statistics import median

from streamvla.core.clock import NS_PER_MS, Clock
from streamvla.core.interfaces import Robot

_REPEATS = 5
_MOST_OF_A_PERIOD = 0.5

_log = logging.getLogger("streamvla")


class RobotSide:
    """Time spent in the robot's calls since the latest control instant.

    Args:
        clock: the world's.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._took_ns: dict[str, int] = {}

    @contextmanager
    def timed(self, call: str) -> Generator[None, None, None]:
        begin_ns = self._clock.now_ns()
        try:
            yield
        finally:
            took_ns = self._clock.now_ns() - begin_ns
            self._took_ns[call] = self._took_ns.get(call, 0) + took_ns

    def took_ns(self) -> dict[str, int]:
        """Of every call."""
        return dict(self._took_ns)

    def restart(self) -> None:
        self._took_ns.clear()

    def why_late(self, late_ns: int) -> str:
        """What held the loop up for so long, in words."""
        call, took_ns = max(self._took_ns.items(), key=lambda each: each[1], default=("", 0))
        if 2 * took_ns < late_ns:
            return "the control loop did not run"
        return f"the robot's {call} took {took_ns / NS_PER_MS:.0f} ms"


def check_robot_side(robot: Robot, clock: Clock) -> str | None:
    """Before motion: whether `capture` and `advance_to` leave time for the rest; None: they do.

    `command` cannot be tried before; at run time all three are watched. What is wrong is also
    logged as a warning.
    """
    period_ns = robot.spec.control_period_ns
    side, times = RobotSide(clock), dict[str, list[int]]()
    for _ in range(_REPEATS):
        with side.timed("advance_to"):
            robot.advance_to(clock.now_ns())
        with side.timed("capture"):
            robot.capture()
        for call, took_ns in side.took_ns().items():
            times.setdefault(call, []).append(took_ns)
        side.restart()
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
