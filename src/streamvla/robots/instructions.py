"""How one goal is said in words: several phrasings to train on and some held out.

The held-out ones tell a policy that understands from one that memorised strings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from streamvla.core.errors import ConfigError

Split = Literal["train", "heldout"]

Asked = Literal["own", "swapped", "blank"]
"""What a robot says in an episode: its own goal, another goal of the same scene, or nothing.

Swapped and blank instructions show whether a policy listens: it should then reach the other goal,
and be at chance.
"""


@dataclass(frozen=True)
class Phrasings:
    """The ways to say one goal."""

    train: tuple[str, ...]
    heldout: tuple[str, ...]

    def of(self, split: Split) -> tuple[str, ...]:
        """The phrasings of one split.

        Raises:
            ConfigError: unknown split.
        """
        check_split(split)
        return self.train if split == "train" else self.heldout

    def choose(self, seed: int, split: Split = "train") -> str:
        """The instruction of the episode `seed`: a pure function of its arguments.

        Drawn from its own stream, so that the words say nothing about where the objects lie.
        """
        options = self.of(split)
        stream = np.random.default_rng([seed, 1])
        return options[int(stream.integers(len(options)))]

    def filled(self, **words: str) -> Phrasings:
        """Every phrasing with its {placeholders} filled.

        >>> Phrasings(("press {colour}",), ("hit {colour}",)).filled(colour="red").train
        ('press red',)
        """
        return Phrasings(
            tuple(text.format(**words) for text in self.train),
            tuple(text.format(**words) for text in self.heldout),
        )


def check_split(split: str) -> None:
    """Raise `ConfigError` unless `split` is one."""
    if split not in ("train", "heldout"):
        raise ConfigError(f"instruction split {split!r}: expected 'train' or 'heldout'")


def check_asked(asked: str) -> None:
    """Raise `ConfigError` unless `asked` is one of `Asked`."""
    if asked not in ("own", "swapped", "blank"):
        raise ConfigError(f"asked {asked!r}: expected 'own', 'swapped' or 'blank'")
