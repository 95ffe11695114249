"""The robot side under bytes that its peer must not write; `scripts/fuzz_robot_side.py` searches
for such inputs by coverage, here are random ones and those that once failed."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from .robot_side_fuzz import drive


@settings(max_examples=300)
@given(data=st.binary(max_size=300))
def test_whatever_the_peer_writes_the_robot_is_commanded_and_stopped(data):
    """One command on every tick, the stop last, no exception but a failed stage."""
    drive(data)
