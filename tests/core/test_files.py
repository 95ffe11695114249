"""Files that are whole or not there."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from streamvla.core.errors import FileError
from streamvla.core.files import replacing, require_writable, write_text


def test_a_writer_that_fails_leaves_the_old_file_and_no_debris(tmp_path):
    """An error while writing leaves what was there before, and nothing beside it."""
    path = tmp_path / "figures.npy"
    np.save(path, np.arange(3))

    def write_half():
        with replacing(path) as partial:
            partial.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(FileError, match=r"figures\.npy: No space left on device; make room"):
        write_half()
    assert np.load(path).tolist() == [0, 1, 2]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", [lambda path: write_text(path, "x"), require_writable])
def test_a_file_where_a_folder_belongs_is_said(tmp_path, write):
    """A path below a file, and one that is a folder, are refused with path, reason and remedy."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileError, match=r"cannot write .*file/page\.html: .*a file is where"):
        write(tmp_path / "file" / "page.html")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileError, match=r"folder: Is a directory; a folder is where the file"):
        write(tmp_path / "folder")
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]
