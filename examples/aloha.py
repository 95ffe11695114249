"""A chunk policy of 150 ms on gym-aloha: two arms, 14 absolute joints, 50 Hz.

pip install -c constraints.txt gym-aloha==0.1.5
python examples/aloha.py
"""

import time

import gym_aloha  # noqa: F401 (registers the environments)
import gymnasium
import numpy as np

import streamvla as sv
from streamvla.adapters.gymnasium_robot import GymnasiumRobot

NAMES = tuple(f"joint_{index}" for index in range(14))
JOINTS = sv.ActionSpace(NAMES, ("absolute",) * 14, (-3.2,) * 14, (3.2,) * 14)
SIZE = {"visualization_width": 160, "visualization_height": 120}


def joints(env):
    """(14,) where both arms stand."""
    inner = env.unwrapped._env
    return inner.task.get_qpos(inner.physics)


def model(observation):
    """(32, 14) joint targets after 150 ms: the arms stay, the wrists wave."""
    time.sleep(0.15)
    chunk = np.tile(observation.state.astype(float), (32, 1))
    chunk[:, [5, 12]] = 0.3 * np.sin(observation.captured_ns / 1e9 + np.arange(32)[:, None] / 50)
    return chunk


def main(seconds: float = 10) -> None:
    robot = GymnasiumRobot(
        lambda: gymnasium.make("gym_aloha/AlohaTransferCube-v0", **SIZE),
        control_hz=50,
        space=JOINTS,
        standing=joints,
        state=lambda env, seen: joints(env),
        state_names=NAMES,
    )
    policy = sv.chunk_policy(model, robot, horizon=32)
    for executor in (sv.Synchronous(), sv.AsyncChunks()):
        result = sv.run(policy, robot, executor, seconds=seconds)
        halt_ms = result.metrics.halt_ms_per_observation
        print(f"{result.executor}: halt {halt_ms:.1f} ms per observation")
    robot.close()


if __name__ == "__main__":
    main()
