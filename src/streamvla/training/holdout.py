"""Held-out action error: a sharper and far cheaper instrument than success rates.

The actions from frame T on are predicted from an image that is `lead` actions old. All leads are
asked for the same actions, so their errors compare directly.

    frame      T−lead ... T ... T+H−1
    image      seen
    flow start            x0 = executed up to T       *compensated*
               x0 = executed up to T−lead             *uncompensated*, as if nothing had happened
    error                 |action − label|

A policy that remembers sees episodes one by one, an observation a horizon; T is the same at every
lead, and at each of them the memory has what was seen before at this stride:

    lead 3   image    2        12        22        H = 10; T begins at the longest lead
             T             5        15        25
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from streamvla.core.interfaces import Observation
from streamvla.data.demonstrations import Demonstrations, Episode
from streamvla.policy.base import ModelPolicy, StreamPolicy

LEADS = (0, 3, 5)
_BATCH = 64


class HoldoutProbe:
    """A fixed set of held-out frames T, evenly spaced over the episodes.

    Attributes:
        frames: what is measured, with its episode.
        streamed: the episodes that a policy that remembers sees: evenly chosen, so many that no
            more frames are measured than were asked for, but at least one.
    """

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
        self.streamed: list[Episode] = _evenly(episodes, horizon, frames)

    def measure(self, policy: ModelPolicy) -> dict[str, float]:
        """Mean |action − label| in units of the action scale, over all actions of the horizon.

        Keys: "lead_0", "lead_3", "lead_5" compensated, "lead_3_uncompensated", ...; and
        "lead_0/TASK" for each task.
        """
        errors: dict[str, list[np.ndarray]] = {}
        tasks: list[str] = []  # of what is measured at lead 0
        for lead in LEADS:
            for frames in self._frames(policy, lead):
                for name, error in self._measure_batch(policy, frames, lead).items():
                    errors.setdefault(name, []).append(error)
                tasks += [] if lead else [episode.task for episode, _ in frames]
        joined = {name: np.concatenate(parts) for name, parts in errors.items()}
        means = {name: float(error.mean()) for name, error in joined.items()}
        for task in dict.fromkeys(tasks):
            means[f"lead_0/{task}"] = float(joined["lead_0"][np.array(tasks) == task].mean())
        return means

    def _frames(self, policy: ModelPolicy, lead: int) -> Iterator[list[tuple[Episode, int]]]:
        """What is measured together, in order: many frames at once, or those of a stream one by
        one, which has seen by then what comes before."""
        if not isinstance(policy, StreamPolicy):
            for at in range(0, len(self.frames), _BATCH):
                yield self.frames[at : at + _BATCH]
            return
        horizon, first = policy.spec.horizon, max(LEADS)
        before = (first - lead) // horizon  # observations, to the start of the episode
        for episode in self.streamed:
            policy.begin()
            for t in range(first - before * horizon, len(episode) - horizon + 1, horizon):
                if t < first:
                    policy.encode(self._observation(episode, t - lead))
                else:
                    yield [(episode, t)]

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


def _evenly(episodes: Sequence[Episode], horizon: int, frames: int) -> list[Episode]:
    """Of the episodes that are long enough as many as have so many frames, one a horizon."""
    counts = {
        number: len(range(max(LEADS), len(episode) - horizon + 1, horizon))
        for number, episode in enumerate(episodes)
    }
    some = [number for number, count in counts.items() if count]
    for many in range(len(some), 0, -1):
        chosen = np.linspace(0, len(some) - 1, many).round().astype(int)
        found = [some[at] for at in chosen]
        if many == 1 or sum(counts[number] for number in found) <= frames:
            return [episodes[number] for number in found]
    return []
