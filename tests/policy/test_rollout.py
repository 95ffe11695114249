"""Episodes in step: the same actions as one by one through the simulated driver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import PolicySpec
from streamvla.model.methods.action_flow import ActionFlowConfig
from streamvla.model.methods.chunk_flow import ChunkFlowConfig
from streamvla.model.methods.registry import Method
from streamvla.model.normalisation import Normalisation
from streamvla.model.past import MemoryConfig
from streamvla.model.vla import StreamingVLA, VLAConfig
from streamvla.policy import ModelPolicy
from streamvla.policy.base import policy_for
from streamvla.policy.rollout import roll_out
from streamvla.robots.point import SPEC, PointRobot
from streamvla.runtime import Episode, EpisodeLimits, Streamer, Synchronous, run_simulated
from streamvla.runtime.timing.latency import ConstantLatency, LatencyProfile
from streamvla.trace import MemoryTrace, Sent

from ..model.tiny import TINY

STEPS = 14
SEEDS = (1, 2, 3)


def point_policy(method: Method) -> ModelPolicy:
    """Random weights everywhere, so actions depend on image, state and flow."""
    torch.manual_seed(0)
    sizes = {**vars(TINY), "action_dim": 3, "state_dim": 3, "views": 1}
    model = StreamingVLA(VLAConfig(**sizes), method)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    spec = PolicySpec(
        SPEC.action_space,
        method.horizon,
        SPEC.views,
        SPEC.image_size,
        3,
        SPEC.control_period_ns,
        method.chunk_passes,
    )
    scale = Normalisation((0.0,) * 3, (1.0,) * 3, (0.3, 0.5, 1.0))
    return ModelPolicy(model, spec, method, scale)


def remembering_policy() -> ModelPolicy:
    """The same with a memory."""
    plain = point_policy(ActionFlowConfig(horizon=5))
    torch.manual_seed(0)
    memory = MemoryConfig(summaries=2, window=4, width=16)
    model = StreamingVLA(replace(plain.model.config, layers=3, memory=memory), plain.method)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return policy_for(model, plain.spec, plain.method, plain.normalisation)


def driven(policy: ModelPolicy, seed: int) -> list[tuple[float, ...]]:
    """Actions of one episode through the simulated driver, stages taking no time."""
    period_ns = SPEC.control_period_ns
    profile, trace, robot = LatencyProfile("none", 0, 0, period_ns), MemoryTrace(), PointRobot()
    robot.reset(seed, 0, period_ns)
    streamer = Streamer(SPEC.action_space, policy.spec.horizon, Synchronous(), "event", trace)
    limits = EpisodeLimits(STEPS * period_ns)
    episode = Episode(robot, policy, streamer, trace, profile, limits)
    run_simulated(episode, ConstantLatency(profile))
    *sent, _stop = [event.values for event in trace.events if isinstance(event, Sent)]
    return sent


@pytest.mark.parametrize("method", [ActionFlowConfig(horizon=5), ChunkFlowConfig(horizon=5)])
def test_batched_episodes_send_what_single_ones_send(method):
    """Three episodes in step send the actions the simulated driver sends in each alone."""
    policy = point_policy(method)
    together = roll_out(policy, [PointRobot() for _ in SEEDS], SEEDS, STEPS)
    for rollout, seed in zip(together, SEEDS, strict=True):
        np.testing.assert_allclose(rollout.actions, driven(policy, seed), atol=1e-4)


def test_episodes_of_a_policy_that_remembers_begin_with_nothing_remembered():
    """Rolled out again, or on more robots, an episode sends what it sent before; also when another
    one reaches its task."""
    policy = remembering_policy()
    once, again = (roll_out(policy, [PointRobot()], [1], STEPS) for _ in range(2))
    assert np.array_equal(once[0].actions, again[0].actions)
    robots = [PointRobot() for _ in SEEDS]
    robots[1].reset = at_its_goal(robots[1])
    together = roll_out(policy, robots, SEEDS, STEPS)
    np.testing.assert_allclose(together[0].actions, once[0].actions, atol=1e-4)
    assert len(together[1].actions) == 1


def at_its_goal(robot: PointRobot) -> Callable[[int, int, int], None]:
    """A reset that leaves the task all but reached."""
    reset = robot.reset

    def at_the_goal(seed: int, now_ns: int, command_duration_ns: int) -> None:
        reset(seed, now_ns, command_duration_ns)
        robot._position = robot._goal.copy()

    return at_the_goal


def test_an_episode_ends_when_its_task_is_reached():
    """A reached task stops its robot's commands; the others go on."""
    policy = point_policy(ActionFlowConfig(horizon=5))
    robots = [PointRobot() for _ in SEEDS]
    robots[1].reset = at_its_goal(robots[1])
    rollouts = roll_out(policy, robots, SEEDS, STEPS)
    assert rollouts[1].success
    assert len(rollouts[1].actions) == 1
    assert [len(rollouts[i].actions) for i in (0, 2)] == [STEPS, STEPS]


def test_robots_and_seeds_must_match():
    """Another number of seeds than robots is refused."""
    with pytest.raises(ConfigError, match="1 robots for 2 seeds"):
        roll_out(point_policy(ActionFlowConfig(horizon=5)), [PointRobot()], (1, 2), STEPS)
