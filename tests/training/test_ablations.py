"""Ablations: each changes one thing, trains, and runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from streamvla.core.clock import VirtualClock
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import RobotSpec, check_fit
from streamvla.data.store import load_dataset
from streamvla.model.checkpoint import load_checkpoint
from streamvla.model.methods.action_flow import ActionFlowConfig
from streamvla.model.methods.chunk_flow import ChunkFlowConfig
from streamvla.model.normalisation import Normalisation
from streamvla.policy import ModelPolicy
from streamvla.studies.ablations import SHARED_CONTEXT
from streamvla.studies.trainings import Train, train_config
from streamvla.training import train
from streamvla.training.ablations import ABLATIONS, ablate
from streamvla.training.config import TrainConfig
from streamvla.training.trainer import Trainer
from tests.training.small import small_config
from tests.training.toy import META, SPACE, write_toy_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_toy_dataset(tmp_path_factory.mktemp("toy"), episodes=6, length=30)


@pytest.fixture
def config(dataset, tmp_path) -> TrainConfig:
    flow = ActionFlowConfig(horizon=6, max_age=3)
    return replace(small_config(dataset, tmp_path / "out"), methods=(flow,))


@pytest.fixture(scope="module")
def context(dataset, tmp_path_factory) -> Path:
    """A chunk-flow policy of the same size and robot."""
    out = tmp_path_factory.mktemp("context")
    config = replace(small_config(dataset, out), methods=(ChunkFlowConfig(horizon=6),), steps=1)
    return train(config).policy


def trainer_of(config: TrainConfig) -> Trainer:
    return Trainer(config, load_dataset(config.dataset), VirtualClock())


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_one_setting(config, name):
    """The recipe of an ablated training differs from the plain one in one top-level entry; without
    offsets there is no age to tell either."""
    plain, ablated = config.recipe(), ablate(config, name).recipe()
    changed = sum(plain[key] != ablated[key] for key in plain)
    assert changed == (2 if name == "no-offset" else 1)


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablated_policy_trains_and_acts(config, name):
    """One optimiser step is finite and the policy yields H finite actions from a saved recipe."""
    trainer = trainer_of(ablate(config, name))
    assert np.isfinite(float(trainer._optimise()["loss"]))
    saved = trainer.checkpoint("action-flow")
    policy = ModelPolicy(saved.build_model(), saved.spec, saved.method, saved.normalisation)
    assert np.isfinite(list(trainer.probe.measure(policy).values())).all()


@pytest.mark.parametrize("name", SHARED_CONTEXT)
def test_an_ablated_expert_learns_on_the_context_of_another_method(config, context, name):
    """With the context of a chunk-flow policy frozen, the ablated expert alone takes a step, from
    weights that are not the given policy's."""
    ablated = ablate(replace(config, train="expert", init=context, seeded_keypoints=None), name)
    trainer = trainer_of(ablated)
    model = trainer.models["action-flow"]
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    trainer._optimise()
    given = load_checkpoint(context).weights
    after = dict(model.named_parameters())
    for name, tensor in after.items():
        if name.startswith("expert."):
            continue
        assert torch.equal(tensor, given[name])
    assert any(not torch.equal(after[name], before[name]) for name in after)


def test_an_unknown_ablation_is_refused(config):
    """A misspelt name raises ConfigError with the nearest one."""
    with pytest.raises(ConfigError, match="did you mean 'unaligned'"):
        ablate(config, "unalinged")


@pytest.mark.parametrize(
    "flags", [{"k": 5.0}, {"sigma0": 0.0}, {"tau_sampling": "beta"}, {"ablation": "tau-beta"}]
)
def test_settings_of_another_method_are_refused(flags):
    """A flag that only action flow has is an error beside --method chunk-flow."""
    with pytest.raises(ConfigError, match="method chunk-flow has no such setting"):
        train_config(Train(method=("chunk-flow",), **flags))


def test_flags_reach_the_training():
    """Method, horizon, origin, offsets and flow constants of the command line are the config's."""
    config = train_config(Train(horizon=7, k=5.0, sigma0=0.4, tau_sampling="beta", max_offset=2))
    flow = ActionFlowConfig(horizon=7, max_age=2, k=5.0, sigma0=0.4, tau_sampling="beta")
    assert (config.methods, config.sampling.max_offset) == ((flow,), 2)
    both = train_config(Train(method=("chunk-flow", "action-flow"), state_origin="episode", k=5.0))
    assert both.methods == (
        ChunkFlowConfig(state_origin="episode", max_age=6),
        ActionFlowConfig(state_origin="episode", max_age=6, k=5.0),
    )


def test_unshared_statistics_break_the_equality_in_delta_dimensions_only():
    """normalise(cumsum(a)) = cumsum(normalise(a)) holds for shared statistics, not for unshared."""
    rng = np.random.default_rng(0)
    actions = rng.normal(0.3, 0.2, (50, 2))
    shared = Normalisation.fit(rng.normal(size=(50, 1)), actions)
    unshared = shared.unshared(actions, actions.cumsum(0), np.array([True, False]))

    def gap(statistics: Normalisation) -> np.ndarray:
        one = statistics.normalise_action_state(actions.cumsum(0))
        return np.abs(one - statistics.normalise_action(actions).cumsum(0)).max(0)

    assert (gap(shared) < 1e-3).all()
    assert gap(unshared)[0] > 1
    assert gap(unshared)[1] < 1e-3
    restored = unshared.restore_action(unshared.normalise_action(actions))
    np.testing.assert_allclose(restored, actions, atol=1e-6)
    assert Normalisation.from_json(unshared.to_json()) == unshared


def test_without_alignment_every_sample_starts_at_zero(config):
    """The ablation trains from x0 = 0 whatever the offset; plain training does not."""
    plain = trainer_of(config).sampler.batch(0)
    ablated = trainer_of(ablate(config, "unaligned")).sampler.batch(0)
    assert (ablated.start == 0).all()
    assert (plain.start != 0).any()
    assert (plain.labels == ablated.labels).all()
    assert (ablated.age == 0).all()


def test_ages_are_the_offsets_as_far_as_they_are_told(config):
    """A sample starts where its image was made if it is fresh, and only then; told up to 1,
    older ones say 1; untold, none does."""
    told, some, none = (
        trainer_of(
            replace(config, methods=(replace(config.methods[0], max_age=most),))
        ).sampler.batch(0)
        for most in (3, 1, 0)
    )
    assert set(told.age.unique().tolist()) == {0, 1, 2, 3}
    assert ((told.start[..., 0] != 0) == (told.age > 0)).all()
    assert torch.equal(some.age, told.age.clamp(max=1))
    assert (none.age == 0).all()


def test_an_all_delta_policy_sums_absolute_dimensions_and_fits_the_robot(config):
    """Its action space has deltas only; check_fit accepts it for the robot it was trained on."""
    trainer = trainer_of(ablate(config, "all-delta"))
    spec = trainer.checkpoint("action-flow").spec
    assert set(spec.action_space.kinds) == {"delta"}
    grip = [trainer.sampler._action_states[i][-1, 1] for i in range(3)]
    assert max(np.abs(grip)) > 2
    robot = RobotSpec(
        "toy", SPACE, META.views, META.image_size, META.state_names, META.control_period_ns
    )
    check_fit(spec, robot)
