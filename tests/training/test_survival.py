"""Training survives its host: signals, kills at any instant, kills while it saves."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from streamvla.core.clock import VirtualClock
from streamvla.core.errors import ConfigError
from streamvla.data.store import load_dataset
from streamvla.model.checkpoint import load_tensors
from streamvla.training import TrainConfig, train
from streamvla.training.config import STATE_NAME
from streamvla.training.interrupts import stop_on_interrupt
from streamvla.training.trainer import Trainer
from tests.training.small import small_config
from tests.training.toy import write_toy_dataset

ROOT = Path(__file__).parents[2]


class KilledError(Exception):
    """What stands for SIGKILL inside one process."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_toy_dataset(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def config(dataset, tmp_path) -> TrainConfig:
    """Twelve steps that save after every second one, log every third, and measure every fourth."""
    config = small_config(dataset, tmp_path / "out")
    return replace(config, threads=1, save_every=2, log_every=3, holdout_every=4)


def curve(out: Path) -> list[dict]:
    """The log, but for how fast it went."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k != "steps_per_s"} for line in lines]


def assert_same_training(out: Path, whole: Path) -> None:
    """All files with weights are the same in two trainings, tensor by tensor, and their logs."""
    files = sorted(path.relative_to(whole) for path in whole.rglob("*.safetensors"))
    assert sorted(path.relative_to(out) for path in out.rglob("*.safetensors")) == files
    for file in files:
        (_, tensors), (_, expected) = (load_tensors(folder / file) for folder in (out, whole))
        assert tensors.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(tensors[name], tensor), f"{file}: {name}"
    assert curve(out) == curve(whole)
    assert not list(out.rglob("*.partial"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_step_and_saves(config, tmp_path, monkeypatch, number):
    """Resumed, the training ends with the weights, files and log of an undisturbed one."""
    whole = replace(config, out=tmp_path / "whole")
    train(whole)
    advance = Trainer.advance

    def signalled(self):
        if self.step == 4:
            signal.raise_signal(number)
        advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", signalled)
        stopped = train(config)
    assert (stopped.finished, stopped.step, stopped.stopped_by) == (False, 5, number)
    assert train(replace(config, resume=True)).finished
    assert_same_training(config.out, whole.out)


def test_signals_are_taken_as_a_host_means_them():
    """SIGTERM again changes nothing; a second Ctrl-C kills; what was ignored stays ignored; what
    was handled before is handled so afterwards."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_interrupt() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.is_set()
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            assert stop.number == signal.SIGTERM
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        with stop_on_interrupt(shared=True) as stop:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_kill_at_any_point_of_a_save_can_be_resumed(config, tmp_path, monkeypatch):
    """Whichever file was to be put in place next: resumed, the result is the undisturbed one's.

    The file that was being written is left torn beside it, as a kill leaves it.
    """
    config = replace(config, steps=6)
    whole = replace(config, out=tmp_path / "whole")
    train(whole)
    put = os.replace
    placed: list[Path] = []

    def replacing(source: Path, target: Path) -> None:
        placed.append(source)
        if len(placed) > count:
            raise KilledError
        put(source, target)

    for count in range(100):
        out = tmp_path / f"killed-{count}"
        placed.clear()
        with monkeypatch.context() as patch, suppress(KilledError):
            patch.setattr(os, "replace", replacing)
            train(replace(config, out=out))
        if len(placed) <= count:
            break
        placed[-1].write_bytes(b"torn")
        assert train(replace(config, out=out, resume=(out / "log.jsonl").exists())).finished
        assert_same_training(out, whole.out)
    assert len(placed) > 10


def test_a_torn_log_is_resumed(config, tmp_path):
    """A last line that a kill cut off is left out, and written again."""
    whole = replace(config, out=tmp_path / "whole")
    train(whole)
    stop_after(config, 4, lost=2)
    log = config.out / "log.jsonl"
    log.write_bytes(log.read_bytes() + b'{"step": 6, "lo')
    train(replace(config, resume=True))
    assert_same_training(config.out, whole.out)


def stop_after(config: TrainConfig, step: int, lost: int = 0) -> None:
    """Train until a step, save, and lose some steps that are made after it."""
    trainer = Trainer(replace(config, save_every=100), load_dataset(config.dataset), VirtualClock())
    trainer.prepare()
    while trainer.step < step:
        trainer.advance()
    trainer.save()
    with suppress(KilledError):
        trainer.save = killed  # type: ignore[method-assign]
        for _ in range(lost):
            trainer.advance()
    trainer.close()


def killed() -> None:
    raise KilledError


def test_disk_use_is_bounded(config):
    """Of six regular saves the last two stay, beside the newest and the best policy."""
    result = train(config)
    folders = sorted(path.name for path in (config.out / "checkpoints").iterdir())
    assert folders == ["step-00000010", "step-00000012"]
    (path, step, error) = result.best["action-flow"]
    provenance = load_tensors(path)[0]["provenance"]
    assert provenance["step"] == step
    assert provenance["holdout"]["lead_0"] == error
    measured = [line["holdout"]["lead_0"] for line in curve(config.out) if "holdout" in line]
    assert error == min(measured)
    assert train(replace(config, out=config.out / "none", keep=0)).finished
    assert not (config.out / "none" / "checkpoints").exists()


def test_steps_may_grow_but_not_shrink(config, tmp_path):
    """Prolonged, the log says from which step which schedule holds, killed and resumed or not; a
    cut is refused in one line."""
    train(config)
    longer = replace(config, steps=20, resume=True)
    again = replace(config, out=tmp_path / "again")
    train(again)
    stop_after(replace(longer, out=again.out), 15)
    train(replace(longer, out=again.out))
    train(longer)
    lines = curve(config.out)
    told = {"from_step": 12, "steps": 20, "before": 12}
    assert [line for line in lines if "schedule" in line] == [{"step": 12, "schedule": told}]
    rates = {line["step"]: line["lr"] for line in lines if "lr" in line}
    assert rates[15] > rates[12]
    assert_same_training(again.out, config.out)
    with pytest.raises(ConfigError, match=r"made with 20 steps.* cannot be cut to 12") as refused:
        train(replace(longer, steps=12))
    assert "\n" not in str(refused.value)


def test_lines_where_there_is_no_terminal(config, capsys, monkeypatch):
    """Step, loss, steps per second and what is left, as lines; a bar writes none of them."""
    monkeypatch.setattr("streamvla.training.progress.EVERY_S", 0.0)
    train(config)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert lines[4].startswith("step 5 of 12  loss ")
    assert lines[4].endswith(" s left")
    assert " steps/s  " in lines[4]
    assert "\x1b" not in "".join(lines)


def test_a_training_goes_on_when_nobody_reads_it(config, monkeypatch):
    """A pipe whose reader has gone, as behind a lost session, ends no training."""

    class ClosedPipe(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr("streamvla.training.progress.EVERY_S", 0.0)
    monkeypatch.setattr(sys, "stdout", ClosedPipe())
    assert train(config).finished


def test_tensorboard_reads_the_scalars(config):
    """One point a step for loss and learning rate, also where a resumption wrote some again."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = replace(config, track=True, log_every=1)
    stop_after(config, 5, lost=2)
    train(replace(config, resume=True))
    read = EventAccumulator(str(config.out / "tensorboard"))
    read.Reload()
    for name, key in (("loss", "loss"), ("lr", "lr")):
        told = {event.step: event.value for event in read.Scalars(name)}
        logged = {line["step"]: line[key] for line in curve(config.out)}
        assert told == pytest.approx(logged)
        assert len(read.Scalars(name)) == 12
    assert "holdout/lead_0" in read.Tags()["scalars"]


def test_tracking_without_tensorboard_is_refused(config, monkeypatch):
    """Before the first step, with what to install."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"tracking needs TensorBoard.*track"):
        train(replace(config, track=True))


def test_the_curves_are_drawn(config):
    """A finished training leaves a figure, and an unfinished one none."""
    stop_after(config, 5)
    assert not (config.out / "curves.png").exists()
    result = train(replace(config, resume=True))
    assert result.curves == config.out / "curves.png"
    assert result.curves.read_bytes().startswith(b"\x89PNG")


def run_process(dataset: Path, out: Path, steps: int, number: int = 0, when=None) -> float:
    """Train in a process of its own, and send it a signal after `when()`, which is called before
    its first step; returns how long it trained, in seconds."""
    command = [sys.executable, "-m", "tests.training.killed", str(dataset), str(out), str(steps)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        begun = time.monotonic()
        if when is not None:
            when()
            process.send_signal(number)
        process.stdout.read()
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    return time.monotonic() - begun


def saved_step(out: Path) -> int:
    state = out / STATE_NAME
    return load_tensors(state)[0]["step"] if state.exists() else 0


def test_three_kills_change_no_weight(tmp_path):
    """SIGKILL, SIGTERM, SIGKILL, and the result is that of an undisturbed training."""
    dataset, whole, out = write_toy_dataset(tmp_path / "toy"), tmp_path / "whole", tmp_path / "out"
    run_process(dataset, whole, 60)
    saved = []
    for number, step in ((signal.SIGKILL, 10), (signal.SIGTERM, 25), (signal.SIGKILL, 40)):

        def reached(step=step) -> None:
            for _ in range(6000):
                if (out / "log.jsonl").exists() and len(curve_begun(out)) * 5 >= step:
                    return
                time.sleep(0.005)
            raise TimeoutError(f"step {step} is not reached in 30 s")

        run_process(dataset, out, 60, number, reached)
        saved.append(saved_step(out))
    assert 9 <= saved[0] < saved[1] < saved[2] < 60
    run_process(dataset, out, 60)
    assert_same_training(out, whole)


def curve_begun(out: Path) -> list[str]:
    """The lines of a log that is being written."""
    return (out / "log.jsonl").read_text("utf-8").splitlines()


@pytest.mark.slow
def test_twenty_kills_at_random_instants_change_no_weight(tmp_path, capsys):
    """Ten by SIGTERM, ten by SIGKILL, and the result is that of an undisturbed training."""
    dataset, whole, out = write_toy_dataset(tmp_path / "toy"), tmp_path / "whole", tmp_path / "out"
    steps, seed = 900, int(os.environ.get("KILL_SEED", "0"))
    whole_s = run_process(dataset, whole, steps)
    chance = random.Random(seed)
    numbers = [signal.SIGTERM, signal.SIGKILL] * 10
    chance.shuffle(numbers)
    saved = []
    for number in numbers:
        run_process(dataset, out, steps, number, partial(sleep_up_to, whole_s / 20, chance))
        saved.append(saved_step(out))
    run_process(dataset, out, steps)
    with capsys.disabled():
        print(f"\nseed {seed}: saved after each kill {saved} of {steps}")  # noqa: T201
    assert saved[-1] < steps, "it had finished before the last kill"
    assert_same_training(out, whole)


def sleep_up_to(seconds: float, chance: random.Random) -> None:
    time.sleep(chance.uniform(0, seconds))
