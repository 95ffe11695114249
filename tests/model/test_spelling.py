"""Misspelt words are read as the known word they must mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamvla.model.instruction import hash_words, words_of, words_tensor
from streamvla.model.spelling import SHORTEST, english_words, errors_between, read_as
from streamvla.robots.registry import suite_tasks, training_instructions
from streamvla.robots.tabletop.robot import FAMILIES
from streamvla.robots.typing_errors import misspelt

SAID = sorted({text for task in suite_tasks("all") for text in training_instructions(task)})
KNOWN = frozenset(word for text in SAID for word in words_of(text))
KEYS = ("red", "green", "blue", "yellow", "left", "right", "upper", "lower", "top", "bottom")

letters = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=10)


@given(words=st.frozensets(letters, min_size=1), data=st.data())
def test_a_known_word_is_never_changed(words, data):
    """Whatever else the vocabulary holds."""
    word = data.draw(st.sampled_from(sorted(words)))
    assert read_as(word, words) == word


@pytest.mark.parametrize("split", ["train", "heldout", "independent"])
def test_phrasings_without_errors_are_read_as_before(split):
    """Just their known words, in their order: no phrasing of the language scenes has a word that is
    taken for a misspelt one."""
    for family in FAMILIES.values():
        for said in family.phrasings.values():
            for text in said.of(split):
                kept = " ".join(word for word in words_of(text) if word in KNOWN)
                assert hash_words(text, KNOWN) == hash_words(kept)


def test_training_instructions_give_the_tokens_they_gave_in_training():
    """Bit for bit those without a vocabulary, which training uses."""
    assert words_tensor(SAID, KNOWN).equal(words_tensor(SAID))


def test_no_english_word_is_read_as_another():
    """ "read" is not a misspelt "red", nor "bell" a "ball", in any of 70 000 words."""
    assert {"read", "bed", "bell", "rod", "lift", "write"} <= english_words()
    assert all(read_as(word, KNOWN) is None for word in english_words() - KNOWN)


@settings(max_examples=500)
@given(word=letters)
def test_a_correction_is_the_one_nearest_word(word):
    """Whatever is read as a known word has that one word nearest, one error away or two."""
    read = read_as(word, KNOWN)
    if read is None or read == word:
        return
    by_errors = sorted((errors_between(word, known), known) for known in KNOWN if len(known) > 2)
    assert by_errors[0] == (errors_between(word, read), read)
    assert by_errors[1][0] > by_errors[0][0]
    assert by_errors[0][0] <= (2 if len(word) >= 8 else 1)


@settings(max_examples=500)
@given(key=st.sampled_from(sorted(KNOWN)), seed=st.integers(0, 10**6))
def test_one_error_is_never_read_as_a_third_word(key, seed):
    """A known word with one error is read as itself or left out, unless it became a known word."""
    if len(key) < SHORTEST:
        return
    typed = misspelt(key, np.random.default_rng(seed))
    assert typed in KNOWN or read_as(typed, KNOWN) in (key, None)


def test_most_errors_are_put_right():
    """At least three in four of the words that name a goal, with one error each."""
    stream = np.random.default_rng(0)
    right = [read_as(misspelt(key, stream), KNOWN) == key for key in KEYS for _ in range(200)]
    assert np.mean(right) > 0.75


def test_what_could_be_two_words_is_left_out():
    """ "gren" is one error from "green" and from "grey"; two letters are too few to tell."""
    assert read_as("gren", KNOWN) is None
    assert read_as("rd", KNOWN) is None
    assert read_as("gren", KNOWN - {"grey"}) == "green"


@given(typed=letters, meant=letters)
def test_errors_are_counted_both_ways(typed, meant):
    """The distance is symmetric, 0 for equal words only, and at most the longer word's length."""
    errors = errors_between(typed, meant)
    assert errors == errors_between(meant, typed)
    assert (errors == 0) == (typed == meant)
    assert errors <= max(len(typed), len(meant))


@given(said=st.sampled_from(SAID), seed=st.integers(0, 10**6))
def test_a_misspelt_instruction_has_an_error_and_as_many_words(said, seed):
    """And the same seed makes the same errors."""
    typed = misspelt(said, np.random.default_rng(seed))
    assert typed != said
    assert len(typed.split()) == len(said.split())
    assert typed == misspelt(said, np.random.default_rng(seed))
