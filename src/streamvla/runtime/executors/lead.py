"""The lead to aim at: fixed, or the smallest that hides the stages as they were measured."""

from __future__ import annotations

from typing import NamedTuple

from streamvla.runtime.executors.base import leads_to_cover
from streamvla.runtime.timing.estimates import WindowQuantile


class MeasuredTimes(NamedTuple):
    """What a lead goes by, ns; None where nothing was measured yet.

    Attributes:
        observe: `T_o`, from capture to context, waiting for the accelerator included.
        first_action: `g`, from context to the first action.
        execute: `e`, the control period.
    """

    observe: int | None
    first_action: int | None
    execute: int | None


class LeadPlanner:
    """Measures the stages of an episode, and gives the lead of the next cycle.

    Warm-up is left out, the past is forgotten, and one spike moves nothing (`WindowQuantile`).

    Args:
        lead: `n*` until enough is measured; for good if `most` is None.
        most: the largest that may be chosen; the smallest n with n·e ≥ T_o + g is, if it is not
            larger, and else this one.
    """

    def __init__(self, lead: int, most: int | None = None) -> None:
        self._lead = lead
        self._most = most
        self._observe = WindowQuantile()
        self._look = WindowQuantile(warm_up=0)
        self._first_action = WindowQuantile()
        self._execute_ns: int | None = None

    @property
    def times(self) -> MeasuredTimes:
        return MeasuredTimes(
            self._observe.estimate_ns, self._first_action.estimate_ns, self._execute_ns
        )

    @property
    def lead(self) -> int:
        """n* of the next cycle."""
        observe_ns, first_ns, period_ns = self.times
        if self._most is None or observe_ns is None or first_ns is None or not period_ns:
            return self._lead
        return min(leads_to_cover(observe_ns + first_ns, period_ns), self._most)

    @property
    def least_lead_to_look(self) -> int:
        """A look at a smaller lead may still be under way when nothing is pending any more."""
        look_ns = self._look.estimate_ns or 0
        return leads_to_cover(look_ns, self._execute_ns) if self._execute_ns else 1

    def observed(self, duration_ns: int, *, refused: bool) -> None:
        """A context, or a refusal, was ready so long after its capture."""
        (self._look if refused else self._observe).add(duration_ns)

    def first_action_made(self, duration_ns: int) -> None:
        """The first action was made so long after its context was there."""
        self._first_action.add(duration_ns)

    def executed(self, duration_ns: int) -> None:
        """One command took so long."""
        self._execute_ns = duration_ns
