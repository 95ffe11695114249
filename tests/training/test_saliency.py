"""The saliency predictor: it learns, resumes to the same curve, and its gate keeps its word."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from streamvla.core.errors import CheckpointError, ConfigError, DatasetError
from streamvla.core.interfaces import FlowStart, Observation
from streamvla.data.store import load_dataset, shard_path, write_meta, write_shard
from streamvla.model.saliency import SaliencyConfig, SaliencyPredictor
from streamvla.policy.load import load_policy
from streamvla.policy.saliency import load_saliency, saliency_path
from streamvla.runtime.drivers.observing import sighting_of
from streamvla.runtime.executors.base import Foresee
from streamvla.runtime.executors.early import Adaptive
from streamvla.training import train
from streamvla.training.anticipation.early_error import Compensated, LeadErrors, lead_errors
from streamvla.training.anticipation.gate import (
    PairFigures,
    calibrated,
    every_pair,
    examine_gate,
    gate_figures,
    large_bound,
    measure_pairs,
    motion_of,
    tokens_of,
)
from streamvla.training.anticipation.saliency import SaliencySize, SaliencyTraining, train_saliency
from streamvla.training.optimiser import OptimiserConfig
from tests.training.small import small_config
from tests.training.toy import META, toy_episode


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> tuple[Path, Path]:
    """A toy dataset, and a policy trained on it for a few steps."""
    folder = tmp_path_factory.mktemp("toy")
    dataset = write_moving_dataset(folder / "data", episodes=14)
    return dataset, train(small_config(dataset, folder / "policy")).policy


def write_moving_dataset(directory: Path, episodes: int) -> Path:
    """The toy, with the hand in the picture: what its cameras show follows its actions."""
    write_meta(directory, META)
    for task in META.tasks:
        made = []
        for seed in range(episodes):
            episode = toy_episode(task, seed)
            images = episode.images["top"].copy()
            for frame, (x,) in zip(images, episode.state, strict=True):
                column = int(16 + 3 * np.clip(x, -4, 4))
                frame[22:28, column - 2 : column + 3, 0] = 255
            made.append(replace(episode, images={"top": images}))
        write_shard(shard_path(directory, task, 0), made, attempts=episodes)
    return directory


def settings(toy: tuple[Path, Path], out: Path, **changes) -> SaliencyTraining:
    dataset, policy = toy
    config = SaliencyTraining(
        checkpoint=policy,
        dataset=dataset,
        out=out / "p.saliency.safetensors",
        steps=12,
        batch_size=4,
        longest_lead=4,
        holdout_per_task=5,
        tail=0.4,
        miss_rate=0.3,
        size=SaliencySize(16, 1, 2, 2, 8),
        optimiser=OptimiserConfig(warmup_steps=2),
        device="cpu",
        autocast=False,
        threads=1,
        save_every=5,
        log_every=1,
    )
    return replace(config, **changes)


def weights(path: Path, policy: Path) -> dict[str, torch.Tensor]:
    return dict(load_saliency(path, load_policy(policy)).weights)


def test_an_untrained_predictor_expects_no_change():
    """Its output layer starts at zero, whatever it is shown."""
    predictor = SaliencyPredictor(SaliencyConfig(2, 5, 8, 3, 16, 2, 2))
    assert not predictor(torch.randn(4, 2, 5, 8), torch.randn(4, 3)).any()


def test_views_and_motions_are_told_apart():
    """Once trained a little, the same tokens in another view or under another motion differ."""
    torch.manual_seed(0)
    predictor = SaliencyPredictor(SaliencyConfig(2, 5, 8, 3, 16, 2, 2))
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    seen = torch.randn(1, 1, 5, 8).expand(1, 2, 5, 8)
    still, moved = predictor(seen, torch.zeros(1, 3)), predictor(seen, torch.ones(1, 3))
    assert not torch.allclose(still[:, 0], still[:, 1])
    assert not torch.allclose(still, moved)


def test_a_resumed_training_follows_the_curve_of_an_uninterrupted_one(toy, tmp_path):
    """Stopped after 5 of 12 steps and resumed: the same weights, to the last bit."""
    whole = settings(toy, tmp_path / "whole")
    train_saliency(whole)
    cut = settings(toy, tmp_path / "cut")
    interrupted(cut, after=5)
    result = train_saliency(replace(cut, resume=True))
    assert (result.step, result.finished) == (12, True)
    expected, found = (weights(each.path, toy[1]) for each in (whole, cut))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert expected["widen.weight"].any()
    told = load_saliency(cut.path, load_policy(toy[1])).provenance
    assert told["step"] == 12
    assert told["training"]["batch_size"] == 4


def interrupted(config: SaliencyTraining, after: int) -> None:
    """Train as far as a save, as a killed process would have left it."""
    from streamvla.training.anticipation.saliency import SaliencyTrainer, load_policy_alone

    policy = load_policy_alone(config.checkpoint, "cpu")
    trainer = SaliencyTrainer(config, policy, load_dataset(config.dataset))
    for _ in range(after):
        trainer.advance()


def test_the_predictor_is_taken_along_with_its_policy(toy, tmp_path):
    """Beside the policy's file it is loaded; the policy then anticipates, with its thresholds."""
    policy_file = tmp_path / "policy.safetensors"
    policy_file.write_bytes(toy[1].read_bytes())
    assert not load_policy(policy_file).spec.anticipates
    config = replace(settings((toy[0], policy_file), tmp_path), out=None)
    result = train_saliency(config)
    assert result.path == saliency_path(policy_file)
    policy = load_policy(policy_file)
    assert policy.spec.anticipates
    assert result.calibration is not None
    assert policy.spec.thresholds == result.calibration.threshold
    assert policy.spec.longest_lead == config.longest_lead
    tested = examine_gate(policy_file, toy[0], "cpu").figures()
    assert set(tested["accept_rate"]) == {"1", "2", "3", "4"}


def observation(policy) -> Observation:
    spec = policy.spec
    image = np.random.default_rng(0).integers(0, 255, (*spec.image_size, 3), dtype=np.uint8)
    state = np.zeros(spec.state_dim, np.float32)
    action_state = spec.action_space.initial_state()
    return Observation(dict.fromkeys(spec.views, image), state, action_state, "go to the dot", 0)


def test_encoding_is_looking_and_then_making_a_context(toy):
    """`encode` and `contextualise(look(…))` give the same actions, to the last bit."""
    policy = load_policy(toy[1])
    seen = observation(policy)
    start = FlowStart(policy.spec.action_space.initial_state())
    one = list(policy.generate(policy.encode(seen), start))
    other = list(policy.generate(policy.contextualise(policy.look(seen)), start))
    assert np.array_equal(one, other)


def test_a_change_moves_the_context_and_its_size_is_the_saliency(toy):
    """The context of a corrected sight is another one; ‖Δ‖ is what `anticipate` says."""
    policy = load_policy(toy[1])
    sight = policy.look(observation(policy))
    config = SaliencyConfig(*sight.seen.shape[1:], policy.spec.action_space.dim, 16, 1, 2)
    torch.manual_seed(1)
    predictor = SaliencyPredictor(config)
    torch.nn.init.normal_(predictor.widen.weight)
    policy.attach(predictor)
    found = policy.anticipate(sight, np.array([[0.1, 1.0], [3.0, -1.0]]))
    norms = [float(change.norm()) for change in found.changes]
    assert found.saliency[:, 0] == pytest.approx(norms, rel=1e-5)
    plain, moved = policy.contextualise(sight), policy.contextualise(sight, found.changes[1])
    assert not torch.allclose(plain.prefix.keys[0], moved.prefix.keys[0])
    gate = Foresee(np.array([[0.1, 1.0]]), Adaptive((1e-9,)), correct=True)
    assert sighting_of(policy, observation(policy), gate).refused


def test_a_policy_without_predictor_says_how_to_get_one(toy):
    """Anticipating without one names the command."""
    policy = load_policy(toy[1])
    with pytest.raises(ConfigError, match="train-saliency"):
        policy.anticipate(policy.look(observation(policy)), np.zeros((1, 2)))


def test_a_predictor_of_other_views_is_refused(toy):
    """Attaching one for two views to a policy with one names both."""
    policy = load_policy(toy[1])
    with pytest.raises(ConfigError, match="for 2 views"):
        policy.attach(SaliencyPredictor(SaliencyConfig(2, 5, 32, 2, 16, 1, 2)))


def test_damaged_and_foreign_predictors_are_refused(toy, tmp_path):
    """A cut file, a policy's file, and the predictor of another policy each name the remedy."""
    config = settings(toy, tmp_path, steps=1)
    train_saliency(config)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(config.path.read_bytes()[:200])
    policy, other = load_policy(toy[1]), load_policy(toy[1])
    with torch.no_grad():
        next(other.model.seeing_modules()[0].parameters()).add_(1e-3)
    for path, whose, message in (
        (cut, policy, "truncated or corrupt"),
        (toy[1], policy, "not a saliency predictor"),
        (config.path, other, "sees otherwise"),
        (tmp_path / "none.safetensors", policy, "no checkpoint"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_saliency(path, whose)


def test_policies_that_see_alike_may_share_a_predictor(toy, tmp_path):
    """Another expert, or another state, changes nothing; another scale of motions does."""
    config = settings(toy, tmp_path, steps=1)
    train_saliency(config)
    policy = load_policy(toy[1])
    with torch.no_grad():
        for module in (policy.model.expert, policy.model.from_state):
            next(module.parameters()).add_(1.0)
    load_saliency(config.path, policy)
    scale = tuple(2 * each for each in policy.normalisation.action_scale)
    policy.normalisation = replace(policy.normalisation, action_scale=scale)
    with pytest.raises(CheckpointError, match="sees otherwise"):
        load_saliency(config.path, policy)


def test_a_predictor_is_neither_overwritten_nor_lost(toy, tmp_path):
    """One that lies there is left alone by a new training, and by a calibration that fails."""
    config = settings(toy, tmp_path, steps=1)
    train_saliency(config)
    calibrated_one = config.path.read_bytes()
    result = train_saliency(replace(config, miss_rate=1e-6, resume=True))
    assert result.calibration is None
    assert "stays as it was" in result.why_not
    config.state_path.unlink()
    with pytest.raises(ConfigError, match="holds a predictor already"):
        train_saliency(config)
    assert config.path.read_bytes() == calibrated_one


def test_an_unfinished_training_leaves_no_predictor(toy, tmp_path):
    """Whoever loads the policy meanwhile gets none, not half of one."""
    config = settings(toy, tmp_path)
    interrupted(config, after=5)
    assert config.state_path.exists()
    assert not config.path.exists()


def test_what_was_trained_on_is_not_calibrated_on(toy, tmp_path):
    """Episodes of the same task and seed are refused, and counted."""
    config = settings(toy, tmp_path, steps=1, calibration=toy[0])
    with pytest.raises(ConfigError, match="18 of 28 episodes are among those trained on"):
        train_saliency(config)


def test_a_training_is_not_overwritten_and_not_resumed_with_other_settings(toy, tmp_path):
    """Starting again where one lies, or resuming with another batch size, is refused."""
    config = settings(toy, tmp_path, steps=1)
    train_saliency(config)
    with pytest.raises(ConfigError, match="--resume"):
        train_saliency(config)
    with pytest.raises(ConfigError, match="another recipe"):
        train_saliency(replace(config, batch_size=5, resume=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"miss_rate": 1.0}, "miss_rate is 1.0"),
        ({"tail": 0.0}, "tail is 0.0"),
        ({"holdout_per_task": 0}, "holdout_per_task is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(toy, tmp_path, changes, message):
    """Each names the value."""
    with pytest.raises(ConfigError, match=message):
        settings(toy, tmp_path, **changes)


# --- the gate on data with known coverage ----------------------------------------------------


def synthetic(rng: np.random.Generator, episodes: int) -> list[PairFigures]:
    """Episodes of a noisy predictor; how fast things move differs from episode to episode."""
    found = []
    for _ in range(episodes):
        pace = rng.lognormal(0, 0.5)
        change = pace * rng.gamma(3, 1, (40, 2))
        predicted = change * rng.lognormal(-0.1, 0.3, change.shape)
        lead = rng.integers(1, 7, 40)
        found.append(PairFigures(lead, change, predicted, np.abs(change - predicted)))
    return found


def test_the_gate_misses_no_more_than_stated():
    """Over many calibrations new episodes' large changes pass at 10 % or less, in either view."""
    rng = np.random.default_rng(0)
    reference = np.concatenate([each.change for each in synthetic(rng, 300)])
    bound = large_bound(reference, 0.05)
    fresh, rates = synthetic(rng, 1500), []
    for _ in range(40):
        gate = calibrated(synthetic(rng, 120), bound, 0.1, 0.05, 6, {})
        rates.append(gate_figures(fresh, gate.threshold, bound)["miss_rate"])
    mean, slack = np.mean(rates, axis=0), 3 * np.std(rates) / np.sqrt(40)
    assert mean.max() <= 0.1 + slack
    assert mean.min() >= 0.05  # nor does it keep its word by refusing everything


def test_a_miss_rate_is_over_episodes_and_so_is_its_interval():
    """Three episodes whose large changes are refused and one whose are not; how long each is does
    not count, and one without a large change is left out."""
    lead, low, high = np.array([1, 1]), np.array([[1.0], [1.0]]), np.array([[9.0], [9.0]])
    refused, missed = (PairFigures(lead, high, expected, low) for expected in (high, low))
    still = PairFigures(lead, low, low, low)
    figures = gate_figures([refused, refused, refused, missed, still], (5.0,), (8.0,))
    assert figures["miss_rate"] == [0.25]
    assert figures["miss_rate_ci"] == [(0.0, pytest.approx(0.25 + 1.96 * 0.5 / 2))]
    assert (figures["episodes"], figures["large_changes"]) == (5, [8])


def test_contact_is_told_from_stillness():
    """Pairs between which a thing moved are counted apart, at every lead."""
    lead = np.array([1, 1, 2, 2])
    predicted = np.array([[1.0], [9.0], [1.0], [1.0]])
    pair = PairFigures(lead, predicted, predicted, predicted * 0, np.array([0.0, 0.5, 0.5, 0.5]))
    figures = gate_figures([pair, pair], (5.0,), (8.0,))
    assert figures["accept_rate"] == {"1": 0.5, "2": 1.0}
    assert figures["accept_rate_still"] == {"1": 1.0}
    assert figures["accept_rate_moved"] == {"1": 0.0, "2": 1.0}
    assert "accept_rate_moved" not in gate_figures([replace(pair, moved=None)], (5.0,), (8.0,))


def test_the_change_between_frames_comes_with_how_far_things_moved(toy):
    """`moved` is the distance of the places j frames apart; none without places."""
    demonstrations, policy = load_dataset(toy[0]), load_policy(toy[1])
    predictor = SaliencyPredictor(
        SaliencyConfig(
            *tokens_of(policy, demonstrations, demonstrations.episodes[0], [0]).shape[1:], 2, 8
        )
    )
    episode = demonstrations.episodes[0]
    places = np.cumsum(np.ones((len(episode), 2), np.float32), axis=0)
    moving = measure_pairs(policy, predictor, demonstrations, replace(episode, places=places), 2)
    assert moving.moved == pytest.approx(moving.lead * np.sqrt(2))
    still = replace(episode, places=None)
    assert measure_pairs(policy, predictor, demonstrations, still, 2).moved is None


def test_episodes_of_one_frame_have_no_pairs(toy):
    """That none is left is said, not divided by."""
    demonstrations, policy = load_dataset(toy[0]), load_policy(toy[1])
    predictor = SaliencyPredictor(SaliencyConfig(1, 5, 32, 2, 16, 1, 2))
    with pytest.raises(DatasetError, match="none of 0 episodes"):
        every_pair(policy, predictor, demonstrations, [], 3)


def test_too_few_large_changes_are_said_not_guessed():
    """With no change beyond B there is no threshold, and the message counts the episodes."""
    pairs = synthetic(np.random.default_rng(1), 30)
    with pytest.raises(ConfigError, match="only 0 of 30 calibration episodes"):
        calibrated(pairs, (1e9, 1e9), 0.1, 0.05, 6, {})


# --- held-out error --------------------------------------------------------------------------


def test_motions_of_demonstrations_are_sums_and_last_commands(toy):
    """The motion of a lead is what its actions did together."""
    demonstrations = load_dataset(toy[0])
    episode = demonstrations.episodes[0]
    states = demonstrations.action_states(episode)
    found = motion_of(demonstrations, episode, 3, 4)
    assert found == pytest.approx([states[7][0] - states[3][0], episode.action[6, 1]])


def test_rules_on_held_out_frames_agree_where_they_must(toy):
    """A gate open to all errs as always does, one closed to all as none; random in between."""
    demonstrations, policy = load_dataset(toy[0]), load_policy(toy[1])
    errors = lead_errors(policy, demonstrations, demonstrations.episodes[:4], Compensated(), 3, 20)
    assert errors.by_norm(3, np.inf) == pytest.approx(errors.always(3))
    assert errors.by_norm(3, -1.0) == pytest.approx(errors.none())
    assert errors.random(3, 0.25) == pytest.approx(0.25 * errors.always(3) + 0.75 * errors.none())
    with pytest.raises(ConfigError, match="does not anticipate"):
        errors.adaptive(3, (1.0,))
    shifted = Compensated(clock_shift=True)
    with pytest.raises(ConfigError, match="2 of 5 actions are left"):
        lead_errors(policy, demonstrations, demonstrations.episodes[:4], shifted, 3, 20)


def by_hand() -> LeadErrors:
    """Four frames at leads 0 to 2, whose error is ten times the lead, and two views."""
    error = np.repeat([[0.0], [10.0], [20.0]], 4, axis=1)
    norm = np.array([[0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 9.0], [2.0, 1.5, 8.0, 9.0]])
    return LeadErrors(error, norm, np.stack([norm, 2 * norm], axis=2))


def test_a_gate_takes_the_largest_lead_that_passes():
    """Each frame is judged by itself, and by every view."""
    errors = by_hand()
    assert errors.by_norm(2, 2.0) == pytest.approx((20 + 20 + 0 + 0) / 4)
    assert errors.by_norm(1, 2.0) == pytest.approx((10 + 10 + 0 + 0) / 4)
    assert errors.adaptive(2, (9.0, 4.0)) == pytest.approx((20 + 20 + 0 + 0) / 4)
    assert errors.adaptive(2, (9.0, 6.0)) == pytest.approx((20 + 20 + 10 + 0) / 4)
    with pytest.raises(ConfigError, match="1 thresholds for 2 views"):
        errors.adaptive(2, (9.0,))


def test_a_norm_is_matched_to_how_early_another_rule_looks():
    """The smallest one at which the mean lead is reached; the largest there is if none does."""
    errors = by_hand()
    assert errors.norm_for(2, 1.0) == 2.0  # leads 2, 2, 0, 0
    assert errors.norm_for(2, 1.25) == 3.0  # 2, 2, 1, 0
    assert errors.norm_for(2, 2.0) == 9.0
    assert errors.norm_for(1, 0.5) == 2.0
    assert errors.norm_for(2, 3.0) == 9.0
    assert errors.norm_for(2, 0.0) == 1.0


def test_compensations_change_what_they_should(toy):
    """At lead 0 none matters; at lead 3 an uncompensated state gives other actions."""
    demonstrations, policy = load_dataset(toy[0]), load_policy(toy[1])
    some = demonstrations.episodes[:4]
    kinds = (Compensated(), Compensated(state=False), Compensated(clock_shift=True))
    full, bare, shifted = (
        lead_errors(policy, demonstrations, some, kind, 1, 20).error for kind in kinds
    )
    assert np.array_equal(full[0], bare[0])
    assert np.array_equal(full[0], shifted[0])
    assert not np.allclose(full[1], bare[1])
    assert not np.allclose(full[1], shifted[1])
