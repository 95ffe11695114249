"""Training: it learns, resumes on the same curve, and refuses what cannot work."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import sys
from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from streamvla.core.clock import VirtualClock
from streamvla.core.errors import CheckpointError, ConfigError, DatasetError
from streamvla.core.interfaces import FlowStart, Observation
from streamvla.core.provenance import commit
from streamvla.data.store import load_dataset
from streamvla.model.checkpoint import load_checkpoint, load_tensors, save_tensors
from streamvla.model.methods.action_flow import ActionFlowConfig
from streamvla.policy import load_policy
from streamvla.training import TrainConfig, train
from streamvla.training.batches import (
    START_FRAMES,
    BatchSampler,
    SamplingConfig,
    _task_probabilities,
    shift_image,
    split_holdout,
)
from streamvla.training.config import ModelSize
from streamvla.training.interrupts import Stop
from streamvla.training.optimiser import OptimiserConfig, update_average
from streamvla.training.trainer import Trainer
from tests.training.toy import SPACE, toy_episode, write_toy_dataset

SMALL = ModelSize(
    layers=2,
    width=32,
    expert_width=32,
    heads=2,
    head_dim=16,
    expansion=2,
    channels=8,
    condition_width=16,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_toy_dataset(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def config(dataset, tmp_path) -> TrainConfig:
    return TrainConfig(
        dataset=dataset,
        out=tmp_path / "out",
        steps=12,
        model=SMALL,
        methods=(ActionFlowConfig(horizon=5),),
        sampling=SamplingConfig(batch_size=4, samples=3, max_offset=3),
        optimiser=OptimiserConfig(warmup_steps=4),
        holdout_per_task=2,
        holdout_frames=8,
        device="cpu",
        threads=1,  # tensors are tiny: more threads would wait for each other
        log_every=1,
        holdout_every=6,
    )


def losses(out: Path) -> list[float]:
    lines = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [json.loads(line)["loss"] for line in lines]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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


def test_other_data_are_not_resumed(config, tmp_path):
    """A dataset that grew or was collected anew is refused by name; one moved elsewhere is not."""
    train(replace(config, steps=2))
    resume = replace(config, steps=2, resume=True)
    grown = write_toy_dataset(tmp_path / "grown", episodes=13)
    with pytest.raises(ConfigError, match=r"grown holds: episodes 26 \(was 24\).*Resume with"):
        train(replace(resume, dataset=grown))
    other = write_toy_dataset(tmp_path / "other", first_seed=100)
    with pytest.raises(ConfigError, match=r"other data than .*other holds: content"):
        train(replace(resume, dataset=other))
    moved = write_toy_dataset(tmp_path / "moved")
    assert train(replace(resume, dataset=moved)).finished


def test_resuming_keeps_the_normalisation(config):
    """A resumed training trains and ships under the statistics that it began with."""
    train(replace(config, steps=2))
    path = config.out / "training_state.safetensors"
    header, tensors = load_tensors(path)
    header["normalisation"]["action_scale"] = [3.0, 5.0]
    save_tensors(path, tensors, header)
    config = replace(config, steps=2, resume=True)
    trainer = Trainer(config, load_dataset(config.dataset), VirtualClock())
    before = trainer.sampler.batch(0).labels * torch.tensor(trainer.normalisation.action_scale)
    trainer.prepare()
    assert trainer.checkpoint("action-flow").normalisation.action_scale == (3.0, 5.0)
    after = trainer.sampler.batch(0).labels * torch.tensor([3.0, 5.0])
    torch.testing.assert_close(after, before)


def test_a_garbled_state_is_refused(config):
    """A training state that lacks what its data were is refused by name, with a remedy."""
    train(replace(config, steps=2))
    path = config.out / "training_state.safetensors"
    header, tensors = load_tensors(path)
    del header["dataset"]
    save_tensors(path, tensors, header)
    with pytest.raises(CheckpointError, match=r"training_state.*'dataset'.*Start anew"):
        train(replace(config, steps=2, resume=True))


def test_resuming_a_finished_training_changes_nothing(config):
    """Resumed after its last step, a training reports its errors and leaves its files alone."""
    first = train(config)
    before = contents(config.out)
    again = train(replace(config, resume=True))
    assert (again.finished, again.holdout) == (True, first.holdout)
    assert contents(config.out) == before


def test_provenance_tells_how_a_training_began(config, monkeypatch):
    """A policy finished by a resumption names the first command, and the later as resumed."""
    monkeypatch.setattr(sys, "argv", ["streamvla", "train", "first"])
    trainer = Trainer(config, load_dataset(config.dataset), VirtualClock())
    trainer.prepare()
    trainer.advance()
    trainer.save()
    monkeypatch.setattr(sys, "argv", ["streamvla", "train", "second"])
    told = load_checkpoint(train(replace(config, resume=True)).policy).provenance
    assert told["command"] == "streamvla train first"
    assert [each["command"] for each in told["resumed"]] == ["streamvla train second"]
    assert told["commit"] == commit()


def test_stopped_before_the_first_step_nothing_is_saved(config, monkeypatch):
    """Ctrl-C before any step leaves no state that could not be resumed; starting anew works."""
    stop = Stop(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr("streamvla.training.trainer.stop_on_interrupt", lambda **_: nullcontext(stop))
        result = train(config)
    assert (result.finished, result.step) == (False, 0)
    assert not result.policy.exists()
    assert train(config).finished


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
    with pytest.raises(ConfigError, match=r"other settings: optimiser\.lr 1\.0 \(was 0\.001\)"):
        train(replace(config, steps=2, resume=True, optimiser=OptimiserConfig(lr=1.0)))


def test_a_training_is_not_overwritten(config):
    """Starting anew where a training lies is refused; resuming where none lies, too."""
    with pytest.raises(CheckpointError):
        train(replace(config, resume=True))
    train(replace(config, steps=1))
    with pytest.raises(ConfigError, match="already holds"):
        train(config)


@pytest.mark.parametrize(
    ("kind", "name", "wrong"),
    [
        (SamplingConfig, "batch_size", 0),
        (SamplingConfig, "samples", 0),
        (SamplingConfig, "max_offset", -1),
        (SamplingConfig, "shift_px", -1),
        (OptimiserConfig, "lr", math.nan),
        (OptimiserConfig, "lr", math.inf),
        (OptimiserConfig, "lr", 0.0),
        (OptimiserConfig, "final_lr_fraction", 1.5),
        (OptimiserConfig, "warmup_steps", -1),
        (OptimiserConfig, "weight_decay", math.inf),
        (OptimiserConfig, "betas", (0.9, 1.0)),
        (OptimiserConfig, "clip", math.nan),
        (OptimiserConfig, "ema_decay", 1.0),
        (ActionFlowConfig, "k", math.nan),
        (ActionFlowConfig, "sigma0", math.inf),
    ],
)
def test_impossible_settings_are_refused(kind, name, wrong):
    """A setting that is out of range or not finite is refused with its name and value."""
    with pytest.raises(ConfigError, match=rf"{name} is {re.escape(str(wrong))}; expected"):
        kind(**{name: wrong})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("seed", -1),
        ("threads", 0),
        ("jitter", math.nan),
        ("save_every", 0),
        ("keep", -1),
        ("steps", 0),
    ],
)
def test_an_impossible_training_is_refused(config, name, wrong):
    """So is one of the training itself, before anything is read."""
    with pytest.raises(ConfigError, match=f"training {name} is {wrong}; expected"):
        replace(config, **{name: wrong})


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
        demonstrations,
        training,
        trainer.normalisation,
        config.generation,
        config.sampling,
        0,
        (2, 5),
    )
    once, again, other = sampler.batch(3), sampler.batch(3), sampler.batch(4)
    torch.testing.assert_close(once.pixels, again.pixels)
    torch.testing.assert_close(once.labels, again.labels)
    assert not torch.equal(once.labels, other.labels)
    assert once.start.shape == (4, 3, 2)
    assert once.labels.shape == (4, 3, 5, 2)
    assert once.future.shape == (4, 2, 1)
    assert once.places.shape == (4, 2)
    assert (once.command[:, 0] == 0).all()  # delta dimensions count from the capture


def test_task_weights_set_how_often_a_task_is_drawn(dataset):
    """A task of weight 4 beside one of weight 1 makes four fifths of the draws."""
    probabilities = _task_probabilities(("go", "stay"), {"go": 4.0})
    assert probabilities == pytest.approx([0.8, 0.2])


@pytest.mark.parametrize(
    ("weights", "message"),
    [({"goo": 2.0}, "did you mean 'go'"), ({"go": 0.0}, "above 0"), ({"go": math.nan}, "above 0")],
)
def test_a_wrong_task_weight_is_refused(weights, message):
    """A weight for an unknown task, or one that is not above 0, is refused by name."""
    with pytest.raises(ConfigError, match=message):
        _task_probabilities(("go", "stay"), weights)


def test_only_a_future_weight_trains_the_foreseeing_head(config, tmp_path):
    """With weight 0 the head that foresees states gets no gradient; with weight 1 it does."""
    demonstrations = load_dataset(config.dataset)
    moved = {}
    for weight in (0.0, 1.0):
        settings = replace(config, future_weight=weight, out=tmp_path / str(weight))
        trainer = Trainer(settings, demonstrations, VirtualClock())
        trainer.prepare()
        trainer.advance()
        moved[weight] = bool(trainer.models["action-flow"].expert.to_future.weight.grad.any())
    assert moved == {0.0: False, 1.0: True}


def test_start_fraction_draws_from_the_first_frames(config, dataset):
    """With a start fraction of 1 every drawn state is one of an episode's first five."""
    demonstrations = load_dataset(config.dataset)
    sampling = replace(config.sampling, start_fraction=1.0)
    trainer = Trainer(replace(config, sampling=sampling), demonstrations, VirtualClock())
    starts = {
        tuple(trainer.normalisation.normalise_state(state).tolist())
        for episode in demonstrations.episodes
        for state in episode.state[:START_FRAMES]
    }
    drawn = [tuple(row.tolist()) for step in range(5) for row in trainer.sampler.batch(step).state]
    assert set(drawn) <= starts


def test_word_dropout_thins_the_instructions_of_a_batch(config, dataset):
    """At 1 each keeps its words, for none would be left; in between some lose some."""
    demonstrations = load_dataset(config.dataset)

    def lengths(share):
        sampling = replace(config.sampling, word_dropout=share)
        trainer = Trainer(replace(config, sampling=sampling), demonstrations, VirtualClock())
        return {int(n) for step in range(5) for n in (trainer.sampler.batch(step).words > 0).sum(1)}

    assert lengths(1.0) == lengths(0.0)
    assert 1 <= min(lengths(0.5)) < min(lengths(0.0))


def test_shift_moves_and_repeats_the_edge():
    """A shifted image holds only pixels of the image, moved by at most the limit."""
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    shifted = {shift_image(image, np.array(by)).tobytes() for by in product((-1, 0, 1), repeat=2)}
    assert image.tobytes() in shifted
    assert len(shifted) == 9


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
        autocast=False,
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


def test_the_average_of_frozen_weights_is_the_weights_to_the_bit():
    """The sign of a zero stays too: a saliency predictor is known by what a policy sees with."""
    weights = [torch.tensor([-0.0, 1.0], requires_grad=trained) for trained in (False, True)]
    averages = [torch.tensor([-0.0, 0.0]), torch.tensor([-0.0, 0.0])]
    update_average(averages, weights, step=1000, decay=0.9)
    assert averages[0].numpy().tobytes() == np.array([-0.0, 0.0], np.float32).tobytes()
    assert float(averages[1][1]) == pytest.approx(0.1)
