"""Errors a user can act on: every message says the value, what was expected, and the remedy."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable


class StreamVLAError(Exception):
    """Base of every error this package raises on purpose.

    The command line prints the message alone (no traceback) and exits with `exit_code`.
    """

    exit_code = 2


class ConfigError(StreamVLAError):
    """A setting is malformed, out of range, or names something that does not exist."""


class SpecMismatchError(StreamVLAError):
    """Two parts do not fit: a policy and a robot, or a dataset and a policy."""


class DatasetError(StreamVLAError):
    """A dataset is missing, truncated, corrupt, or recorded under other settings."""


class CheckpointError(StreamVLAError):
    """A checkpoint is missing, truncated, corrupt, or of another model."""


class TraceError(StreamVLAError):
    """A trace file cannot be read."""


class FileError(StreamVLAError):
    """A file cannot be written or read: no room, no permission, something else in its place."""


class RobotError(StreamVLAError):
    """A robot (or its simulator) cannot be started or driven."""


class WorkerError(StreamVLAError):
    """Worker processes of a sweep died again and again; what was done is kept."""

    exit_code = 3


class RingError(StreamVLAError):
    """Shared memory between two processes is damaged, or not what was expected there."""

    exit_code = 3


class HandoffError(StreamVLAError):
    """A process was sent what its peer must not send."""

    exit_code = 3


class StageFailedError(StreamVLAError):
    """A stage (observe or generate) died; raised to the owner after the robot was stopped."""

    exit_code = 3


class InterruptedRunError(StreamVLAError):
    """A signal ended a long run early; what is on disk is whole, the message says how to go on.

    Args:
        signal_number: Ctrl-C's by default; the exit code is what shells say of that signal.
    """

    def __init__(self, message: str, signal_number: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = 128 + (signal_number or signal.SIGINT)


def did_you_mean(kind: str, name: str, options: Iterable[str]) -> ConfigError:
    """The error for an unknown name.

    >>> str(did_you_mean("task", "raech", ["reach", "push"]))
    "unknown task 'raech': did you mean 'reach'? Known: push, reach"
    """
    known = sorted(options)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f": did you mean {close[0]!r}?" if close else "."
    return ConfigError(f"unknown {kind} {name!r}{hint} Known: {', '.join(known)}")
