"""Instructions as hashed words: no vocabulary file.

A word is lower-cased and hashed (CRC-32, the same on every machine) into one of 2047 buckets;
bucket 0 is padding. Two words may share a bucket: with the ~100 distinct words of a task suite
the chance that a given word collides with any other is about 5 %, and a collision only matters
if nothing else in the sentence tells the tasks apart. What no training ever said has an embedding
that means nothing: such words are passed over.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

MAX_WORDS = 16
BUCKETS = 2048
PADDING = 0

_WORD = re.compile(r"[^\W_]+")


def hash_words(instruction: str) -> list[int]:
    """The first 16 words as bucket numbers, padded with 0 to length 16.

    >>> hash_words("Push the puck!") == hash_words("push  the PUCK")
    True
    >>> [bucket > 0 for bucket in hash_words("open drawer")[:3]]
    [True, True, False]
    """
    words = _WORD.findall(instruction.lower())[:MAX_WORDS]
    buckets = [1 + zlib.crc32(word.encode()) % (BUCKETS - 1) for word in words]
    return buckets + [PADDING] * (MAX_WORDS - len(buckets))


def words_tensor(instructions: Sequence[str]) -> Tensor:
    """b instructions → (b, l) int64 hashed words, l the longest (at least 1)."""
    words = torch.tensor([hash_words(instruction) for instruction in instructions])
    longest = max(1, int((words != PADDING).sum(dim=1).max()))
    return words[:, :longest]


class InstructionEncoder(nn.Module):
    """Hashed words → tokens: a word embedding plus a position embedding.

    Attributes:
        heard: (BUCKETS,) bool, which words training said; all of them until `hear_only`.
    """

    heard: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.word = nn.Embedding(BUCKETS, width)
        self.position = nn.Parameter(torch.randn(MAX_WORDS, width) * 0.02)
        nn.init.normal_(self.word.weight, std=0.02)
        self.register_buffer("heard", every_word())

    def hear_only(self, instructions: Iterable[str]) -> None:
        """Pass over the words that neither these instructions have nor an earlier call's."""
        if self.heard.all():
            self.heard.zero_()
        self.heard[words_tensor(tuple(instructions)).to(self.heard.device)] = True

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """(b, l) int64 → tokens (b, l, w) and which of them are words it heard (b, l) bool."""
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
