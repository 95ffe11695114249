"""Traces in memory and on disk (JSON lines), readable to the last whole line after any crash."""

from __future__ import annotations

import json
import logging
import os
import re
import zlib
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from streamvla.core.errors import TraceError
from streamvla.core.files import beside, final_name, reason, telling
from streamvla.trace.events import EVENT_TYPES, Ended, Parent, RecordingLost, TraceEvent
from streamvla.trace.writer import BackgroundWriter, Chunk

SCHEMA = "streamvla-trace/2"
_UNSEALED = "streamvla-trace/1"
"""Lines without checksums, as they were written before."""

_SEALED_BY = b',"crc":"00000000"}'
_SEAL = re.compile(rb',"crc":"[0-9a-f]{8}"\}$')

_MOST_ON_A_TICK = 128
"""Events made into lines at once where a control loop waits: a millisecond."""
_MOST_UNWRITTEN = 1 << 16
"""Events kept in memory at the most, if nobody calls `flush`."""


class TraceSink(Protocol):
    """Where events go.

    `record` is on the tick path: it must be quick and never block. `flush` is called off it, when
    there is time to write.
    """

    def record(self, event: TraceEvent) -> None: ...

    def flush(self) -> None: ...


class TeeTrace:
    """Events passed on to several sinks."""

    def __init__(self, *sinks: TraceSink) -> None:
        self.sinks = sinks

    def record(self, event: TraceEvent) -> None:
        for sink in self.sinks:
            sink.record(event)

    def flush(self) -> None:
        for sink in self.sinks:
            sink.flush()


class MemoryTrace:
    """Events in a list."""

    def __init__(self) -> None:
        self.events: list[TraceEvent] = []

    def record(self, event: TraceEvent) -> None:
        self.events.append(event)

    def flush(self) -> None:
        """Nothing to do: memory is where these events stay."""


class FileTrace:
    """Events appended to a JSON-lines file; its first line is the header.

    `record` only appends to memory; `flush` writes. Drivers flush off the tick path, and closing
    flushes, so memory stays bounded and a killed process loses at most what was not yet flushed.

    Args:
        path: the file; its folder is made.
        header: the resolved config, seed, commit and whatever else the run should carry.
        background: a thread writes, and a disk that fails costs events, never the run
            (`trace.writer`). For whatever drives a robot.

    Attributes:
        lost: events that could not be written; known when it is closed.

    Raises:
        TraceError: the file cannot be made; or, unless in the background, not written.
    """

    def __init__(self, path: Path, header: dict[str, Any], *, background: bool = False) -> None:
        self.path = path
        self.lost: int = 0
        self._unwritten: list[TraceEvent] = []
        self._most_unwritten = _MOST_ON_A_TICK if background else _MOST_UNWRITTEN
        first = _sealed(_dumps({"schema": SCHEMA, **header}))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            _write_all(self._fd, first)
        except OSError as error:
            raise _unwritable(path, error) from error
        self._writer = BackgroundWriter(path, self._fd, _lost_line) if background else None

    def record(self, event: TraceEvent) -> None:
        self._unwritten.append(event)
        if len(self._unwritten) >= self._most_unwritten:
            self.flush()

    def flush(self) -> None:
        """Write everything recorded so far through to the operating system."""
        if not self._unwritten:
            return
        events, self._unwritten = self._unwritten, []
        data = b"".join(map(_line, events))
        if self._writer is not None:
            self._writer.put(Chunk(data, len(events), events[0].t_ns))
            return
        try:
            _write_all(self._fd, data)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def write_with(self, write: Callable[[int, memoryview], int]) -> None:
        """Use this instead of `os.write` (in the background): for faults."""
        if self._writer is not None:
            self._writer.write = write

    def close(self) -> None:
        """Safe to call twice."""
        if self._fd < 0:
            return
        try:
            self.flush()
        finally:
            if self._writer is not None:
                self.lost = self._writer.close()
            else:
                os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> FileTrace:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def _unwritable(path: Path, error: OSError) -> TraceError:
    return TraceError(f"cannot write trace {final_name(path)}: {reason(error)}")


@contextmanager
def whole_trace(path: Path, header: dict[str, Any]) -> Generator[FileTrace]:
    """A trace file that has its name only once it is whole: for what is quickly made again.

    Raises:
        TraceError, FileError: it cannot be written; what was there before is there still.
    """
    partial = beside(path)
    try:
        with FileTrace(partial, header) as trace:
            yield trace
        with telling(path):
            os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _lost_line(t_ns: int, events: int, cause: str) -> bytes:
    return _line(RecordingLost(t_ns, events, cause))


@dataclass(frozen=True)
class Trace:
    """A trace that was read back.

    Attributes:
        header: what the run carried.
        events: in order of occurrence.
        complete: false when the last line was cut off (the process was killed while writing).
    """

    header: dict[str, Any]
    events: list[TraceEvent]
    complete: bool


def read_trace(path: Path) -> Trace:
    """Read a trace file; a cut-off last line is dropped and reported by `complete`.

    Raises:
        TraceError: no such file, not a trace, another schema, or a damaged line inside it.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise TraceError(f"cannot read trace {path}: {error.strerror or error}") from error
    complete = lines[-1] == b""
    lines = lines[:-1]
    header, sealed = _parse_header(path, lines[0] if lines else b"")
    events = [
        _parse_event(path, number, line, sealed) for number, line in enumerate(lines[1:], start=2)
    ]
    return Trace(header, events, complete)


def read_header(path: Path) -> dict[str, Any]:
    """The first line of a trace file alone.

    Raises:
        TraceError: no such file, not a trace, damaged, or another schema.
    """
    try:
        with path.open("rb") as file:
            return _parse_header(path, file.readline().rstrip(b"\n"))[0]
    except OSError as error:
        raise TraceError(f"cannot read trace {path}: {error.strerror or error}") from error


def is_trace(path: Path) -> bool:
    """Whether a file says in its first line that it is a trace, of this version or another, whole
    or damaged further on."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.readline())
    except (OSError, ValueError):
        return False
    if not isinstance(header, dict):
        return False
    return str(header.get("schema")).startswith(SCHEMA.partition("/")[0] + "/")


def is_complete(path: Path, expected: dict[str, Any] | None = None) -> bool:
    """Whether `path` is the trace of an episode that ran to its end, and may stand as a result.

    Args:
        expected: header fields that must be there with these values.
    """
    try:
        trace = read_trace(path)
    except TraceError:
        return False
    last = trace.events[-1] if trace.events else None
    ended = isinstance(last, Ended) and last.reason not in {"failed", "interrupted"}
    as_written = json.loads(_dumps(expected or {}))  # a tuple comes back as a list
    fits = all(trace.header.get(name) == value for name, value in as_written.items())
    return trace.complete and ended and fits


def trace_lines(header: dict[str, Any], events: Iterable[TraceEvent]) -> list[str]:
    """The lines `FileTrace` would write; what golden-trace tests compare byte for byte."""
    return trace_bytes(header, events).decode().rstrip("\n").split("\n")


def trace_bytes(header: dict[str, Any], events: Iterable[TraceEvent]) -> bytes:
    """A whole file as `FileTrace` would write it."""
    return b"".join([_sealed(_dumps({"schema": SCHEMA, **header})), *map(_line, events)])


def _line(event: TraceEvent) -> bytes:
    return _sealed(_dumps(_to_fields(event)))


def _sealed(body: str) -> bytes:
    """A JSON object as a line that carries its own checksum, as its last field.

    >>> _sealed('{"a":1}')
    b'{"a":1,"crc":"a702fc6e"}\\n'
    """
    head = body[:-1].encode()
    return head + b',"crc":"%08x"}\n' % zlib.crc32(head)


def _to_fields(event: TraceEvent) -> dict[str, Any]:
    """Every field; but no `parents` where there are none, which is almost everywhere."""
    fields = {"event": type(event).__name__, **event._asdict()}
    if not fields.get("parents", True):
        del fields["parents"]
    return fields


def _dumps(fields: dict[str, Any]) -> str:
    return json.dumps(fields, separators=(",", ":"))


def _parse_header(path: Path, line: bytes) -> tuple[dict[str, Any], bool]:
    """The header, and whether the lines carry checksums."""
    sealed = _SEAL.search(line) is not None
    try:
        header = json.loads(_opened(line)) if sealed else json.loads(line)
    except ValueError:
        header = None
    if not isinstance(header, dict) or "schema" not in header:
        raise TraceError(f"{path} is not a trace, or damaged: its first line is no header")
    if header["schema"] not in (SCHEMA, _UNSEALED):
        raise TraceError(
            f"{path} has schema {header['schema']!r}, this version reads {SCHEMA!r}; "
            "read it with the version that wrote it"
        )
    if sealed != (header["schema"] == SCHEMA):
        raise TraceError(f"{path}: its first line is damaged; nothing in it can be relied on")
    if not sealed:
        _say_unsealed(path)
    return header, sealed


@cache
def _say_unsealed(path: Path) -> None:
    logging.getLogger("streamvla").warning(
        "trace %s is of an earlier version, without checksums: damage may go unnoticed", path
    )


def _opened(line: bytes) -> bytes:
    """The JSON object of a line as `_sealed` made it.

    Raises:
        ValueError: its checksum is missing or wrong.
    """
    head, checksum = line[: -len(_SEALED_BY)], line[-len(_SEALED_BY) :]
    if checksum != b',"crc":"%08x"}' % zlib.crc32(head):
        raise ValueError("its checksum is wrong")
    return head + b"}"


def _parse_event(path: Path, number: int, line: bytes, sealed: bool) -> TraceEvent:
    try:
        fields = json.loads(_opened(line) if sealed else line)
        kind = EVENT_TYPES[fields.pop("event")]
        fields = {name: _tuples(value) for name, value in fields.items()}
        if "parents" in fields:
            fields["parents"] = tuple(Parent(*each) for each in fields["parents"])
        return kind(**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TraceError(f"{path}, line {number}: not a trace event ({error})") from error


def _tuples(value: Any) -> Any:
    """JSON has lists where events have tuples."""
    return tuple(value) if isinstance(value, list) else value
