"""Numbers in keys and names of folders."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from streamvla.core.numbers import exact


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_reads_back_as_itself(value):
    """Of two different numbers the texts differ, and each names a folder."""
    assert float(exact(value)) == value
    assert set(exact(value)) <= {*string.ascii_letters, *string.digits, ".", "-"}
