"""Where a result comes from: commit, command, date, library version."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import torch

from streamvla.core.clock import wall_date


def provenance() -> dict[str, str]:
    """Commit ("unknown" outside a repository), command line, date and PyTorch version."""
    return {
        "commit": _commit(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": wall_date(),
        "torch": torch.__version__,
    }


def _commit() -> str:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
