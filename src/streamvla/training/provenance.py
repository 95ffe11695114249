"""Where a result comes from: commit, command, date, library version."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import torch

from streamvla.core.clock import wall_date
from streamvla.core.provenance import commit


def provenance() -> dict[str, str]:
    """Commit (`core.provenance.commit`), command line, date and PyTorch version."""
    return {
        "commit": commit(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": wall_date(),
        "torch": torch.__version__,
    }
