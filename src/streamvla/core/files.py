"""Files that are either whole or not there, and errors of the system in one line.

Every file that a command writes goes through `replacing` or `write_text`, but for those that grow
while it runs (traces, logs): they stay readable to their last whole line.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from streamvla.core.errors import FileError

_REMEDIES = {
    errno.EACCES: "choose a place you may write to, or change its permissions",
    errno.EPERM: "choose a place you may write to, or change its permissions",
    errno.EROFS: "choose a place you may write to",
    errno.ENOSPC: "make room, or choose another place",
    errno.EDQUOT: "make room, or choose another place",
    errno.EFBIG: "make room, or choose another place",
    errno.ENOTDIR: "a file is where a folder belongs: move it, or choose another place",
    errno.EEXIST: "a file is where a folder belongs: move it, or choose another place",
    errno.EISDIR: "a folder is where the file belongs: move it, or choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "allow more open files (ulimit -n)",
}
_REMEDY = "check the path, or choose another"
_SUFFIX = ".partial"


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Generator[Path]:
    """Yield a path beside `path` to write to; on success it becomes `path`, at once.

    The result has the permissions of any new file (the umask's), whatever the writer gave it:
    safetensors writes for the owner alone. After an error, or a kill at any instant, `path` is as
    it was before.

    Args:
        durable: also after a loss of power: the content is on the disk before `path` changes.

    Raises:
        FileError: the system refuses; one line that names `path`, the reason and a remedy.
    """
    with telling(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = beside(path)
        partial.unlink(missing_ok=True)  # a killed run's: its mode may be another
        partial.touch()
    try:
        with telling(path):
            mode = partial.stat().st_mode & 0o777
            yield partial
            partial.chmod(mode)
            if durable:
                _sync(partial)
            os.replace(partial, path)
            if durable:
                _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole file, or nothing; errors as `replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def append_line(path: Path, line: str) -> None:
    """Add a line to a file; after an error the file ends with its last whole line.

    Raises:
        FileError: as `replacing`.
    """
    left = memoryview(f"{line}\n".encode())
    with telling(path), path.open("ab", buffering=0) as file:
        whole = file.tell()
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(whole)
            raise


def require_writable(path: Path) -> None:
    """Raise `FileError` unless a file can be made there: before hours of work, not after."""
    with telling(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = beside(path)
        probe.touch()
        probe.unlink()


@contextmanager
def telling(path: Path) -> Generator[None]:
    """Inside, what the system refuses about `path` is a `FileError`."""
    try:
        yield
    except OSError as error:
        raise FileError(f"cannot write {path}: {reason(error)}") from error


def unreadable(path: Path, error: OSError) -> FileError:
    """The error for a file that the system does not let us read."""
    return FileError(f"cannot read {path}: {reason(error)}")


def reason(error: OSError) -> str:
    """Why the system refuses, and what to do.

    >>> reason(OSError(errno.ENOSPC, "No space left on device"))
    'No space left on device; make room, or choose another place'
    """
    remedy = _REMEDIES.get(error.errno or 0, _REMEDY)
    return f"{error.strerror or error}; {remedy}"


def beside(path: Path) -> Path:
    """Where a file is written before it takes its place.

    >>> beside(Path("out/run.jsonl"))
    PosixPath('out/.run.jsonl.partial')
    """
    return path.with_name(f".{path.name}{_SUFFIX}")


def final_name(path: Path) -> Path:
    """Inverse of `beside`; any other path is returned as it is.

    >>> final_name(Path("out/.run.jsonl.partial"))
    PosixPath('out/run.jsonl')
    """
    name = path.name
    partial = name.startswith(".") and name.endswith(_SUFFIX)
    return path.with_name(name[1 : -len(_SUFFIX)]) if partial else path


def _sync(path: Path) -> None:
    """Put a file, or the names in a folder, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
