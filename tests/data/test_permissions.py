"""Files for everybody the umask admits."""

from __future__ import annotations

import os

import pytest
import torch

from streamvla.data.store import shard_path, write_shard
from streamvla.model.checkpoint import save_tensors
from tests.training.toy import toy_episode


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def test_checkpoints_and_shards_have_the_permissions_of_any_new_file(tmp_path, umask):
    """Under umask 027 a checkpoint and a shard get mode 640, not safetensors' 600."""
    shard = shard_path(tmp_path, "go", 0)
    write_shard(shard, [toy_episode("go", 0)], attempts=1)
    save_tensors(tmp_path / "policy.safetensors", {"weight": torch.zeros(2)}, {})
    for path in (shard, tmp_path / "policy.safetensors"):
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask
