"""Drive a robot with a policy of your own, in virtual time and in real time.

The policy here reads no camera: it lets a point wander, one action per flow step. Replace `encode`
and `generate` by your model; nothing else changes.

    python examples/own_policy.py
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import streamvla as sv
from streamvla.core.interfaces import FlowStart

HORIZON = 10


class Wander:
    """A smooth wandering motion, continued from wherever the flow starts."""

    def __init__(self, robot: sv.Robot) -> None:
        spec = robot.spec
        self.spec = sv.PolicySpec(
            action_space=spec.action_space,
            horizon=HORIZON,
            views=spec.views,
            image_size=spec.image_size,
            state_dim=len(spec.state_names),
            control_period_ns=spec.control_period_ns,
        )

    def encode(self, observation: sv.Observation) -> sv.Observation:
        """The context is whatever `generate` needs; a real policy returns its KV cache."""
        return observation

    def generate(self, context: sv.Observation, start: FlowStart) -> Iterator[np.ndarray]:
        """Yield H − index actions, each as soon as it is made."""
        state = start.action_state
        for _ in range(start.index, HORIZON):
            action = np.zeros(self.spec.action_space.dim)
            action[0], action[1] = 0.3 * np.cos(state[0]), 0.3 * np.sin(state[1] + 1)
            action = self.spec.action_space.clip(action)
            state = self.spec.action_space.advance(state, action)
            yield action


def main(seconds: float = 3) -> None:
    """The classic way and streaming, in either time."""
    robot = sv.make_robot("point")
    policy = Wander(robot)
    for executor in (sv.Synchronous(), sv.ActionFlow(lead="auto")):
        for drive in (sv.simulate, sv.run):
            result = drive(policy, robot, executor, latency="paper-20hz", seconds=seconds)
            metrics = result.metrics
            print(
                f"{executor.name:12s} {drive.__name__:8s} T_action {metrics.t_action_ms:6.1f} ms, "
                f"halt {metrics.halt_ms_per_observation:6.1f} ms per observation"
            )


if __name__ == "__main__":
    main()
