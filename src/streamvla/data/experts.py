"""Experts as policy sources: `expert:TASK` streams, `expert-chunks:TASK` gives a whole chunk, and
`expert-timed-chunks:TASK` one that considers all that is executed until it is there.

A number after the task is the horizon: `expert:pick-from-conveyor:20`.
"""

from __future__ import annotations

from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import Policy
from streamvla.policy.sources import FoundPolicy, Settings
from streamvla.robots.expert_policy import HORIZON, ExpertPolicy
from streamvla.robots.registry import suite_of

EXPERTS = ("expert", "expert-chunks", "expert-timed-chunks")


def find_expert(rest: str) -> FoundPolicy:
    """The expert of a task, one action a pass."""
    return _find("expert", rest, chunks=False)


def find_chunk_expert(rest: str) -> FoundPolicy:
    """The expert of a task, its H actions after H passes, as a chunk policy gives them."""
    return _find("expert-chunks", rest, chunks=True)


def find_timed_expert(rest: str) -> FoundPolicy:
    """As `find_chunk_expert`, told its latency."""
    return _find("expert-timed-chunks", rest, chunks=True, timed=True)


def for_task(source: str, task: str) -> str:
    """The source of a policy for one task: an expert is another one in every task.

    >>> for_task("expert", "point"), for_task("shipped", "point")
    ('expert:point', 'shipped')
    """
    return f"{source}:{task}" if source in EXPERTS else source


def _find(name: str, rest: str, *, chunks: bool, timed: bool = False) -> FoundPolicy:
    task, _, number = rest.partition(":")
    if not task or (number and not number.isdecimal()):
        raise ConfigError(
            f"{name}:{rest}: expected {name}:TASK or {name}:TASK:HORIZON; where tasks are named "
            f"already, {name} alone will do"
        )
    horizon = int(number) if number else HORIZON
    suite_of(task).require(task)

    def load(settings: Settings) -> Policy:
        if settings:
            raise ConfigError(f"{', '.join(settings)}: an expert has no such settings")
        return ExpertPolicy(task, horizon, horizon if chunks else 0, timed=timed)

    return FoundPolicy(f"{name}-{horizon}", {"source": f"{name}:{task}:{horizon}"}, load)
