"""A method that this package does not know is trained and driven without an edit of ours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from streamvla.core.interfaces import FlowStart, Observation
from streamvla.model.expert import Expert, ExpertSize
from streamvla.model.methods.base import Context, Method, Units
from streamvla.policy import ModelPolicy
from streamvla.training import train
from streamvla.training.trainer import Trainer

from .small import small_config
from .toy import write_toy_dataset


class SteadyExpert(Expert):
    """One token: the action that is repeated."""

    def __init__(self, size: ExpertSize) -> None:
        super().__init__(size)
        self.query = nn.Parameter(torch.zeros(size.width))

    def gather(self, start: Tensor, prefix: Any) -> Tensor:
        suffix = self.query.expand(*start.shape[:2], 1, -1)
        return self.read(suffix, self.modulations(torch.zeros(1, 1)), prefix)


@dataclass(frozen=True)
class Steady(Method):
    """The same action H times: the mean of what was shown."""

    name: ClassVar[str] = "steady"

    @property
    def chunk_passes(self) -> int:
        return 1

    def expert(self, size: ExpertSize) -> SteadyExpert:
        return SteadyExpert(size)

    def sample(self, samples, draws):
        return (samples.start,), samples.labels.mean(2, keepdim=True)

    def reader(self, expert: Any, units: Units):
        def read(context: Context, start: np.ndarray, index: int, age: int):
            with torch.inference_mode():
                said = expert(units.relative(context, start), context.prefix)
            action = units.space.clip(units.actions(said.squeeze(2).squeeze(1)))
            yield from [action] * (self.horizon - index)

        return read


def test_a_method_of_another_package_trains_and_drives(tmp_path):
    """Its loss falls over forty steps, and `ModelPolicy` gives its actions."""
    config = small_config(write_toy_dataset(tmp_path / "data"), tmp_path / "out")
    config = replace(config, methods=(Steady(horizon=5),), steps=40)
    assert train(config).finished
    losses = (tmp_path / "out" / "log.jsonl").read_text().splitlines()
    first, last = (
        sum(float(line.split('"loss": ')[1].split(",")[0]) for line in part)
        for part in (losses[:8], losses[-8:])
    )
    assert last < first


def test_its_policy_gives_the_same_action_throughout(tmp_path):
    """H equal actions within the action space, from an untrained expert."""
    dataset = write_toy_dataset(tmp_path / "data")
    config = replace(small_config(dataset, tmp_path / "out"), methods=(Steady(horizon=5),))
    policy = policy_of(config)
    spec = policy.spec
    images = {view: np.zeros((*spec.image_size, 3), np.uint8) for view in spec.views}
    state = np.zeros(spec.state_dim, np.float32)
    zero = np.zeros(spec.action_space.dim)
    observation = Observation(images, state, zero, "reach", 0)
    actions = list(policy.generate(policy.encode(observation), FlowStart(zero)))
    assert len(actions) == 5
    assert all(np.array_equal(action, actions[0]) for action in actions)


def policy_of(config) -> ModelPolicy:
    from streamvla.core.clock import SystemClock
    from streamvla.data.store import load_datasets

    return Trainer(config, load_datasets([config.dataset]), SystemClock()).policy("steady")
