"""Traces in memory and on disk (JSON lines), readable to the last whole line after any crash."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from streamvla.core.errors import TraceError
from streamvla.trace.events import EVENT_TYPES, Ended, Parent, TraceEvent

SCHEMA = "streamvla-trace/1"

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
        self._sinks = sinks

    def record(self, event: TraceEvent) -> None:
        for sink in self._sinks:
            sink.record(event)

    def flush(self) -> None:
        for sink in self._sinks:
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
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("w", encoding="utf-8", buffering=1 << 16)
        self._unwritten: list[TraceEvent] = []
        self._file.write(_dumps({"schema": SCHEMA, **header}) + "\n")
        self._file.flush()

    def record(self, event: TraceEvent) -> None:
        self._unwritten.append(event)
        if len(self._unwritten) >= _MOST_UNWRITTEN:
            self.flush()

    def flush(self) -> None:
        """Write everything recorded so far through to the operating system."""
        events, self._unwritten = self._unwritten, []
        self._file.writelines(_dumps(_to_fields(event)) + "\n" for event in events)
        self._file.flush()

    def close(self) -> None:
        self.flush()
        self._file.close()

    def __enter__(self) -> FileTrace:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


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
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise TraceError(f"cannot read trace {path}: {error.strerror or error}") from error
    complete = lines[-1] == ""
    lines = lines[:-1]
    header = _parse_header(path, lines)
    events = [_parse_event(path, number, line) for number, line in enumerate(lines[1:], start=2)]
    return Trace(header, events, complete)


def read_header(path: Path) -> dict[str, Any]:
    """The first line of a trace file alone.

    Raises:
        TraceError: no such file, not a trace, or another schema.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return _parse_header(path, [file.readline()])
    except OSError as error:
        raise TraceError(f"cannot read trace {path}: {error.strerror or error}") from error


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
    return [_dumps({"schema": SCHEMA, **header}), *(_dumps(_to_fields(event)) for event in events)]


def _to_fields(event: TraceEvent) -> dict[str, Any]:
    """Every field; but no `parents` where there are none, which is almost everywhere."""
    fields = {"event": type(event).__name__, **event._asdict()}
    if not fields.get("parents", True):
        del fields["parents"]
    return fields


def _dumps(fields: dict[str, Any]) -> str:
    return json.dumps(fields, separators=(",", ":"))


def _parse_header(path: Path, lines: list[str]) -> dict[str, Any]:
    try:
        header = json.loads(lines[0])
    except (IndexError, json.JSONDecodeError):
        header = None
    if not isinstance(header, dict) or "schema" not in header:
        raise TraceError(f"{path} is not a trace: its first line is no header")
    if header["schema"] != SCHEMA:
        raise TraceError(
            f"{path} has schema {header['schema']!r}, this version reads {SCHEMA!r}; "
            "read it with the version that wrote it"
        )
    return header


def _parse_event(path: Path, number: int, line: str) -> TraceEvent:
    try:
        fields = json.loads(line)
        kind = EVENT_TYPES[fields.pop("event")]
        fields = {name: _tuples(value) for name, value in fields.items()}
        if "parents" in fields:
            fields["parents"] = tuple(Parent(*each) for each in fields["parents"])
        return kind(**fields)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise TraceError(f"{path}, line {number}: not a trace event ({error})") from error


def _tuples(value: Any) -> Any:
    """JSON has lists where events have tuples."""
    return tuple(value) if isinstance(value, list) else value
