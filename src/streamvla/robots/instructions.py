"""How one goal is said in words: phrasings to train on, some held out, and independent ones.

Held-out phrasings have the same author as the training ones and mostly their words. Independent
ones were written without sight of either, with whatever words came to mind: the harder test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from streamvla.core.errors import ConfigError, did_you_mean

Split = Literal["train", "heldout", "independent"]

Asked = Literal["own", "swapped", "blank"]
"""What a robot says in an episode: its own goal, another goal of the same scene, or nothing.

Swapped and blank instructions show whether a policy listens: it should then reach the other goal,
and be at chance.
"""


@dataclass(frozen=True)
class Phrasings:
    """The ways to say one goal; `independent` is empty where nobody wrote any."""

    train: tuple[str, ...]
    heldout: tuple[str, ...]
    independent: tuple[str, ...] = ()

    def of(self, split: Split) -> tuple[str, ...]:
        """The phrasings of one split.

        Raises:
            ConfigError: unknown split, or one without phrasings.
        """
        check_split(split)
        found: tuple[str, ...] = getattr(self, split)
        if not found:
            raise ConfigError(
                f"instruction split {split!r}: this goal has no such phrasings, only the language "
                "scenes have (--suite language); use train or heldout"
            )
        return found

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
            tuple(text.format(**words) for text in self.independent),
        )


def check_split(split: str) -> None:
    """Raise `ConfigError` unless `split` is one."""
    if split not in get_args(Split):
        raise did_you_mean("instruction split", split, get_args(Split))


def check_asked(asked: str) -> None:
    """Raise `ConfigError` unless `asked` is one of `Asked`."""
    if asked not in ("own", "swapped", "blank"):
        raise ConfigError(f"asked {asked!r}: expected 'own', 'swapped' or 'blank'")
