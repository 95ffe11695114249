"""Observations that are not encoded: the context before is used again, with its age.

    observation    0          1          2          3
    encoded        yes        no         yes        no
    context of     0          0          2          2
    its age        n          n + k      n          n + k      k actions from 0 to 1, n pending

A context that is used again starts from the action state of now, as always, and says how old its
frames are: the control periods between the captures, which are actions where the robot never halts.
So it is as good as the policy was trained for such ages (`SamplingConfig.max_offset`); ages beyond
`PolicySpec.max_age` count as that.

What decides is whether the *actions* would be others, not whether the pictures are. The rule here
encodes whenever the gripper has moved or was told to, for that is when a task enters another phase;
a learned gate (`policy.skip_gate`) foresees by how much the actions would differ, and decides
instead of the tolerances. Neither sees what moves by itself: `moved_levels` compares pixels away
from the gripper, and `most` bounds how long anything stays unseen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import numpy as np

from streamvla.core.cameras import Gaze
from streamvla.core.compute import ObservationCost
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import (
    CountingPolicy,
    FlowStart,
    Observation,
    Policy,
    PolicySpec,
    RephrasingPolicy,
    UnderstandingPolicy,
    begin_episode,
    remembering_nothing,
)
from streamvla.policy.changes import largest_change_away


class Gate(Protocol):
    """Decides whether a context may be used again, as `policy.skip_gate.LearnedGate` does."""

    @property
    def miss_rate(self) -> float:
        """What was asked for: the share of harmful observations that may be skipped."""
        ...

    @property
    def threshold(self) -> float:
        """What it came to in this gate; tells it from another one that was asked for the same."""
        ...

    def allows(
        self, context: Any, encoded: Observation, now: Observation, age: int, pending: np.ndarray
    ) -> bool:
        """Whether the context of `encoded`, `age` control periods before `now`, may be used.

        Args:
            pending: (d,) what actions that were made and not yet executed will do: their sum in
                delta dimensions, the last less the present command in absolute ones.
        """
        ...


@dataclass(frozen=True)
class SkipRule:
    """When an observation need not be encoded.

    Attributes:
        most: how often in a row.
        phase: so many observations of an episode are encoded before the first that may not be, one
            more than these; where in a task the encodings fall decides what they cost.
        oldest: control periods that frames may be old at a capture; older ones are made anew.
        opening: dimensions of the state that must not have changed, such as a gripper's opening:
            by default the last, as in Sawyer's and LIBERO's states.
        tolerance: by how much they may have, and absolute dimensions of the action state too.
        opening_tolerance: by how much the first may have; None: as `tolerance`.
        moved_levels: encode if a cell of 16 px away from the gripper changed by more grey levels
            than this since the last encoding; None: pixels do not count.
        gripper_px: cells within so many pixels of the gripper, where it was and where it is, do not
            count; of a robot whose cameras are known (`Gaze`). Of others every cell counts.
        arm_px: instead of `gripper_px`: cells above the gripper, so many pixels to each side, do
            not count (`largest_change_away`): of a robot whose arm hangs from above in every view.
            0: as `gripper_px` says.
        time_share: what a skipped observation takes of the time of an encoded one. Measured with
            the shipped policy on one thread of an AMD EPYC: .011.
    """

    most: int = 1
    phase: int = 0
    oldest: int = 20
    opening: tuple[int, ...] = (-1,)
    tolerance: float = 0.02
    time_share: float = 0.011
    opening_tolerance: float | None = None
    moved_levels: float | None = None
    gripper_px: float = 32.0
    arm_px: float = 0.0

    def __post_init__(self) -> None:
        if self.most < 1 or self.oldest < 1 or self.phase < 0:
            raise ConfigError(
                f"skipping: at most {self.most} in a row, frames up to {self.oldest} periods old, "
                f"phase {self.phase}; expected at least 1 of each, and a phase of 0 or more"
            )
        if not (self.tolerance >= 0 and 0 <= self.time_share <= 1):
            raise ConfigError(
                f"skipping: tolerance {self.tolerance}, share of the time {self.time_share}; "
                "expected a number ≥ 0 and a share from 0 to 1"
            )
        if self.opening_tolerance is not None and not self.opening_tolerance >= 0:
            raise ConfigError(
                f"skipping: tolerance of the opening {self.opening_tolerance}; expected a number "
                "≥ 0"
            )
        sizes = (self.moved_levels or 0.0, self.gripper_px, self.arm_px)
        if not all(0 <= size < np.inf for size in sizes):
            raise ConfigError(
                f"skipping: pixels that moved by {self.moved_levels} grey levels, "
                f"{self.gripper_px} px around the gripper, {self.arm_px} px of the arm; expected "
                "numbers ≥ 0"
            )

    def settings(self) -> dict[str, float]:
        """What differs from the defaults, for `PolicySpec.settings`."""
        named: dict[str, float | None] = {
            "skip_phase": float(self.phase) or None,
            "skip_tolerance": self.tolerance if self.tolerance != SkipRule.tolerance else None,
            "skip_opening": self.opening_tolerance,
            "skip_pixels": self.moved_levels,
            "skip_arm": self.arm_px or None,
        }
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Kept:
    """The context of an observation, for its own generation or for later ones.

    Attributes:
        context: of the policy inside.
        encoded: the observation behind it.
        age: control periods from its capture to that of the observation it stands for now.
        old_ns: the same as time.
        skips: observations in a row that were not encoded, this one included.
    """

    context: Any
    encoded: Observation
    age: int = 0
    old_ns: int = 0
    skips: int = 0


class SkippingPolicy:
    """A policy that does not encode every observation. Implements `Policy`.

    Args:
        policy: that encodes and generates.
        rule: when it need not encode.
        gate: decides instead of the rule's tolerances; made for this policy.

    Attributes:
        gaze: where the robot's cameras show its gripper, for `SkipRule.moved_levels`; at first what
            the policy knows of it.

    Raises:
        ConfigError: a policy that knows no ages, or does not count what observations cost; a state
            dimension that it does not have.
    """

    def __init__(self, policy: Policy, rule: SkipRule, gate: Gate | None = None) -> None:
        if not (policy.spec.max_age and policy.spec.counts):
            raise ConfigError(
                "skipping: the policy does not know how old an observation is (max_age "
                f"{policy.spec.max_age}) or does not count its costs; use one that was trained "
                "with max_offset above 0"
            )
        states = policy.spec.state_dim
        for index in rule.opening:
            if not -states <= index < states:
                raise ConfigError(
                    f"skipping: state dimension {index} of {states}; expected {-states} to "
                    f"{states - 1}"
                )
        settings = {**policy.spec.settings, "most_skips": float(rule.most)}
        settings |= rule.settings()
        if gate is not None:
            settings |= {"skip_gate": gate.miss_rate, "skip_gate_threshold": gate.threshold}
        self.spec: PolicySpec = replace(
            policy.spec,
            anticipates=False,
            thresholds=(),
            longest_lead=None,
            tells_goal=False,
            remembers=True,
            settings=settings,
        )
        self._policy = policy
        self._rule = rule
        self._gate = gate
        self.gaze: Gaze | None = policy.spec.gaze
        self._kept: Kept | None = None
        self._encoded = 0
        self._planned: np.ndarray | None = None

    def begin(self) -> None:
        """A new episode: nothing that was seen before counts."""
        begin_episode(self._policy)
        self._kept, self._encoded, self._planned = None, 0, None

    def apart(self) -> AbstractContextManager[None]:
        """As the policy inside."""
        return remembering_nothing(self._policy)

    def encode(self, observation: Observation) -> Kept:
        """The context of an observation; the one before with its age, if the rule allows that."""
        kept = self._again(observation)
        if kept is None:
            kept = Kept(self._policy.encode(observation), observation)
            self._encoded += 1
        self._kept = kept
        return kept

    def generate(self, context: Kept, start: FlowStart) -> Iterator[np.ndarray]:
        """As the policy inside, from frames that are so much older.

        Raises:
            ConfigError: the flow starts at a later step (the clock shift of early observation),
                and the context is one that was used before.
        """
        if context.age and start.index:
            raise ConfigError(
                "skipping cannot be combined with the clock shift: use the compensation 'state'"
            )
        older = replace(start, age=start.age + context.age)
        return self._noted(self._policy.generate(context.context, older), start.action_state)

    def continue_from(self, planned: np.ndarray | None) -> None:
        """Take (d,) as the action state that the actions made so far lead to, where contexts are
        made without driving; None: none was made yet."""
        self._planned = planned

    def _noted(self, actions: Iterator[np.ndarray], planned: np.ndarray) -> Iterator[np.ndarray]:
        """The same actions; where they lead is known by the next observation."""
        for action in actions:
            self._planned = planned = self.spec.action_space.advance(planned, action)
            yield action

    def clarity(self, instruction: str) -> float:
        """As the policy inside, if it is an `UnderstandingPolicy`."""
        return cast(UnderstandingPolicy, self._policy).clarity(instruction)

    def told(self, instruction: str) -> tuple[str, float]:
        """As the policy inside, if it is a `RephrasingPolicy`."""
        return cast(RephrasingPolicy, self._policy).told(instruction)

    def cost(self, made: Kept) -> ObservationCost:
        """Of an observation: as the policy inside counts it, or that of a skipped one."""
        cost = cast(CountingPolicy, self._policy).cost(made.context)
        if not made.skips:
            return cost
        share, pictures = self._rule.time_share, 1 if self.spec.gaze is None else 2
        return replace(
            cost,
            encodes=0,
            cache_hits=len(self.spec.views) * pictures + 1,  # and the instruction
            look_flops=0,
            context_flops=0,
            look_time=share,
            context_time=share,
            frames_old_ns=cost.frames_old_ns + made.old_ns,  # of a camera that rested, older
        )

    def _again(self, observation: Observation) -> Kept | None:
        """The context before, as that of this observation; None: it has to be encoded."""
        kept, rule = self._kept, self._rule
        if kept is None or kept.skips >= rule.most or self._encoded <= rule.phase:
            return None
        encoded = kept.encoded
        old_ns = observation.captured_ns - encoded.captured_ns
        age = round(old_ns / self.spec.control_period_ns)
        if not 0 < age <= rule.oldest or observation.instruction != encoded.instruction:
            return None
        if not self._unchanged(kept, observation, age) or self._something_moved(
            encoded, observation
        ):
            return None
        return replace(kept, age=age, old_ns=old_ns, skips=kept.skips + 1)

    def _unchanged(self, kept: Kept, observation: Observation, age: int) -> bool:
        """Whether the old context would do, by what is known without pixels."""
        encoded, rule = kept.encoded, self._rule
        if self._gate is not None:
            pending = self._pending(observation)
            return self._gate.allows(kept.context, encoded, observation, age, pending)
        absolute = ~self.spec.action_space.is_delta()
        told = np.abs(observation.action_state - encoded.action_state)[absolute]
        moved = np.abs(observation.state - encoded.state)[list(rule.opening)]
        opening = rule.tolerance if rule.opening_tolerance is None else rule.opening_tolerance
        return bool((told <= rule.tolerance).all() and (moved <= opening).all())

    def _pending(self, observation: Observation) -> np.ndarray:
        """(d,) what actions that were made and not yet executed will do, as far as is known."""
        if self._planned is None:
            return np.zeros(self.spec.action_space.dim)
        return self._planned - observation.action_state

    def _something_moved(self, encoded: Observation, observation: Observation) -> bool:
        """Whether something moved away from the gripper."""
        rule = self._rule
        if rule.moved_levels is None:
            return False
        then, now = (
            None if self.gaze is None else self.gaze.aim(each.state)
            for each in (encoded, observation)
        )  # (v, 2) each
        near = (rule.gripper_px, rule.arm_px)
        for number, view in enumerate(self.spec.views):
            around = [each[number] for each in (then, now) if each is not None]
            pair = (encoded.images[view], observation.images[view])
            if largest_change_away(*pair, around, *near) > rule.moved_levels:
                return True
        return False
