"""A task of your own from start to end: a robot, an expert, demonstrations, a policy, its success.

A point goes to the red or the green dot, as told. Put your robot for `Dots` and your teacher, a
script or a person, for `Expert`; the rest stays: python examples/new_task.py runs/new_task
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.interfaces import ArraySpec, Capture, Frames, RobotSpec
from streamvla.core.seeds import FIRST_EVALUATION_SEED as FIRST_SEED
from streamvla.data.collect import collect_episode
from streamvla.data.noise import NoiseConfig
from streamvla.data.store import DatasetMeta, shard_path, write_meta, write_shard
from streamvla.policy import load_policy, roll_out
from streamvla.robots.instructions import Phrasings
from streamvla.robots.schedule import CommandSchedule
from streamvla.training import ModelSize, SamplingConfig, TrainConfig, train

SPACE = ActionSpace(("dx", "dy"), ("delta", "delta"), (-1.0, -1.0), (1.0, 1.0))
PLACES = ("red_x", "red_y", "green_x", "green_y", "asked_x", "asked_y")
SPEC = RobotSpec(
    "dots",
    SPACE,
    views=("top",),
    image_size=(32, 32),
    state_names=("x_m", "y_m"),
    control_period_ns=50_000_000,
    capture=tuple(ArraySpec(name, (2,)) for name in ("red", "green", "white")),
    place_names=PLACES,
)
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0)}
SAID = {c: Phrasings((f"go to the {c} dot", f"{c} dot"), (f"reach {c}",)) for c in COLOURS}


class Dots:
    """Implements `Robot`, and what a demonstrated robot has besides: task, phrasings, places."""

    spec, task = SPEC, "dots"

    def reset(self, seed: int, now_ns: int, command_duration_ns: int) -> None:
        rng = np.random.default_rng(seed)
        self.point, *dots = rng.uniform(0.1, 0.9, (3, 2))  # metres
        self.dots = dict(zip(COLOURS, dots, strict=True))
        self.asked = list(COLOURS)[seed % 2]
        self.phrasings, self.success = SAID[self.asked], False
        self.instruction = self.phrasings.choose(seed)
        self.schedule = CommandSchedule(SPACE, 1, now_ns, command_duration_ns)

    def command(self, values: np.ndarray, now_ns: int) -> None:
        self.advance_to(now_ns)
        self.schedule.put(values)

    def advance_to(self, now_ns: int) -> None:
        for command in self.schedule.due(now_ns):
            self.point = np.clip(self.point + 0.1 * command, 0, 1)
            self.success |= bool(np.linalg.norm(self.point - self.dots[self.asked]) < 0.08)

    def capture(self) -> Capture:
        return {**self.dots, "white": self.point}

    def observe(self, capture: Capture) -> Frames:
        image = np.zeros((32, 32, 3), np.uint8)
        for colour, place in capture.items():
            row, column = (place * 28).astype(int)
            image[row : row + 4, column : column + 4] = COLOURS.get(colour, 255)
        return Frames({"top": image}, capture["white"].astype(np.float32))

    def places(self) -> np.ndarray:
        return np.concatenate([*self.dots.values(), self.dots[self.asked]])

    def close(self) -> None: ...


class Expert:
    def __init__(self, robot: Dots) -> None:
        self.robot = robot

    def act(self) -> np.ndarray:
        return SPACE.clip(3 * (self.robot.dots[self.robot.asked] - self.robot.point))


def main(folder: Path, episodes: int = 300, steps: int = 800) -> float:
    """Success of a policy trained on so many demonstrations for so many steps."""
    robot, data = Dots(), folder / "data"
    said = {"dots": tuple(text for each in SAID.values() for text in each.train)}
    meta = (SPEC.name, SPACE, SPEC.state_names, SPEC.control_period_ns, SPEC.views, SPEC.image_size)
    write_meta(data, DatasetMeta(*meta, said, {}, seed=0, commit="unknown", place_names=PLACES))
    tried = [collect_episode(robot, Expert(robot), seed, NoiseConfig()) for seed in range(episodes)]
    shown = [episode for episode in tried if episode is not None]
    write_shard(shard_path(data, "dots", 0), shown, attempts=len(tried))

    size = ModelSize(2, 96, 64, heads=2, head_dim=32, channels=32, condition_width=64)
    draws = SamplingConfig(batch_size=32, start_fraction=0.3)
    trained = train(TrainConfig(data, folder, steps, model=size, sampling=draws))

    policy, seeds = load_policy(trained.policy), range(FIRST_SEED, FIRST_SEED + 50)
    return float(np.mean([r.success for r in roll_out(policy, [Dots() for _ in seeds], seeds, 60)]))


if __name__ == "__main__":
    print(f"success: {main(Path(sys.argv[1] if sys.argv[1:] else 'runs/new_task')):.0%}")
