"""Experts as policy sources: `expert:TASK` streams, `expert-chunks:TASK` gives a whole chunk, and
`expert-timed-chunks:TASK` one that considers all that is executed until it is there, and
`expert-long-chunks:TASK` the same for a second of the robot's time, after ten passes as well.

A number after the task is the horizon: `expert:pick-from-conveyor:20`.
"""

from __future__ import annotations

from streamvla.core.clock import NS_PER_S
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import Policy
from streamvla.policy.sources import FoundPolicy, Settings
from streamvla.robots.expert_policy import HORIZON, ExpertPolicy
from streamvla.robots.registry import suite_of

EXPERTS = ("expert", "expert-chunks", "expert-timed-chunks", "expert-long-chunks")


def find_expert(rest: str) -> FoundPolicy:
    """The expert of a task, one action a pass."""
    return _find("expert", rest, chunks=False)


def find_chunk_expert(rest: str) -> FoundPolicy:
    """The expert of a task, its H actions after H passes, as a chunk policy gives them."""
    return _find("expert-chunks", rest, chunks=True)


def find_timed_expert(rest: str) -> FoundPolicy:
    """As `find_chunk_expert`, told its latency."""
    return _find("expert-timed-chunks", rest, chunks=True, timed=True)


def find_long_expert(rest: str) -> FoundPolicy:
    """As `find_timed_expert`, with chunks of a second."""
    task = rest.partition(":")[0]
    return _find("expert-long-chunks", rest, chunks=True, timed=True, horizon=_of_a_second(task))


def _of_a_second(task: str) -> int:
    return round(NS_PER_S / suite_of(task).spec_of(task).control_period_ns) if task else HORIZON


def for_task(source: str, task: str) -> str:
    """The source of a policy for one task: an expert is another one in every task.

    >>> for_task("expert", "point"), for_task("shipped", "point")
    ('expert:point', 'shipped')
    """
    return f"{source}:{task}" if source in EXPERTS else source


def _find(
    name: str, rest: str, *, chunks: bool, timed: bool = False, horizon: int = HORIZON
) -> FoundPolicy:
    task, _, number = rest.partition(":")
    if not task or (number and not number.isdecimal()):
        raise ConfigError(
            f"{name}:{rest}: expected {name}:TASK or {name}:TASK:HORIZON; where tasks are named "
            f"already, {name} alone will do"
        )
    horizon = int(number) if number else horizon
    passes = HORIZON if name == "expert-long-chunks" else horizon
    suite_of(task).require(task)

    def load(settings: Settings) -> Policy:
        if settings:
            raise ConfigError(f"{', '.join(settings)}: an expert has no such settings")
        return ExpertPolicy(task, horizon, passes if chunks else 0, timed=timed)

    return FoundPolicy(f"{name}-{horizon}", {"source": f"{name}:{task}:{horizon}"}, load)
