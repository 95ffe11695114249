"""Training: it learns, resumes on the same curve, and refuses what cannot work."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from streamvla.core.clock import VirtualClock
from streamvla.core.errors import CheckpointError, ConfigError, DatasetError
from streamvla.core.interfaces import FlowStart, Observation
from streamvla.data.store import load_dataset
from streamvla.model.checkpoint import load_checkpoint, load_tensors, save_tensors
from streamvla.policy import load_policy
from streamvla.training import TrainConfig, train
from streamvla.training.batches import BatchSampler, SamplingConfig, shift_image, split_holdout
from streamvla.training.optimiser import OptimiserConfig
from streamvla.training.trainer import Trainer
from tests.training.small import small_config
from tests.training.toy import SPACE, toy_episode, write_toy_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_toy_dataset(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def config(dataset, tmp_path) -> TrainConfig:
    return small_config(dataset, tmp_path / "out")


def losses(out: Path) -> list[float]:
    lines = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [json.loads(line)["loss"] for line in lines]


def test_resumed_training_follows_the_same_curve(config, tmp_path):
    """Stopped at step 7 and resumed, every later loss and the final weights are the same."""
    whole = train(config)
    assert whole.finished
    broken = replace(config, out=tmp_path / "broken")
    trainer = Trainer(broken, load_dataset(config.dataset), VirtualClock())
    trainer.prepare()
    for _ in range(7):
        trainer.advance()
    trainer.save()
    trainer.advance()  # lost: logged, but after the save
    resumed = train(replace(broken, resume=True))
    assert losses(broken.out) == losses(config.out)
    before, after = (load_checkpoint(result.policy).weights for result in (whole, resumed))
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=0)


def test_a_training_from_before_there_were_methods_is_resumed(config):
    """A state whose recipe holds only a "flow" goes on, as action flow with every default."""
    trainer = Trainer(config, load_dataset(config.dataset), VirtualClock())
    trainer.prepare()
    trainer.advance()
    trainer.save()
    path = config.out / "training_state.safetensors"
    header, tensors = load_tensors(path)
    recipe = header["recipe"]
    flow = {name: recipe["method"][name] for name in ("horizon", "k", "sigma0", "tau_sampling")}
    for name in ("method", "normalisation", "all_delta"):
        del recipe[name]
    del recipe["model"]["proprioception"]
    save_tensors(path, tensors, {**header, "recipe": {**recipe, "flow": flow}})
    again = Trainer(replace(config, resume=True), load_dataset(config.dataset), VirtualClock())
    again.prepare()
    assert again.step == 1


def test_interrupt_saves_and_can_resume(config, monkeypatch):
    """Ctrl-C ends the present step, saves, and reports an unfinished training."""
    advance = Trainer.advance

    def interrupted(self):
        if self.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", interrupted)
        stopped = train(config)
    assert (stopped.finished, stopped.step) == (False, 5)
    assert train(replace(config, resume=True)).finished


def test_checkpoint_tells_its_story(config):
    """The shipped file holds seed, step, recipe, dataset and held-out errors; it loads."""
    result = train(config)
    checkpoint = load_checkpoint(result.policy, SPACE)
    assert checkpoint.provenance["step"] == 12
    assert checkpoint.provenance["training"]["sampling"]["max_offset"] == 3
    assert set(checkpoint.provenance["dataset"]["tasks"]) == {"go", "stay"}
    assert set(result.holdout) > {"lead_0", "lead_3", "lead_3_uncompensated", "lead_0/go"}
    assert checkpoint.provenance["holdout"] == dict(result.holdout)


def test_other_settings_are_not_resumed(config):
    """Resuming with another recipe is refused, naming what differs."""
    train(replace(config, steps=2))
    with pytest.raises(ConfigError, match=r"other settings: steps, optimiser"):
        train(replace(config, resume=True, optimiser=OptimiserConfig(lr=1.0)))


def test_a_training_is_not_overwritten(config):
    """Starting anew where a training lies is refused; resuming where none lies, too."""
    with pytest.raises(CheckpointError):
        train(replace(config, resume=True))
    train(replace(config, steps=1))
    with pytest.raises(ConfigError, match="already holds"):
        train(config)


def test_too_few_episodes(config):
    """Holding out every episode of a task is refused."""
    with pytest.raises(DatasetError, match="has 12 episodes"):
        train(replace(config, holdout_per_task=12))


def test_batches_are_a_function_of_seed_and_step(config, dataset):
    """The same step gives the same batch, another step another; starts follow what was executed."""
    demonstrations = load_dataset(dataset)
    training, held_out = split_holdout(demonstrations, 2)
    assert len(held_out) == 4
    trainer = Trainer(config, demonstrations, VirtualClock())
    sampler = BatchSampler(
        demonstrations, training, trainer.normalisation, config.method, config.sampling, seed=0
    )
    once, again, other = sampler.batch(3), sampler.batch(3), sampler.batch(4)
    torch.testing.assert_close(once.pixels, again.pixels)
    torch.testing.assert_close(once.labels, again.labels)
    assert not torch.equal(once.labels, other.labels)
    assert once.start.shape == (4, 3, 2)
    assert once.labels.shape == (4, 3, 5, 2)
    assert (once.command[:, 0] == 0).all()  # delta dimensions count from the capture


def test_shift_moves_and_repeats_the_edge():
    """A shifted image holds only pixels of the image, moved down and right, its edge repeated."""
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert (shift_image(image, np.array([0, 0])) == image).all()
    moved = shift_image(image, np.array([1, -1]))
    assert (moved[:3, 1:] == image[1:, :3]).all()
    assert (moved[3] == moved[2]).all()
    assert (moved[:, 0] == moved[:, 1]).all()


@pytest.mark.slow
def test_training_learns_the_toy(config, tmp_path):
    """The loss falls, held-out actions are close, and starts beside the path draw together."""
    config = replace(
        config,
        dataset=write_toy_dataset(tmp_path / "toy", episodes=100),
        steps=400,
        holdout_every=400,
        sampling=SamplingConfig(batch_size=16, samples=8, max_offset=3, shift_px=0),
        optimiser=OptimiserConfig(lr=3e-3, warmup_steps=50, ema_decay=0.99),
        jitter=0.0,
    )
    result = train(config)
    curve = losses(config.out)
    assert np.mean(curve[-50:]) < 0.3 * np.mean(curve[:10])
    assert result.holdout["lead_0"] < 0.2
    policy = load_policy(result.policy, SPACE)
    episode = toy_episode("go", seed=1000)
    observation = Observation(
        {"top": episode.images["top"][0]}, episode.state[0], np.zeros(2), "go to the dot", 0
    )
    context = policy.encode(observation)
    ends = []
    for start in (-0.05, 0.05):
        actions = list(policy.generate(context, FlowStart(np.array([start, -1.0]))))
        ends.append(start + sum(action[0] for action in actions))
    assert abs(ends[1] - ends[0]) < 0.08  # they began 0.1 apart
