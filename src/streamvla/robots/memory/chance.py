"""What who did not see the cue would reach: the expert with an answer from another stream."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from streamvla.core.clock import NS_PER_S
from streamvla.robots.memory.scene import Answer
from streamvla.robots.memory.suite import MemoryExpert, make_memory_robot


@dataclass(frozen=True)
class Reached:
    """Over some episodes of one task.

    Attributes:
        episodes: how many.
        success: the share of them that succeeded.
        score: 0 to 10, at their ends; the mean.
        seconds: until success, the mean; nan without one.
    """

    episodes: int
    success: float
    score: float
    seconds: float


def chance(task: str, seeds: Iterable[int]) -> Reached:
    """The level of a policy that does everything right but the answer, which it guesses. Nothing is
    rendered.

    Raises:
        ConfigError: the suite has no such task.
        RobotError: the simulator is missing.
    """
    return drive(task, seeds, guesses=True)


def drive(task: str, seeds: Iterable[int], *, guesses: bool) -> Reached:
    """Drive the expert on every tick; it knows the answer, or guesses. Errors as of `chance`."""
    episodes: list[tuple[bool, float, float]] = []
    with closing(make_memory_robot(task)) as robot:
        for seed in seeds:
            guess = _guess(robot.answers, seed) if guesses else None
            period_ns = robot.spec.control_period_ns
            robot.reset(seed, 0, period_ns)
            expert, now_ns = MemoryExpert(robot, guess), 0
            while not robot.success and now_ns < robot.longest_s * NS_PER_S:
                robot.command(expert.act(), now_ns)
                now_ns += period_ns
                robot.advance_to(now_ns)
            episodes.append((robot.success, robot.score, now_ns / NS_PER_S))
    times = [seconds for success, _, seconds in episodes if success]
    return Reached(
        episodes=len(episodes),
        success=len(times) / len(episodes),
        score=float(np.mean([score for _, score, _ in episodes])),
        seconds=float(np.mean(times)) if times else float("nan"),
    )


def _guess(answers: tuple[Answer, ...], seed: int) -> Answer:
    return answers[int(np.random.default_rng([seed, 7]).integers(len(answers)))]
