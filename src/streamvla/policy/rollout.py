"""Several simulated episodes in step, one model call for all: success rates without latency.

    robot 1   observe ┐          ┌ a0 a1 … a9   observe ┐
    robot 2   observe ┼─ encode ─┼ a0 a1 … a9   observe ┼─ encode ─ …
    robot 3   observe ┘          └ a0 (reached: leaves the batch)

The world stands still while the model thinks, so this compares policies, not schedules: it is the
simulated driver with stages that take no time, several episodes at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import Observation, Robot, begin_episode, check_fit, standing_at
from streamvla.policy.base import ModelPolicy


@dataclass
class _Running:
    """One episode of the batch; `index` is its place in the results."""

    index: int
    robot: Robot
    state: np.ndarray  # (d,) action state
    actions: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class Rollout:
    """How one episode went: whether the task was reached, and the actions (t, d) that were sent."""

    success: bool
    actions: np.ndarray


def roll_out(
    policy: ModelPolicy,
    robots: Sequence[Robot],
    seeds: Sequence[int],
    steps: int,
    instruction: str | None = None,
) -> list[Rollout]:
    """One episode on each robot; an episode ends when its task is reached.

    Args:
        robots: one for each seed, all alike but for their task.
        steps: longest episode, in actions.
        instruction: say this to the policy instead of the robots' own phrasing.

    Raises:
        ConfigError: numbers of robots and seeds differ.
        SpecMismatchError: the policy does not fit a robot.
    """
    if len(robots) != len(seeds):
        raise ConfigError(f"{len(robots)} robots for {len(seeds)} seeds; give one robot a seed")
    period_ns = policy.spec.control_period_ns
    episodes = []
    for index, (robot, seed) in enumerate(zip(robots, seeds, strict=True)):
        check_fit(policy.spec, robot.spec)
        robot.reset(seed, 0, period_ns)
        episodes.append(_Running(index, robot, standing_at(robot)))
    begin_episode(policy)
    running = list(episodes)
    for step in range(0, steps, policy.spec.horizon):
        last = min(policy.spec.horizon, steps - step)
        running = _execute(policy, running, step * period_ns, last, instruction)
        if all(each.robot.success for each in running):
            break
    return [
        Rollout(each.robot.success, np.array(each.actions).reshape(-1, len(each.state)))
        for each in episodes
    ]


def _execute(
    policy: ModelPolicy, running: list[_Running], now_ns: int, count: int, instruction: str | None
) -> list[_Running]:
    """Observe all, generate, and execute `count` actions of each; who has not reached its task.

    A policy that remembers drives so many streams: none leaves the batch, only stands still.
    """
    space, period_ns = policy.spec.action_space, policy.spec.control_period_ns
    context = policy.encode_batch([_observe(each, now_ns, instruction) for each in running])
    start = np.stack([each.state for each in running])
    generation = policy.generate_batch(context, start)
    for i in range(count):
        actions = next(generation)  # (b, d)
        for each, action in zip(running, actions, strict=True):
            if each.robot.success:
                continue
            each.robot.command(action, now_ns + i * period_ns)
            each.actions.append(action)
            each.state = space.advance(each.state, action)
            each.robot.advance_to(now_ns + (i + 1) * period_ns)
    if policy.spec.remembers:
        return running
    return [each for each in running if not each.robot.success]


def _observe(episode: _Running, now_ns: int, instruction: str | None) -> Observation:
    robot = episode.robot
    frames = robot.observe(robot.capture())
    said = instruction or robot.instruction
    return Observation(frames.images, frames.state, episode.state, said, now_ns)
