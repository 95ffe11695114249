"""The shipped policies and words that no training said."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamvla.core.interfaces import FlowStart, Observation
from streamvla.model.instruction import BUCKETS, hash_words, words_of
from streamvla.model.methods.registry import METHODS
from streamvla.model.spelling import read_as
from streamvla.policy import ModelPolicy, load_policy, resolve_checkpoint
from streamvla.robots.registry import suite_tasks, training_instructions

SAID = sorted({text for task in suite_tasks("all") for text in training_instructions(task)})


@cache
def shipped(method: str) -> ModelPolicy:
    return load_policy(resolve_checkpoint(None, method))


@cache
def known() -> frozenset[str]:
    words = shipped("action-flow").spec.vocabulary
    assert words is not None
    return words


def acts(method: str, instruction: str) -> np.ndarray:
    """The (h, d) actions on a picture of noise."""
    policy = shipped(method)
    stream = np.random.default_rng(3)
    images = {
        view: stream.integers(0, 256, (*policy.spec.image_size, 3), np.uint8)
        for view in policy.spec.views
    }
    state = np.array([0.0, 0.6, 0.2, 1.0], np.float32)
    seen = Observation(images, state, np.zeros(4), instruction, 0)
    return np.stack(list(policy.generate(policy.encode(seen), FlowStart(np.zeros(4)))))


unknown = st.one_of(
    st.sampled_from(["direction", "scarlet", "read", "gren", "please", "1", "übrigens", "лево"]),
    st.text(st.characters(categories=("L", "N")), min_size=1, max_size=9),
).filter(lambda word: all(read_as(part, known()) is None for part in words_of(word)))


@pytest.mark.parametrize("method", list(METHODS))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(said=st.sampled_from(SAID), words=st.lists(st.tuples(unknown, st.integers(0, 30))))
def test_a_word_that_no_training_said_never_changes_an_action(method, said, words):
    """However many there are, and wherever in the sentence they stand, past its end included."""
    sentence = said.split()
    for word, place in words:
        sentence.insert(place, word)
    assert np.array_equal(acts(method, " ".join(sentence)), acts(method, said))


@settings(max_examples=300)
@given(words=st.lists(unknown, min_size=20, max_size=40), said=st.sampled_from(SAID))
def test_unknown_words_do_not_count_towards_the_limit(words, said):
    """A known sentence behind any number of them is heard whole."""
    assert hash_words(" ".join([*words, said]), known()) == hash_words(said)


def test_the_vocabulary_is_that_of_the_training_instructions():
    """The words the shipped policies know are those of the instructions of their 47 tasks, no
    fewer and no more, and their weights were trained on just these buckets."""
    said = {word for text in SAID for word in words_of(text)}
    for method in METHODS:
        policy = shipped(method)
        assert policy.spec.vocabulary == said
        heard = policy.model.state_dict()["instruction.heard"].nonzero().flatten().tolist()
        assert set(heard) - {0} == {hash_words(word)[0] for word in said}


def test_unknown_words_would_fall_onto_known_ones():
    """Why the words are stored: "direction" has the bucket of "blue", and 7 % of all buckets are
    those of known words."""
    assert hash_words("direction") == hash_words("blue")
    assert hash_words("direction", known()) != hash_words("blue", known())
    assert 0.06 < len({hash_words(word)[0] for word in known()}) / (BUCKETS - 1) < 0.08


def test_an_action_depends_on_the_words_that_are_known():
    """The property above is not that of a policy that does not listen."""
    red, blue = (
        acts("action-flow", "press the red button"),
        acts("action-flow", "press the blue button"),
    )
    assert not np.allclose(red, blue)
