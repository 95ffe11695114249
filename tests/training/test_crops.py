"""Training with gripper crops: what batches hold, where weights come from, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from streamvla.core.clock import SystemClock
from streamvla.core.errors import ConfigError
from streamvla.data.gaze import gaze_of
from streamvla.data.store import load_dataset
from streamvla.model.checkpoint import load_checkpoint
from streamvla.model.crops import cut
from streamvla.policy import load_policy, resolve_checkpoint
from streamvla.policy.transforms import pixels_to_float
from streamvla.robots.point import POINT
from streamvla.robots.sawyer import GAZE
from streamvla.training.batches import SamplingConfig
from streamvla.training.config import CropSize, ModelSize, TrainConfig
from streamvla.training.initial import start_from
from streamvla.training.trainer import Trainer, train
from tests.training.sawyer import write_sawyer_dataset
from tests.training.small import SMALL, small_config
from tests.training.toy import write_toy_dataset

CROPS = CropSize(channels=8)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_sawyer_dataset(tmp_path_factory.mktemp("sawyer"))


def config_of(dataset: Path, out: Path, **changes) -> TrainConfig:
    config = small_config(dataset, out)
    return replace(config, model=replace(SMALL, crops=CROPS), steps=3, threads=1, **changes)


def trainer_of(config: TrainConfig) -> Trainer:
    return Trainer(config, load_dataset(config.dataset), SystemClock())


def centroids(images: torch.Tensor) -> torch.Tensor:
    """(b, v, 3, y, x) → (b, v, 2) the place of what is bright, from −1 to 1."""
    light, side = images.mean(2) + 1, images.shape[-1]
    cells = (torch.arange(side) + 0.5) / side * 2 - 1
    total = light.sum((-1, -2))
    across, down = (light.sum(-2) * cells).sum(-1), (light.sum(-1) * cells).sum(-1)
    return torch.stack([across, down], dim=-1) / total[..., None]


@pytest.mark.parametrize("shift_px", [0, 6])
def test_jitter_and_shift_move_crop_and_geometry_together(dataset, tmp_path, shift_px):
    """The hand is off a crop's middle by up to the jitter; centre + scale · its place in the crop
    is its place in the whole view, shifted or not."""
    sampling = SamplingConfig(batch_size=32, samples=1, max_offset=3, shift_px=shift_px)
    trainer = trainer_of(config_of(dataset, tmp_path, sampling=sampling))
    batch, crops = trainer.sampler.batch(0), trainer.models["action-flow"].crops
    assert crops is not None
    cropped = cut(pixels_to_float(batch.pixels), batch.corners, crops)
    in_crop = centroids(cropped.crops)
    told = cropped.geometry[..., :2] + cropped.geometry[..., 2:] * in_crop
    torch.testing.assert_close(told, centroids(cropped.whole), rtol=0, atol=0.25 / 48)
    off_px = in_crop * crops.crop_px / 2
    assert off_px.abs().max() <= 9
    assert (off_px.std((0, 1)) > 3).all()


def test_crops_change_nothing_else_of_a_batch(dataset, tmp_path):
    """The same step draws the same frames, words and samples with crops and without."""
    with_crops = config_of(dataset, tmp_path, sampling=SamplingConfig(batch_size=1, shift_px=2))
    without = replace(with_crops, model=SMALL)
    one, two = (trainer_of(config).sampler.batch(5) for config in (with_crops, without))
    assert one.corners.shape == (1, 2, 2)
    assert two.corners.shape == (1, 0, 2)
    for name in ("pixels", "words", "state", "start", "age", "labels", "places"):
        assert torch.equal(getattr(one, name), getattr(two, name))


def test_a_few_steps_train_the_crop_encoder(dataset, tmp_path):
    """Every weight of it gets a gradient, the policy is written, and it has the robot's gaze."""
    config = config_of(dataset, tmp_path / "out")
    trainer = trainer_of(config)
    with torch.no_grad():
        for parameter in trainer.models["action-flow"].parameters():  # no gate stays at zero
            parameter.add_(torch.randn_like(parameter) * 0.05)
    loss, _ = trainer.objective(trainer.sampler.batch(0), torch.Generator().manual_seed(0))
    loss.backward()
    encoder = trainer.models["action-flow"].crop_vision
    assert encoder is not None
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    result = train(config)
    assert result.finished
    model = load_checkpoint(result.policy).model
    assert model.crops is not None
    assert model.crops.gaze.near(GAZE)
    assert load_policy(result.policy).spec.gaze == model.crops.gaze


def test_the_shipped_policy_starts_both_encoders(dataset, tmp_path):
    """With as many channels both have its layers, and pooled positions; with fewer, or where
    geometry comes in, the crops' encoder is fresh."""
    start = load_checkpoint(resolve_checkpoint(None))
    for channels in (64, 32):
        size = ModelSize(crops=CropSize(channels=channels))
        config = replace(config_of(dataset, tmp_path), model=size)
        config = replace(config, methods=(start.method,), init=resolve_checkpoint(None))
        own = trainer_of(config).models["action-flow"].state_dict()
        for name in ("stem.weight", "keypoints.score.weight", "to_token.weight", "asked.mix.bias"):
            shipped = start.weights[f"vision.{name}"]
            assert torch.equal(own[f"vision.{name}"], shipped)
            copied = own[f"crop_vision.{name}"]
            if channels == 64:
                assert torch.equal(copied, shipped)
            else:
                assert copied.shape != shipped.shape
        position = start.weights["vision.position"]  # (36 + 2, w)
        pooled = own["vision.position"]  # (9 + 2, w)
        assert torch.equal(pooled[9:], position[36:])
        torch.testing.assert_close(pooled[0], position[[0, 1, 6, 7]].mean(0))
        assert torch.equal(own["crop_vision.view"], start.weights["vision.view"])
        assert torch.equal(own["backbone.last.kv.weight"], start.weights["backbone.last.kv.weight"])


def test_a_policy_with_crops_starts_another_as_it_is(dataset, tmp_path):
    """All its weights are taken, those of the crops' encoder too."""
    result = train(config_of(dataset, tmp_path / "first"))
    start = load_checkpoint(result.policy)
    trainer = trainer_of(config_of(dataset, tmp_path / "second"))
    start_from(trainer.models, start, "init")
    own = trainer.models["action-flow"].state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in start.weights.items())


def test_a_robot_without_a_camera_model_is_refused(dataset, tmp_path):
    """One line names the robot and the remedy: no suite, other views, or no gaze."""
    toy = write_toy_dataset(tmp_path / "toy")
    with pytest.raises(ConfigError, match="robot 'toy': task 'go' is in no suite") as refused:
        trainer_of(config_of(toy, tmp_path / "out"))
    assert "Train without crops" in str(refused.value)
    assert "\n" not in str(refused.value)
    meta = load_dataset(dataset).meta
    with pytest.raises(ConfigError, match="its views are"):
        gaze_of(replace(meta, views=("side",)))
    point = {name: getattr(POINT.spec, name) for name in ("views", "image_size", "state_names")}
    with pytest.raises(ConfigError, match="a robot without one"):
        gaze_of(replace(meta, tasks=dict.fromkeys(POINT.tasks, ("go",)), **point))
