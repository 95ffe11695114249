"""`streamvla trace WHAT`: what can be done with traces that were written."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from streamvla.cli.examples import described
from streamvla.core.clock import NS_PER_S
from streamvla.core.errors import TraceError
from streamvla.evaluation.metrics import metrics_of
from streamvla.studies.outputs import PERFETTO_MARK, require_ours
from streamvla.studies.tables import figure
from streamvla.trace import Finished, Trace, is_trace, read_trace
from streamvla.trace.perfetto import episode_name, perfetto_run, write_perfetto
from streamvla.trace.spans import usual_period_ns


@dataclass(frozen=True)
class TraceExport:
    """Write traces as one file for ui.perfetto.dev, a process for each episode.

    Attributes:
        traces: files, or folders with traces in them.
        out: the file to write.
    """

    traces: tyro.conf.Positional[tuple[Path, ...]]
    out: Path = Path("perfetto.json")


@dataclass(frozen=True)
class TraceShow:
    """Print how each episode went: its end, its halts, the age of its actions, gaps.

    Attributes:
        traces: files, or folders with traces in them.
    """

    traces: tyro.conf.Positional[tuple[Path, ...]]


def _part(kind: type, name: str) -> Any:
    description = described(kind, f"trace {name}")
    return tyro.conf.subcommand(name, description=description, prefix_name=False)


@dataclass(frozen=True)
class TraceCommand:
    """Look into traces, or convert them for other tools.

    Attributes:
        what: to do with them.
    """

    what: (
        Annotated[TraceExport, _part(TraceExport, "export")]
        | Annotated[TraceShow, _part(TraceShow, "show")]
    )


def trace(command: TraceCommand) -> None:
    """Run the command.

    Raises:
        TraceError: something is no trace, damaged, or holds none.
        ConfigError: `out` is somebody else's file.
    """
    if isinstance(command.what, TraceShow):
        show(command.what)
    else:
        export(command.what)


def export(command: TraceExport) -> None:
    """Write the file for Perfetto."""
    require_ours(command.out, PERFETTO_MARK)
    found = _read(command.traces)
    names = _names(found)
    write_perfetto(command.out, [perfetto_run(each, names[path]) for path, each in found.items()])
    print(f"{command.out}: {_count(len(found), 'episode')}; open it at https://ui.perfetto.dev")


def show(command: TraceShow) -> None:
    """Print a line or two about every episode."""
    found = _read(command.traces)
    names = _names(found)
    for path, each in found.items():
        print(f"{names[path]}\n  {_told(each)}")


def _told(trace: Trace) -> str:
    events = trace.events
    period_ns = usual_period_ns(events)
    if period_ns == 0:
        return "too few commands to say anything"
    on_grid = not any(isinstance(event, Finished) for event in events)
    figures = metrics_of(events, period_ns, "grid" if on_grid else "event")
    parts = [
        figures.end_reason or "cut off",
        f"{(events[-1].t_ns - events[0].t_ns) / NS_PER_S:.1f} s",
        _count(figures.actions, "action"),
        f"halt {figure(figures.halt_ms_per_observation)} ms per observation",
        f"longest {figures.longest_halt_ms:.0f} ms",
        f"age p50 {figure(figures.action_age_ms.p50, 0)} ms",
    ]
    if figures.skipped_ticks:
        parts.append(_count(figures.skipped_ticks, "tick") + " skipped")
    if figures.lost_events:
        parts.append(_count(figures.lost_events, "event") + " lost")
    return ", ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _read(wanted: Sequence[Path]) -> dict[Path, Trace]:
    if not wanted:
        raise TraceError("no trace named; name files or folders with traces, such as runs/run")
    found = {path: read_trace(path) for each in wanted for path in _files(each)}
    for path, each in found.items():
        if not each.complete:
            print(f"{path} was cut off; taken up to its last whole line", file=sys.stderr)
    return found


def _files(path: Path) -> Iterator[Path]:
    """A file itself; of a folder, the traces anywhere in it, in the order of their names."""
    if not path.is_dir():
        yield path
        return
    found = [each for each in sorted(path.rglob("*.jsonl")) if each.is_file() and is_trace(each)]
    if not found:
        raise TraceError(f"{path} holds no trace: expected .jsonl files that a run wrote there")
    yield from found


def _names(traces: dict[Path, Trace]) -> dict[Path, str]:
    """What each episode is called: by its header, and by its file where that says too little."""
    named = {path: episode_name(each.header) for path, each in traces.items()}
    said = list(named.values())
    return {
        path: name if name and said.count(name) == 1 else ": ".join(filter(None, (name, str(path))))
        for path, name in named.items()
    }
