"""Drive a robot with a policy of your own, in virtual time and in real time.

The policy here reads no camera: it lets a point wander, one action per flow step. Replace
`encode` and `generate` by your model; nothing else changes.

    python examples/own_policy.py
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from streamvla.core.interfaces import FlowStart, Observation, PolicySpec, Robot
from streamvla.evaluation.metrics import metrics_of
from streamvla.robots.registry import make_robot
from streamvla.runtime import (
    ActionFlow,
    Episode,
    EpisodeLimits,
    Executor,
    RealtimeDriver,
    Streamer,
    Synchronous,
    named_profile,
    run_simulated,
)
from streamvla.runtime.timing.latency import ConstantLatency
from streamvla.trace import MemoryTrace

HORIZON = 10
PROFILE = named_profile("paper-20hz")


class Wander:
    """A smooth wandering motion, continued from wherever the flow starts."""

    def __init__(self, robot: Robot) -> None:
        spec = robot.spec
        self._spec = PolicySpec(
            action_space=spec.action_space,
            horizon=HORIZON,
            views=spec.views,
            image_size=spec.image_size,
            state_dim=len(spec.state_names),
            control_period_ns=spec.control_period_ns,
        )

    @property
    def spec(self) -> PolicySpec:
        return self._spec

    def encode(self, observation: Observation) -> Observation:
        """The context is whatever `generate` needs; a real policy returns its KV cache."""
        return observation

    def generate(self, context: Observation, start: FlowStart) -> Iterator[np.ndarray]:
        """Yield H − index actions, each as soon as it is made."""
        state = start.action_state
        for _ in range(start.index, HORIZON):
            action = np.zeros(self._spec.action_space.dim)
            action[0], action[1] = 0.3 * np.cos(state[0]), 0.3 * np.sin(state[1] + 1)
            action = self._spec.action_space.clip(action)
            state = self._spec.action_space.advance(state, action)
            yield action


def episode(robot: Robot, executor: Executor, trace: MemoryTrace) -> Episode:
    """Three seconds on a fixed control tick."""
    policy = Wander(robot)
    streamer = Streamer(robot.spec.action_space, HORIZON, executor, "grid", trace)
    limits = EpisodeLimits(duration_ns=3_000_000_000)
    return Episode(robot, policy, streamer, trace, "grid", PROFILE, limits)


def main() -> None:
    robot = make_robot("point")
    for executor in (Synchronous(), ActionFlow(lead=PROFILE.zero_halt_lead())):
        virtual, wall = MemoryTrace(), MemoryTrace()
        robot.reset(0, 0, PROFILE.execute_ns)
        run_simulated(episode(robot, executor, virtual), ConstantLatency(PROFILE))
        with RealtimeDriver() as driver:
            robot.reset(0, driver.clock.now_ns(), PROFILE.execute_ns)
            driver.run(episode(robot, executor, wall))
        for name, trace in (("virtual", virtual), ("wall clock", wall)):
            metrics = metrics_of(trace.events, PROFILE.execute_ns, "grid")
            print(
                f"{executor.name:12s} {name:10s} T_action {metrics.t_action_ms:6.1f} ms, "
                f"halt {metrics.halt_ms_per_observation:6.1f} ms per observation"
            )


if __name__ == "__main__":
    main()
