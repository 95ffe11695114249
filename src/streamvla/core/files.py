"""Files that are either whole or not there."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Generator[Path]:
    """Yield a path beside `path` to write to; on success it becomes `path`, at once.

    The result has the permissions of any new file (the umask's), whatever the writer gave it:
    safetensors writes for the owner alone. After an error, or a kill at any instant, `path` is as
    it was before.

    Args:
        durable: also after a loss of power: the content is on the disk before `path` changes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)  # a killed run's: its mode may be another
    partial.touch()
    mode = partial.stat().st_mode & 0o777
    try:
        yield partial
        partial.chmod(mode)
        if durable:
            _sync(partial)
        os.replace(partial, path)
        if durable:
            _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Put a file, or the names in a folder, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
