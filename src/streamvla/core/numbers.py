"""Numbers as text that stands for them in keys and in names of folders."""

from __future__ import annotations


def exact(value: float) -> str:
    """The shortest text that reads back as the same number, letters, digits, "." and "-" only.

    >>> exact(3.0), exact(0.5), exact(0.123456789), exact(1e20)
    ('3', '0.5', '0.123456789', '1e20')
    """
    short = f"{value:g}"
    return (short if float(short) == value else repr(float(value))).replace("+", "")
