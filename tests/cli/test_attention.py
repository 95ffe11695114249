"""Films of what a policy attends to: what is drawn, where keypoints go, what is refused."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from streamvla.cli.attention import action_states, attention_pictures, marked, watched
from streamvla.cli.run import Run
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import Observation
from streamvla.policy import load_policy, resolve_checkpoint
from streamvla.policy.base import ModelPolicy
from streamvla.policy.focus import asked_places
from streamvla.policy.reuse import ReusingPolicy
from streamvla.policy.skipping import SkippingPolicy, SkipRule
from streamvla.robots.registry import make_robot
from streamvla.robots.sawyer import ACTION_SPACE
from streamvla.testing.fakes import ScriptedPolicy
from streamvla.trace.events import Sent
from tests.policy.test_action_flow import make_policy


@pytest.fixture(scope="module")
def policy() -> ModelPolicy:
    return load_policy(resolve_checkpoint(None))


def sent(t_ns: int, *values: float) -> Sent:
    return Sent(t_ns, t_ns, 0, "policy", 0, 0, 0, 0, 0, values)


def test_action_states_follow_the_commands():
    """Deltas add up, the gripper is where it was last told to be, at the instant and after it."""
    events = [sent(10, 0.5, 0, 0, -1.0), sent(20, 0.25, 0, 0, 1.0)]
    states = action_states(events, [0, 10, 15, 99], ACTION_SPACE)
    assert [state.tolist() for state in states] == [
        [0, 0, 0, 0],
        [0.5, 0, 0, -1],
        [0.5, 0, 0, -1],
        [0.75, 0, 0, 1],
    ]


def test_a_point_is_marked_where_it_is_and_outside_is_left_out():
    """−1 and 1 are the edges of the picture; a point beyond them changes nothing."""
    picture = np.full((40, 80, 3), 100, np.uint8)
    assert (marked(picture, np.array([[1.5, 0.0], [0.0, -1.2]])) == picture).all()
    drawn = marked(picture, np.array([[0.5, 0.0]]))
    rows, columns = np.nonzero((drawn != 100).any(-1))
    assert abs(columns.mean() - 59.5) <= 0.5
    assert abs(rows.mean() - 19.5) <= 0.5
    assert (picture == 100).all()


def test_keypoints_go_to_the_button_that_is_named(policy):
    """In the same picture, more of them are on a button when the instruction names its colour."""
    with closing(make_robot("press-named-button")) as robot:
        robot.reset(1_000_000, 0, 50_000_000)
        frames = robot.observe(robot.capture())
    front = policy.spec.views.index("front")
    on: dict[str, dict[str, int]] = {}
    for said in ("red", "blue"):
        told = f"press the {said} button"
        places = asked_places(
            policy, Observation(frames.images, frames.state, np.zeros(4), told, 0)
        )[front]
        at = np.clip(((places + 1) / 2 * 96).astype(int), 1, 94)
        on[said] = {"red": 0, "blue": 0}
        for x, y in at:
            patch = frames.images["front"][y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).astype(int)
            for colour, channel in (("red", 0), ("blue", 2)):
                others = patch.sum(1) - patch[:, channel]
                on[said][colour] += bool((patch[:, channel] > others + 20).any())
    assert on["red"]["red"] > on["blue"]["red"]
    assert on["blue"]["blue"] > on["red"]["blue"]


def test_every_capture_gets_a_picture_of_all_views(policy):
    """Two views of 120 px side by side; the heat and the marks change what is seen."""
    with closing(make_robot("press-named-button")) as robot:
        robot.reset(1_000_000, 0, 50_000_000)
        shown = [(0, robot.capture()), (50_000_000, robot.capture())]
        pictures = attention_pictures(policy, robot, shown, [sent(0, 0, 0, 0, 1)], None, 120)
        plain = robot.observe(shown[0][1]).images[policy.spec.views[0]]
    assert [picture.shape for picture in pictures] == [(120, 240, 3)] * 2
    assert all(picture.dtype == np.uint8 for picture in pictures)
    assert np.abs(pictures[0][::5, :120:5].astype(int) - plain[::4, ::4]).max() > 30


def test_every_picture_is_of_its_own_capture_whatever_the_policy_reuses(policy):
    """A policy that encodes its cameras at every ninth observation attends as one that encodes all,
    in two scenes in turn."""
    slow = ReusingPolicy(policy, None, every=dict.fromkeys(policy.spec.views, 9.0))
    with closing(make_robot("press-named-button")) as robot:
        shown = []
        for number in range(2):
            robot.reset(1_000_000 + number, 0, 50_000_000)
            shown.append((number * 50_000_000, robot.capture()))
        drawn = [attention_pictures(each, robot, shown, [], None, 96) for each in (policy, slow)]
    assert all((one == other).all() for one, other in zip(*drawn, strict=True))


def test_what_cannot_be_drawn_is_refused_before_anything_is_driven():
    """No film, a policy that says nothing of its attention, or one that skips encodings: one line,
    and of the last what to leave out."""
    with pytest.raises(ConfigError, match="--videos 0 makes none"):
        Run(attention=True, videos=0)
    with pytest.raises(ConfigError, match="does not say what it attends to"):
        watched(ScriptedPolicy(ACTION_SPACE, 10, 50_000_000))
    skipping = SkippingPolicy(make_policy(max_age=12), SkipRule(most=2))
    with pytest.raises(ConfigError, match=r"most_skips 2.* without --most-skips"):
        watched(skipping)
