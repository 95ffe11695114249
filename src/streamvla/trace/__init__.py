"""The append-only record of a run: every metric is computed from it afterwards."""

from streamvla.trace.events import (
    ActionReady,
    Dropped,
    Ended,
    Failed,
    Finished,
    GenerateRequested,
    ObserveReady,
    ObserveRequested,
    ObserveStarted,
    Rejected,
    Sent,
    TraceEvent,
)
from streamvla.trace.store import (
    FileTrace,
    MemoryTrace,
    TeeTrace,
    Trace,
    TraceSink,
    is_complete,
    read_trace,
)

__all__ = [
    "ActionReady",
    "Dropped",
    "Ended",
    "Failed",
    "FileTrace",
    "Finished",
    "GenerateRequested",
    "MemoryTrace",
    "ObserveReady",
    "ObserveRequested",
    "ObserveStarted",
    "Rejected",
    "Sent",
    "TeeTrace",
    "Trace",
    "TraceEvent",
    "TraceSink",
    "is_complete",
    "read_trace",
]
