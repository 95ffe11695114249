"""Several processes follow the curve of one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from streamvla.core.errors import ConfigError
from streamvla.data.store import load_dataset
from streamvla.model.checkpoint import load_tensors
from streamvla.model.methods.action_flow import ActionFlowConfig
from streamvla.model.methods.chunk_flow import ChunkFlowConfig
from streamvla.model.methods.regression import RegressionConfig
from streamvla.model.normalisation import Normalisation
from streamvla.model.vla import StreamingVLA
from streamvla.training import train
from streamvla.training.batches import BatchSampler, SamplingConfig
from streamvla.training.config import STATE_NAME
from streamvla.training.distributed import Share
from streamvla.training.losses import Objective
from streamvla.training.record import read_log
from tests.model.tiny import VLAConfig
from tests.training.small import SMALL, small_config
from tests.training.toy import META, SPACE, write_toy_dataset

METHODS = [ActionFlowConfig(horizon=5), ChunkFlowConfig(horizon=5), RegressionConfig(horizon=5)]


def test_an_uneven_batch_is_refused():
    """A global batch that the processes cannot share evenly raises, naming both numbers."""
    with pytest.raises(ConfigError, match="batch size 5 cannot be shared evenly by 2"):
        Share(0, 2).rows(5)


@pytest.mark.parametrize("method", METHODS)
def test_shares_of_a_step_average_to_the_whole(method, tmp_path):
    """The mean of two shares' losses and gradients is the loss and gradient of the whole batch."""
    demonstrations = load_dataset(write_toy_dataset(tmp_path))
    episodes = demonstrations.episodes
    scale = Normalisation.fit(episodes[0].state, episodes[0].label)
    config = VLAConfig(2, 1, 1, META.image_size, places_dim=2, **vars(SMALL))
    sampling = SamplingConfig(batch_size=4, samples=3, max_offset=3)
    torch.manual_seed(0)
    model = StreamingVLA(config, method)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)

    def step(share: Share) -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        sampler = BatchSampler(
            demonstrations, episodes, scale, method, sampling, 0, config.future_steps, share
        )
        objective = Objective(
            {method.name: model},
            {method.name: method},
            torch.tensor(SPACE.is_delta()),
            chunk_samples=2,
            jitter=0.1,
            future_weight=0.5,
            places_weight=0.5,
            share=share,
        )
        loss, _ = objective(sampler.batch(3), torch.Generator().manual_seed(5))
        loss.backward()
        assert model.backbone.last.kv.weight.grad is not None
        return loss.detach(), model.backbone.last.kv.weight.grad.clone()

    whole, *shares = (step(share) for share in (Share(), Share(0, 2), Share(1, 2)))
    for expected, halves in zip(whole, zip(*shares, strict=True), strict=True):
        torch.testing.assert_close(sum(halves) / 2, expected, rtol=1e-4, atol=1e-6)
    assert not torch.isclose(shares[0][0], shares[1][0])


def train_with_two_processes(dataset: Path, out: Path, methods: Sequence[str]) -> None:
    """Run `tests.training.small` under torchrun; raises if one of its processes fails."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "tests.training.small", str(dataset), str(out), *methods),
    ]
    root = Path(__file__).parents[2]
    subprocess.run(command, check=True, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_no_thread_of_the_process_group_outlives_a_training(tmp_path):
    """Where two processes have trained, none has a thread of gloo left.

    One that is left frees its last tensor while the interpreter ends, and some runs abort.
    """
    train_with_two_processes(write_toy_dataset(tmp_path / "toy"), tmp_path / "two", ["regression"])
    for rank in (0, 1):
        threads = (tmp_path / "two" / f"threads-{rank}.txt").read_text(encoding="utf-8").split()
        assert threads
        assert not [name for name in threads if "gloo" in name]


@pytest.mark.slow
@pytest.mark.parametrize("methods", [METHODS[:1], tuple(METHODS)])
def test_two_processes_give_the_loss_curve_of_one(tmp_path, methods):
    """Under torchrun with two processes the losses are those of one, batch for batch.

    The first to rounding; later ones within 0.5 %, because Adam makes whole steps of the rounding
    errors that some gradients consist of. Without averaged gradients they differ by 2 to 13 %.
    """
    dataset = write_toy_dataset(tmp_path / "toy")
    train(replace(small_config(dataset, tmp_path / "one"), methods=tuple(methods)))
    names = [method.name for method in methods]
    train_with_two_processes(dataset, tmp_path / "two", names)

    def curve(name: str) -> list[dict[str, float]]:
        lines = (tmp_path / name / "log.jsonl").read_text(encoding="utf-8").splitlines()
        logged = [json.loads(line) for line in lines]
        return [{"loss": line["loss"], **line["losses"]} for line in logged]

    one, two = curve("one"), curve("two")
    assert len(two) == 12
    assert two[0] == pytest.approx(one[0], rel=1e-5)
    for alone, together in zip(one, two, strict=True):
        assert together["loss"] == pytest.approx(alone["loss"], rel=5e-3)
    for path in (tmp_path / "one").glob("*.safetensors"):
        assert (tmp_path / "two" / path.name).exists()


@pytest.mark.slow
def test_two_processes_that_are_stopped_go_on_to_the_same_weights(tmp_path):
    """Both end after the same step when `torchrun` gets SIGTERM; resumed, to the undisturbed end.

    Losses between two lines of the log are averaged over the processes before they are kept, so
    the line after a resumption may differ in its last digit.
    """
    dataset = write_toy_dataset(tmp_path / "toy")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in ("whole", "broken", "broken"):
        out = tmp_path / name
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "tests.training.killed"),
        ]
        begun = (out / "log.jsonl").exists()
        process = subprocess.Popen(
            [*command, str(dataset), str(out), "90"],
            cwd=Path(__file__).parents[2],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        while name == "broken" and not begun and len(lines_of(out)) < 4:
            assert process.poll() is None
            time.sleep(0.01)
        if name == "broken" and not begun:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=200)
    states = {name: load_tensors(tmp_path / name / STATE_NAME) for name in ("whole", "broken")}
    (header, whole), (broken_header, broken) = states["whole"], states["broken"]
    assert header["step"] == broken_header["step"] == 90
    assert len(broken_header["provenance"]["resumed"]) == 1
    assert all(torch.equal(broken[name], tensor) for name, tensor in whole.items())
    curves = [[line["loss"] for line in lines_of(tmp_path / name)] for name in states]
    assert curves[1] == pytest.approx(curves[0], rel=1e-6)


def lines_of(out: Path) -> list[dict]:
    path = out / "log.jsonl"
    return read_log(path) if path.exists() else []
