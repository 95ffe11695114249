"""Checksums in the files this package writes, so that a damaged byte is noticed.

A safetensors file carries the CRC-32 of all its bytes but the eight digits themselves, header
included, in the metadata of its header:

    {"__metadata__":{"streamvla":"{\\"crc32\\": \\"1b2c3d4e\\", \\"sealed\\": true, …}"}, …

A JSON file carries, as its last field, the CRC-32 of what stands before it (`sealed_json`), and so
does a line of a file that grows (`sealed_line`).
Files from before there were checksums have neither; their readers say so once.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

KEY = "streamvla"
"""Of the metadata of a safetensors file: all that is ours, as one JSON string."""

_BLANK = "00000000"
_MARKS = ("crc32", "sealed")
"""Two, so that a flipped byte in one of them cannot make a file look like one without checksum."""
_SEAL = re.compile(rb'"streamvla":"\{\\"crc32\\": \\"([0-9a-f]{8})\\", \\"sealed\\": true[,}]')
_CHUNK = 1 << 20
_CODE = re.compile(r"(?:code:|os error) (\d+)")

_LINE_SEAL = len(',"crc":"00000000"}')
_JSON_SEAL = re.compile(rb',\n  "crc32": "([0-9a-f]{8})"\n\}\n\Z')


def sealed_metadata(fields: Mapping[str, Any]) -> dict[str, str]:
    """Metadata to write a safetensors file with, before `seal` fills in the checksum."""
    return {KEY: json.dumps({"crc32": _BLANK, "sealed": True, **unsealed(fields)})}


def unsealed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields without those of the seal."""
    return {name: value for name, value in fields.items() if name not in _MARKS}


def looks_sealed(fields: Mapping[str, Any]) -> bool:
    """Whether they were written with a checksum, or with what damage has left of it."""
    return any(name in fields for name in _MARKS)


def seal(path: Path) -> None:
    """Put the checksum into a file that was written with `sealed_metadata`."""
    at = _digits_at(path)
    if at is None:
        raise ValueError(f"{path} was not written with `sealed_metadata`")
    checksum = _checksum(path, at)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"%08x" % checksum)


def has_seal(path: Path) -> bool:
    """Whether a safetensors file has a checksum, right or wrong; errors as `check_seal`."""
    return _digits_at(path) is not None


def check_seal(path: Path) -> bool:
    """Whether a safetensors file has a checksum; of one that has, it is right.

    Raises:
        ValueError: it is wrong, or the file is too short for its header.
    """
    at = _digits_at(path)
    if at is None:
        return False
    with path.open("rb") as file:
        file.seek(at)
        written = file.read(len(_BLANK))
    if written != b"%08x" % _checksum(path, at):
        raise ValueError("its checksum is wrong")
    return True


def _digits_at(path: Path) -> int | None:
    """Where the digits of the checksum begin; None where there is no seal."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError(f"{size} bytes are too few for its header")
        found = _SEAL.search(file.read(length))
    return None if found is None else 8 + found.start(1)


def _checksum(path: Path, at: int) -> int:
    """CRC-32 of a file without the digits at `at`."""
    with path.open("rb") as file:
        checksum = zlib.crc32(file.read(at))
        file.seek(len(_BLANK), 1)
        while part := file.read(_CHUNK):
            checksum = zlib.crc32(part, checksum)
    return checksum


def sealed_json(fields: Mapping[str, Any]) -> str:
    """Fields as indented JSON that ends with its checksum.

    >>> print(sealed_json({"a": 1}), end="")
    {
      "a": 1,
      "crc32": "476d1ee6"
    }
    """
    head = json.dumps(dict(fields), indent=2).removesuffix("\n}")
    return f'{head},\n  "crc32": "{zlib.crc32(head.encode()):08x}"\n}}\n'


def open_json(text: bytes) -> tuple[dict[str, Any], bool]:
    """Inverse of `sealed_json`, and whether there was a checksum.

    Raises:
        ValueError: not a JSON object, or its checksum is wrong.
    """
    found = _JSON_SEAL.search(text)
    if found is not None and found[1] != b"%08x" % zlib.crc32(text[: found.start()]):
        raise ValueError("its checksum is wrong")
    loaded: object = json.loads(text)
    if not isinstance(loaded, dict):
        raise ValueError(f"expected a JSON object, got {type(loaded).__name__}")
    fields = cast("dict[str, Any]", loaded)
    return {name: value for name, value in fields.items() if name != "crc32"}, found is not None


def sealed_line(fields: Mapping[str, Any]) -> str:
    """Fields as JSON on one line, its checksum the last field.

    >>> sealed_line({"a": 1})
    '{"a":1,"crc":"a702fc6e"}'
    """
    head = json.dumps(dict(fields), separators=(",", ":"))[:-1]
    return f'{head},"crc":"{zlib.crc32(head.encode()):08x}"}}'


def open_line(line: bytes) -> dict[str, Any]:
    """Inverse of `sealed_line`.

    Raises:
        ValueError: its checksum is missing or wrong.
    """
    head, checksum = line[:-_LINE_SEAL], line[-_LINE_SEAL:]
    if checksum != b',"crc":"%08x"}' % zlib.crc32(head):
        raise ValueError("its checksum is wrong")
    return json.loads(head + b"}")


def write_error(error: Exception) -> OSError:
    """What the system refused, out of the error that safetensors makes of it."""
    found = _CODE.search(str(error))
    if found is None:
        return OSError(str(error))
    code = int(found[1])
    return OSError(code, os.strerror(code))
