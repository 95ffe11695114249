"""A chunk policy of 150 ms on gym-aloha: two arms, 14 absolute joints, 50 Hz.

pip install 'streamvla[all,aloha]'
python examples/aloha.py
"""

import time

import gymnasium
import numpy as np

import streamvla as sv

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


def main(seconds: float = 10) -> list[sv.Result]:
    robot = sv.GymnasiumRobot(
        lambda: gymnasium.make("gym_aloha:gym_aloha/AlohaTransferCube-v0", **SIZE),
        control_hz=50,
        space=JOINTS,
        standing=joints,
        state=lambda env, seen: joints(env),
        state_names=NAMES,
    )
    policy = sv.chunk_policy(model, robot, horizon=32)
    results = [
        sv.run(policy, robot, e, seconds=seconds) for e in (sv.Synchronous(), sv.AsyncChunks())
    ]
    for each in results:
        print(f"{each.executor}: halt {each.metrics.halt_ms_per_observation} ms per observation")
    robot.close()
    return results


if __name__ == "__main__":
    main()
