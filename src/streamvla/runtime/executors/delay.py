"""How many control ticks go by until a chunk that is requested now can be used, as measured."""

from __future__ import annotations

from streamvla.runtime.executors.base import Generation, Plan, leads_to_cover
from streamvla.runtime.timing.estimates import WindowQuantile


class ChunkDelay:
    """Measures whole chunks from request to last action, and gives the delay of the next, in ticks.

    It is `d` of real-time chunking (arXiv 2506.07339, section 3), by a high quantile instead of the
    largest of the past: warm-up is left out and one spike moves nothing (`WindowQuantile`).

    Of the first two chunks of an episode no delay is known: the first is warm-up, the second the
    first one measured. An executor's decisions are not given a latency profile, and a profile's
    nominal times would be wrong under jitter or stress, so a policy that uses the delay starts
    without it.

    Args:
        horizon: H, actions of a chunk.
    """

    def __init__(self, horizon: int) -> None:
        self._horizon = horizon
        self._chunk = WindowQuantile()
        self._period_ns: int | None = None

    def made(self, generation: Generation, now_ns: int) -> None:
        """A flow step is done (`Decisions.made`)."""
        if generation.next_index == self._horizon - 1:
            self._chunk.add(now_ns - generation.requested_ns)

    def command_took(self, duration_ns: int) -> None:
        """One command took so long."""
        self._period_ns = duration_ns

    def ticks(self, plan: Plan, now_ns: int) -> int | None:
        """Control ticks that fall before a chunk requested now is whole; None: nothing measured."""
        chunk_ns = self._chunk.estimate_ns
        if chunk_ns is None or not self._period_ns:
            return None
        left_ns = chunk_ns - plan.until_next_ns(now_ns, self._period_ns)
        return leads_to_cover(left_ns, self._period_ns)
