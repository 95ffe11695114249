"""How observation, generation and execution are ordered: one frozen dataclass per method.

Synchronous     observe ── generate a0…a9 ── a0 a1 … a9 ── observe ── …
ActionFlow      observe ── a0 a1 … a9 (each sent as soon as it is made) ── observe ── …
ActionFlow, n=2 observe ── a0 a1 … a7 a8 a9 a0 a1 …
                                  └ observe the next while a8 and a9 are pending
"""

from __future__ import annotations

from dataclasses import dataclass

from streamvla.core.errors import ConfigError, did_you_mean


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

    def executed(self, horizon: int) -> int:
        """Actions executed per observation, of the `horizon` generated."""
        executed = horizon if self.execute_horizon is None else self.execute_horizon
        if not 1 <= executed <= horizon:
            raise ConfigError(f"execute horizon {executed} must lie between 1 and H = {horizon}")
        return executed


@dataclass(frozen=True)
class ActionFlow:
    """Every flow step is sent as the next action (StreamingVLA, arXiv 2603.28565, section 4).

    Attributes:
        lead: `n`, how many actions are still pending when the next observation starts; 0 waits
            until the last one is executed. The generation on that observation starts from the
            action state *after* the pending actions (compensation 1, which the published code
            leaves out).
    """

    lead: int = 0

    name = "action-flow"
    streams = True

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
