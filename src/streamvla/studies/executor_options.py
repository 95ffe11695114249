"""Executors by name: `synchronous`, `synchronous:5`, `action-flow:3`, `action-flow:auto`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from streamvla.core.errors import ConfigError, did_you_mean
from streamvla.core.interfaces import NO_ANTICIPATION, Policy
from streamvla.runtime.executors.action_flow import ActionFlow, Compensation, Replan
from streamvla.runtime.executors.base import Executor
from streamvla.runtime.executors.early import (
    ActionNorm,
    Adaptive,
    Always,
    AtRandom,
    EarlyRule,
    Never,
)
from streamvla.runtime.executors.registry import named_executor
from streamvla.runtime.executors.synchronous import Synchronous
from streamvla.runtime.timing.latency import LatencyProfile

AUTO = "auto"

RuleName = Literal["none", "always", "random", "action-norm", "adaptive"]
Refused = Literal["second-look", "fresh-look"]
PARTS = ("state", "context", "clock-shift")


@dataclass(frozen=True)
class EarlyOptions:
    """How an action-flow executor observes early.

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
        replan: when-due, or as-fast-as-possible: the newest context takes over at once.
    """

    early: RuleName | None = None
    rate: float = 0.5
    norm: float | None = None
    eta: tuple[float, ...] = ()
    compensation: str | None = None
    refused: Refused = "second-look"
    replan: Replan = "when-due"


def parse_executor(
    text: str,
    profile: LatencyProfile,
    horizon: int,
    options: EarlyOptions | None = None,
    policy: Policy | None = None,
    *,
    seed: int = 0,
    shared_accelerator: bool = True,
) -> Executor:
    """`NAME` or `NAME:N`: N is the execute horizon (synchronous) or the lead (action-flow).

    `action-flow:auto` aims at the smallest lead that reaches zero halt: at `profile` first, then
    by the stages as measured. Options do not concern the synchronous executor.

    Args:
        policy: whose calibrated thresholds the adaptive rule takes.
        seed: of the episode, for random draws.

    Raises:
        ConfigError: unknown executor or rule, a number out of range, or a policy that cannot look
            ahead under a rule that does.
    """
    options = options or EarlyOptions()
    name, _, setting = text.partition(":")
    if name == ActionFlow.name and (setting == AUTO or _needs_a_lead(setting, options)):
        executor: Executor = ActionFlow(0, measured_lead=True)
    elif not setting:
        executor = named_executor(name)
    else:
        number = _whole_number(text, setting)
        synchronous = name == Synchronous.name
        executor = named_executor(
            name,
            lead=0 if synchronous else number,
            execute_horizon=number if synchronous else None,
        )
    if isinstance(executor, ActionFlow):
        executor = _with_options(executor, profile, horizon, options, policy, seed)
        executor = replace(executor, shared_accelerator=shared_accelerator)
    executor.executed(horizon)
    return executor


def _needs_a_lead(setting: str, options: EarlyOptions) -> bool:
    looks_early = options.early not in (None, "none") or options.replan != "when-due"
    return not setting and looks_early


def _with_options(
    executor: ActionFlow,
    profile: LatencyProfile,
    horizon: int,
    options: EarlyOptions,
    policy: Policy | None,
    seed: int,
) -> ActionFlow:
    compensation = parse_compensation(options)
    rule = _rule(options, policy, seed)
    if options.replan == "when-due" and (
        isinstance(rule, Never) or (executor.lead == 0 and not executor.measured_lead)
    ):
        never = replace(compensation, context=False)
        return ActionFlow(0, Never(), never)
    executor = replace(executor, early=rule, compensation=compensation, replan=options.replan)
    if executor.anticipates:
        executor = _within_calibration(executor, policy)
    if executor.measured_lead:
        passes = (policy.spec.chunk_passes if policy is not None else 0) or 1
        lead = profile.zero_halt_lead(predicts=executor.anticipates, passes=passes)
        executor = replace(executor, lead=min(lead, executor.most_lead, horizon - 1))
    if executor.anticipates and policy is not None and not policy.spec.anticipates:
        raise ConfigError(NO_ANTICIPATION)
    return executor


def _within_calibration(executor: ActionFlow, policy: Policy | None) -> ActionFlow:
    """Look no farther ahead than the policy's predictor was calibrated for.

    Raises:
        ConfigError: the lead asked for is larger.
    """
    longest = getattr(policy, "longest_lead", None)
    if longest is None:
        return executor
    if executor.lead > longest and not executor.measured_lead:
        raise ConfigError(
            f"lead {executor.lead}: the saliency predictor of this policy was trained and "
            f"calibrated for up to {longest} pending actions (train-saliency --longest-lead)"
        )
    return replace(executor, most_lead=min(executor.most_lead, longest))


def parse_compensation(options: EarlyOptions) -> Compensation:
    """`none`, `state`, `state+clock-shift`, …

    Raises:
        ConfigError: an unknown part.
    """
    text = options.compensation
    if text is None:
        return Compensation()
    parts = [] if text == "none" else text.split("+")
    for part in parts:
        if part not in PARTS:
            raise did_you_mean("compensation", part, ("none", *PARTS))
    return Compensation("state" in parts, "context" in parts, "clock-shift" in parts)


def _rule(options: EarlyOptions, policy: Policy | None, seed: int) -> EarlyRule:
    match options.early:
        case None | "always":
            return Always()
        case "none":
            return Never()
        case "random":
            return AtRandom(options.rate, seed)
        case "action-norm":
            if options.norm is None:
                raise ConfigError("--early action-norm needs its threshold: --norm 2.0")
            return ActionNorm(options.norm)
        case "adaptive":
            return _adaptive(options, policy)
    raise did_you_mean("rule", str(options.early), get_args(RuleName))


def _adaptive(options: EarlyOptions, policy: Policy | None) -> Adaptive:
    """Thresholds as given, or else as the policy's predictor was calibrated (`thresholds`)."""
    eta = options.eta or getattr(policy, "thresholds", ())
    if policy is not None and not policy.spec.anticipates:
        raise ConfigError(NO_ANTICIPATION)
    if not eta:
        raise ConfigError(
            "the saliency predictor of this policy was not calibrated: run `streamvla "
            "train-saliency` again with --resume, or state thresholds with --eta"
        )
    views = policy.spec.views if policy is not None else ()
    if options.refused not in get_args(Refused):
        raise did_you_mean("refused", options.refused, get_args(Refused))
    return Adaptive(tuple(eta), views, options.refused == "second-look")


def seeded(executor: Executor, seed: int) -> Executor:
    """The executor with the random draws of the episode `seed`."""
    if isinstance(executor, ActionFlow) and isinstance(executor.early, AtRandom):
        return replace(executor, early=replace(executor.early, seed=seed))
    return executor


def require_seconds(seconds: float) -> None:
    """Raise `ConfigError` unless an episode may last this long."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise ConfigError(f"seconds {seconds}: an episode's limit must be finite and above 0")


def label(executor: Executor, horizon: int) -> str:
    """`synchronous, 5 of 10`; `action flow, lead 3`; `action flow, lead auto, adaptive early`."""
    if isinstance(executor, Synchronous):
        return f"synchronous, {executor.executed(horizon)} of {horizon}"
    lead = AUTO if executor.measured_lead else str(executor.lead)
    words = [
        "action flow",
        "replanning as fast as possible" if executor.replans else f"lead {lead}",
    ]
    if executor.early.decides:
        words.append(f"{executor.early.name} early")
    if executor.looks_again:
        words.append("second looks")
    if executor.compensation != Compensation():
        words.append(f"compensated: {compensation_words(executor.compensation)}")
    return ", ".join(words)


def compensation_words(compensation: Compensation) -> str:
    """`none`, `state`, `state+context`: as `parse_compensation` reads it."""
    flags = (compensation.state, compensation.context, compensation.clock_shift)
    return "+".join(part for part, on in zip(PARTS, flags, strict=True) if on) or "none"


def slug(executor: Executor) -> str:
    """The executor as a folder name: `synchronous-5`, `action-flow-3`, `action-flow-auto-…`."""
    if isinstance(executor, Synchronous):
        return "synchronous" + (f"-{executor.execute_horizon}" if executor.execute_horizon else "")
    lead = AUTO if executor.measured_lead else str(executor.lead)
    parts = [executor.name, "asap" if executor.replans else lead]
    match executor.early:
        case AtRandom(rate):
            parts.append(f"random{rate:g}")
        case ActionNorm(threshold):
            parts.append(f"norm{threshold:g}")
        case Adaptive(threshold, _, second_look):
            parts.append("adaptive" + "_".join(f"{eta:.4g}" for eta in threshold))
            parts += ["second-look"] * second_look
        case _:
            pass
    if executor.compensation != Compensation():
        parts.append(compensation_words(executor.compensation))
    return "-".join(parts)


def _whole_number(text: str, setting: str) -> int:
    if not setting.isdecimal():
        raise ConfigError(
            f"executor {text!r}: {setting!r} is no whole number; write for example "
            "synchronous:5, action-flow:3 or action-flow:auto"
        )
    return int(setting)
