"""Held-out action error: a sharper and far cheaper instrument than success rates.

The actions from frame T on are predicted from an image that is `lead` actions old. All leads are
asked for the same actions, so their errors compare directly.

    frame      T−lead ... T ... T+H−1
    image      seen
    flow start            x0 = executed up to T       *compensated*
               x0 = executed up to T−lead             *uncompensated*, as if nothing had happened
    error                 |action − label|

A policy with a memory sees each episode from its first frame on, an observation a horizon; what it
is asked for begins `lead` frames after each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from streamvla.core.interfaces import Observation
from streamvla.data.demonstrations import Demonstrations, Episode
from streamvla.policy.base import ModelPolicy, StreamPolicy

LEADS = (0, 3, 5)
_BATCH = 64


class HoldoutProbe:
    """A fixed set of held-out frames T, evenly spaced over the episodes."""

    def __init__(
        self, demonstrations: Demonstrations, episodes: Sequence[Episode], horizon: int, frames: int
    ) -> None:
        self.meta: Final = demonstrations.meta
        self._states = {id(each): demonstrations.action_states(each) for each in episodes}
        pairs = [
            (episode, t)
            for episode in episodes
            for t in range(max(LEADS), len(episode) - horizon + 1)
        ]
        chosen = np.linspace(0, len(pairs) - 1, min(frames, len(pairs))).round().astype(int)
        self.frames: list[tuple[Episode, int]] = [pairs[i] for i in chosen]

    def measure(self, policy: ModelPolicy) -> dict[str, float]:
        """Mean |action − label| in units of the action scale, over all actions of the horizon.

        Keys: "lead_0", "lead_3", "lead_5" compensated, "lead_3_uncompensated", ...; and
        "lead_0/TASK" for each task.
        """
        errors: dict[str, list[np.ndarray]] = {}
        tasks: list[str] = []  # of what is measured at lead 0
        for lead in LEADS:
            for frames in self._frames(policy, lead):
                if isinstance(policy, StreamPolicy) and frames[0][1] == lead:
                    policy.begin()
                for name, error in self._measure_batch(policy, frames, lead).items():
                    errors.setdefault(name, []).append(error)
                tasks += [] if lead else [episode.task for episode, _ in frames]
        joined = {name: np.concatenate(parts) for name, parts in errors.items()}
        means = {name: float(error.mean()) for name, error in joined.items()}
        for task in dict.fromkeys(tasks):
            means[f"lead_0/{task}"] = float(joined["lead_0"][np.array(tasks) == task].mean())
        return means

    def _frames(self, policy: ModelPolicy, lead: int) -> list[list[tuple[Episode, int]]]:
        """What is measured together, in order: many frames at once, or those of a stream one by
        one."""
        if not isinstance(policy, StreamPolicy):
            return [self.frames[at : at + _BATCH] for at in range(0, len(self.frames), _BATCH)]
        horizon = policy.spec.horizon
        episodes = {id(episode): episode for episode, _ in self.frames}.values()
        return [
            [(episode, t)]
            for episode in episodes
            for t in range(lead, len(episode) - horizon + 1, horizon)
        ]

    def _measure_batch(
        self, policy: ModelPolicy, frames: list[tuple[Episode, int]], lead: int
    ) -> dict[str, np.ndarray]:
        scale = np.array(policy.normalisation.action_scale)
        horizon = policy.spec.horizon
        label = np.stack([episode.label[t : t + horizon] for episode, t in frames])  # (b, h, d)
        errors = {}
        seen = [(episode, t - lead) for episode, t in frames]
        context = policy.encode_batch([self._observation(*frame) for frame in seen])
        starts = {f"lead_{lead}": (self._action_states(frames), lead)}
        if lead:
            starts[f"lead_{lead}_uncompensated"] = (self._action_states(seen), 0)
        for name, (start, age) in starts.items():
            actions = np.stack(list(policy.generate_batch(context, start, age=age)), axis=1)
            errors[name] = (np.abs(actions - label) / scale).mean(axis=(1, 2))  # (b,)
        return errors

    def _action_states(self, frames: list[tuple[Episode, int]]) -> np.ndarray:
        """(b, d) what had been executed before each frame."""
        return np.stack([self._states[id(episode)][t] for episode, t in frames])

    def _observation(self, episode: Episode, t: int) -> Observation:
        return Observation(
            images={view: episode.images[view][t] for view in self.meta.views},
            state=episode.state[t],
            action_state=self._states[id(episode)][t],
            instruction=self.meta.instructions_of(episode)[0],
            captured_ns=t * self.meta.control_period_ns,
        )
