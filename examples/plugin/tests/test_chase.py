"""The policy that chases: its contract, what it sees, and how well it drives."""

import numpy as np
import pytest
from streamvla_dots.chase import Chase, locate

import streamvla as sv
from streamvla.core.interfaces import FlowStart, Observation
from streamvla.robots.registry import make_robot
from streamvla.robots.sawyer import CAMERAS
from streamvla.testing.policy_contract import PolicyContract


class TestChase(PolicyContract):
    instruction = "follow the moving green ball"

    def policy(self) -> Chase:
        return Chase()


def test_it_sees_where_the_ball_is_in_every_light():
    """In domain, shifted and out of domain it is within 2 cm, before anything moved."""
    robot = make_robot("follow-moving-target")
    for seed in (11, 15, 19):
        robot.reset(seed, 0, robot.spec.control_period_ns)
        shown = robot.observe(robot.capture()).images
        place = locate({view: shown[view] for view in CAMERAS})
        assert place == pytest.approx(robot.places()[:3], abs=0.02)
    robot.close()


def test_it_holds_still_without_anything_to_chase():
    """Of a dark picture, and of another instruction, come holds that keep the gripper."""
    policy = Chase()
    test = TestChase()
    shown = test.observation(policy)
    dark = {view: np.zeros_like(image) for view, image in shown.images.items()}
    state = np.array((3.0, -2.0, 1.0, -1.0))
    for images, words in ((dark, test.instruction), (shown.images, "balance the pole")):
        seen = Observation(images, shown.state, shown.action_state, words, 0)
        for action in policy.generate(policy.encode(seen), FlowStart(state)):
            assert np.array_equal(action, (0.0, 0.0, 0.0, -1.0))


@pytest.mark.parametrize("seed", [11, 13])
def test_it_stays_on_the_ball(seed):
    """Streaming without delay it scores more than 5 of 10 where the target turns at random."""
    latency = "paper-20hz@0"
    driven = sv.simulate("dots:chase", "follow-moving-target", latency=latency, seed=seed)
    assert driven.metrics.task.score > 5
