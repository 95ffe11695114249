"""Observations that are not encoded: the context before is used again, with its age.

    observation    0          1          2          3
    encoded        yes        no         yes        no
    context of     0          0          2          2
    its age        n          n + k      n          n + k      k actions from 0 to 1, n pending

A context that is used again starts from the action state of now, as always, and says how old its
frames are: the control periods between the captures, which are actions where the robot never halts.
So it is as good as the policy was trained for such ages (`SamplingConfig.max_offset`); ages beyond
`PolicySpec.max_age` count as that.

What decides is whether the *actions* would be others, not whether the pictures are: the rule here
encodes whenever the gripper has moved or was told to, for that is when a task enters another phase.
It cannot see what moves by itself; `most` bounds how long that stays unseen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from streamvla.core.compute import ObservationCost
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import (
    CountingPolicy,
    FlowStart,
    Observation,
    Policy,
    PolicySpec,
    UnderstandingPolicy,
    begin_episode,
)


@dataclass(frozen=True)
class SkipRule:
    """When an observation need not be encoded.

    Attributes:
        most: how often in a row.
        phase: so many observations of an episode are encoded before the first that may not be, one
            more than these; where in a task the encodings fall decides what they cost.
        oldest: control periods that frames may be old at a capture; older ones are made anew.
        opening: dimensions of the state that must not have changed, such as a gripper's opening.
        tolerance: by how much they may have, and absolute dimensions of the action state too.
        time_share: what a skipped observation takes of the time of an encoded one. Measured with
            the shipped policy on one thread of an AMD EPYC: .011.
    """

    most: int = 1
    phase: int = 0
    oldest: int = 20
    opening: tuple[int, ...] = (-1,)
    tolerance: float = 0.02
    time_share: float = 0.011

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

    Raises:
        ConfigError: a policy that knows no ages, or does not count what observations cost; a state
            dimension that it does not have.
    """

    def __init__(self, policy: Policy, rule: SkipRule) -> None:
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
        settings |= {"skip_phase": float(rule.phase)} if rule.phase else {}
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
        self._kept: Kept | None = None
        self._encoded = 0

    def begin(self) -> None:
        """A new episode: nothing that was seen before counts."""
        begin_episode(self._policy)
        self._kept, self._encoded = None, 0

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
        return self._policy.generate(context.context, replace(start, age=start.age + context.age))

    def clarity(self, instruction: str) -> float:
        """As the policy inside, if it is an `UnderstandingPolicy`."""
        return cast(UnderstandingPolicy, self._policy).clarity(instruction)

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
        absolute = ~self.spec.action_space.is_delta()
        opening = list(rule.opening)
        told = np.abs(observation.action_state - encoded.action_state)[absolute]
        moved = np.abs(observation.state - encoded.state)[opening]
        if max(*told, *moved, 0.0) > rule.tolerance:
            return None
        return replace(kept, age=age, old_ns=old_ns, skips=kept.skips + 1)
