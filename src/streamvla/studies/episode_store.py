"""Episodes of a sweep in one file that grows: a checksummed JSON line each, found by its key.

Readable after any crash: a torn last line is cut off, a damaged line is said and its episode driven
again, and of lines with one key the last counts.
"""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path
from typing import Any

from streamvla.core.errors import ConfigError, FileError
from streamvla.core.files import append_line, reason, replacing, telling
from streamvla.core.seals import open_line, sealed_line

SCHEMA = "streamvla-compare-episodes/1"


class EpisodeStore:
    """Records by key, on disk. Close it after use.

    Args:
        path: of the file; made if missing.

    Raises:
        ConfigError: another process has it open, or the file is something else.
        FileError: it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: dict[str, dict[str, Any]] = {}
        with telling(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path.parent, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise ConfigError(
                f"another sweep is writing into {path.parent}: wait for it, or choose another --out"
            ) from None
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._records[key]

    def add(self, key: str, record: dict[str, Any]) -> None:
        """Keep a record; it replaces one that is there.

        Raises:
            FileError: it cannot be written.
        """
        line = sealed_line({"key": key, **record})
        _, kept = _opened(line.encode())  # as it will be read again
        if self._records.get(key) != kept:
            append_line(self._path, line)
            self._records[key] = kept

    def close(self) -> None:
        """Safe to call twice."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _load(self) -> None:
        header = sealed_line({"schema": SCHEMA})
        if not self._path.exists():
            append_line(self._path, header)
            return
        try:
            lines = self._path.read_bytes().split(b"\n")
        except OSError as error:
            raise FileError(f"cannot read {self._path}: {reason(error)}") from error
        if len(lines) == 1 and header.encode().startswith(lines[0]):  # killed while it was made
            lines = [header.encode(), b""]
        if SCHEMA.partition("/")[0].encode() not in lines[0]:
            raise ConfigError(
                f"{self._path} was not written by this command: move it, or choose another --out"
            )
        if SCHEMA.encode() not in lines[0] and b"/" in lines[0]:
            raise ConfigError(
                f"{self._path} has another schema than {SCHEMA}: move it, or choose another --out"
            )
        kept, damaged = dict[str, bytes](), int(lines[0] != header.encode())
        for line in lines[1:-1]:
            try:
                key, record = _opened(line)
            except (ValueError, KeyError, TypeError):
                damaged += 1
                continue
            self._records[key], kept[key] = record, line
        if damaged:
            logging.getLogger("streamvla").warning(
                "%s: %d damaged lines; their episodes are driven again", self._path, damaged
            )
        whole = b"".join(line + b"\n" for line in (header.encode(), *kept.values()))
        if whole != self._path.read_bytes():
            with replacing(self._path) as partial:
                partial.write_bytes(whole)


def _opened(line: bytes) -> tuple[str, dict[str, Any]]:
    fields = open_line(line)
    return fields.pop("key"), fields
