"""Held-out action error: a sharper and far cheaper instrument than success rates.

An image taken at frame t, a generation that starts `lead` actions later. *Compensated*: the flow
starts from what was executed meanwhile. *Uncompensated*: it starts from the state at capture, as
if nothing had happened since.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamvla.core.interfaces import Observation
from streamvla.data.store import Demonstrations, Episode
from streamvla.policy.action_flow import ActionFlowPolicy

LEADS = (0, 3, 5)
_BATCH = 64


class HoldoutProbe:
    """A fixed set of held-out frames, evenly spaced over the episodes."""

    def __init__(
        self, demonstrations: Demonstrations, episodes: Sequence[Episode], horizon: int, frames: int
    ) -> None:
        self.meta = demonstrations.meta
        self._states = {id(each): demonstrations.action_states(each) for each in episodes}
        pairs = [
            (episode, t)
            for episode in episodes
            for t in range(len(episode) - horizon - max(LEADS) + 1)
        ]
        chosen = np.linspace(0, len(pairs) - 1, min(frames, len(pairs))).round().astype(int)
        self.frames = [pairs[i] for i in chosen]

    def measure(self, policy: ActionFlowPolicy) -> dict[str, float]:
        """Mean |action − label| in units of the action scale, over all actions of the horizon.

        Keys: "lead_0", "lead_3", "lead_5" compensated, "lead_3_uncompensated", ...; and
        "lead_0/TASK" for each task.
        """
        errors: dict[str, list[np.ndarray]] = {}
        for first in range(0, len(self.frames), _BATCH):
            frames = self.frames[first : first + _BATCH]
            for name, error in self._measure_batch(policy, frames).items():
                errors.setdefault(name, []).append(error)
        joined = {name: np.concatenate(parts) for name, parts in errors.items()}
        means = {name: float(error.mean()) for name, error in joined.items()}
        tasks = np.array([episode.task for episode, _ in self.frames])
        for task in dict.fromkeys(tasks.tolist()):
            means[f"lead_0/{task}"] = float(joined["lead_0"][tasks == task].mean())
        return means

    def _measure_batch(
        self, policy: ActionFlowPolicy, frames: list[tuple[Episode, int]]
    ) -> dict[str, np.ndarray]:
        context = policy.encode_batch([self._observation(*frame) for frame in frames])
        scale = np.array(policy.normalisation.action_scale)
        captured = np.stack([self._states[id(episode)][t] for episode, t in frames])  # (b, d)
        errors = {}
        for lead in LEADS:
            begun = np.stack([self._states[id(episode)][t + lead] for episode, t in frames])
            label = np.stack(
                [ep.label[t + lead : t + lead + policy.spec.horizon] for ep, t in frames]
            )  # (b, h, d)
            starts = {f"lead_{lead}": begun}
            if lead:
                starts[f"lead_{lead}_uncompensated"] = captured
            for name, start in starts.items():
                actions = np.stack(list(policy.generate_batch(context, start)), axis=1)
                errors[name] = (np.abs(actions - label) / scale).mean(axis=(1, 2))  # (b,)
        return errors

    def _observation(self, episode: Episode, t: int) -> Observation:
        return Observation(
            images={view: episode.images[view][t] for view in self.meta.views},
            state=episode.state[t],
            action_state=self._states[id(episode)][t],
            instruction=self.meta.tasks[episode.task][0],
            captured_ns=t * self.meta.control_period_ns,
        )
