"""Do two versions of the code drive the same episodes alike, event by event?

    python -m streamvla.studies.same_traces BEFORE AFTER

Both are folders that `eval --out` of either version filled with the same arguments. Compared is
every line of every trace but its header: instants, kinds, sources, values and parents. A field
that only one version writes (`Sent.parents`, of merged commands alone) counts as a difference:
nothing is mapped. The last line is JSON; the exit code is 1 if anything differs.
"""

from __future__ import annotations

import json
import sys
from itertools import zip_longest
from pathlib import Path
from typing import Any

from streamvla.core.errors import ConfigError


def first_difference(before: Path, after: Path) -> str | None:
    """Where two traces differ first, in words; None if nowhere."""
    lines = zip_longest(_events(before), _events(after))
    for number, (old, new) in enumerate(lines, start=2):
        if old != new:
            return f"line {number}: before {old}, after {new}"
    return None


def compare(before: Path, after: Path) -> dict[str, Any]:
    """Every trace of one folder beside that of the same place in the other.

    Raises:
        ConfigError: the folders hold no trace, or not the same ones.
    """
    names = sorted(path.relative_to(before) for path in before.rglob("*.jsonl"))
    others = sorted(path.relative_to(after) for path in after.rglob("*.jsonl"))
    if not names or names != others:
        raise ConfigError(
            f"{before} holds {len(names)} traces, {after} {len(others)}; fill both with the same "
            "commands first"
        )
    found = {str(name): first_difference(before / name, after / name) for name in names}
    differing = {name: words for name, words in found.items() if words is not None}
    return {"traces": len(names), "alike": len(names) - len(differing), "differing": differing}


def _events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]


def main() -> int:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    figures = compare(Path(sys.argv[1]), Path(sys.argv[2]))
    for name, words in figures["differing"].items():
        print(f"{name}: {words[:300]}")
    print(json.dumps(figures))
    return int(bool(figures["differing"]))


if __name__ == "__main__":
    sys.exit(main())
