"""Files of an earlier command: told apart from a user's own, and only those are removed."""

from __future__ import annotations

import json
from pathlib import Path

from streamvla.core.errors import ConfigError

MARK = " · streamvla</title>"
"""Near the beginning of every page we write."""
PERFETTO_MARK = '{"traceEvents":[{"ph":"M","name":"process_name","pid":1,"tid":0,'
"""Where our Perfetto files begin."""

TRACE_MARK = "streamvla-trace/"
"""How the schema of every trace begins."""

_HEAD_BYTES = 2000


def is_ours(path: Path, mark: str) -> bool:
    """Whether a file has the mark near its beginning."""
    with path.open("rb") as file:
        return mark.encode() in file.read(_HEAD_BYTES)


def require_ours(path: Path, mark: str) -> None:
    """Raise `ConfigError` if there is a file that none of our commands wrote."""
    if path.exists() and not (path.is_file() and is_ours(path, mark)):
        raise _in_the_way(path)


def require_trace(path: Path, command: str) -> None:
    """Raise `ConfigError` if there is a file, and it is no trace of `command`; or a video without
    its trace."""
    film = path.with_suffix(".mp4")
    if path.exists() and not _is_trace(path, command):
        raise _in_the_way(path)
    if not path.exists() and film.exists():
        raise _in_the_way(film)


def remove_traces(folder: Path, command: str) -> None:
    """Remove the traces of `command` in a folder with their videos, and folders that are empty
    then; whatever else is there stays."""
    for path in sorted(folder.rglob("*.jsonl")):
        if path.is_file() and not path.is_symlink() and _is_trace(path, command):
            path.with_suffix(".mp4").unlink(missing_ok=True)
            path.unlink()
            for parent in path.parents:
                if parent == folder.parent or any(parent.iterdir()):
                    break
                parent.rmdir()


def _is_trace(path: Path, command: str) -> bool:
    """Of this version or of an earlier one, whole or cut off."""
    if not path.is_file():  # a device might have no end
        return False
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            header = json.loads(file.readline())
    except (OSError, ValueError):
        return False
    if not isinstance(header, dict):
        return False
    ours = str(header.get("schema")).startswith(TRACE_MARK)
    return ours and header.get("command") == command


def _in_the_way(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} was not written by this command, which would overwrite it: move it, or choose "
        "another folder"
    )
