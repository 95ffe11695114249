"""How observation, generation and execution are ordered: one frozen dataclass per method.

Synchronous     observe ── generate a0…a9 ── a0 a1 … a9 ── observe ── …
ActionFlow      observe ── a0 a1 … a9 (each sent as soon as it is made) ── observe ── …
ActionFlow, n=2 observe ── a0 a1 … a7 a8 a9 a0 a1 …
                                  └ observe the next while a8 and a9 are pending
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from streamvla.core.errors import ConfigError, did_you_mean
from streamvla.runtime.executors.early import Adaptive, Always, EarlyRule

Replan = Literal["when-due", "as-fast-as-possible"]


@dataclass(frozen=True)
class Synchronous:
    """Observe, generate a whole chunk, execute, repeat: the classic way.

    Attributes:
        execute_horizon: how many of the H generated actions are executed; None for all.
    """

    execute_horizon: int | None = None

    name = "synchronous"
    lead = 0
    streams = False
    replans = False
    anticipates = False

    def executed(self, horizon: int) -> int:
        """Actions executed per observation, of the `horizon` generated."""
        executed = horizon if self.execute_horizon is None else self.execute_horizon
        if not 1 <= executed <= horizon:
            raise ConfigError(f"execute horizon {executed} must lie between 1 and H = {horizon}")
        return executed


@dataclass(frozen=True)
class Compensation:
    """What a generation makes of the actions executed since its observation was captured.

    Attributes:
        state: the flow starts at the action state after everything sent and pending; False: at
            that of the capture, as if nothing had happened since (the published code).
        context: the context is made from what the cameras will show once the pending actions are
            executed, as the saliency predictor has it.
        clock_shift: the flow starts at step n, and gives H − n actions: at (α + Σ pending, n/H) an
            unaugmented policy stands on a path it was shown.
    """

    state: bool = True
    context: bool = False
    clock_shift: bool = False


@dataclass(frozen=True)
class ActionFlow:
    """Every flow step is sent as the next action (StreamingVLA, arXiv 2603.28565, section 4).

    Attributes:
        lead: `n*`, how many actions are still pending when the next observation is wanted; 0 waits
            until the last one is executed. The generation on that observation starts from the
            action state *after* the pending actions (compensation 1, which the published code
            leaves out).
        early: whether to look then, or later.
        compensation: for what is executed between look and generation.
        measured_lead: from the third cycle on, aim at the smallest lead that hides observing and
            the first action as they are measured; `lead` stands for it before.
        most_lead: the largest that may then be chosen; H − 1 if that is smaller.
        replan: "as-fast-as-possible": observe again whenever the encoder is idle, and let the
            newest context take over from the next uncommitted action on. Lead and rule play no
            part.
        shared_accelerator: encoding and generating take turns; replanning then waits until
            enough actions are made to bridge the next observation.
    """

    lead: int = 0
    early: EarlyRule = field(default_factory=Always)
    compensation: Compensation = field(default_factory=Compensation)
    measured_lead: bool = False
    most_lead: int = 6
    replan: Replan = "when-due"
    shared_accelerator: bool = True

    name = "action-flow"
    streams = True

    def __post_init__(self) -> None:
        if self.replan not in ("when-due", "as-fast-as-possible"):
            raise did_you_mean("replan", self.replan, ("when-due", "as-fast-as-possible"))
        if self.most_lead < 1:
            raise ConfigError(f"largest lead {self.most_lead} must be at least 1")
        if self.replans and (self.compensation.context or self.early.decides):
            raise ConfigError(
                "replanning as fast as possible looks whenever it can: it takes no rule for early "
                "observation and no compensation of the context"
            )
        if self.looks_again and self.compensation.context:
            raise ConfigError(
                "a second look is used as it is, not with its context compensated: wait for a "
                "fresh look instead (--refused fresh-look), or leave the context alone"
            )

    @property
    def replans(self) -> bool:
        """Whether the newest context takes over at once."""
        return self.replan == "as-fast-as-possible"

    @property
    def looks_again(self) -> bool:
        """Whether what the rule objects to is looked at twice."""
        return isinstance(self.early, Adaptive) and self.early.second_look

    @property
    def anticipates(self) -> bool:
        """Whether the policy must be an `AnticipatingPolicy`."""
        return self.compensation.context or isinstance(self.early, Adaptive)

    def executed(self, horizon: int) -> int:
        """Actions executed per observation, of the `horizon` generated."""
        if not 0 <= self.lead < horizon:
            raise ConfigError(f"lead {self.lead} must be at least 0 and below H = {horizon}")
        return horizon


Executor = Synchronous | ActionFlow


def named_executor(name: str, *, lead: int = 0, execute_horizon: int | None = None) -> Executor:
    """The executor of that name; `ConfigError` for an unknown one or a setting it has not."""
    if name == Synchronous.name:
        if lead:
            raise ConfigError(
                f"lead {lead}: the synchronous executor never observes early; "
                "use --executor action-flow or leave --lead out"
            )
        return Synchronous(execute_horizon)
    if name == ActionFlow.name:
        if execute_horizon is not None:
            raise ConfigError(
                f"execute horizon {execute_horizon}: action flow executes all H actions; "
                "use --executor synchronous or leave --execute-horizon out"
            )
        return ActionFlow(lead)
    raise did_you_mean("executor", name, [Synchronous.name, ActionFlow.name])
