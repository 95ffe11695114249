"""The examples run from start to end."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from streamvla.trace import Sent

EXAMPLES = Path(__file__).parents[2] / "examples"
CHUNKED = ["reacher", "aloha"] if sys.version_info < (3, 13) else ["reacher"]
"""gym-aloha has no packages for newer Pythons, and is then no part of the set-up."""


def load(name: str):
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_policy_of_ones_own_drives_in_either_time(capsys):
    """Two executors, two clocks, four lines."""
    load("own_policy").main(seconds=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["synchronous", "simulate"],
        ["synchronous", "run"],
        ["action-flow", "simulate"],
        ["action-flow", "run"],
    ]


@pytest.mark.render
@pytest.mark.parametrize("name", CHUNKED)
def test_a_chunk_policy_drives_a_gymnasium_robot(name):
    """Its first command is where the joints stand; overlapped chunks starve fewer ticks; and all
    that takes 40 lines."""
    classic, overlapped = load(name).main(seconds=3)
    first, second = [e for e in classic.trace.events if isinstance(e, Sent)][:2]
    assert first.source != "policy"
    assert first.values == second.values  # a hold, where it stands
    assert any(first.values)
    assert classic.metrics.starved_ticks > overlapped.metrics.starved_ticks
    text = (EXAMPLES / f"{name}.py").read_text()
    assert len([line for line in text.splitlines() if line]) <= 40
