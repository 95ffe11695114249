"""What the policy attends to, drawn over the camera views, for films and reports."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import Observation, Policy, Robot, begin_episode
from streamvla.evaluation.heat import overlay
from streamvla.runtime.drivers.film import Captures
from streamvla.studies.dial import MOST_SKIPS
from streamvla.trace.events import Sent, TraceEvent

if TYPE_CHECKING:  # it needs torch
    from streamvla.policy.base import ModelPolicy


def watched(policy: Policy) -> ModelPolicy:
    """The policy, if what it attends to can be drawn.

    Raises:
        ConfigError: it is not one of our models, it skips encodings, or its backbone reads only
            some of the tokens.
    """
    from streamvla.policy.base import ModelPolicy
    from streamvla.policy.focus import require_cells

    if MOST_SKIPS in policy.spec.settings:
        raise ConfigError(
            f"--attention: this policy skips encodings ({MOST_SKIPS} "
            f"{policy.spec.settings[MOST_SKIPS]:g}), and films show what every frame attends to; "
            "drive without --most-skips (with a budget: without it), or leave --attention out"
        )
    if not isinstance(policy, ModelPolicy):
        raise ConfigError(
            f"--attention: {type(policy).__name__} does not say what it attends to; leave it out"
        )
    require_cells(policy)
    return policy


def attention_pictures(
    policy: ModelPolicy,
    robot: Robot,
    shown: Captures,
    events: Sequence[TraceEvent],
    instruction: str | None,
    height: int,
) -> list[np.ndarray]:
    """One picture a capture, (height, ·, 3) uint8: all camera views side by side, under the share
    of attention that the next action would have for every cell; white squares are the keypoints
    that the instruction steers.

    One scale for the whole episode: from nothing to what one cell in a thousand exceeds. The age
    of the observation, which executing changes, is left out: each frame is looked at afresh.
    """
    from streamvla.policy.focus import asked_places, vision_attention

    space = policy.spec.action_space
    states = action_states(events, [now_ns for now_ns, _ in shown], space)
    seen, heats, places = [], [], []
    for (now_ns, capture), state in zip(shown, states, strict=True):
        frames = robot.observe(capture)
        said = instruction or robot.instruction
        observation = Observation(frames.images, frames.state, state, said, now_ns)
        begin_episode(policy)  # else one that reuses views shows those of the picture before
        seen.append([frames.images[view] for view in policy.spec.views])
        heats.append(vision_attention(policy, observation).grid)  # (v, rows, cols)
        places.append(asked_places(policy, observation))  # (v, k, 2)
    hottest = float(np.quantile(np.stack(heats), 0.999))
    return [
        np.concatenate(
            [
                marked(overlay(_enlarged(view, height), heat, hottest=hottest), points)
                for view, heat, points in zip(*of_frame, strict=True)
            ],
            axis=1,
        )
        for of_frame in zip(seen, heats, places, strict=True)
    ]


def action_states(
    events: Sequence[TraceEvent], instants_ns: Sequence[int], space: ActionSpace
) -> list[np.ndarray]:
    """The action state (d,) at each instant: after every command that was sent until then.

    A trace does not say where the robot stood before its first command: zeros until then.
    """
    sent = [event for event in events if isinstance(event, Sent)]
    states = [space.initial_state()]
    for event in sent:
        states.append(space.advance(states[-1], np.array(event.values)))
    times = [event.t_ns for event in sent]
    return [states[bisect_right(times, instant)] for instant in instants_ns]


def marked(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The picture with a white square of 5 px, edged black, at each of (k, 2) points x and y from
    −1 to 1; those outside are left out."""
    picture = picture.copy()
    height, width = picture.shape[:2]
    at = np.rint((points + 1) / 2 * [width, height] - 0.5).astype(int)
    for reach, colour in ((3, 0), (2, 255)):
        for x, y in at:
            if 0 <= x < width and 0 <= y < height:
                rows = slice(max(0, y - reach), y + reach + 1)
                picture[rows, max(0, x - reach) : x + reach + 1] = colour
    return picture


def _enlarged(view: np.ndarray, height: int) -> np.ndarray:
    """Nearest pixels, so that it is seen what the policy sees: (h, w, 3) → (height, ·, 3)."""
    h, w = view.shape[:2]
    rows = np.arange(height) * h // height
    width = round(height * w / h)
    return view[rows][:, np.arange(width) * w // width]
