"""Held-out action error of an early-observation scheme: sharper and cheaper than success.

The first actions from frame T on are predicted from an image `lead` actions old, under some
compensation; an observation that the rule would have refused is replaced by a later one.

What is pending are the expert's actions, chosen with newer eyes than the image; on the robot they
are the policy's own. They tell where the expert is heading, so a compensated old image may err
less than a fresh one. Compare compensations at one lead with it, not leads.

    frame     T−n … T−m … T … T+4         n the lead, m what the rule lets through (0: none)
    image          seen
    error                 |action − label|, over `ACTIONS` actions from T
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamvla.core.errors import ConfigError, DatasetError
from streamvla.core.interfaces import Observation
from streamvla.data.demonstrations import Demonstrations, Episode
from streamvla.policy.base import ModelPolicy, require_single_observations
from streamvla.training.anticipation.gate import motion_of

ACTIONS = 4
"""Compared at every lead: a shifted clock at lead 6 of H = 10 gives no more."""

_BATCH = 64


@dataclass(frozen=True)
class Compensated:
    """As `runtime.executors.action_flow.Compensation`."""

    state: bool = True
    context: bool = False
    clock_shift: bool = False


@dataclass(frozen=True)
class LeadErrors:
    """What an observation made 0, 1, … n actions early would have led to, at each of f frames.

    Attributes:
        error: (n + 1, f) mean |action − label| in units of the action scale.
        norm: (n + 1, f) ‖Σ pending‖ over the delta dimensions, action units.
        saliency: (n + 1, f, v); v = 0 for a policy that does not anticipate.
    """

    error: np.ndarray
    norm: np.ndarray
    saliency: np.ndarray

    def none(self) -> float:
        """Mean error without early observation."""
        return float(self.error[0].mean())

    def always(self, lead: int) -> float:
        return float(self.error[lead].mean())

    def random(self, lead: int, rate: float) -> float:
        """Its expectation."""
        return rate * self.always(lead) + (1 - rate) * self.none()

    def by_norm(self, lead: int, threshold: float) -> float:
        return self._gated(lead, np.asarray(self.norm <= threshold))

    def adaptive(self, lead: int, threshold: Sequence[float]) -> float:
        """Each smaller lead is judged by its own image."""
        if self.saliency.shape[2] == 0:
            raise ConfigError("the policy does not anticipate: its gate has no error")
        if self.saliency.shape[2] != len(threshold):
            raise ConfigError(f"{len(threshold)} thresholds for {self.saliency.shape[2]} views")
        return self._gated(lead, np.all(self.saliency <= np.array(threshold), axis=2))

    def norm_for(self, lead: int, mean_lead: float) -> float:
        """The smallest threshold by which `by_norm` looks with so many pending on average."""
        candidates = np.unique(self.norm[1 : lead + 1])
        reached = [_largest(lead, self.norm <= norm).mean() >= mean_lead for norm in candidates]
        return float(candidates[reached.index(True) if any(reached) else -1])

    def _gated(self, lead: int, passes: np.ndarray) -> float:
        """Mean error at the largest lead ≤ `lead` that passes; passes: (n + 1, f)."""
        chosen = _largest(lead, passes)
        return float(self.error[chosen, np.arange(self.error.shape[1])].mean())


def _largest(lead: int, passes: np.ndarray) -> np.ndarray:
    """(f,) the largest lead ≤ `lead` that passes, or 0; passes: (n + 1, f)."""
    leads = np.arange(lead + 1)[:, None]
    return np.where(passes[: lead + 1], leads, 0).max(axis=0)


def lead_errors(
    policy: ModelPolicy,
    demonstrations: Demonstrations,
    episodes: Sequence[Episode],
    compensated: Compensated,
    longest_lead: int,
    frames: int = 256,
) -> LeadErrors:
    """Errors at frames evenly spaced over held-out episodes, as far as an evaluation would go.

    Raises:
        DatasetError: no episode is long enough.
        ConfigError: a compensated context, and the policy does not anticipate; or the
            shifted clock leaves fewer than `ACTIONS` actions to compare; or the policy remembers.
    """
    require_single_observations(policy, "the held-out error of early observation")
    horizon = policy.spec.horizon
    left = horizon - longest_lead * compensated.clock_shift
    if left < ACTIONS:
        raise ConfigError(
            f"held-out error at lead {longest_lead}: {left} of {horizon} actions are left to "
            f"compare, and {ACTIONS} are needed; choose smaller leads"
        )
    pairs = [
        (episode, t)
        for episode in episodes
        for t in range(longest_lead, min(episode.success_step, len(episode) - horizon) + 1)
    ]
    if not pairs:
        raise DatasetError(f"no held-out episode has {longest_lead + horizon} frames")
    chosen = np.linspace(0, len(pairs) - 1, min(frames, len(pairs))).round().astype(int)
    probe = _Probe(policy, demonstrations, [pairs[index] for index in chosen], compensated)
    columns = [probe.measure(lead) for lead in range(longest_lead + 1)]
    return LeadErrors(*(np.stack(column) for column in zip(*columns, strict=True)))


@dataclass(frozen=True)
class _Probe:
    policy: ModelPolicy
    demonstrations: Demonstrations
    frames: Sequence[tuple[Episode, int]]
    compensated: Compensated

    def measure(self, lead: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(f,) error, (f,) norm and (f, v) saliency at one lead."""
        parts = [
            self._batch(lead, self.frames[first : first + _BATCH])
            for first in range(0, len(self.frames), _BATCH)
        ]
        error, norm, saliency = (np.concatenate(column) for column in zip(*parts, strict=True))
        return error, norm, saliency

    def _batch(
        self, lead: int, frames: Sequence[tuple[Episode, int]]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        policy, space = self.policy, self.policy.spec.action_space
        sight = policy.look_batch([self._observation(episode, t - lead) for episode, t in frames])
        motions = np.stack([self._motion(episode, t, lead) for episode, t in frames])  # (b, d)
        norm = np.linalg.norm(motions[:, space.is_delta()], axis=1)
        saliency, change = np.zeros((len(frames), 0)), None
        if policy.spec.anticipates:
            foreseen = policy.anticipate_batch(sight, motions)
            saliency = np.zeros_like(foreseen[0]) if lead == 0 else foreseen[0]
            change = foreseen[1] if self.compensated.context and lead else None
        elif self.compensated.context:
            raise ConfigError("a compensated context needs a policy that anticipates")
        context = policy.contextualise(sight, change)
        start = np.stack(
            [
                self._state(episode, t if self.compensated.state else t - lead)
                for episode, t in frames
            ]
        )
        index = lead if self.compensated.clock_shift else 0
        age = lead if self.compensated.state and not index else 0
        generation = policy.generate_batch(context, start, index, age)
        made = np.stack([next(generation) for _ in range(ACTIONS)], axis=1)  # (b, a, d)
        label = np.stack([episode.label[t : t + ACTIONS] for episode, t in frames])
        scale = np.array(policy.normalisation.action_scale)
        return (np.abs(made - label) / scale).mean(axis=(1, 2)), norm, saliency

    def _motion(self, episode: Episode, t: int, lead: int) -> np.ndarray:
        if lead == 0:
            return np.zeros(self.policy.spec.action_space.dim)
        return motion_of(self.demonstrations, episode, t - lead, lead)

    def _state(self, episode: Episode, t: int) -> np.ndarray:
        return self.demonstrations.action_states(episode)[t]

    def _observation(self, episode: Episode, t: int) -> Observation:
        meta = self.demonstrations.meta
        return Observation(
            images={view: np.asarray(episode.images[view][t]) for view in meta.views},
            state=episode.state[t],
            action_state=self._state(episode, t),
            instruction=meta.instructions_of(episode)[0],
            captured_ns=t * meta.control_period_ns,
        )
