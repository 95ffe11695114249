"""Several methods in one training, read-outs, and starting from a policy that exists."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from streamvla.core.clock import VirtualClock
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import FlowStart, Observation
from streamvla.data.store import Episode, load_dataset
from streamvla.model.checkpoint import load_checkpoint, load_tensors, save_checkpoint, save_tensors
from streamvla.model.instruction import PADDING, hash_words, vocabulary_of
from streamvla.model.methods.action_flow import ActionFlowConfig
from streamvla.model.methods.chunk_flow import ChunkFlowConfig
from streamvla.model.methods.regression import RegressionConfig
from streamvla.policy import load_policy
from streamvla.training import TrainConfig, train
from streamvla.training.batches import LEAST_PLACE_STD, PlaceScale
from streamvla.training.trainer import Trainer
from tests.training.small import small_config
from tests.training.toy import META, SPACE, toy_episode, write_toy_dataset

METHODS = (ActionFlowConfig(horizon=5), ChunkFlowConfig(horizon=5), RegressionConfig(horizon=5))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_toy_dataset(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def joint(dataset, tmp_path) -> TrainConfig:
    return replace(small_config(dataset, tmp_path / "joint"), steps=4, methods=METHODS)


def trainer_of(config: TrainConfig) -> Trainer:
    return Trainer(config, load_dataset(config.dataset), VirtualClock())


def test_each_method_gets_a_whole_policy_on_the_same_context(joint):
    """Three files that load and act by themselves; their weights differ in the experts alone."""
    result = train(joint)
    assert {path.name for path in result.policies.values()} == {
        "action-flow.safetensors",
        "chunk-flow.safetensors",
        "regression.safetensors",
    }
    episode = toy_episode("go", 0)
    seen = Observation({"top": episode.images["top"][0]}, episode.state[0], np.zeros(2), "go", 0)
    context = []
    for method in METHODS:
        policy = load_policy(result.policies[method.name], SPACE)
        assert policy.method == method
        assert len(list(policy.generate(policy.encode(seen), FlowStart(np.zeros(2))))) == 5
        weights = load_checkpoint(result.policies[method.name]).weights
        context.append({name: t for name, t in weights.items() if not name.startswith("expert.")})
    for other in context[1:]:
        assert other.keys() == context[0].keys()
        assert all(torch.equal(tensor, context[0][name]) for name, tensor in other.items())


def test_held_out_errors_of_several_methods_are_told_apart(joint):
    """The result names each method's errors; each policy file has its own, without the name."""
    result = train(joint)
    own = load_checkpoint(result.policies["chunk-flow"]).provenance["holdout"]
    assert own["lead_0"] == result.holdout["chunk-flow/lead_0"]
    assert {name.split("/")[0] for name in result.holdout} == {each.name for each in METHODS}
    line = json.loads((joint.out / "log.jsonl").read_text(encoding="utf-8").splitlines()[0])
    parts = line["losses"]
    assert len(parts) == 10
    read_outs = [name for name in parts if name.endswith(("future", "places"))]
    weighted = (0.5 * parts[name] if name in read_outs else parts[name] for name in parts)
    assert line["loss"] == pytest.approx(sum(weighted), rel=1e-5)


def test_a_joint_training_resumes_as_one(joint, tmp_path):
    """Stopped after two of four steps and resumed, all policies end with the same weights."""
    whole = train(joint)
    broken = trainer_of(replace(joint, out=tmp_path / "broken"))
    broken.prepare()
    for _ in range(2):
        broken.advance()
    broken.save()
    resumed = train(replace(joint, out=tmp_path / "broken", resume=True))
    for name, path in whole.policies.items():
        weights = load_checkpoint(resumed.policies[name]).weights
        for key, tensor in load_checkpoint(path).weights.items():
            torch.testing.assert_close(weights[key], tensor, rtol=0, atol=0)


def test_every_expert_and_the_shared_context_learn(joint):
    """One step moves all three experts; the second, with open gates, the vision they share."""
    trainer = trainer_of(joint)
    before = {name: value.detach().clone() for name, value in trainer._weights.named_parameters()}
    trainer._optimise()
    trainer.step += 1
    trainer._optimise()
    for name in (
        *(f"{method.name}.expert.to_step.weight" for method in METHODS),
        *(f"{method.name}.expert.to_places.weight" for method in METHODS),
        "action-flow.vision.stem.weight",
    ):
        assert not torch.equal(trainer._weights.get_parameter(name), before[name]), name


def test_methods_that_cannot_share_samples_are_refused(joint):
    """Unequal horizons, or one method twice, raise ConfigError."""
    with pytest.raises(ConfigError, match="differ in one of horizon"):
        replace(joint, methods=(METHODS[0], ChunkFlowConfig(horizon=6)))
    with pytest.raises(ConfigError, match="each once"):
        replace(joint, methods=(METHODS[0], METHODS[0]))


def test_init_gives_context_to_all_and_the_expert_to_its_own_method(joint, tmp_path):
    """From a chunk-flow policy: its context in all, its expert in chunk flow, others fresh."""
    alone = replace(joint, out=tmp_path / "chunk", methods=(METHODS[1],))
    start = train(alone)
    given = load_checkpoint(start.policy).weights
    trainer = trainer_of(replace(joint, init=start.policy, seeded_keypoints=0.0))
    fresh = trainer_of(replace(joint, seeded_keypoints=0.0))
    for name, model in trainer.models.items():
        weights, untrained = model.state_dict(), fresh.models[name].state_dict()
        for key, tensor in weights.items():
            taken = not key.startswith("expert.") or name == "chunk-flow"
            assert torch.equal(tensor, given[key] if taken else untrained[key]), (name, key)


def test_a_policy_hears_the_words_of_its_dataset(joint):
    """Every word of every instruction, and no other; it is stored as text, too."""
    trained = load_checkpoint(train(joint).policy)
    heard = trained.weights["instruction.heard"]
    instructions = tuple(chain.from_iterable(META.tasks.values()))
    assert trained.vocabulary == tuple(sorted(vocabulary_of(instructions)))
    said = {word for each in instructions for word in hash_words(each)}
    assert set(heard.nonzero().flatten().tolist()) - {PADDING} == said - {PADDING}


@pytest.mark.parametrize("trained", ["all", "expert"])
def test_the_words_of_an_init_are_kept_and_resumed(joint, tmp_path, trained):
    """A word that only the policy it began from knew is still known after the training, and when it
    is resumed, whatever became of that policy's file."""
    start = load_checkpoint(train(replace(joint, methods=(METHODS[0],))).policy)
    words = tuple(sorted({*(start.vocabulary or ()), "zebra"}))
    save_checkpoint(tmp_path / "start.safetensors", replace(start, vocabulary=words))
    config = replace(
        joint, out=tmp_path / "next", init=tmp_path / "start.safetensors", train=trained
    )
    assert load_checkpoint(train(config).policies["action-flow"]).vocabulary == words
    save_checkpoint(tmp_path / "start.safetensors", start)
    again = trainer_of(replace(config, resume=True))
    again.prepare()
    assert again.checkpoint("action-flow").vocabulary == words
    assert again.models["action-flow"].instruction.heard[hash_words("zebra")[0]]


def test_a_state_from_before_a_setting_was_renamed_resumes(joint):
    """Euler steps were called steps; a training state that says so is the same recipe."""
    train(joint)
    path = joint.out / "training_state.safetensors"
    fields, tensors = load_tensors(path)
    for method in fields["recipe"]["methods"]:
        if "euler_steps" in method:
            method["steps"] = method.pop("euler_steps")
            del method["noise_scale"]
    save_tensors(path, tensors, fields)
    trainer_of(replace(joint, resume=True)).prepare()


def test_init_from_a_folder_gives_every_expert_its_own(joint, tmp_path):
    """The policies of a joint training start the next one, each its method; others are named."""
    first = train(joint)
    again = trainer_of(replace(joint, out=tmp_path / "again", init=joint.out))
    for name, model in again.models.items():
        given = load_checkpoint(first.policies[name]).weights
        assert all(torch.equal(tensor, given[key]) for key, tensor in model.state_dict().items())
    with pytest.raises(ConfigError, match="has no policy of action-flow"):
        trainer_of(replace(joint, out=tmp_path / "none", init=tmp_path))


def test_the_expert_alone_learns_on_a_context_that_stays(joint, tmp_path):
    """With train "expert" every weight outside the expert is the given policy's to the bit."""
    start = train(replace(joint, out=tmp_path / "start", methods=(METHODS[0],))).policy
    given = load_checkpoint(start).weights
    alone = replace(joint, out=tmp_path / "alone", init=start, train="expert")
    policies = train(alone).policies
    for path in policies.values():
        weights = load_checkpoint(path).weights
        context = [name for name in weights if not name.startswith("expert.")]
        assert all(torch.equal(weights[name], given[name]) for name in context)
    learned = load_checkpoint(policies["action-flow"]).weights["expert.to_step.weight"]
    assert not torch.equal(learned, given["expert.to_step.weight"])
    with pytest.raises(ConfigError, match="without a policy to start from"):
        replace(alone, init=None)


def test_init_without_read_outs_leaves_them_fresh(joint, tmp_path):
    """A policy of data without places starts a training with places; other sizes are refused."""
    alone = replace(joint, out=tmp_path / "alone", methods=(METHODS[0],), seeded_keypoints=0.0)
    trainer = trainer_of(alone)
    model = trainer.models["action-flow"]
    given = trainer.checkpoint("action-flow")
    weights = {k: v for k, v in given.weights.items() if "to_places" not in k}
    from streamvla.training.initial import start_from

    start_from(trainer.models, replace(given, weights=weights), "init x")
    assert torch.equal(model.expert.from_state.weight, weights["expert.from_state.weight"])
    wrong = {**weights, "expert.to_step.bias": torch.zeros(7)}
    with pytest.raises(ConfigError, match=r"init x is of another size: expert\.to_step\.bias"):
        start_from(trainer.models, replace(given, weights=wrong), "init x")


def test_places_are_normalised_per_dimension_with_a_floor():
    """Unit deviation where things move; what stands still is not blown up; none gives p = 0."""
    episodes = [toy_episode("go", seed) for seed in range(20)]
    scale = PlaceScale.fit(episodes)
    rows = np.stack([scale.of(each, t) for each in episodes for t in range(len(each))])
    np.testing.assert_allclose(rows.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(rows.std(0), (1.0, 0.0), atol=1e-5)
    assert scale.std[1] == LEAST_PLACE_STD
    without: list[Episode] = [replace(each, places=None) for each in episodes]
    assert PlaceScale.fit(without).dim == 0
    assert PlaceScale.fit(without).of(without[0], 0).shape == (0,)


def test_vision_alone_learns_to_tell_places_and_is_a_start_for_all(joint, tmp_path):
    """With train "vision" what tells places changes and nothing else; all may start from there."""
    begun = trainer_of(replace(joint, out=tmp_path / "begun"))
    seeing = replace(joint, out=tmp_path / "seeing", train="vision", steps=40)
    result = train(seeing)
    seen = load_checkpoint(result.policies["chunk-flow"]).weights
    fresh = begun.models["chunk-flow"].state_dict()
    moved = {name.split(".")[0] for name in fresh if not torch.equal(seen[name], fresh[name])}
    assert moved == {"vision", "instruction", "to_places"}
    lines = [json.loads(line) for line in (seeing.out / "log.jsonl").read_text().splitlines()]
    assert set(lines[-1]["losses"]) == {"places"}
    everything = trainer_of(replace(joint, out=tmp_path / "all", init=seeing.out))
    told = everything.models["regression"].state_dict()
    assert all(torch.equal(told[name], seen[name]) for name in told if name.startswith("vision."))
    everything._optimise()


def test_vision_alone_needs_places_to_learn(joint, tmp_path):
    """A model without asked keypoints, or data without places, is refused before any step."""
    blind = replace(joint, train="vision", model=replace(joint.model, asked_keypoints=0))
    with pytest.raises(ConfigError, match="tells no places"):
        trainer_of(blind)
