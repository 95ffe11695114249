"""Executed noise with clean labels."""

import numpy as np
import pytest

from streamvla.core.errors import ConfigError
from streamvla.data.noise import ExecutionNoise, NoiseConfig

IS_DELTA = np.array([True, True, True, False])
LABEL = np.array([0.1, 0.2, 0.3, 0.6])


def executed(config, seed, steps=200):
    noise = ExecutionNoise(config, IS_DELTA, np.random.default_rng(seed))
    return np.stack([noise.perturb(LABEL) for _ in range(steps)])


def test_noise_is_a_function_of_the_seed():
    """Two noises with one seed are equal; another seed gives another noise."""
    config = NoiseConfig(clean_fraction=0.0)
    assert np.array_equal(executed(config, 1), executed(config, 1))
    assert not np.array_equal(executed(config, 1), executed(config, 2))


def test_the_gripper_is_never_perturbed():
    """Absolute dimensions are executed as the expert wants them."""
    assert (executed(NoiseConfig(clean_fraction=0.0), 3)[:, 3] == LABEL[3]).all()


def test_clean_episodes_are_clean():
    """With a clean fraction of 1 what is executed is the label."""
    assert (executed(NoiseConfig(clean_fraction=1.0), 0) == LABEL).all()


def test_noise_comes_in_bursts():
    """Most steps are executed clean, and noisy ones sit next to each other."""
    config = NoiseConfig(clean_fraction=0.0, displaced_fraction=0.0)
    noisy = np.concatenate([(executed(config, seed) != LABEL).any(axis=1) for seed in range(30)])
    share = noisy.mean()
    follows = noisy[1:][noisy[:-1]].mean()
    assert 0.1 < share < 0.5
    assert follows > 1.5 * share


def test_a_displaced_start_goes_one_way():
    """A displaced episode starts with one constant action, for no longer than was asked."""
    config = NoiseConfig(clean_fraction=0.0, displaced_fraction=1.0, burst_start=0.0)
    moved = (executed(config, 5) != LABEL).any(axis=1)
    steps = int(moved.sum())
    assert 1 <= steps <= config.displaced_steps
    assert moved[:steps].all()
    first = executed(config, 5)[:steps]
    assert (first == first[0]).all()


@pytest.mark.parametrize(
    "settings",
    [{"clean_fraction": 1.5}, {"sigma_low": 0.5, "sigma_high": 0.1}, {"displaced_steps": 0}],
)
def test_impossible_settings_are_refused(settings):
    """A probability above 1, a reversed range and an empty displacement are refused by name."""
    with pytest.raises(ConfigError, match=next(iter(settings))):
        NoiseConfig(**settings)
