"""How clear an instruction is to a policy, from its words alone.

The clarity of an instruction is the largest share of a training instruction's content words that it
says; misspelt words count as what they must mean (`spelling.py`):

    trained      press the red button  →  press, red, button
    asked        whack teh red one     →  red                     clarity 1/3
                 what is the weather   →  –                       clarity 0

A threshold stands beside it, calibrated so that few instructions which people would call clear lie
at it or below (`training.anticipation.conformal`). It does not see the scene: "press the purple
button" is as clear as any, whether there is such a button or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from streamvla.core.errors import ConfigError
from streamvla.model.instruction import known_words, vocabulary_of

_FUNCTION_WORDS = (
    "a all an and any are as at be but by can could do does down for from he how i if in into is "
    "it its just me my no not of off ok on one onto or out over please she so than that the there "
    "they this to under up we what when where who why will with would you your"
)
FUNCTION_WORDS = vocabulary_of([_FUNCTION_WORDS])
"""Words that say nothing of what to do or with what."""


@dataclass(frozen=True)
class Clarity:
    """What a policy needs to tell how clear an instruction is.

    Attributes:
        instructions: those of its training.
        threshold: the clarity up to which an instruction counts as unclear; below 0 none does.
        miss_rate: the share of clear instructions that may count as unclear, as it was calibrated.

    Raises:
        ConfigError: no instructions, or a threshold of 1 or more.
    """

    instructions: tuple[str, ...]
    threshold: float
    miss_rate: float

    def __post_init__(self) -> None:
        if not self._contents or not self.threshold < 1:
            raise ConfigError(
                f"clarity with {len(self.instructions)} training instructions and threshold "
                f"{self.threshold}: expected at least one that names something, and one below 1"
            )

    def of(self, instruction: str) -> float:
        """The clarity of an instruction, 0 to 1.

        >>> Clarity(("press the red button",), 0.2, 0.02).of("whack teh red one, please") * 3
        1.0
        """
        said = set(known_words(instruction, self._vocabulary))
        return max(len(said & content) / len(content) for content in self._contents)

    @cached_property
    def _vocabulary(self) -> frozenset[str]:
        return vocabulary_of(self.instructions)

    @cached_property
    def _contents(self) -> frozenset[frozenset[str]]:
        """The content words of every training instruction that has any."""
        contents = (vocabulary_of([each]) - FUNCTION_WORDS for each in self.instructions)
        return frozenset(content for content in contents if content)

    def to_json(self) -> dict[str, Any]:
        return {
            "threshold": self.threshold,
            "miss_rate": self.miss_rate,
            "instructions": list(self.instructions),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Clarity:
        """What `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError, ConfigError: it is not that.
        """
        said = fields["instructions"]
        if not isinstance(said, list) or not all(isinstance(each, str) for each in said):
            raise ConfigError("clarity: instructions is not a list of texts")
        return cls(tuple(said), float(fields["threshold"]), float(fields["miss_rate"]))
