"""Training a memory on clips: what it computes is what a stream computes, and it learns."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from streamvla.core.clock import SystemClock
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import FlowStart, Observation
from streamvla.data.store import Episode, load_dataset, shard_path, write_meta, write_shard
from streamvla.model.checkpoint import load_checkpoint
from streamvla.model.methods.action_flow import ActionFlowConfig
from streamvla.model.methods.registry import method_named
from streamvla.model.past import MemoryConfig
from streamvla.policy import load_policy
from streamvla.policy.base import StreamPolicy
from streamvla.training import TrainConfig, train
from streamvla.training.anticipation.early_error import Compensated, lead_errors
from streamvla.training.anticipation.saliency import load_policy_alone
from streamvla.training.anticipation.skipping import _policy_alone
from streamvla.training.batches import Batch, SamplingConfig
from streamvla.training.config import PretrainedSize
from streamvla.training.distributed import Share
from streamvla.training.holdout import LEADS
from streamvla.training.optimiser import OptimiserConfig
from streamvla.training.state import _up_to_date
from streamvla.training.trainer import Trainer
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
    """Three or four control periods apart, told alike and shifted alike; the first has nothing
    before it."""
    trainer = trainer_of(memory_config(dataset, tmp_path, sampling=replace(CLIPS, shift_px=3)))
    for step in range(10):
        batch = trainer.sampler.batch(step)
        elapsed = batch.elapsed.unflatten(0, (2, 3))
        assert (elapsed[:, 0] == 0).all()
        periods = (elapsed[:, 1:] / 0.05).round()
        assert ((periods == 3) | (periods == 4)).all()
        # the dot of a toy episode stands still: its pictures differ by their shifts alone
        for same in (batch.places, batch.words, batch.pixels):
            of_clips = same.unflatten(0, (2, 3))
            assert (of_clips == of_clips[:, :1]).all()


def test_the_numbers_of_a_clip_jump_once_at_most_as_far_as_the_window(dataset, tmp_path):
    """Over many clips every place of the jump and every length up to the window occurs; without a
    memory there is none."""
    remembering = trainer_of(memory_config(dataset, tmp_path / "a")).sampler
    plain = trainer_of(
        memory_config(dataset, tmp_path / "b", model=replace(SMALL, frames=2))
    ).sampler
    found = set()
    for step in range(40):
        found |= {
            tuple(each) for each in remembering.batch(step).number.unflatten(0, (2, 3)).tolist()
        }
        assert plain.batch(step).number.tolist() == [0, 1, 2] * 2
    assert found == {(0, 1, 2), (0, 1, 3), (0, 1, 4), (0, 2, 3), (0, 3, 4)}


def test_a_clip_in_an_episode_ends_where_it_does_and_knows_its_first_state(dataset, tmp_path):
    """Drawn anywhere, a clip has room in an episode that is long enough; the sink's state is that
    of the episode's first frame."""
    sampler = trainer_of(memory_config(dataset, tmp_path)).sampler
    first = sampler.normalisation.normalise_state(np.zeros(1, np.float32))
    starts = set()
    for step in range(20):
        batch = sampler.batch(step)
        assert (batch.elapsed.unflatten(0, (2, 3))[:, 1:] > 0).all()
        assert (batch.weight == 1).all()
        assert np.allclose(batch.first_state, first)
        starts |= set(batch.state.unflatten(0, (2, 3))[:, 0, 0].tolist())
    assert len(starts) > 5


def test_a_last_frame_that_is_drawn_again_does_not_count(dataset, tmp_path):
    """Where clips are longer than episodes, the loss and its gradients are those of the frames that
    are there, and the weights are 1 on average."""
    long = replace(CLIPS, clip=6, clip_stride=(4, 5))
    trainer = trainer_of(memory_config(dataset, tmp_path, sampling=long))
    batch = trainer.sampler.batch(0)
    again = torch.tensor([False, *(batch.elapsed[1:] == 0)])
    assert again.any()
    assert ((batch.weight == 0) == again).all()
    assert batch.weight.mean() == pytest.approx(1)
    other = replace(
        batch,
        labels=batch.labels + 9 * again[:, None, None, None],
        future=batch.future + 9 * again[:, None, None],
        places=batch.places + 9 * again[:, None],
    )
    losses = [
        trainer.objective(each, torch.Generator().manual_seed(0))[0] for each in (batch, other)
    ]
    assert torch.equal(*losses)


def test_colours_change_between_clips_and_not_within_one(dataset, tmp_path):
    """As light does."""
    trainer = trainer_of(memory_config(dataset, tmp_path, jitter=0.5))
    batch = trainer.sampler.batch(0)
    grey = replace(batch, pixels=torch.full_like(batch.pixels, 128))
    images = trainer.objective._images(grey, torch.Generator().manual_seed(0)).unflatten(0, (2, 3))
    assert torch.equal(images, images[:, :1].expand_as(images))
    assert not torch.allclose(images[0], images[1])


def test_what_training_computes_for_a_clip_is_what_a_stream_computes(dataset, tmp_path):
    """For each observation of a clip that starts a stream, the context that the expert learns on is
    the one it gets when the policy drives: to 1e-5."""
    trainer = trainer_of(memory_config(dataset, tmp_path))
    with torch.no_grad():
        for parameter in trainer._first.memory.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    trainer._average.load_state_dict(trainer._weights.state_dict())
    batch = _starting_streams(trainer.sampler.batch(3))
    model, objective = trainer._first.eval(), trainer.objective
    images = objective._images(batch, torch.Generator())
    prefix = model.encode(images, batch.words, batch.state, batch.command)
    trained = objective._remembering(model, prefix, batch)
    policy = trainer.policy("action-flow")
    assert isinstance(policy, StreamPolicy)
    assert_streamed(trainer, policy, batch, trained)


def test_a_clip_in_an_episode_reads_the_state_that_the_stream_began_with(dataset, tmp_path):
    """The expert's context depends on the first state of the episode; where a model is not told its
    state, it does not."""
    for told in (True, False):
        model = replace(REMEMBERING, proprioception=told)
        trainer = trainer_of(memory_config(dataset, tmp_path / str(told), model=model))
        batch, objective = trainer.sampler.batch(0), trainer.objective
        context = trainer._first.eval()
        prefix = context.encode(
            objective._images(batch, torch.Generator()), batch.words, batch.state, batch.command
        )
        other = replace(batch, first_state=batch.first_state + 1)
        one, two = (
            objective._remembering(context, prefix, each).keys[-1] for each in (batch, other)
        )
        assert torch.equal(one, two) != told


def _starting_streams(batch: Batch) -> Batch:
    """Whose clips of three begin a stream and leave nothing out."""
    first = batch.state[::3].repeat_interleave(3, 0)
    return replace(batch, number=torch.arange(3).repeat(2), first_state=first)


def assert_streamed(trainer, policy: StreamPolicy, batch, trained) -> None:
    """For each clip of three, driven as a stream, the contexts are those that training made."""
    for first in range(0, len(batch.state), 3):
        policy.begin()
        now_ns = 0
        for at in range(first, first + 3):
            now_ns += round(float(batch.elapsed[at]) * 1e9)
            found = policy.encode(_observation(trainer, batch, at, now_ns)).prefix
            present = trained.bias[at, 0, 0] > -1e9
            assert (found.tokens, found.vision) == (present.sum(), trained.vision)
            for mine, theirs in zip(found.keys, trained.keys, strict=True):
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
        trainer._first.ages.weight.normal_()
    trainer._average.load_state_dict(trainer._weights.state_dict())
    batch = trainer.sampler.batch(3)
    model = trainer._first.eval()
    images = trainer.objective._images(batch, torch.Generator())
    trained, _ = model.encode_and_locate(images, batch.words, batch.state, batch.command, 3)
    policy = trainer.policy("action-flow")
    assert isinstance(policy, StreamPolicy)
    assert_streamed(trainer, policy, batch, trained)


def test_methods_trained_together_share_what_tells_frames_apart(dataset, tmp_path):
    """Two methods on several frames train, on one context; frozen, it stays as it is."""
    methods = tuple(method_named(name)(horizon=5) for name in ("action-flow", "regression"))
    config = memory_config(dataset, tmp_path, model=replace(SMALL, frames=2), methods=methods)
    trainer = trainer_of(config)
    first, second = trainer.models.values()
    assert first.ages is second.ages
    for trainer.step in range(3):
        trainer._optimise()
    assert first.ages.weight.abs().max() > 0
    first.train_only("expert")
    assert {name.split(".")[0] for name, p in first.named_parameters() if p.requires_grad} == {
        "expert"
    }


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


@pytest.fixture(scope="module")
def of_hidden_goals(tmp_path_factory) -> StreamPolicy:
    return trained_on_hidden_goals(tmp_path_factory.mktemp("hidden"), steps=400)


def trained_on_hidden_goals(folder: Path, steps: int) -> StreamPolicy:
    """On clips of 4 observations, with a window of 16."""
    write_meta(folder / "data", replace(META, tasks={"go": META.tasks["go"]}))
    made = [hidden_goal(seed) for seed in range(40)]
    write_shard(shard_path(folder / "data", "go", 0), made, attempts=len(made))
    sampling = SamplingConfig(
        batch_size=32, samples=4, max_offset=0, clip=4, clip_stride=(3, 6), start_fraction=1.0
    )
    model = replace(REMEMBERING, memory=replace(REMEMBERING.memory, window=16))
    config = memory_config(folder / "data", folder / "out", sampling=sampling, model=model)
    optimiser = OptimiserConfig(lr=3e-3, warmup_steps=20, ema_decay=0.98)
    config = replace(config, steps=steps, optimiser=optimiser, holdout_every=steps)
    policy = load_policy(train(config).policy)
    assert isinstance(policy, StreamPolicy)
    return policy


def error_behind(policy: StreamPolicy, between: int, *, remembers: bool = True) -> float:
    """Of the actions towards goals that were shown and are gone, with so many more observations
    of nothing between."""
    total = 0.0
    for episode in map(hidden_goal, range(100, 120)):
        policy.begin()
        policy.encode(_frame(episode, 0))
        if not remembers:
            policy.begin()
        waiting = _frame(episode, WAIT)
        for _ in range(between):
            policy.encode(waiting)
            later_ns = waiting.captured_ns + 4 * META.control_period_ns
            waiting = replace(waiting, captured_ns=later_ns)
        context = policy.encode(waiting)
        actions = np.stack(list(policy.generate(context, FlowStart(np.zeros(2)))))
        total += float(np.abs(actions - episode.label[WAIT : WAIT + 5]).mean()) / 20
    return total


def test_it_learns_to_act_on_what_is_no_longer_seen(of_hidden_goals):
    """Of a goal that was shown and is gone: made to forget, the same policy errs at least twice as
    much."""
    forgetting = error_behind(of_hidden_goals, 0, remembers=False)
    assert forgetting > 2 * error_behind(of_hidden_goals, 0)


@pytest.mark.slow
def test_it_remembers_farther_back_than_a_clip_is_long(tmp_path):
    """With up to 14 observations between, of a window of 16, it errs on average less than twice as
    much as with none, though no clip has more than 4 observations. This seed does, and does not
    where numbers never jump; of another seed the claim is false (docs/decisions/0032)."""
    policy = trained_on_hidden_goals(tmp_path, steps=1200)
    farther = [error_behind(policy, between) for between in (3, 6, 10, 14)]
    assert np.mean(farther) < 2 * error_behind(policy, 0)


def _frame(episode: Episode, t: int) -> Observation:
    words = META.tasks["go"][0]
    images = {"top": episode.images["top"][t]}
    return Observation(images, episode.state[t], np.zeros(2), words, t * META.control_period_ns)


def test_held_out_frames_of_a_stream_are_the_same_at_every_lead(dataset, tmp_path):
    """And no more than were asked for, of episodes of every task; each episode begins with nothing
    remembered, so that measuring again gives the same."""
    config = memory_config(dataset, tmp_path, methods=(ActionFlowConfig(horizon=4),))
    trainer = trainer_of(replace(config, holdout_frames=6))
    with torch.no_grad():
        for parameter in trainer._average.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    policy, probe = trainer.policy("action-flow"), trainer.probe
    measured, entered = {}, {}
    for lead in LEADS:
        found = []
        for [(episode, t)] in probe._frames(policy, lead):
            entered[lead, episode.task, t] = (
                0 if policy.stream.kept is None else (policy.stream.kept.entered)
            )
            probe._measure_batch(policy, [(episode, t)], lead)
            found.append((episode.task, t))
        measured[lead] = found
    assert measured[0] == measured[3] == measured[5]
    assert 0 < len(measured[0]) <= 6
    assert {task for task, _ in measured[0]} == {"go", "stay"}
    assert [entered[0, "go", t] for t in (5, 9, 13)] == [1, 2, 3]  # frames 1, 5, 9 and 13
    assert [entered[3, "go", t] for t in (5, 9, 13)] == [0, 1, 2]
    assert probe.measure(policy) == probe.measure(policy)
    backwards = copy.copy(probe)
    backwards.streamed = probe.streamed[::-1]
    one, other = probe.measure(policy), backwards.measure(policy)
    assert one.keys() == other.keys()
    assert all(one[name] == pytest.approx(other[name]) for name in one)


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


@pytest.fixture(scope="module")
def bases(tmp_path_factory, dataset) -> dict[str, Path]:
    """Policies to start from: without a memory, with one, and with several frames."""
    folder = tmp_path_factory.mktemp("bases")
    plain = replace(small_config(dataset, folder / "plain"), model=replace(SMALL, layers=3))
    stacked = memory_config(dataset, folder / "stacked", model=replace(SMALL, layers=3, frames=2))
    with_memory = memory_config(dataset, folder / "with memory")
    trained = {"plain": plain, "with memory": with_memory, "stacked": stacked}
    return {name: train(replace(each, steps=1)).policy for name, each in trained.items()}


OTHER = replace(REMEMBERING, memory=replace(REMEMBERING.memory, width=16))
RECURRENT = replace(REMEMBERING, memory=replace(REMEMBERING.memory, recurrent=True))


@pytest.mark.parametrize(
    ("base", "changes", "said"),
    [
        ("plain", {"train": "expert"}, "stay random"),
        ("with memory", {"model": replace(SMALL, layers=3, frames=2)}, "would drop it"),
        ("with memory", {"model": OTHER}, "memory of another size"),
        ("with memory", {"model": RECURRENT}, "memory of another size"),
        ("stacked", {"model": replace(SMALL, layers=3, frames=3)}, "of 2 frames"),
        ("stacked", {}, "of 2 frames"),
    ],
)
def test_a_memory_is_neither_lost_nor_left_random(dataset, tmp_path, bases, base, changes, said):
    """Starting from a policy with another memory, or freezing one that nothing was learned for, is
    refused in one line."""
    with pytest.raises(ConfigError, match=said):
        trainer_of(memory_config(dataset, tmp_path, init=bases[base], **changes))


def test_an_expert_alone_learns_on_the_memory_of_its_policy(dataset, tmp_path, bases):
    """Also with another window, which needs no other weights; without a policy there is none."""
    longer = replace(REMEMBERING, memory=replace(REMEMBERING.memory, window=9))
    config = memory_config(
        dataset, tmp_path, init=bases["with memory"], train="expert", model=longer
    )
    own, weights = trainer_of(config)._first.state_dict(), load_checkpoint(config.init).weights
    assert all(torch.equal(own[name], weights[name]) for name in own if "memory." in name)
    with pytest.raises(ConfigError, match="stay random"):
        replace(config, init=None, model=replace(PretrainedSize("x"), memory=longer.memory))


def test_a_frozen_context_hears_no_new_words(tmp_path, dataset):
    """With `train="memory"`, as with "expert", the policy knows the words that it began with,
    whatever the dataset says."""
    write_meta(tmp_path / "few", replace(META, tasks={"go": META.tasks["go"]}))
    made = [toy_episode("go", seed) for seed in range(6)]
    write_shard(shard_path(tmp_path / "few", "go", 0), made, attempts=6)
    few = replace(small_config(tmp_path / "few", tmp_path / "base"), steps=1)
    base = train(replace(few, model=replace(SMALL, layers=3))).policy
    config = memory_config(dataset, tmp_path / "out", train="memory", init=base)
    assert trainer_of(config)._first.vocabulary == load_policy(base).spec.vocabulary


@pytest.mark.parametrize("base", ["with memory", "stacked"])
def test_what_looks_at_single_frames_refuses_a_policy_that_remembers(dataset, bases, base):
    """The trainings of saliency and of skipping, and the error of early observation, in one line;
    their policies are those that remember."""
    with pytest.raises(ConfigError, match="train-saliency looks at single frames"):
        load_policy_alone(bases[base], "cpu")
    with pytest.raises(ConfigError, match="train-skipping looks at single frames"):
        _policy_alone(bases[base], "cpu")
    demonstrations, policy = load_dataset(dataset), load_policy(bases[base])
    with pytest.raises(ConfigError, match="early observation looks at single frames"):
        lead_errors(policy, demonstrations, demonstrations.episodes, Compensated(), 0)


def test_clips_are_not_shared_between_processes(dataset, tmp_path):
    """A process whose rows are no whole number of clips is refused; with whole ones the shares of a
    step, in colours that vary, average to the whole."""
    config = memory_config(dataset, tmp_path, jitter=0.2)
    config = replace(config, sampling=replace(CLIPS, batch_size=12, clip=6, clip_stride=(4, 5)))
    with pytest.raises(ConfigError, match="a clip cannot be shared"):
        Trainer(config, load_dataset(dataset), SystemClock(), Share(0, 3))
    losses = []
    for share in (Share(), Share(0, 2), Share(1, 2)):
        trainer = trainer_of(config)
        trainer.sampler._rows = share.rows(12)
        trainer.objective.share = share
        batch, draws = trainer.sampler.batch(0), torch.Generator().manual_seed(0)
        losses.append(float(trainer.objective(batch, draws)[0].detach()))
    assert np.mean(losses[1:]) == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize(
    "changes",
    [{}, {"sinks": False}, {"recurrent": True}, {"window": 0}, {"vision_window": 2}],
)
def test_every_part_of_a_memory_learns(dataset, tmp_path, changes):
    """Several processes wait for a gradient of each; without sinks none is made for them."""
    model = replace(REMEMBERING, memory=replace(REMEMBERING.memory, **changes))
    trainer = trainer_of(memory_config(dataset, tmp_path, model=model))
    loss, _ = trainer.objective(trainer.sampler.batch(0), torch.Generator().manual_seed(0))
    loss.backward()
    named = trainer._first.memory.named_parameters()
    assert [name for name, parameter in named if parameter.grad is None] == []


def test_a_recipe_from_before_memories_is_that_of_a_training_without(dataset, tmp_path):
    """A state that does not say memory, frames or clips is resumed as one that has none."""
    recipe = small_config(dataset, tmp_path).recipe()
    older = copy.deepcopy(recipe)
    for part, names in (("model", ("memory", "frames")), ("sampling", ("clip", "clip_stride"))):
        for name in names:
            del older[part][name]
    assert _up_to_date(older) == recipe


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sampling": SamplingConfig(batch_size=4)}, "clips of at least 2"),
        ({"model": replace(REMEMBERING, frames=2)}, "one of these alone"),
        ({"model": replace(SMALL, frames=2), "train": "memory", "init": Path("x")}, "has none"),
        ({"model": replace(REMEMBERING, layers=2)}, "at least 3"),
        ({"model": SMALL}, "remembers none"),
    ],
)
def test_a_past_that_does_not_fit_is_refused_before_anything_is_read(
    dataset, tmp_path, changes, said
):
    """Single observations leave nothing to remember, clips need something that remembers, and so
    on: in one line that names the flags."""
    with pytest.raises(ConfigError, match=said):
        memory_config(dataset, tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"batch_size": 5, "clip": 3}, "multiple"), ({"clip_stride": (5, 2)}, "smaller one first")],
)
def test_clips_that_cannot_be_are_refused(changes, said):
    """One line says what was expected."""
    with pytest.raises(ConfigError, match=said):
        SamplingConfig(**changes)
