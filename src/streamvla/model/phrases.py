"""Instructions in words of one's own, told to the policy as the nearest phrasing of its training.

    nudge the red slider leftwards   ─►  slide the red knob to the left     similarity 0.67
    what is the weather                   no phrasing is near: told as it stands

Frozen pretrained vectors (`word_vectors.py`) compare the whole sentence with every phrasing of the
training. To the cosine is added what the words themselves say (all weights were chosen on phrasings
of our own, `studies/tuning_phrases.json`):

    + 0.3 × the share of the instruction's known words that the phrasing says, rare ones counting
            for more
    − 0.2 × contradictions: the instruction says "left" where the phrasing says "right"
    − 0.1 × words that tell goals apart, said and missing in the phrasing

Which words contradict each other, and tell goals apart, is read off the training phrasings: two
that differ in one word and ask for different goals. A goal is as near as its best phrasing and,
half as much, its second best; the policy is told the best phrasing of the nearest goal. A misspelt
word stands for each known word that it may mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from typing import Any, NamedTuple

import numpy as np

from streamvla.core.errors import ConfigError
from streamvla.model.clarity import FUNCTION_WORDS
from streamvla.model.instruction import vocabulary_of, words_of
from streamvla.model.spelling import may_mean
from streamvla.model.word_vectors import sentence_vector

SAID, CONTRADICTED, MISSING = 0.3, 0.2, 0.1
SECOND = 0.5
MOST_READINGS = 32


class Told(NamedTuple):
    """What the policy is told instead of an instruction; `similarity` is the cosine of the two."""

    phrase: str
    similarity: float


@dataclass(frozen=True)
class Phrases:
    """The phrasings that a policy knows.

    Attributes:
        goals: the training phrasings of every goal, at least one each.
        threshold: the similarity up to which an instruction is told as it stands.

    Raises:
        ConfigError: fewer than two goals, one without phrasings, or a threshold outside −1 … 1.
    """

    goals: tuple[tuple[str, ...], ...]
    threshold: float

    def __post_init__(self) -> None:
        if len(self.goals) < 2 or not all(self.goals) or not -1 <= self.threshold <= 1:
            raise ConfigError(
                f"phrasings of {len(self.goals)} goals with threshold {self.threshold}: expected "
                "at least two goals, a phrasing of each, and a threshold from -1 to 1"
            )

    def prepare(self) -> None:
        """Read and compute what the first `told` would.

        Raises:
            ConfigError: the package of the word vectors is not installed.
        """
        self._nearest(words_of(self._phrases[0]))

    def told(self, instruction: str) -> Told:
        """What to tell the policy; the instruction itself if it is a training phrasing, or unlike
        all of them.

        Raises:
            ConfigError: the package of the word vectors is not installed.
        """
        if tuple(words_of(instruction)) in self._known:
            return Told(instruction, 1.0)
        nearest = [self._nearest(words) for words in self._readings(instruction)]
        if not nearest:
            return Told(instruction, 0.0)
        _, index, similarity = max(nearest)
        phrase = instruction if similarity <= self.threshold else self._phrases[index]
        return Told(phrase, similarity)

    def _nearest(self, words: Sequence[str]) -> tuple[float, int, float]:
        """How near the nearest goal is, its best phrasing, and the similarity to that."""
        cosines = self._vectors @ sentence_vector(" ".join(words))
        scores = cosines + self._agreements(frozenset(words))
        found: list[tuple[float, int]] = []
        for own in self._of_goal:
            best, second = np.sort(scores[own])[[-1, -2 if len(own) > 1 else -1]]
            nearness = (best + SECOND * second) / (1 + SECOND)
            found.append((float(nearness), own[int(scores[own].argmax())]))
        nearness, index = max(found)
        return nearness, index, min(float(cosines[index]), 1.0)

    def _agreements(self, said: frozenset[str]) -> np.ndarray:
        """(phrases,) what the words alone say of each phrasing."""
        known = sorted(said & self._vocabulary)
        whole = sum(self._weights[word] for word in known) or 1.0
        apart = [word for word in known if word in self._opposites]
        scores: list[float] = []
        for phrase in self._words:
            both = sum(self._weights[word] for word in known if word in phrase)
            lost = [word for word in apart if word not in phrase]
            against = sum(not self._opposites[word].isdisjoint(phrase - said) for word in lost)
            missing = sum(word not in FUNCTION_WORDS for word in lost)
            scores.append(SAID * both / whole - CONTRADICTED * against - MISSING * missing)
        return np.array(scores)

    def _readings(self, instruction: str) -> Iterator[tuple[str, ...]]:
        """The instruction in every way that its misspelt words may be meant, up to 32."""
        options, count = [], 1
        for word in words_of(instruction):
            means = may_mean(word, self._vocabulary) or (word,)
            means = means if count * len(means) <= MOST_READINGS else means[:1]
            count *= len(means)
            options.append(means)
        return product(*options) if options else iter(())

    @cached_property
    def _phrases(self) -> tuple[str, ...]:
        return tuple(phrase for goal in self.goals for phrase in goal)

    @cached_property
    def _words(self) -> tuple[frozenset[str], ...]:
        return tuple(frozenset(words_of(phrase)) for phrase in self._phrases)

    @cached_property
    def _known(self) -> frozenset[tuple[str, ...]]:
        return frozenset(tuple(words_of(phrase)) for phrase in self._phrases)

    @cached_property
    def _of_goal(self) -> tuple[list[int], ...]:
        """The indices into `_phrases` of every goal."""
        ends = np.cumsum([len(goal) for goal in self.goals])
        return tuple(list(range(e - len(g), e)) for g, e in zip(self.goals, ends, strict=True))

    @cached_property
    def _vocabulary(self) -> frozenset[str]:
        return vocabulary_of(self._phrases)

    @cached_property
    def _vectors(self) -> np.ndarray:
        """(phrases, 256), of norm 1."""
        return np.stack([sentence_vector(phrase) for phrase in self._phrases])

    @cached_property
    def _weights(self) -> dict[str, float]:
        """Known word → log of the share of goals that it is said of, negated."""
        goals = [vocabulary_of(goal) for goal in self.goals]
        counts = {word: sum(word in goal for goal in goals) for word in self._vocabulary}
        return {word: float(np.log(len(goals) / count)) for word, count in counts.items()}

    @cached_property
    def _opposites(self) -> dict[str, frozenset[str]]:
        """Word → words in whose place it makes a phrasing ask for another goal, and never for the
        same."""
        places: dict[tuple[str, ...], set[tuple[str, int]]] = {}
        for number, goal in enumerate(self.goals):
            for words in map(words_of, goal):
                for i, word in enumerate(words):
                    rest = (*words[:i], "", *words[i + 1 :])
                    places.setdefault(rest, set()).add((word, number))
        apart: set[frozenset[str]] = set()
        alike: set[frozenset[str]] = set()
        for said in places.values():
            for (one, its), (other, others) in combinations(said, 2):
                if one != other:
                    (alike if its == others else apart).add(frozenset((one, other)))
        found: dict[str, set[str]] = {}
        for pair in apart - alike:
            for word in pair:
                found.setdefault(word, set()).update(pair - {word})
        return {word: frozenset(others) for word, others in found.items()}

    def to_json(self) -> dict[str, Any]:
        return {"threshold": self.threshold, "goals": [list(goal) for goal in self.goals]}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Phrases:
        """What `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError, ConfigError: it is not that.
        """
        goals = tuple(tuple(goal) for goal in fields["goals"])
        if not all(isinstance(phrase, str) for goal in goals for phrase in goal):
            raise ConfigError("phrases: goals are not lists of texts")
        return cls(goals, float(fields["threshold"]))
