"""Fuzz everything the executor process reads from its peer, guided by coverage (Atheris).

pip install atheris         # needs Python 3.11 on Linux; nothing else here does
python scripts/fuzz_robot_side.py -max_total_time=600 [FOLDER OF INPUTS]

A failing input is written to crash-…; put it into tests/runtime/test_fuzz.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris  # pyright: ignore[reportMissingImports]

sys.path.insert(0, str(Path(__file__).parents[1]))

with atheris.instrument_imports(include=["streamvla.runtime"]):
    from tests.runtime.robot_side_fuzz import drive

if __name__ == "__main__":
    atheris.Setup(sys.argv, drive)
    atheris.Fuzz()
