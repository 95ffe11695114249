"""Collecting demonstrations: deterministic, resumable, interruptible."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streamvla.core.errors import ConfigError, DatasetError
from streamvla.core.interfaces import PolicySpec
from streamvla.data import collect as module
from streamvla.data.collect import (
    FIRST_EVALUATION_SEED,
    STEPS_PAST_SUCCESS,
    CollectConfig,
    collect,
    collect_episode,
    episode_seed,
)
from streamvla.data.demonstrations import DatasetMeta, Demonstrations, Episode
from streamvla.data.noise import NoiseConfig
from streamvla.data.pilot import LATEST_HANDOVER, Pilot
from streamvla.data.store import load_dataset, shard_path
from streamvla.robots.metaworld.suite import METAWORLD
from streamvla.robots.registry import make_task_robot
from streamvla.robots.sawyer import PLACE_NAMES, SPEC

PERIOD_NS = SPEC.control_period_ns


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Two shards of one reach episode, collected in this process, each cut soon after success."""
    monkeypatch.setattr(module, "EPISODES_PER_SHARD", 1)
    monkeypatch.setattr(module, "STEPS_PAST_SUCCESS", 1)
    return CollectConfig(tmp_path / "set", ("reach",), episodes_per_task=2, workers=1)


@pytest.fixture
def sketched(monkeypatch):
    """Episodes of three random frames, drawn from their seeds, instead of simulated ones."""

    def sketch(robot, expert, seed, noise, pilot, most_steps):
        rng = np.random.default_rng(seed)
        images = {view: rng.integers(256, size=(3, 96, 96, 3), dtype="u1") for view in SPEC.views}
        state, action, label = rng.normal(size=(3, 3, 4)).astype("f4")
        places = rng.normal(size=(3, len(PLACE_NAMES))).astype("f4")
        return Episode(robot.task, images, state, action, label, seed, 2, places=places)

    monkeypatch.setattr(module, "collect_episode", sketch)


@pytest.fixture(scope="module")
def reach():
    robot = make_task_robot("reach")
    yield robot
    robot.close()


def shards(config):
    return {path.name: path.read_bytes() for path in (config.out / "reach").iterdir()}


@pytest.mark.render
def test_resuming_is_byte_identical(small):
    """A shard made by a resumed run equals, byte for byte, the one of an unbroken run."""
    told = []
    collect(small, told.append)
    unbroken = shards(small)
    assert sorted(unbroken) == ["shard_00000.safetensors", "shard_00001.safetensors"]
    shard_path(small.out, "reach", 0).unlink()
    partial = small.out / "reach" / ".shard_00000.safetensors.partial"
    partial.write_bytes(b"killed while writing")
    resumed = collect(small)
    assert shards(small) == unbroken
    assert (resumed.shards_done, resumed.shards_total, resumed.episodes) == (2, 2, 1)
    assert [state.shards_done for state in told] == [1, 2]
    assert told[-1].episodes_per_hour > 0
    assert collect(small).episodes == 0


@pytest.mark.usefixtures("sketched")
def test_growing_keeps_what_is_there(small, monkeypatch):
    """Asking for more episodes adds shards and leaves the old ones untouched."""
    monkeypatch.setattr(module, "EPISODES_PER_SHARD", 2)
    collect(small)
    first = shards(small)
    collect(replace(small, episodes_per_task=3))
    assert shards(small).items() > first.items()
    assert len(load_dataset(small.out).episodes) == 4


@pytest.mark.usefixtures("sketched")
def test_other_settings_do_not_mix(small):
    """A dataset begun with other noise is refused rather than continued."""
    collect(replace(small, episodes_per_task=1))
    other = replace(small, noise=NoiseConfig(sigma_high=0.9))
    with pytest.raises(DatasetError, match=r"meta\.json: made with other settings"):
        collect(other)


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_shard_alone_is_made_anew(small, damage, caplog):
    """A shard with a wrong byte, or cut short, is made again as it was; the others stay."""
    collect(small)
    before = shards(small)
    path = shard_path(small.out, "reach", 1)
    content = before[path.name]
    path.write_bytes(content[:-9] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    untouched = shard_path(small.out, "reach", 0).stat().st_mtime_ns
    assert collect(small).episodes == 1
    assert shards(small) == before
    assert shard_path(small.out, "reach", 0).stat().st_mtime_ns == untouched
    assert "shard_00001.safetensors is damaged; it is made anew" in caplog.text


@pytest.mark.usefixtures("sketched")
def test_a_deleted_header_is_written_again(small):
    """Without meta.json the same command writes it anew, and keeps the shards of its seed."""
    collect(small)
    header = (small.out / "meta.json").read_bytes()
    (small.out / "meta.json").unlink()
    assert collect(small).episodes == 0
    assert (small.out / "meta.json").read_bytes() == header


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize("content", [None, b"notes of somebody"])
def test_shards_of_another_run_are_not_taken_or_overwritten(small, content):
    """Without meta.json, shards of another seed, or files that are none, are refused by name."""
    collect(small)
    (small.out / "meta.json").unlink()
    path = shard_path(small.out, "reach", 0)
    if content is not None:
        path.write_bytes(content)
    before = shards(small)
    with pytest.raises(DatasetError, match=r"shard_00000.*no meta\.json.*another directory"):
        collect(replace(small, seed=1 if content is None else 0))
    assert shards(small) == before
    assert not (small.out / "meta.json").exists()


@pytest.mark.render
def test_an_episode_goes_on_past_success(reach):
    """18 steps follow the first success, so that every useful frame has its targets."""
    episode = collect_episode(reach, METAWORLD.teacher(reach), seed=3, noise=NoiseConfig())
    assert episode is not None
    assert len(episode) == episode.success_step + STEPS_PAST_SUCCESS
    assert all(len(image) == len(episode) for image in episode.images.values())


@pytest.mark.render
@pytest.mark.parametrize("stored", [True, False])
def test_action_states_are_those_of_the_captures(reach, monkeypatch, stored):
    """Summed up from where the robot stood they are what a driver would have had, to 1e-5; where a
    shard does not say how it stood, the first one's absolute dimension is zero instead."""
    space, standing = SPEC.action_space, np.array([0.0, 0.0, 0.0, 0.5])
    monkeypatch.setattr(module, "standing_at", lambda _: standing)
    had, command = [standing], reach.command

    def commanded(values, now_ns):
        had.append(space.advance(had[-1], values))
        command(values, now_ns)

    monkeypatch.setattr(reach, "command", commanded)
    episode = collect_episode(reach, METAWORLD.teacher(reach), 3, NoiseConfig())
    episode = episode if stored else replace(episode, start=None)
    meta = DatasetMeta("", space, (), PERIOD_NS, (), (96, 96), {}, {}, 0, "")
    states = Demonstrations(meta, (episode,), {}).action_states(episode)
    assert np.allclose(states[1:], had[1:], rtol=0, atol=1e-5)
    assert states[0].tolist() == [0, 0, 0, 0.5 if stored else 0]


def test_labels_are_clean_where_actions_are_not(reach):
    """Under noise executed actions differ from labels; without, they are equal."""
    noisy = collect_episode(
        reach, METAWORLD.teacher(reach), 3, NoiseConfig(clean_fraction=0.0, burst_start=1.0)
    )
    clean = collect_episode(reach, METAWORLD.teacher(reach), 3, NoiseConfig(clean_fraction=1.0))
    assert noisy is not None
    assert clean is not None
    assert np.abs(noisy.action - noisy.label)[:, :3].max() > 0.1
    assert np.array_equal(noisy.action[:, 3], noisy.label[:, 3])
    assert np.array_equal(clean.action, clean.label)
    assert np.abs(noisy.action).max() <= 1.0


class Sideways:
    """A policy of chunks of four that always moves to the right."""

    spec = PolicySpec(
        SPEC.action_space, 4, SPEC.views, SPEC.image_size, len(SPEC.state_names), PERIOD_NS
    )

    def __init__(self):
        self.seen = []
        self.ages = []

    def encode(self, observation):
        self.seen.append((observation.captured_ns, observation.action_state.copy()))
        return

    def generate(self, context, start):
        self.ages.append(start.age)
        yield from np.tile([0.5, 0.0, 0.0, -1.0], (4, 1))


@pytest.mark.render
def test_a_policy_drives_until_the_expert_takes_over(reach):
    """Before the handover the policy's actions are executed, and labelled by the expert."""
    policy = Sideways()
    pilot, seed = Pilot(policy, SPEC), 6
    quiet = NoiseConfig(clean_fraction=1.0)
    episode = collect_episode(reach, METAWORLD.teacher(reach), seed, quiet, pilot)
    handover = int(np.random.default_rng([seed, 4]).integers(LATEST_HANDOVER + 1))
    assert episode is not None
    assert 0 < handover < len(episode)
    assert np.allclose(episode.action[:handover], [0.5, 0.0, 0.0, -1.0])
    assert np.array_equal(episode.action[handover:], episode.label[handover:])
    assert np.abs(episode.label[:handover] - episode.action[:handover]).max() > 0.3
    looks = range(0, handover, 4)
    assert [now for now, _ in policy.seen] == [PERIOD_NS * step for step in looks]
    assert [state[0] for _, state in policy.seen] == pytest.approx([0.5 * step for step in looks])
    again = collect_episode(reach, METAWORLD.teacher(reach), seed, quiet, pilot)
    assert again is not None
    assert np.array_equal(again.action, episode.action)


@pytest.mark.render
def test_a_policy_may_drive_with_a_lead(reach):
    """It looks with that many pending, is told how old the look is, and sends what it would."""
    policy = Sideways()
    pilot = Pilot(policy, SPEC, most_lead=3)
    drawn = set()
    for seed in range(12):
        lead = int(np.random.default_rng([seed, 5]).integers(4))
        drawn.add(lead)
        policy.seen.clear()
        policy.ages.clear()
        pilot.reset(seed, SPEC.action_space.initial_state())
        reach.reset(seed, 0, PERIOD_NS)
        for step in range(9):
            action = pilot.act(reach, reach.capture(), step * PERIOD_NS)
            assert np.allclose(action, [0.5, 0.0, 0.0, -1.0])
        looks = [0, 4 - lead, 8 - lead]
        assert [now for now, _ in policy.seen[:3]] == [PERIOD_NS * step for step in looks]
        assert policy.ages[:3] == [0, lead, lead]
    assert drawn == {0, 1, 2, 3}
    with pytest.raises(ConfigError, match="most lead 4"):
        Pilot(policy, SPEC, most_lead=4)


@pytest.mark.render
def test_a_language_episode_keeps_what_was_asked_for(tmp_path, monkeypatch):
    """Episodes of one task have the instructions of their own goal, also after reading them."""
    monkeypatch.setattr(module, "EPISODES_PER_SHARD", 4)
    config = CollectConfig(tmp_path / "set", ("press-named-button", "reach"), 4, workers=1)
    collect(config)
    loaded = load_dataset(config.out)
    robot = make_task_robot("press-named-button")
    said = set()
    for episode in loaded.episodes:
        said.add(loaded.meta.instructions_of(episode))
        if episode.task == "press-named-button":
            robot.reset(episode.seed, 0, robot.spec.control_period_ns)
            assert episode.instructions == robot.phrasings.train
    robot.close()
    assert len(said) > 2
    assert {text for texts in said for text in texts} <= {
        text for texts in loaded.meta.tasks.values() for text in texts
    }


@pytest.mark.render
def test_an_expert_that_fails_is_discarded(reach, monkeypatch):
    """An episode without success in time yields nothing."""
    monkeypatch.setattr(module, "MAX_STEPS", 2)
    assert collect_episode(reach, METAWORLD.teacher(reach), seed=3, noise=NoiseConfig()) is None


@pytest.mark.render
def test_an_expert_that_always_fails_is_an_error(small, monkeypatch):
    """A shard that cannot be filled ends with the task's name and a remedy."""
    monkeypatch.setattr(module, "MAX_STEPS", 1)
    monkeypatch.setattr(module, "MAX_ATTEMPTS_PER_SHARD", 3)
    with pytest.raises(DatasetError, match=r"'reach'.*0 of 3 attempts"):
        collect(small)


def test_what_little_an_expert_can_save_after_a_policy_is_kept(small, sketched, monkeypatch):
    """A shard of a policy's episodes may be short; without a policy that is an error."""
    monkeypatch.setattr(module, "EPISODES_PER_SHARD", 2)
    monkeypatch.setattr(module, "MAX_ATTEMPTS_PER_SHARD", 3)
    sketch, first = module.collect_episode, episode_seed(0, "reach", 0)

    def saves_the_first(robot, expert, seed, *how):
        return sketch(robot, expert, seed, *how) if seed == first else None

    monkeypatch.setattr(module, "collect_episode", saves_the_first)
    with pytest.raises(DatasetError, match="1 of 3 attempts"):
        collect(small)
    monkeypatch.setattr(module, "_pilot", lambda config, robot: object())
    monkeypatch.setattr(module, "_identify", lambda checkpoint, most_lead: {"file": "x"})
    piloted = replace(small, out=small.out.with_name("piloted"), policy=Path("x"))
    assert collect(piloted).attempts == 3
    assert [episode.seed for episode in load_dataset(piloted.out).episodes] == [first]


SCRIPT = """
import sys
from pathlib import Path
from streamvla.data import collect as module
module.EPISODES_PER_SHARD = 1  # spawned workers run these lines, too
module.STEPS_PAST_SUCCESS = 1
if __name__ == "__main__":
    config = module.CollectConfig(Path(sys.argv[1]), ("reach",), 400, workers=2)
    module.collect(config, lambda state: print("shard", flush=True))
"""


def heed_interrupts() -> None:
    """A suite that runs in the background of a shell inherits an ignored Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.render
def test_ctrl_c_leaves_whole_shards_and_says_how_to_resume(tmp_path):
    """Interrupted among its workers, collection ends with a message and a readable dataset."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "set")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "shard\n"
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "InterruptedRunError: interrupted with" in errors
    assert "Run the same command again to resume." in errors
    found = sorted(path.suffix for path in (tmp_path / "set" / "reach").iterdir())
    assert set(found) == {".safetensors"}
    assert len(load_dataset(tmp_path / "set").episodes) == len(found)


def test_seeds_are_distinct_and_leave_the_evaluation_alone():
    """Within a task no two attempts share a seed, and none is an evaluation seed."""
    for task in ("reach", "push"):
        seeds = {episode_seed(0, task, index) for index in range(40_000)}
        assert len(seeds) == 40_000
        assert max(seeds) < FIRST_EVALUATION_SEED
        assert min(seeds) >= 0
    assert episode_seed(0, "reach", 0) != episode_seed(1, "reach", 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"most_lead": 3}, "only a policy"),
        ({"tasks": ("raech",)}, "did you mean 'reach'"),
        ({"tasks": ()}, "at least one"),
        ({"tasks": ("reach", "reach")}, "each once"),
        ({"episodes_per_task": 0}, "expected ≥ 1"),
        ({"episodes_per_task": 10_000_000}, "seeds would repeat"),
        ({"workers": -1}, "expected ≥ 0"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, settings, message):
    """Every setting out of range is refused before anything is written."""
    with pytest.raises(ConfigError, match=message):
        CollectConfig(tmp_path, **settings)


def test_an_expert_may_take_as_long_as_its_suite_says():
    """A memory task with 30 s of delay: longer than that; a task whose suite says nothing: 120."""
    assert module._most_steps("recall-place@30") > 30 * 20
    assert module._most_steps("reach") == module.MAX_STEPS == 120
