"""Training a memory on clips: what it computes is what a stream computes, and it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import FlowStart, Observation
from streamvla.data.store import Episode, shard_path, write_meta, write_shard
from streamvla.model.checkpoint import load_checkpoint
from streamvla.model.memory import MemoryConfig
from streamvla.policy import load_policy
from streamvla.policy.base import StreamPolicy
from streamvla.training import TrainConfig, train
from streamvla.training.batches import SamplingConfig
from streamvla.training.optimiser import OptimiserConfig
from tests.training.small import SMALL, small_config
from tests.training.test_crops import trainer_of
from tests.training.toy import META, toy_episode, write_toy_dataset

CLIPS = SamplingConfig(batch_size=6, samples=3, max_offset=2, clip=3, clip_stride=(3, 4))
REMEMBERING = replace(SMALL, layers=3, memory=MemoryConfig(summaries=2, window=4, width=32))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_toy_dataset(tmp_path_factory.mktemp("toy"))


def memory_config(dataset: Path, out: Path, **changes) -> TrainConfig:
    settings = {"model": REMEMBERING, "sampling": CLIPS, "jitter": 0.0, **changes}
    return replace(small_config(dataset, out), **settings)


def test_a_clip_is_of_one_episode_in_order(dataset, tmp_path):
    """Three or four control periods apart and told alike; the first has nothing before it."""
    trainer = trainer_of(memory_config(dataset, tmp_path))
    batch = trainer.sampler.batch(0)
    elapsed = batch.elapsed.unflatten(0, (2, 3))
    assert (elapsed[:, 0] == 0).all()
    periods = (elapsed[:, 1:] / 0.05).round()
    assert ((periods >= 3) & (periods <= 4) | (periods == 0)).all()  # 0: the episode had ended
    places, words = batch.places.unflatten(0, (2, 3)), batch.words.unflatten(0, (2, 3))
    assert (places == places[:, :1]).all()
    assert (words == words[:, :1]).all()


def test_what_training_computes_for_a_clip_is_what_a_stream_computes(dataset, tmp_path):
    """For each observation of a clip that starts a stream, the context that the expert learns on is
    the one it gets when the policy drives: to 1e-5."""
    trainer = trainer_of(memory_config(dataset, tmp_path))
    with torch.no_grad():
        for parameter in trainer._first.memory.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    trainer._average.load_state_dict(trainer._weights.state_dict())
    batch = trainer.sampler.batch(3)
    model, objective = trainer._first.eval(), trainer.objective
    images = objective._images(batch, torch.Generator())
    prefix = model.encode(images, batch.words, batch.state, batch.command)
    trained = objective._remembering(model, prefix, batch)
    policy = trainer.policy("action-flow")
    assert isinstance(policy, StreamPolicy)
    for first in range(0, len(batch.state), 3):
        policy.begin()
        now_ns = 0
        for at in range(first, first + 3):
            now_ns += round(float(batch.elapsed[at]) * 1e9)
            if at > first and batch.elapsed[at] == 0:
                continue  # the episode had ended
            found = policy.encode(_observation(trainer, batch, at, now_ns)).prefix
            words = (batch.words[at] != 0).sum()
            assert found.tokens <= trained.tokens
            for mine, theirs in zip(found.keys, trained.keys, strict=True):
                present = trained.bias[at, 0, 0] > -1e9
                assert words > 0
                torch.testing.assert_close(mine[0], theirs[at][:, present], rtol=1e-5, atol=1e-5)


def _observation(trainer, batch, at: int, now_ns: int) -> Observation:
    """Row `at` as a robot would show it."""
    meta, normal = trainer.demonstrations.meta, trainer.normalisation
    texts = [text for phrasings in meta.tasks.values() for text in phrasings]
    tokens = batch.words[at][batch.words[at] != 0]
    said = [text for text in texts if torch.equal(trainer._first.tokenise([text])[0], tokens)]
    state = batch.state[at].numpy() * np.array(normal.state_std) + np.array(normal.state_mean)
    return Observation(
        {view: batch.pixels[at, number].numpy() for number, view in enumerate(meta.views)},
        state.astype(np.float32),
        batch.command[at].numpy() * np.array(normal.action_scale),
        said[0],
        now_ns,
    )


def test_several_frames_in_training_are_those_of_a_stream(dataset, tmp_path):
    """The context of each observation of a clip is the one the policy makes when it drives: of its
    vision tokens and those before, at the start those of the first one again."""
    config = memory_config(dataset, tmp_path, model=replace(SMALL, frames=3))
    trainer = trainer_of(config)
    with torch.no_grad():
        trainer._first.ages.normal_()
    trainer._average.load_state_dict(trainer._weights.state_dict())
    batch = trainer.sampler.batch(3)
    model = trainer._first.eval()
    images = trainer.objective._images(batch, torch.Generator())
    trained, _ = model.encode_and_locate(images, batch.words, batch.state, batch.command, 3)
    policy = trainer.policy("action-flow")
    assert isinstance(policy, StreamPolicy)
    for first in range(0, len(batch.state), 3):
        policy.begin()
        now_ns = 0
        for at in range(first, first + 3):
            now_ns += round(float(batch.elapsed[at]) * 1e9)
            if at > first and batch.elapsed[at] == 0:
                break
            found = policy.encode(_observation(trainer, batch, at, now_ns)).prefix
            present = trained.bias[at, 0, 0] > -1e9
            assert found.vision == trained.vision
            for mine, theirs in zip(found.keys, trained.keys, strict=True):
                torch.testing.assert_close(mine[0], theirs[at][:, present], rtol=1e-5, atol=1e-5)


WAIT = 6


def hidden_goal(seed: int) -> Episode:
    """The dot is shown for five frames, and after one more the hand goes there: where, no later
    frame tells until the hand moves."""
    episode = toy_episode("go", seed)
    frames = episode.images["top"].copy()
    frames[5:] = 0
    still = np.zeros((WAIT, 2), np.float32)
    return replace(
        episode,
        images={"top": frames},
        state=np.concatenate([still[:, :1], episode.state[:-WAIT]]),
        label=np.concatenate([still, episode.label[:-WAIT]]),
        action=np.concatenate([still, episode.action[:-WAIT]]),
    )


def test_it_learns_to_act_on_what_is_no_longer_seen(tmp_path):
    """Of a goal that was shown and is gone: made to forget, the same policy errs at least twice as
    much."""
    meta = replace(META, tasks={"go": META.tasks["go"]})
    write_meta(tmp_path / "hidden", meta)
    made = [hidden_goal(seed) for seed in range(40)]
    write_shard(shard_path(tmp_path / "hidden", "go", 0), made, attempts=len(made))
    sampling = SamplingConfig(
        batch_size=32, samples=4, max_offset=0, clip=4, clip_stride=(3, 6), start_fraction=1.0
    )
    optimiser = OptimiserConfig(lr=3e-3, warmup_steps=20, ema_decay=0.98)
    config = memory_config(tmp_path / "hidden", tmp_path / "out", sampling=sampling, steps=400)
    policy = load_policy(train(replace(config, optimiser=optimiser, holdout_every=400)).policy)
    assert isinstance(policy, StreamPolicy)
    errors = {True: 0.0, False: 0.0}
    for episode in map(hidden_goal, range(100, 120)):
        for remembers in errors:
            policy.begin()
            policy.encode(_frame(episode, 0))
            if not remembers:
                policy.begin()
            context = policy.encode(_frame(episode, WAIT))
            actions = np.stack(list(policy.generate(context, FlowStart(np.zeros(2)))))
            errors[remembers] += float(np.abs(actions - episode.label[WAIT : WAIT + 5]).mean())
    assert errors[False] > 2 * errors[True]


def _frame(episode: Episode, t: int) -> Observation:
    words = META.tasks["go"][0]
    images = {"top": episode.images["top"][t]}
    return Observation(images, episode.state[t], np.zeros(2), words, t * META.control_period_ns)


def test_the_memory_alone_learns_on_a_frozen_context(dataset, tmp_path):
    """With `train="memory"` the weights that make the prefix stay those of the policy it began
    with, to the last bit; those of the memory and of the expert change."""
    base = train(replace(small_config(dataset, tmp_path / "base"), model=replace(SMALL, layers=3)))
    config = memory_config(dataset, tmp_path / "out", train="memory", init=base.policy)
    result = train(config)
    before, after = (load_checkpoint(path).weights for path in (base.policy, result.policy))
    for name, weights in before.items():
        if not name.startswith("expert."):
            assert torch.equal(weights, after[name]), name
    assert any(not torch.equal(before[n], after[n]) for n in before if n.startswith("expert."))
    assert load_policy(result.policy).spec.remembers


def test_a_stopped_training_of_a_memory_goes_on_to_the_same_weights(dataset, tmp_path):
    """Six steps and six more are twelve, to the last bit."""
    whole = train(memory_config(dataset, tmp_path / "whole"))
    half = memory_config(dataset, tmp_path / "half", steps=6)
    schedule = replace(half, steps=12)
    trainer = trainer_of(schedule)
    trainer.prepare()
    for _ in range(6):
        trainer.advance()
    trainer.save()
    trainer.close()
    again = train(replace(schedule, resume=True))
    one, other = (load_checkpoint(result.policy).weights for result in (whole, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_memory_without_clips_is_refused(dataset, tmp_path):
    """Single observations leave it nothing to remember."""
    with pytest.raises(ConfigError, match="clips of at least 2"):
        memory_config(dataset, tmp_path, sampling=SamplingConfig(batch_size=4))


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"batch_size": 5, "clip": 3}, "multiple"), ({"clip_stride": (5, 2)}, "smaller one first")],
)
def test_clips_that_cannot_be_are_refused(changes, said):
    """One line says what was expected."""
    with pytest.raises(ConfigError, match=said):
        SamplingConfig(**changes)
