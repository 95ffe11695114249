"""Files that are whole or not there."""

from __future__ import annotations

import numpy as np
import pytest

from streamvla.core.files import replacing


def test_a_writer_that_fails_leaves_the_old_file_and_no_debris(tmp_path):
    """An error while writing leaves what was there before, and nothing beside it."""
    path = tmp_path / "figures.npy"
    np.save(path, np.arange(3))

    def write_half():
        with replacing(path) as partial:
            partial.write_bytes(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_half()
    assert np.load(path).tolist() == [0, 1, 2]
    assert list(tmp_path.iterdir()) == [path]
