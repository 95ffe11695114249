"""Action flow: every action is sent as soon as it is made, and the next look may be early.

    lead 0     observe ── a0 a1 … a9 ── observe ── …
    lead 2     observe ── a0 a1 … a7 a8 a9 a0 a1 …
                                    └ observe the next while a8 and a9 are pending

Sources: StreamingVLA (arXiv 2603.28565) section 4; early observation in `early.py`, the lead in
`lead.py`, second looks and replanning in docs/decisions/0021 and 0022.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.clock import NS_PER_MS
from streamvla.core.errors import ConfigError, did_you_mean
from streamvla.core.interfaces import NO_ANTICIPATION, FlowStart, Policy, PolicySpec
from streamvla.core.numbers import exact
from streamvla.runtime.buffer import LateRule, Shift
from streamvla.runtime.executors.base import (
    Capture,
    Decisions,
    Generation,
    Look,
    Placement,
    Plan,
    Saliency,
    Takeover,
    append_when_made,
    leads_to_cover,
    prefix_of,
)
from streamvla.runtime.executors.early import (
    ActionNorm,
    Adaptive,
    Always,
    AtRandom,
    EarlyRule,
    Never,
)
from streamvla.runtime.executors.early_observer import EarlyObserver, smaller_lead
from streamvla.runtime.executors.lead import LeadPlanner
from streamvla.runtime.executors.options import (
    AUTO,
    EarlyOptions,
    Refused,
    Replan,
    Request,
    RuleName,
)
from streamvla.runtime.timing.latency import LatencyProfile
from streamvla.trace import EarlyDecided, LeadChosen, TraceSink

PARTS = ("state", "context", "clock-shift")


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

    def words(self) -> str:
        """`none`, `state`, `state+context`: the parts that apply, in the order of `PARTS`."""
        flags = (self.state, self.context, self.clock_shift)
        return "+".join(part for part, on in zip(PARTS, flags, strict=True) if on) or "none"


@dataclass(frozen=True, init=False)
class ActionFlow:
    """Every flow step is sent as the next action (StreamingVLA, arXiv 2603.28565, section 4).

    Attributes:
        lead: `n*`, how many actions are still pending when the next observation is wanted; 0 waits
            until the last one is executed; "auto" for `measured_lead`. The generation on that
            observation starts from the action state *after* the pending actions (compensation 1,
            which the published code leaves out).
        early: whether to look then, or later.
        compensation: for what is executed between look and generation.
        measured_lead: from the third cycle on, aim at the smallest lead that hides observing and
            the first action as they are measured; `lead` stands for it before.
        most_lead: the largest that may then be chosen; H − 1 if that is smaller.
        accepts_halts: a measured lead that would have to be larger is this one, and the robot halts
            for the rest; False refuses stage times that no allowed lead can hide.
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
    accepts_halts: bool = False

    name = "action-flow"
    streams = True
    overlaps = True
    counts = "lead"

    def __init__(
        self,
        lead: int | Literal["auto"] = 0,
        early: EarlyRule = Always(),  # noqa: B008 (frozen)
        compensation: Compensation = Compensation(),
        measured_lead: bool = False,
        most_lead: int = 6,
        replan: Replan = "when-due",
        shared_accelerator: bool = True,
        accepts_halts: bool = False,
    ) -> None:
        settings = {
            "lead": 0 if lead == AUTO else lead,
            "early": early,
            "compensation": compensation,
            "measured_lead": measured_lead or lead == AUTO,
            "most_lead": most_lead,
            "replan": replan,
            "shared_accelerator": shared_accelerator,
            "accepts_halts": accepts_halts,
        }
        for name, value in settings.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        if not _is_lead(self.lead):
            raise ConfigError(f'lead {self.lead!r}: expected a whole number ≥ 0, or "auto"')
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

    @classmethod
    def configured(cls, request: Request) -> ActionFlow:
        """`action-flow[:lead|:auto|:up-to-lead]` with its options. Auto aims at the smallest lead
        that reaches zero halt: at the profile first, then by the stages as measured; up to a lead
        does the same, and accepts the halts where it would take a larger one.

        Raises:
            ConfigError: an unknown rule, a number out of range, or a policy that cannot look ahead
                under a rule that does.
        """
        setting, options = request.setting, request.options
        up_to = re.fullmatch(r"up-to-([1-9]\d*)", setting)
        if up_to:
            executor = cls(AUTO, most_lead=int(up_to[1]), accepts_halts=True)
        elif setting == AUTO or (not setting and _needs_a_lead(options)):
            executor = cls(0, measured_lead=True)
        else:
            executor = cls(request.number() if setting else 0)
        executor = _with_options(executor, request)
        return replace(executor, shared_accelerator=request.shared_accelerator)

    def fitted(
        self, policy: PolicySpec, profile: LatencyProfile, *, shared_accelerator: bool = True
    ) -> ActionFlow:
        """A measured lead starts at the smallest that reaches zero halt at these stage times.

        Raises:
            ConfigError: a policy that cannot look ahead under a rule that does; or a lead beyond
                its horizon, its calibration, or `most_lead`.
        """
        if self.anticipates and not policy.anticipates:
            raise ConfigError(NO_ANTICIPATION)
        executor = _within_calibration(self, policy) if self.anticipates else self
        if executor.measured_lead:
            executor = replace(executor, lead=_zero_halt_lead(executor, policy, profile))
        executor.executed(policy.horizon)
        return replace(executor, shared_accelerator=shared_accelerator)

    def require_late_rule(self, late: LateRule) -> None:
        """Replanning at any time knows no ticks, so it needs `Shift`."""
        if (self.replans or self.looks_again) and not isinstance(late, Shift):
            raise ConfigError(
                f"{late} plans by control ticks; replanning at any time, as after a second look, "
                "needs Shift"
            )

    def begin(self, space: ActionSpace, horizon: int, trace: TraceSink) -> Decisions:
        return _Decisions(self, space, horizon, trace)

    def seeded(self, seed: int) -> ActionFlow:
        if not isinstance(self.early, AtRandom):
            return self
        return replace(self, early=replace(self.early, seed=seed))

    def label(self, horizon: int) -> str:
        """`action flow, lead 3`; `action flow, lead auto, adaptive early`."""
        lead = self._lead_words()
        words = [
            "action flow",
            f"replanning as fast as possible{self._bridge(', ')}"
            if self.replans
            else f"lead {lead}",
        ]
        if self.early.decides:
            words.append(f"{self.early.name} early")
        if self.looks_again:
            words.append("second looks")
        if self.compensation != Compensation():
            words.append(f"compensated: {self.compensation.words()}")
        return ", ".join(words)

    def _bridge(self, between: str) -> str:
        """What replanning bridges at the most, if that was stated."""
        return f"{between}{self._lead_words()}" if self.accepts_halts else ""

    def _lead_words(self) -> str:
        if not self.measured_lead:
            return str(self.lead)
        return f"up to {self.most_lead}" if self.accepts_halts else "auto"

    def slug(self) -> str:
        """`action-flow-3`, `action-flow-auto-…`."""
        lead = self._lead_words()
        parts = [self.name, f"asap{self._bridge('-')}" if self.replans else lead]
        match self.early:
            case AtRandom(rate):
                parts.append(f"random{exact(rate)}")
            case ActionNorm(threshold):
                parts.append(f"norm{exact(threshold)}")
            case Adaptive(threshold, _, second_look):
                parts.append("adaptive" + "_".join(map(exact, threshold)))
                parts += ["second-look"] * second_look
            case _:
                pass
        if self.compensation != Compensation():
            parts.append(self.compensation.words())
        return "-".join(parts).replace(" ", "-")


class _Decisions(Decisions):
    """Of one episode of action flow."""

    def __init__(
        self, executor: ActionFlow, space: ActionSpace, horizon: int, trace: TraceSink
    ) -> None:
        self._executor = executor
        self._executed = executor.executed(horizon)
        self._trace = trace
        self._early = EarlyObserver(executor.early, space, correct=executor.compensation.context)
        self._planner = _planner(executor, horizon)
        self._lead = -1  # aimed at in this cycle
        self._next_lead = self._planner.lead  # lower than that after a refusal
        self._doubted = False  # the present context only bridges the time until a second look
        self._second_look: int | None = None  # the latest observation that was one
        self._sent_at_capture = -1  # commands, at the latest one
        self._step_left_ns = 0  # of a cancelled generation, before the next can start

    # --- looking ---------------------------------------------------------------------------------

    @property
    def looks_between(self) -> bool:
        return self._executor.replans or self._doubted

    def look(self, plan: Plan, now_ns: int) -> Look | None:
        if self._executor.replans:
            return self._replan(plan) if self._may_replan(plan, now_ns) else None
        pending = plan.pending
        if pending == 0:
            return Look()
        if self._doubted and self._may_replan(plan, now_ns):
            self._second_look = plan.next_observation
            return replace(self._replan(plan), again=True)
        return self._look_early(plan, pending, now_ns) if pending <= self._next_lead else None

    def looked(self, plan: Plan) -> None:
        self._doubted = False
        self._sent_at_capture = plan.sent

    def _look_early(self, plan: Plan, pending: int, now_ns: int) -> Look | None:
        """Ask the rule. Pending actions that are not made yet are taken to repeat the last one."""
        actions: list[np.ndarray] = []
        if self._early.needs_plan:
            actions = [plan.space.clip(each.values) for each in plan.buffered]
            if not actions:
                return None
            actions += actions[-1:] * (pending - len(actions))
        answer = self._early.ask(actions)
        if answer.look:
            if answer.cause:
                self._decided(now_ns, plan.next_observation, pending, answer.cause, accepted=True)
            return Look(answer.foresee)
        self._next_lead = answer.next_lead
        self._decided(now_ns, -1, pending, answer.cause, accepted=False)
        return None

    def _decided(
        self,
        now_ns: int,
        observation: int,
        lead: int,
        cause: str,
        *,
        accepted: bool,
        saliency: Saliency = (),
        second_look: bool = False,
    ) -> None:
        rule = self._early.rule
        threshold = rule.threshold if isinstance(rule, Adaptive) else ()
        next_lead = lead if accepted or second_look else self._next_lead
        told = (accepted, cause, next_lead, saliency, threshold, second_look)
        self._trace.record(EarlyDecided(now_ns, observation, lead, *told))

    # --- a context, or a refusal -----------------------------------------------------------------

    def observed(
        self, plan: Plan, capture: Capture, saliency: Sequence[Saliency], now_ns: int
    ) -> Takeover | None:
        self._planner.observed(now_ns - capture.now_ns, refused=False)
        self._judge(capture, saliency, now_ns)
        if self._executor.replans or capture.number == self._second_look:
            return Takeover(self._committed(plan, now_ns))
        return None

    def _judge(self, capture: Capture, saliency: Sequence[Saliency], now_ns: int) -> None:
        """Whether an observation that will be used calls for a second look."""
        rule = self._early.rule
        if not saliency or not isinstance(rule, Adaptive):
            return
        objection = rule.objection(saliency[0])
        self._doubted = rule.second_look and objection is not None
        self._decided(
            now_ns,
            capture.number,
            capture.pending,
            objection or "saliency within its threshold",
            accepted=objection is None,
            saliency=saliency[0],
            second_look=self._doubted,
        )

    def refused(
        self, plan: Plan, capture: Capture, saliency: Sequence[Saliency], now_ns: int
    ) -> None:
        """Schedule the largest smaller lead that passes."""
        rule = self._early.rule
        if not isinstance(rule, Adaptive):
            raise ValueError(f"observation {capture.number} was refused under {rule}")
        self._planner.observed(now_ns - capture.now_ns, refused=True)
        least = self._planner.least_lead_to_look
        self._next_lead = smaller_lead(rule, saliency, plan.pending, least)
        cause = rule.objection(saliency[0]) or "refused"
        self._decided(
            now_ns, capture.number, capture.pending, cause, accepted=False, saliency=saliency[0]
        )

    # --- generating ------------------------------------------------------------------------------

    def start(self, plan: Plan, capture: Capture, now_ns: int) -> FlowStart:
        """After what was executed and is pending since the capture, as far as is compensated."""
        since = plan.actions_sent + len(plan.buffered) - capture.actions_sent
        parts = self._executor.compensation
        index = min(since, plan.horizon - 1) if parts.clock_shift else 0
        prefix, delay = prefix_of(plan), self._delay(plan, now_ns)
        if not parts.state:
            return FlowStart(capture.action_state, index, 0, prefix, delay)
        return FlowStart(plan.planned_state(), index, 0 if index else since, prefix, delay)

    def _delay(self, plan: Plan, now_ns: int) -> int:
        """Control ticks until the first action can be there; 0 until that was measured."""
        _, first_ns, period_ns = self._planner.times
        if first_ns is None or not period_ns:
            return 0
        needed_ns = first_ns + self._step_left_ns
        return leads_to_cover(needed_ns - plan.until_next_ns(now_ns, period_ns), period_ns)

    def begun(self, now_ns: int) -> None:
        self._step_left_ns = 0
        self._next_lead = self._planner.lead
        if self._next_lead != self._lead:
            self._lead = self._next_lead
            times = (-1 if each is None else each for each in self._planner.times)
            if self._executor.measured_lead:
                self._trace.record(LeadChosen(now_ns, self._lead, *times))

    def made(self, generation: Generation, started_ns: int, now_ns: int) -> None:
        if generation.next_index == generation.first_index:
            since_ns = started_ns if generation.replaces else generation.requested_ns
            self._planner.first_action_made(now_ns - since_ns)

    def place(self, plan: Plan, generation: Generation, *, last: bool) -> Placement:
        return append_when_made(generation, self._executed)

    def command_took(self, duration_ns: int) -> None:
        self._planner.executed(duration_ns)

    def stopped(self) -> None:
        self._doubted = False

    # --- replanning as fast as possible ----------------------------------------------------------

    def _replan(self, plan: Plan) -> Look:
        """Look; on a shared accelerator right after the step under way: what the generation would
        still make would only be in the way."""
        return Look(stop_generating=self._executor.shared_accelerator)

    def _may_replan(self, plan: Plan, now_ns: int) -> bool:
        """Whether the encoder can be spared: a command was sent since the last capture, every
        context gives an action first, and what is made can bridge the next observation if
        generating must wait for it."""
        if plan.sent == self._sent_at_capture:
            return False
        generation = plan.generation
        if generation is None:
            return True
        if generation.next_index == generation.first_index:
            return False
        return not self._executor.shared_accelerator or self._bridged(plan, now_ns)

    def _bridged(self, plan: Plan, now_ns: int) -> bool:
        """Whether what is made, the step under way included, covers that step, observing and a
        first action."""
        observe_ns, first_ns, period_ns = self._planner.times
        if observe_ns is None or first_ns is None or not period_ns:
            return len(plan.buffered) >= self._planner.lead
        made = len(plan.buffered) + 1
        covered_ns = plan.until_next_ns(now_ns, period_ns) + made * period_ns
        return covered_ns >= _step_left_ns(plan, now_ns, first_ns) + observe_ns + first_ns

    def _committed(self, plan: Plan, now_ns: int) -> int:
        """How many actions are due before a generation that starts now can have made its first.

        The one under way is cancelled, but the step it is at still has to end.
        """
        _, first_ns, period_ns = self._planner.times
        if first_ns is None or not period_ns:
            return len(plan.buffered)
        self._step_left_ns = _step_left_ns(plan, now_ns, first_ns)
        return self._delay(plan, now_ns)


def _is_lead(value: object) -> bool:
    return isinstance(value, int) and value >= 0


def _step_left_ns(plan: Plan, now_ns: int, step_ns: int) -> int:
    """How long the step that a generation is at may still take; it cannot be called back."""
    generation = plan.generation
    if generation is None:
        return 0
    return min(max(0, generation.step_since_ns + step_ns - now_ns), step_ns)


def _planner(executor: ActionFlow, horizon: int) -> LeadPlanner:
    if isinstance(executor.early, Never):
        return LeadPlanner(0)
    most = min(executor.most_lead, horizon - 1)
    return LeadPlanner(executor.lead, most if executor.measured_lead or executor.replans else None)


# --- from what a command says ----------------------------------------------------------------


def _needs_a_lead(options: EarlyOptions) -> bool:
    return options.early not in (None, "none") or options.replan != "when-due"


def _with_options(executor: ActionFlow, request: Request) -> ActionFlow:
    options, policy = request.options, request.policy
    compensation = parse_compensation(options)
    rule = _rule(options, policy, request.seed)
    if options.replan == "when-due" and (
        isinstance(rule, Never) or (executor.lead == 0 and not executor.measured_lead)
    ):
        never = replace(compensation, context=False)
        return ActionFlow(0, Never(), never)
    executor = replace(executor, early=rule, compensation=compensation, replan=options.replan)
    if policy is not None:
        return executor.fitted(policy.spec, request.profile)
    if executor.measured_lead:
        lead = request.profile.zero_halt_lead(predicts=executor.anticipates)
        executor = replace(executor, lead=min(lead, executor.most_lead, request.horizon - 1))
    return executor


def _zero_halt_lead(executor: ActionFlow, policy: PolicySpec, profile: LatencyProfile) -> int:
    """The smallest lead that hides observing and the policy's first action.

    Raises:
        ConfigError: it is larger than the executor or the horizon allow.
    """
    passes = policy.chunk_passes or 1
    lead = profile.zero_halt_lead(predicts=executor.anticipates, passes=passes)
    most = min(executor.most_lead, policy.horizon - 1)
    if executor.replans or executor.accepts_halts:
        return min(lead, most)  # it bridges what it can
    if lead > most:
        busy_ms = (profile.observe_ns + passes * profile.generate_ns) / NS_PER_MS
        raise ConfigError(
            f"lead auto: observing and the first action take {busy_ms:.0f} ms, which takes lead "
            f"{lead} to hide; at most {most} is allowed (most_lead {executor.most_lead}, horizon "
            f"{policy.horizon}). State the lead and accept the halts, allow a larger one, or make "
            "the policy faster"
        )
    return lead


def _within_calibration(executor: ActionFlow, policy: PolicySpec) -> ActionFlow:
    """Look no farther ahead than the policy's predictor was calibrated for.

    Raises:
        ConfigError: the lead asked for is larger.
    """
    longest = policy.longest_lead
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
    eta = options.eta or (() if policy is None else policy.spec.thresholds)
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
