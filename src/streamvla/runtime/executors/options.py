"""What a command says of an executor, and what it may ask: `NAME`, `NAME:N`, and options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import Policy
from streamvla.runtime.timing.latency import LatencyProfile

AUTO = "auto"

RuleName = Literal["none", "always", "random", "action-norm", "adaptive"]
Refused = Literal["second-look", "fresh-look"]
Replan = Literal["when-due", "as-fast-as-possible"]


@dataclass(frozen=True)
class EarlyOptions:
    """How an executor observes early: all of it for action flow, `replan` for asynchronous chunks.

    Attributes:
        early: the rule: none, always, random, action-norm or adaptive; default always, at the
            executor's lead. With a rule and no lead, the lead is auto.
        rate: of random.
        norm: threshold of action-norm, action units.
        eta: thresholds of adaptive, one per view; default those the predictor was calibrated to.
        compensation: none, or of state, context and clock-shift those that apply, joined by "+";
            default state.
        refused: what adaptive does with an early observation it objects to: second-look (act on it,
            and look again at once) or fresh-look (drop it, and wait until less is pending).
        replan: when-due, or as-fast-as-possible: the newest context takes over at once; of
            asynchronous chunks: the next is requested as soon as one has come.
    """

    early: RuleName | None = None
    rate: float = 0.5
    norm: float | None = None
    eta: tuple[float, ...] = ()
    compensation: str | None = None
    refused: Refused = "second-look"
    replan: Replan = "when-due"


@dataclass(frozen=True)
class Request:
    """Everything an executor may be made from.

    Attributes:
        text: as typed; `setting` what stands behind its colon, or "".
        profile: stage times, for a lead that is not stated.
        horizon: H of the policy.
        policy: whose calibrated thresholds the adaptive rule takes; None for a policy to come.
        seed: of the episode, for random draws.
        shared_accelerator: encoding and generating take turns.
    """

    text: str
    setting: str
    profile: LatencyProfile
    horizon: int
    options: EarlyOptions = field(default_factory=EarlyOptions)
    policy: Policy | None = None
    seed: int = 0
    shared_accelerator: bool = True

    def number(self) -> int:
        """The setting as a whole number.

        Raises:
            ConfigError: it is none.
        """
        if not self.setting.isdecimal():
            raise ConfigError(
                f"executor {self.text!r}: {self.setting!r} is no whole number; write for example "
                "synchronous:5, action-flow:3, action-flow:auto or action-flow:up-to-9"
            )
        return int(self.setting)
