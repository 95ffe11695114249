"""Demonstrations on disk: what is written is what is read, and what is broken is refused."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import ConfigError, DatasetError
from streamvla.data.demonstrations import DatasetMeta, Episode
from streamvla.data.store import (
    is_whole,
    load_dataset,
    load_datasets,
    read_meta,
    shard_path,
    write_meta,
    write_shard,
)

META = DatasetMeta(
    robot="toy",
    action_space=ActionSpace(("dx", "grip"), ("delta", "absolute"), (-1.0, -1.0), (1.0, 1.0)),
    state_names=("x_m",),
    control_period_ns=50_000_000,
    views=("side", "front"),
    image_size=(6, 8),
    tasks={"reach": ("reach it",), "push": ("push it",)},
    noise={"sigma": 0.1},
    seed=0,
    commit="unknown",
)


def make_episode(task, seed, length):
    stream = np.random.default_rng(seed)
    return Episode(
        task=task,
        images={
            view: stream.integers(0, 256, (length, 6, 8, 3), dtype=np.uint8) for view in META.views
        },
        state=stream.random((length, 1), dtype=np.float32),
        action=stream.random((length, 2), dtype=np.float32),
        label=stream.random((length, 2), dtype=np.float32),
        seed=seed,
        success_step=length - 2,
    )


EPISODES = {
    "reach": [make_episode("reach", 1, 5), make_episode("reach", 2, 9)],
    "push": [make_episode("push", 3, 7)],
}


@pytest.fixture
def directory(tmp_path):
    write_meta(tmp_path, META)
    for task, episodes in EPISODES.items():
        write_shard(shard_path(tmp_path, task, 0), episodes, attempts=len(episodes) + 1)
    return tmp_path


def rewrite(directory, change):
    """Edit the tensors of reach's shard."""
    path = shard_path(directory, "reach", 0)
    tensors = {name: np.array(tensor) for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)


def test_what_is_written_is_read(directory):
    """Every array, seed and success step of every episode survives the round trip."""
    loaded = load_dataset(directory)
    assert loaded.meta == META
    assert loaded.attempts == {"reach": 3, "push": 2}
    written = EPISODES["reach"] + EPISODES["push"]
    assert loaded.frame_count == 21
    for expected, found in zip(written, loaded.episodes, strict=True):
        assert (found.task, found.seed, found.success_step) == (
            expected.task,
            expected.seed,
            expected.success_step,
        )
        for name in ("state", "action", "label"):
            assert np.array_equal(getattr(found, name), getattr(expected, name))
        for view in META.views:
            assert np.array_equal(found.images[view], expected.images[view])


def test_images_stay_on_disk(directory):
    """Frames are mapped, not loaded."""
    image = load_dataset(directory).episodes[0].images["side"]
    assert isinstance(image, np.memmap)


def test_instructions_of_an_episode_survive(directory):
    """Episodes with goals of their own keep their instructions; others have their task's."""
    told = replace(EPISODES["push"][0], instructions=("push it left", "to the left"))
    write_shard(shard_path(directory, "push", 1), [told], attempts=1)
    loaded = load_dataset(directory)
    said = [loaded.meta.instructions_of(episode) for episode in loaded.episodes]
    assert said == [("reach it",), ("reach it",), ("push it",), ("push it left", "to the left")]


def test_datasets_of_one_robot_are_one(directory, tmp_path):
    """Tasks are joined, and the first dataset's episodes come last."""
    other = tmp_path / "other"
    write_meta(other, replace(META, tasks={"push": ("push it",), "pull": ("pull it",)}))
    for task, seed in (("push", 4), ("pull", 5)):
        write_shard(shard_path(other, task, 0), [make_episode(task, seed, 6)], attempts=1)
    both = load_datasets([directory, other])
    assert [episode.seed for episode in both.episodes] == [4, 5, 1, 2, 3]
    assert both.attempts == {"reach": 3, "push": 3, "pull": 1}
    assert set(both.meta.tasks) == {"reach", "push", "pull"}
    assert {e.task for e in load_datasets([directory, other], ["push"]).episodes} == {"push"}
    with pytest.raises(ConfigError, match="did you mean 'pull'"):
        load_datasets([directory, other], ["pul"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("control_period_ns", 40_000_000), ("state_names", ("y_m",)), ("views", ("side",))],
)
def test_datasets_of_different_robots_are_refused(directory, tmp_path, name, value):
    """Another rate, state or camera set: the error names the file and what differs."""
    write_meta(tmp_path / "other", replace(META, **{name: value}))
    with pytest.raises(DatasetError, match=rf"other.*meta\.json: {name} is"):
        load_datasets([directory, tmp_path / "other"])


def test_places_survive_and_are_checked(directory):
    """A dataset that knows places returns them, and refuses a shard that lacks them."""
    meta = replace(META, tasks={"push": ("push it",)}, place_names=("puck_x_m", "puck_y_m"))
    write_meta(directory, meta)
    with pytest.raises(DatasetError, match=r"shard_00000.*'place' is missing"):
        load_dataset(directory)
    told = replace(EPISODES["push"][0], places=np.arange(14, dtype="f4").reshape(7, 2))
    write_shard(shard_path(directory, "push", 0), [told], attempts=1)
    loaded = load_dataset(directory)
    assert loaded.meta == meta
    assert np.array_equal(loaded.episodes[0].places, told.places)


@pytest.mark.parametrize("said", ["[]", "no json", "3"])
def test_damaged_instructions_are_refused(directory, said):
    """Instructions of too few episodes, or not a list, are refused with the file's name."""
    path = shard_path(directory, "push", 0)
    tensors = {name: np.array(tensor) for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"instructions": said})
    with pytest.raises(DatasetError, match=r"shard_00000.*instructions"):
        load_dataset(directory)


def test_tasks_can_be_chosen(directory):
    """Only the episodes of the named tasks are loaded; an unknown task is refused."""
    assert {e.task for e in load_dataset(directory, ["push"]).episodes} == {"push"}
    with pytest.raises(ConfigError, match="did you mean 'push'"):
        load_dataset(directory, ["pusch"])


def test_action_states_sum_deltas_and_carry_absolutes(directory):
    """The action state starts at zero, sums delta dimensions and repeats the last gripper."""
    loaded = load_dataset(directory)
    episode = loaded.episodes[1]
    states = loaded.action_states(episode)
    assert states.shape == (10, 2)
    assert np.allclose(states[:, 0], np.cumsum([0.0, *episode.action[:, 0]]))
    assert np.allclose(states[:, 1], [0.0, *episode.action[:, 1]])


def test_an_episode_starts_where_the_robot_stood(directory):
    """The initial action state is stored, and action states count from it; without one, from 0."""
    space = META.action_space
    standing = np.array([0.0, 0.7])
    episodes = [replace(each, start=standing) for each in EPISODES["reach"]]
    write_shard(shard_path(directory, "reach", 0), episodes, attempts=3)
    loaded = load_dataset(directory)
    reach, push = loaded.episodes[0], loaded.episodes[-1]
    assert np.array_equal(loaded.action_states(reach)[0], standing)
    assert loaded.action_states(reach)[1, 1] == reach.action[0, 1]
    assert np.array_equal(loaded.action_states(push)[0], space.initial_state())
    rewrite(directory, lambda tensors: tensors.update(start=np.zeros((2, 3))))
    with pytest.raises(DatasetError, match="start"):
        load_dataset(directory)


def test_a_missing_directory_says_how_to_make_one(tmp_path):
    """No meta.json: the message names the directory and the command."""
    with pytest.raises(DatasetError, match=r"no dataset at .*streamvla collect"):
        load_dataset(tmp_path / "nowhere")


def test_another_schema_is_refused(directory):
    """A dataset of another schema version is refused with both versions and the file."""
    fields = json.loads((directory / "meta.json").read_text())
    (directory / "meta.json").write_text(json.dumps({**fields, "schema_version": 99}))
    with pytest.raises(DatasetError, match=r"meta\.json: schema version 99, expected 2"):
        load_dataset(directory)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 1}'])
def test_a_malformed_header_is_refused(directory, text):
    """Broken JSON, another JSON type and missing fields all name meta.json."""
    (directory / "meta.json").write_text(text)
    with pytest.raises(DatasetError, match=r"meta\.json"):
        load_dataset(directory)


@pytest.mark.parametrize("kept", [0, 4, 200, -1])
def test_a_truncated_shard_is_refused(directory, kept):
    """A shard cut anywhere is refused by name, with the way to make it anew."""
    path = shard_path(directory, "reach", 0)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DatasetError, match=r"shard_00000.*truncated.*Delete it"):
        load_dataset(directory)


def test_a_shard_of_noise_is_refused(directory):
    """A file that is no shard at all is refused by name."""
    shard_path(directory, "reach", 0).write_bytes(bytes(range(256)) * 10)
    with pytest.raises(DatasetError, match=r"shard_00000.*truncated or not a shard"):
        load_dataset(directory)


def test_a_missing_view_is_refused(directory):
    """A shard without one of the views is refused with the view's name."""
    rewrite(directory, lambda tensors: tensors.pop("image.front"))
    with pytest.raises(DatasetError, match=r"shard_00000.*'image\.front' is missing"):
        load_dataset(directory)


def test_a_wrong_shape_is_refused(directory):
    """A tensor of another shape is refused with both shapes."""

    def widen(tensors):
        tensors["action"] = np.zeros((14, 3), np.float32)

    rewrite(directory, widen)
    with pytest.raises(DatasetError, match=r"'action' has shape \(14, 3\), expected \(14, 2\)"):
        load_dataset(directory)


def test_disordered_episodes_are_refused(directory):
    """Episode offsets that do not grow from zero are refused."""

    def disorder(tensors):
        tensors["episode_start"] = np.array([0, 14, 14])

    rewrite(directory, disorder)
    with pytest.raises(DatasetError, match="does not grow from 0"):
        load_dataset(directory)


def test_a_task_without_shards_is_refused(directory):
    """A task that was never finished says how to resume."""
    shard_path(directory, "push", 0).unlink()
    with pytest.raises(DatasetError, match=r"no complete shard of task 'push'.*resumes"):
        load_dataset(directory)


def test_meta_survives_json(tmp_path):
    """Header → JSON → header is the identity."""
    meta = replace(META, commit="abc", seed=5)
    write_meta(tmp_path, meta)
    assert read_meta(tmp_path) == meta


def flipped(content: bytes, position: int, mask: int) -> bytes:
    """One byte changed."""
    at = position % len(content)
    return content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :]


flips = given(position=st.integers(0, 1 << 40), mask=st.integers(1, 255))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A dataset that some tests damage, and mend."""
    directory = tmp_path_factory.mktemp("sound")
    write_meta(directory, META)
    for task, episodes in EPISODES.items():
        told = [replace(each, instructions=("one", "two")) for each in episodes]
        write_shard(shard_path(directory, task, 0), told, attempts=3)
    return directory


@pytest.mark.parametrize("in_header", [True, False])
@flips
def test_any_flipped_byte_of_a_shard_is_noticed(sound, in_header, position, mask):
    """Wherever a byte of a shard differs, loading names the shard and how to make it anew, and
    the other task's shard still loads."""
    path = shard_path(sound, "reach", 0)
    content = path.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    try:
        path.write_bytes(flipped(content, position % length if in_header else position, mask))
        assert not is_whole(path)
        with pytest.raises(
            DatasetError, match=r"reach/shard_00000.*run the same streamvla"
        ) as said:
            load_dataset(sound)
        assert "\n" not in str(said.value)
        assert len(load_dataset(sound, ["push"]).episodes) == 1
    finally:
        path.write_bytes(content)


@flips
def test_any_flipped_byte_of_a_header_is_noticed(sound, position, mask):
    """Wherever a byte of meta.json differs, reading it names the file and what to do."""
    path = sound / "meta.json"
    content = path.read_bytes()
    try:
        path.write_bytes(flipped(content, position, mask))
        with pytest.raises(DatasetError, match=r"meta\.json: damaged.*Delete it and run"):
            read_meta(sound)
    finally:
        path.write_bytes(content)


def test_two_thousand_zeroed_bytes_are_noticed(directory):
    """Images that lost a block of the disk are refused."""
    path = shard_path(directory, "reach", 0)
    content = bytearray(path.read_bytes())
    content[-2500:-500] = bytes(2000)
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"shard_00000.*checksum is wrong"):
        load_dataset(directory)


def test_a_dataset_of_before_checksums_loads_with_one_warning(directory, caplog):
    """Header and shards without checksums load as before; the log says so once."""
    fields = json.loads((directory / "meta.json").read_text())
    del fields["crc32"]
    (directory / "meta.json").write_text(json.dumps({**fields, "schema_version": 1}, indent=2))
    rewrite(directory, lambda tensors: None)
    said = {"instructions": json.dumps([["push it left"]])}
    path = shard_path(directory, "push", 0)
    save_file({name: np.array(tensor) for name, tensor in load_file(path).items()}, path, said)
    with caplog.at_level(logging.WARNING, "streamvla"):
        loaded = load_dataset(directory)
        load_dataset(directory)
    assert loaded.meta == META
    assert loaded.episodes[-1].instructions == ("push it left",)
    assert [record.message.count("without checksums") for record in caplog.records] == [1]


def test_a_whole_dataset_is_read_without_a_warning(directory, caplog):
    """What this version writes has its checksums."""
    with caplog.at_level(logging.WARNING, "streamvla"):
        load_dataset(directory)
    assert not caplog.records
