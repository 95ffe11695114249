"""Typing errors: a misspelt word is read as the known word it must mean, or left out.

    "pres teh red buton"  ─►  press the red button
    "read the label"      ─►  the               ("read" is a word, so it is not a misspelt "red")
    "gren ball"           ─►  ball              ("green" and "grey" are one error away: neither)

Only a word that is in neither the policy's vocabulary nor a list of English words
(`english_words.txt`) counts as misspelt. What it is read as must be the one known word with the
fewest errors: one letter missing, too many, wrong, or swapped with its neighbour, counts as one
(optimal string alignment). A known word is never changed, and what is no error changes nothing.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from pathlib import Path

SHORTEST = 3
"""Letters: shorter words are neither corrected nor what a word is corrected to."""
LONG = 8
"""Letters from which a word may hold two errors."""

_LETTERS = re.compile(r"[a-z]+")


@lru_cache(maxsize=4096)
def read_as(word: str, vocabulary: frozenset[str]) -> str | None:
    """The known word that a lower-case word is, or must mean; None: it is left out.

    >>> known = frozenset({"press", "the", "red", "green", "grey", "button"})
    >>> [read_as(word, known) for word in ("buton", "teh", "read", "gren", "wibble")]
    ['button', 'the', None, None, None]
    """
    means = may_mean(word, vocabulary)
    return means[0] if len(means) == 1 else None


@lru_cache(maxsize=4096)
def may_mean(word: str, vocabulary: frozenset[str]) -> tuple[str, ...]:
    """The known words that a lower-case word is, or may mean with the fewest errors, sorted.

    >>> may_mean("gren", frozenset({"press", "green", "grey", "button"}))
    ('green', 'grey')
    """
    if word in vocabulary:
        return (word,)
    if len(word) < SHORTEST or not _LETTERS.fullmatch(word) or word in english_words():
        return ()
    most = 2 if len(word) >= LONG else 1
    near: dict[int, list[str]] = {}
    for known in vocabulary:
        if len(known) >= SHORTEST and abs(len(known) - len(word)) <= most:
            near.setdefault(errors_between(word, known), []).append(known)
    fewest = min(near, default=most + 1)
    return tuple(sorted(near[fewest])) if fewest <= most else ()


def errors_between(typed: str, meant: str) -> int:
    """How many errors lead from one word to another (optimal string alignment distance).

    >>> [errors_between(typed, "button") for typed in ("buton", "buttton", "butotn", "bitten")]
    [1, 1, 1, 2]
    """
    before, last = [0] * (len(meant) + 1), list(range(len(meant) + 1))
    for i, letter in enumerate(typed, start=1):
        row = [i]
        for j, other in enumerate(meant, start=1):
            row.append(min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != other)))
            if i > 1 and j > 1 and letter == meant[j - 2] and typed[i - 2] == other:
                row[j] = min(row[j], before[j - 2] + 1)
        before, last = last, row
    return last[-1]


@cache
def english_words() -> frozenset[str]:
    """Common English words of three letters or more, lower-case."""
    path = Path(__file__).with_name("english_words.txt")
    lines = path.read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if not line.startswith("#"))
