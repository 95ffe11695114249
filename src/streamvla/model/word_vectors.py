"""Instructions as frozen pretrained subword embeddings, projected into the model's width.

    "press the crimson button"  ─►  ▁press ▁the ▁crim son ▁button  ─►  (l, 256) frozen  ─►  (l, w)

An alternative to the hashed words of `instruction.py` (`VLAConfig.words` = "wordllama"): there is
no vocabulary and nothing is left out, so a word that no training said still has a place near
others. The embeddings come from the wheel of the package `wordllama` (MIT, 16 MB), whose files are
read without importing it and without a download. They are not part of a checkpoint; projection and
positions are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from streamvla.core.errors import ConfigError

MAX_TOKENS = 24
ABSENT = -1
WIDTH = 256

_WEIGHTS = Path("weights", "l2_supercat_256.safetensors")
_TOKENIZER = Path("tokenizers", "l2_supercat_tokenizer_config.json")


class WordVectors(nn.Module):
    """Subword ids → tokens. Same use as `InstructionEncoder`, but for its buffer `heard`.

    Raises:
        ConfigError: the packages `wordllama` and `tokenizers` are not installed.
    """

    vocabulary: frozenset[str] | None

    def __init__(self, width: int) -> None:
        super().__init__()
        self._frozen = _vectors()
        self._tokenizer = _tokenizer()
        self.project: Final = nn.Linear(WIDTH, width)
        self.position: Final = nn.Parameter(torch.randn(MAX_TOKENS, width) * 0.02)
        self.vocabulary = None

    def tokenise(self, instructions: Sequence[str]) -> Tensor:
        """b instructions → (b, l) int64 subword ids, `ABSENT` behind shorter ones, l the longest
        (1 to 24)."""
        encoded = [
            self._tokenizer.encode(text.lower(), add_special_tokens=False).ids
            for text in instructions
        ]
        rows = [torch.tensor(ids[:MAX_TOKENS] or [ABSENT]) for ids in encoded]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=ABSENT)

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """(b, l) int64 → tokens (b, l, w) and which of them are there (b, l) bool."""
        if self._frozen.device != words.device:
            self._frozen = self._frozen.to(words.device)
        vectors = self._frozen[words.clamp(min=0)]  # (b, l, 256)
        return self.project(vectors) + self.position[: words.shape[1]], words != ABSENT

    def hear_only(self, instructions: Iterable[str]) -> None:
        """It knows every word, whatever training says."""

    def know(self, vocabulary: Iterable[str]) -> None:
        """Likewise."""

    def list_words(self, vocabulary: Iterable[str]) -> None:
        """Likewise."""


def sentence_vector(text: str) -> np.ndarray:
    """(256,) of norm 1: the mean of a text's vectors; zeros for no words.

    Raises:
        ConfigError: the packages `wordllama` and `tokenizers` are not installed.
    """
    ids = _tokenizer().encode(text.lower(), add_special_tokens=False).ids
    if not ids:
        return np.zeros(WIDTH)
    mean = _vectors()[ids].mean(0).double().numpy()
    return mean / np.linalg.norm(mean)


@cache
def _vectors() -> Tensor:
    """(32000, 256) float32, of mean square 1."""
    table = load_file(_package() / _WEIGHTS)["embedding.weight"].float()
    return table / table.square().mean().sqrt()


@cache
def _tokenizer() -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ConfigError(
            "words 'wordllama' need the package tokenizers: pip install 'streamvla[words]'"
        ) from error
    tokenizer: Any = Tokenizer.from_file(str(_package() / _TOKENIZER))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _package() -> Path:
    """The folder of the package, which is not imported: it needs more than its files do."""
    found = find_spec("wordllama")
    if found is None or found.origin is None:
        raise ConfigError(
            "words 'wordllama' need the package of that name: pip install 'streamvla[words]', or "
            "leave the setting at 'hashed'"
        )
    return Path(found.origin).parent
