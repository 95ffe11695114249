"""Typing errors put into instructions on purpose: for measuring, and for training with them.

"press the red button"  ─►  "pres teh red buton"
"""

from __future__ import annotations

import string

import numpy as np

SHARE = 0.3
SHORTEST = 3


def misspelt(instruction: str, stream: np.random.Generator, share: float = SHARE) -> str:
    """The instruction with one error in each word that chance chooses, and in one word at least.

    An error is a letter left out, doubled, replaced, or swapped with the one behind it, each
    equally likely, anywhere in the word. Words of fewer than three letters are left alone.

    Args:
        share: of the words that get an error.

    >>> misspelt("press the red button", np.random.default_rng(4), 0.7)
    'press thhe red buteon'
    """
    words = instruction.split()
    long = [i for i, word in enumerate(words) if len(word) >= SHORTEST and word.isalpha()]
    if not long:
        return instruction
    hit = [i for i in long if stream.random() < share] or [int(stream.choice(long))]
    for i in hit:
        words[i] = _with_error(words[i], stream)
    return " ".join(words)


def _with_error(word: str, stream: np.random.Generator) -> str:
    """Another word, one error away."""
    while True:
        i = int(stream.integers(len(word)))
        before, letter, after = word[:i], word[i], word[i + 1 :]
        other = string.ascii_lowercase[int(stream.integers(26))]
        ways = (after, letter * 2 + after, other + after, after[:1] + letter + after[1:])
        made = before + ways[int(stream.integers(len(ways)))]
        if made != word:
            return made
