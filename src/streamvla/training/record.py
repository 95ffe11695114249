"""What a training writes down as it goes: log.jsonl, and TensorBoard's scalars.

A line of log.jsonl holds metrics, or the schedule that holds from a step on:

    {"step": 50, "loss": 1.2, "losses": {…}, "lr": 0.0001, "steps_per_s": 3.9, "holdout": {…}}
    {"step": 1000, "schedule": {"from_step": 1000, "steps": 2000, "before": 1000, …}}
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from streamvla.core.errors import ConfigError
from streamvla.core.files import append_line, write_text
from streamvla.training.schedule import Schedules

Line = Mapping[str, Any]


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; what a kill or a crash tore is left out."""
    return [line for line in map(_parsed, _texts(path)) if line is not None]


def is_log(path: Path) -> bool:
    """Whether a file is empty or a log of ours, to its first line."""
    first = next(_texts(path), "")
    return not first or _parsed(first) is not None


def _texts(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from file


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None


class Log:
    """log.jsonl, and beside it what TensorBoard reads, if that is wanted."""

    def __init__(self, path: Path, schedules: Schedules, step: int, track: Path | None) -> None:
        """Keep what was logged up to `step`; a resumed training writes the rest again."""
        self._path = path
        lines = read_log(path) if path.exists() else []
        kept = [each for each in lines if "schedule" not in each and each["step"] <= step]
        told = {each["schedule"]["from_step"]: each for each in lines if "schedule" in each}
        for line in schedules.lines():
            start = line["schedule"]["from_step"]
            kept.append(told[start] if told.get(start) == line else line)
        # a schedule begins after what was measured at its first step
        self._write(sorted(kept, key=lambda each: each["step"]))
        self._scalars = None if track is None else _scalar_writer(track, step)

    def _write(self, lines: Iterable[Line]) -> None:
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        if self._path.exists() and self._path.read_text("utf-8", "replace") == text:
            return
        write_text(self._path, text)

    def add(self, metrics: Line) -> None:
        """One line of metrics."""
        append_line(self._path, json.dumps(metrics))
        if self._scalars is not None:
            for name, value in _scalars(metrics):
                self._scalars.add_scalar(name, value, metrics["step"])

    def sync(self) -> None:
        """Onto the disk, before a state is saved that counts on it."""
        with self._path.open("rb") as file:
            os.fsync(file.fileno())
        if self._scalars is not None:
            self._scalars.flush()

    def close(self) -> None:
        if self._scalars is not None:
            self._scalars.close()


def require_tensorboard() -> None:
    """
    Raises:
        ConfigError: it is not installed.
    """
    _summary_writer()


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            f"tracking needs TensorBoard, and it is not installed ({error}); run: pip install -c "
            "constraints.txt -e '.[track]'"
        ) from error
    return SummaryWriter


def _scalar_writer(folder: Path, step: int) -> Any:
    """TensorBoard leaves out what an earlier file says of steps after `step`."""
    return _summary_writer()(str(folder), purge_step=step + 1)


def _scalars(metrics: Line) -> Iterator[tuple[str, float]]:
    for name in ("loss", "lr", "steps_per_s"):
        yield name, metrics[name]
    for group in ("losses", "holdout"):
        for name, value in metrics.get(group, {}).items():
            yield f"{group}/{name}", value
