"""Experts as policy sources: `expert:TASK` streams, `expert-chunks:TASK` gives a whole chunk, and
`expert-timed-chunks:TASK` one that considers all that is executed until it is there, and
`expert-long-chunks:TASK` the same for a second of the robot's time, after ten passes as well.

A number after the task is the horizon: `expert:pick-from-conveyor:20`. `look` and `context` are
what the two parts of an observation take, as shares of what they take on whole frames
(`core.compute.ObservationCost`): `expert:pick-from-conveyor:look=0.9:context=0.55`. Where tasks are
named anyway, the task is left out: `expert`, `expert:look=0.9:context=0.55`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from streamvla.core.clock import NS_PER_S
from streamvla.core.compute import ObservationCost
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import Policy
from streamvla.core.numbers import exact
from streamvla.policy.sources import FoundPolicy, Settings
from streamvla.robots.expert_policy import HORIZON, CostedExpert, ExpertPolicy
from streamvla.robots.registry import suite_of

EXPERTS = ("expert", "expert-chunks", "expert-timed-chunks", "expert-long-chunks")
_SHARES = ("look", "context")


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


def of_every_task(source: str) -> bool:
    """Whether a source is an expert whose task is not named: it is another one in every task.

    >>> of_every_task("expert:look=0.9"), of_every_task("expert:point"), of_every_task("shipped")
    (True, False, False)
    """
    name, *parts = source.split(":")
    return name in EXPERTS and all("=" in part for part in parts)


def for_task(source: str, task: str) -> str:
    """The source of a policy for one task.

    >>> for_task("expert:look=0.9", "point"), for_task("shipped", "point")
    ('expert:point:look=0.9', 'shipped')
    """
    name, colon, options = source.partition(":")
    return f"{name}:{task}{colon}{options}" if of_every_task(source) else source


def _find(
    name: str, rest: str, *, chunks: bool, timed: bool = False, horizon: int = HORIZON
) -> FoundPolicy:
    task, *parts = rest.split(":")
    numbers = [part for part in parts if part.isdecimal()]
    cost = _stated_cost(f"{name}:{rest}", (part for part in parts if not part.isdecimal()))
    if not task or "=" in task or len(numbers) > 1:
        raise ConfigError(
            f"{name}:{rest}: expected {name}:TASK or {name}:TASK:HORIZON; where tasks are named "
            f"already, {name} alone will do"
        )
    horizon = int(*numbers) if numbers else horizon
    passes = HORIZON if name == "expert-long-chunks" else horizon
    suite_of(task).require(task)
    shares = () if cost is None else zip(_SHARES, (cost.look_time, cost.context_time), strict=True)
    stated = [f"{share}={exact(value)}" for share, value in shares]

    def load(settings: Settings) -> Policy:
        if settings:
            raise ConfigError(f"{', '.join(settings)}: an expert has no such settings")
        settled = (task, horizon, passes if chunks else 0)
        if cost is None:
            return ExpertPolicy(*settled, timed=timed)
        return CostedExpert(cost, *settled, timed=timed)

    source = ":".join([name, task, str(horizon), *stated])
    return FoundPolicy(f"{name}-{horizon}", {"source": source}, load)


def _stated_cost(source: str, parts: Iterable[str]) -> ObservationCost | None:
    """Of `look=SHARE` and `context=SHARE`; None: neither is stated."""
    shares: dict[str, float] = {}
    for part in parts:
        share, _, text = part.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if share not in _SHARES or share in shares or not 0 <= value < math.inf:
            raise ConfigError(
                f"{source}: {part!r} is neither a horizon nor one of look=SHARE and "
                "context=SHARE, each once, with a number ≥ 0; expected such as look=0.9"
            )
        shares[share] = value
    if not shares:
        return None
    return ObservationCost(look_time=shares.get("look", 1), context_time=shares.get("context", 1))
