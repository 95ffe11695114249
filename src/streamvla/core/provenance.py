"""Where a result came from: the commit and the machine, without names or paths of either."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any, cast


def commit() -> str:
    """The commit this package runs from, "-dirty" when its source has changes; else "unknown"."""
    try:
        revision = _git("rev-parse", "--short=12", "HEAD")
        changes = _git("status", "--porcelain", "--", ".")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{revision}-dirty" if changes else revision


def _git(*arguments: str) -> str:
    folder = Path(__file__).parents[1]  # of the package: documents and results are not its source
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def without_folders(record: Any) -> Any:
    """A copy of a provenance whose absolute paths keep their last two parts only.

    >>> without_folders({"command": "train --out /some/where/runs/a --steps 9"})
    {'command': 'train --out runs/a --steps 9'}
    """
    if isinstance(record, dict):
        fields = cast(dict[str, Any], record)
        return {key: without_folders(value) for key, value in fields.items()}
    if isinstance(record, list):
        return [without_folders(value) for value in cast(list[Any], record)]
    if isinstance(record, str):
        return _ABSOLUTE.sub(r"\1", record)
    return record


_ABSOLUTE = re.compile(r"(?<![^\s=])/(?:[^\s/]+/)*?([^\s/]+(?:/[^\s/]+)?)(?=\s|$)")


def machine() -> dict[str, str | int]:
    """Processor model, cores in use, operating system and Python; no host name, no path."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "os": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, "unknown")
