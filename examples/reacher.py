"""A chunk policy of 150 ms on Gymnasium's Reacher at 50 Hz: it stutters, or it does not.

python examples/reacher.py
"""

import time

import gymnasium
import numpy as np

import streamvla as sv

JOINTS = sv.ActionSpace(("shoulder_rad", "elbow_rad"), ("absolute",) * 2, (-3.1, -3.0), (3.1, 3.0))


def joints(env):
    return env.unwrapped.data.qpos[:2]


def torque(env, target):
    """The joints' controller, as a robot has one."""
    return np.clip(2 * (target - joints(env)) - 0.2 * env.unwrapped.data.qvel[:2], -1, 1)


def model(observation):
    """(32, 2) joint targets from the instant of the observation on, after 150 ms."""
    time.sleep(0.15)
    return 0.5 * np.sin(observation.captured_ns / 1e9 + np.arange(32)[:, None] / 50 + [0, 1.5])


def main(seconds: float = 10) -> list[sv.Result]:
    env = {"id": "Reacher-v5", "render_mode": "rgb_array", "width": 96, "height": 96}
    robot = sv.GymnasiumRobot(
        lambda: gymnasium.make(**env), control_hz=50, space=JOINTS, act=torque, standing=joints
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
