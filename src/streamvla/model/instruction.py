"""Instructions as hashed words, of a stored vocabulary.

    "Press the shiny RED buton!"  ─►  press the red button  ─►  buckets  ─►  embeddings + positions
                                      (shiny: unknown; buton: misspelt)

A word is lower-cased and hashed (CRC-32, the same on every machine) into one of 2047 buckets;
bucket 0 is padding. The words of the training instructions are the vocabulary, which is stored with
the policy. A misspelt word is read as the one it must mean (`spelling.py`). Every other word is
removed before positions are counted and before the length limit applies, so an unknown word changes
nothing. (Without a vocabulary, 7 % of unknown words fall into
the bucket of a known one and are read as that word.)
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Iterable, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from streamvla.model.spelling import read_as

MAX_WORDS = 16
BUCKETS = 2048
PADDING = 0

_WORD = re.compile(r"[^\W_]+")


def words_of(instruction: str) -> list[str]:
    """The words of an instruction, lower-cased, without punctuation.

    >>> words_of("Push the puck, then the left-hand ball!")
    ['push', 'the', 'puck', 'then', 'the', 'left', 'hand', 'ball']
    """
    return _WORD.findall(instruction.lower())


def vocabulary_of(instructions: Iterable[str]) -> frozenset[str]:
    """Every word of these instructions."""
    return frozenset(word for instruction in instructions for word in words_of(instruction))


def unknown_words(instruction: str, vocabulary: frozenset[str] | None) -> list[str]:
    """The words of an instruction that a policy of this vocabulary leaves out, in order.

    >>> unknown_words("press the crimson buton", frozenset({"press", "the", "button"}))
    ['crimson']
    """
    words = words_of(instruction)
    return [] if vocabulary is None else [w for w in words if read_as(w, vocabulary) is None]


def misspelt_words(instruction: str, vocabulary: frozenset[str] | None) -> dict[str, str]:
    """Misspelt word → what a policy of this vocabulary reads it as.

    >>> misspelt_words("press the crimson buton", frozenset({"press", "the", "button"}))
    {'buton': 'button'}
    """
    if vocabulary is None:
        return {}
    read = {word: read_as(word, vocabulary) for word in words_of(instruction)}
    return {word: known for word, known in read.items() if known not in (None, word)}


def known_words(instruction: str, vocabulary: Collection[str] | None = None) -> list[str]:
    """The words of an instruction that a policy of this vocabulary reads, in order.

    >>> known_words("press the crimson buton", {"press", "the", "button"})
    ['press', 'the', 'button']
    """
    words = words_of(instruction)
    if vocabulary is None:
        return words
    read = (read_as(word, frozenset(vocabulary)) for word in words)
    return [word for word in read if word is not None]


def hash_words(instruction: str, vocabulary: Collection[str] | None = None) -> list[int]:
    """The first 16 known words as bucket numbers, padded with 0 to length 16.

    Args:
        vocabulary: the known words; None for all.

    >>> hash_words("Push the puck!") == hash_words("push  the PUCK")
    True
    >>> hash_words("open the old drawer", {"open", "drawer"}) == hash_words("open drawer")
    True
    """
    words = known_words(instruction, vocabulary)
    buckets = [1 + zlib.crc32(word.encode()) % (BUCKETS - 1) for word in words[:MAX_WORDS]]
    return buckets + [PADDING] * (MAX_WORDS - len(buckets))


def words_tensor(instructions: Sequence[str], vocabulary: Collection[str] | None = None) -> Tensor:
    """b instructions → (b, l) int64 hashed words, l the longest (at least 1)."""
    words = torch.tensor([hash_words(instruction, vocabulary) for instruction in instructions])
    longest = max(1, int((words != PADDING).sum(dim=1).max()))
    return words[:, :longest]


class InstructionEncoder(nn.Module):
    """Hashed words → tokens: a word embedding plus a position embedding.

    Attributes:
        heard: (BUCKETS,) bool, which buckets training used; all of them until `hear_only`.
        vocabulary: the words that training said; None if that is not known (before `hear_only`,
            and in files from before it was stored).
    """

    heard: Tensor
    vocabulary: frozenset[str] | None

    def __init__(self, width: int) -> None:
        super().__init__()
        self.word: Final = nn.Embedding(BUCKETS, width)
        self.position: Final = nn.Parameter(torch.randn(MAX_WORDS, width) * 0.02)
        nn.init.normal_(self.word.weight, std=0.02)
        self.register_buffer("heard", every_word())
        self.vocabulary = None

    def hear_only(self, instructions: Iterable[str]) -> None:
        """Know the words of these instructions, and of earlier calls, and no others."""
        instructions = tuple(instructions)
        if self.heard.all():
            self.heard.zero_()
            self.vocabulary = frozenset()
        self.heard[words_tensor(instructions).to(self.heard.device)] = True
        if self.vocabulary is not None:  # else the words known before have no record
            self.vocabulary |= vocabulary_of(instructions)

    def know(self, vocabulary: Iterable[str]) -> None:
        """Know just these words."""
        words = tuple(vocabulary)
        self.vocabulary = frozenset(words)
        self.heard.zero_()
        if words:
            self.heard[words_tensor(words).to(self.heard.device)] = True

    def list_words(self, vocabulary: Iterable[str]) -> None:
        """These are the words that its weights know."""
        self.vocabulary = frozenset(vocabulary)

    def tokenise(self, instructions: Sequence[str]) -> Tensor:
        """b instructions → (b, l) int64 hashed words, unknown ones left out, l the longest."""
        return words_tensor(instructions, self.vocabulary)

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """(b, l) int64 → tokens (b, l, w) and which of them are known words (b, l) bool."""
        known = (words != PADDING) & self.heard[words]
        return self.word(words) + self.position[: words.shape[1]], known


def every_word() -> Tensor:
    """(BUCKETS,) bool: the words that policies from before `hear_only` heard.

    >>> every_word().all().item()
    True
    """
    return torch.ones(BUCKETS, dtype=torch.bool)


def mean_word(tokens: Tensor, is_word: Tensor) -> Tensor:
    """The whole instruction as one vector: (b, l, w), (b, l) bool → (b, w); 0 for no words."""
    count = is_word.sum(dim=1, keepdim=True).clamp(min=1)
    return (tokens * is_word.unsqueeze(-1)).sum(dim=1) / count
