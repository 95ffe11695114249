"""The gate of skipping: what it learns from, its calibration, and its command."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streamvla.cli.main import execute
from streamvla.cli.train_skipping import _print_figures
from streamvla.core.errors import ConfigError, DatasetError
from streamvla.core.interfaces import FlowStart, Observation
from streamvla.data.store import load_dataset
from streamvla.model.checkpoint import provenance_of
from streamvla.policy.load import load_policy
from streamvla.policy.skip_gate import load_skip_gate, skip_gate_path
from streamvla.training import train
from streamvla.training.anticipation.freshness import (
    TRAINED_ON,
    require_fresh,
    warn_of_seen,
)
from streamvla.training.anticipation.skipping import (
    Draws,
    SkipSamples,
    SkipTraining,
    examine_skipping,
    expected_errors,
    fit_gate,
    gate_figures,
    harm_bound,
    harmful_scores,
    skip_samples,
    thresholds_of,
    train_skipping,
)
from tests.training.small import small_config
from tests.training.toy import write_toy_dataset


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> tuple[Path, Path]:
    """A toy dataset, and a policy trained on it for a few steps."""
    folder = tmp_path_factory.mktemp("toy")
    dataset = write_toy_dataset(folder / "data", episodes=14)
    config = small_config(dataset, folder / "policy")
    flow = replace(config.methods[0], max_age=8)
    return dataset, train(replace(config, methods=(flow,))).policy


def settings(toy: tuple[Path, Path], out: Path, **changes) -> SkipTraining:
    dataset, policy = toy
    config = SkipTraining(
        checkpoint=policy,
        dataset=dataset,
        out=out / "p.skipping.safetensors",
        observations=60,
        calibration_observations=12,
        steps=20,
        batch_size=16,
        cycle=3,
        longest_age=6,
        longest_lead=2,
        holdout_per_task=5,
        miss_rates=(0.3, 0.5),
        tail=0.4,
        components=4,
        width=8,
        device="cpu",
        threads=1,
    )
    return replace(config, **changes)


def test_a_sample_is_the_difference_of_the_actions_that_would_be_sent(toy):
    """Encoded one by one and generated as a policy would be, at each sample's age and lead."""
    policy, data = load_policy(toy[1]), load_dataset(toy[0])
    episode = data.episodes[0]
    samples = skip_samples(policy, data, [episode], [1], Draws(4, 4, 2), seed=3)
    assert samples.age[0] == 1
    age = int(samples.age[1])
    commands = data.action_states(episode)
    found = []
    for t in range(age, episode.success_step + 1):
        for lead in range(3):
            start = commands[t + lead]
            made = [
                list(policy.generate(policy.encode(seen(data, episode, t - old)),
                                     FlowStart(start, age=old + lead)))
                for old in (0, age)
            ]  # fmt: skip
            scale = np.array(policy.normalisation.action_scale)
            found.append((np.abs(np.array(made[1]) - np.array(made[0])) / scale).mean())
    assert np.isclose(found, samples.error[1], atol=1e-4).any()


def seen(data, episode, t: int) -> Observation:
    images = {view: np.asarray(episode.images[view][t]) for view in data.meta.views}
    said, period = data.meta.instructions_of(episode)[0], data.meta.control_period_ns
    state = data.action_states(episode)[t]
    return Observation(images, episode.state[t], state, said, t * period)


def test_no_frame_is_drawn_that_an_episode_does_not_have():
    """Ages up to the frame, leads up to the end, cycles among the ages mostly."""
    rng, draws = np.random.default_rng(0), Draws(5, 12, 3)
    for last in (2, 4, 7, 30):
        drawn = np.array([draws.draw(rng, last) for _ in range(300)])
        age, lead, t = drawn.T
        assert age.min() >= 2
        assert age.max() <= min(12, last)
        assert (t >= age).all()
        assert t.max() <= last
        assert set(lead) == {0, 1, 2, 3}
    assert 0.6 < np.isin(age, (5, 10)).mean() < 0.85


def test_episodes_that_are_too_short_are_refused(toy):
    """With a lead that none of them is long enough for."""
    policy, data = load_policy(toy[1]), load_dataset(toy[0])
    with pytest.raises(DatasetError, match="no episode has 23 frames"):
        skip_samples(policy, data, data.episodes[:2], [1, 1], Draws(4, 4, 20), seed=0)


# --- learning and calibrating on samples that are known --------------------------------------


def known(rng: np.random.Generator, episodes: int, each: int = 12) -> SkipSamples:
    """The error follows a feature, noisily, and every episode has a level of its own."""
    count = episodes * each
    features = rng.normal(size=(count, 3)).astype(np.float32)
    summary = rng.normal(size=(count, 6)).astype(np.float32)
    level = np.repeat(rng.normal(0, 0.5, episodes), each)
    error = np.exp(features[:, 0] + level + rng.normal(0, 0.3, count) - 1)
    age = np.tile([1, 5, 10], count // 3)
    return SkipSamples(
        features, summary, error, error * 0, age, np.repeat(np.arange(episodes), each)
    )


@pytest.fixture(scope="module")
def learned():
    """A gate trained on known samples, and the bound of harm."""
    samples = known(np.random.default_rng(0), 150)
    config = SkipTraining(Path("p"), Path("d"), steps=300, components=3, width=16)
    return fit_gate(samples, config), harm_bound(samples, 0.2)


def test_the_gate_learns_which_errors_are_large(learned):
    """The rank correlation on new samples is high."""
    gate, bound = learned
    samples = known(np.random.default_rng(1), 60)
    figures = gate_figures(samples, expected_errors(gate, samples), bound, {})
    assert figures["rank_correlation"] > 0.7


def test_figures_of_nothing_are_no_numbers(learned, capsys):
    """A gate that skips nothing, and episodes without a harmful sample, give None, which JSON can
    say and a table shows as "–"."""
    gate, bound = learned
    samples = known(np.random.default_rng(3), 5)
    expected = expected_errors(gate, samples)
    nothing = gate_figures(samples, expected, bound, {0.1: -math.inf})
    harmless = gate_figures(samples, expected, math.inf, {0.1: math.inf})
    json.dumps([nothing, harmless], allow_nan=False)
    assert nothing["rates"]["0.1"]["error_of_skipped"] is None
    assert harmless["rates"]["0.1"]["miss_rate_ci"] is None
    for figures in (nothing, harmless):
        _print_figures(figures)
    assert "–" in capsys.readouterr().out
    single = gate_figures(samples.only(np.array([1])), expected[[1]], bound, {})
    assert single["rank_correlation"] is None


@pytest.mark.parametrize(("count", "rate"), [(20, 0.1), (60, 0.1), (60, 0.3)])
def test_the_miss_rate_holds_and_is_used_up(learned, count, rate):
    """Over many calibrations the mean share of a new episode's harmful observations that is skipped
    is at most α, and not far below it."""
    gate, bound = learned
    rng = np.random.default_rng(count)
    new = known(rng, 1500)
    fresh = harmful_scores(new, expected_errors(gate, new), bound)
    rates = []
    for _ in range(120):
        samples = known(rng, count)
        scores = harmful_scores(samples, expected_errors(gate, samples), bound)
        eta = thresholds_of(scores, [rate])[rate]
        rates.append(np.mean([(each <= eta).mean() for each in fresh]))
    error = np.std(rates) / np.sqrt(len(rates))
    assert np.mean(rates) <= rate + 3 * error
    assert np.mean(rates) >= rate - 2.5 / (count + 1) - 3 * error


def test_age_one_sets_the_bound_and_is_not_calibrated_on():
    """All but the tail of its errors lie below the bound, and none of its samples is a score."""
    samples = known(np.random.default_rng(2), 40)
    bound = harm_bound(samples, 0.25)
    ones = samples.error[samples.age == 1]
    assert np.mean(ones > bound) == pytest.approx(0.25, abs=0.01)
    scores = harmful_scores(samples, samples.error, bound)
    assert sum(map(len, scores)) == ((samples.error > bound) & (samples.age > 1)).sum()


def test_too_few_episodes_are_refused():
    """Eight with a harmful observation cannot bound a miss rate of one in ten."""
    with pytest.raises(ConfigError, match=r"only 8 calibration episodes .* 9 are needed"):
        thresholds_of([np.array([1.0])] * 8, (0.1, 0.3))


# --- the command -----------------------------------------------------------------------------


def test_the_command_trains_calibrates_and_tests_a_gate(toy, tmp_path, capsys):
    """A file that fits the policy, with both thresholds in order; then a test of it."""
    config = settings(toy, tmp_path)
    words = f"train-skipping --policy {toy[1]} --dataset {toy[0]} --out {config.path} --tail 0.4"
    words += " --observations 60 --steps 20 --cycle 3 --longest-age 6 --longest-lead 2"
    words += " --holdout-per-task 5 --miss-rates 0.3 0.5 --threads 1 --device cpu --json"
    assert execute(words.split()) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = load_skip_gate(config.path, load_policy(toy[1]))
    thresholds = found.calibration.thresholds
    assert list(thresholds) == [0.3, 0.5]
    assert thresholds[0.3] <= thresholds[0.5]
    assert told["calibration"]["bound"] == found.calibration.bound
    assert found.provenance["training"]["cycle"] == 3
    test = f"train-skipping --policy {toy[1]} --test {toy[0]} --out {config.path} --cycle 3 --json"
    assert execute(test.split()) == 0
    assert set(json.loads(capsys.readouterr().out.splitlines()[-1])["rates"]) == {"0.3", "0.5"}


def test_a_gate_in_the_way_and_episodes_that_were_trained_on_are_refused(toy, tmp_path):
    """Neither is a file overwritten, nor a calibration made that would not hold."""
    config = settings(toy, tmp_path)
    with pytest.raises(ConfigError, match="among those trained on"):
        train_skipping(replace(config, calibration=toy[0]))
    config.path.write_bytes(b"somebody's")
    with pytest.raises(ConfigError, match="holds a gate already"):
        train_skipping(config)
    assert config.path.read_bytes() == b"somebody's"


def test_episodes_that_the_policy_was_trained_on_are_refused(toy, tmp_path):
    """Also those that the gate is not trained on; episodes that neither has seen are not."""
    others = write_toy_dataset(tmp_path / "others", episodes=14, first_seed=100)
    fresh = write_toy_dataset(tmp_path / "fresh", episodes=9, first_seed=200)
    config = settings(toy, tmp_path, dataset=others)
    trained_on = provenance_of(toy[1])[TRAINED_ON]
    assert trained_on == {task: [[0, 11]] for task in ("go", "stay")}
    with pytest.raises(ConfigError, match=r"24 of 28 episodes .* trained on by the policy"):
        train_skipping(replace(config, calibration=toy[0]))
    assert not config.path.exists()
    train_skipping(replace(config, calibration=fresh))


def test_what_cannot_be_known_or_was_held_out_too_late_is_warned_of(toy, caplog):
    """A file without a list, of a policy whose dataset has the same seed; episodes held out now
    that the policy saw; and with what it began from counted. A known list and new episodes: not a
    word."""
    data = load_dataset(toy[0])
    listed = {TRAINED_ON: {"go": [[0, 11]]}, "dataset": {"seed": data.meta.seed}}
    require_fresh(toy[0], replace(data, episodes=data.episodes[12:14]), [], listed)
    warn_of_seen(data.episodes[12:14], listed)
    assert not caplog.records
    require_fresh(toy[0], data, [], {"dataset": {"seed": data.meta.seed}})
    warn_of_seen(data.episodes[10:14], {"init": listed})
    assert "does not list its episodes" in caplog.messages[0]
    assert "trained on 2 of the 4 episodes" in caplog.messages[1]


def test_too_few_held_out_episodes_write_no_file(toy, tmp_path):
    """Two episodes a task cannot bound a miss rate of 10 %."""
    config = settings(toy, tmp_path, holdout_per_task=2, miss_rates=(0.1,))
    with pytest.raises(ConfigError, match=r"are needed for a miss rate of 0\.1"):
        train_skipping(config)
    assert not config.path.exists()


def test_eval_without_a_gate_beside_the_policy_says_so(toy, capsys):
    """One line with the remedy, before any episode."""
    assert not skip_gate_path(toy[1]).exists()
    words = f"eval --policy {toy[1]} --tasks point --most-skips 2 --skip-gate 0.1"
    assert execute(words.split()) != 0
    assert "no skip gate at" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--skip-gate 0.1", "most_skips with it"),
        ("--skip-tolerance 0.5", "most_skips with it"),
        ("--most-skips 1 --skip-tolerance -1", "expected a number"),
        ("--most-skips 1 --skip-gate 0.1 --skip-tolerance 0.5", "leave one of the two out"),
    ],
)
def test_what_makes_no_sense_together_is_refused(toy, capsys, words, message):
    """Each in one line."""
    assert execute(f"eval --policy {toy[1]} --tasks point {words}".split()) != 0
    assert message in " ".join(capsys.readouterr().err.split())


def test_an_examination_without_observations_is_refused(tmp_path):
    """Before anything is read, with the number."""
    with pytest.raises(ConfigError, match="calibration_observations is 0"):
        examine_skipping(tmp_path / "policy.safetensors", tmp_path / "data", observations=0)
