"""Files that are either whole or not there."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Yield a path beside `path` to write to; on success it becomes `path`, at once.

    The result has the permissions of any new file (the umask's), whatever the writer gave it:
    safetensors writes for the owner alone. After an error `path` is as it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)  # a killed run's: its mode may be another
    partial.touch()
    mode = partial.stat().st_mode & 0o777
    try:
        yield partial
        partial.chmod(mode)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
