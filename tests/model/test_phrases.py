"""Whether an instruction in other words is told as the right phrasing of the training."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import streamvla.studies
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import rephrased_by
from streamvla.model.defaults import read_defaults
from streamvla.model.phrases import Phrases
from streamvla.policy import load_policy, resolve_checkpoint
from streamvla.robots.metaworld.tasks import TASKS
from streamvla.robots.tabletop.robot import FAMILIES

GOALS = (
    *(task.phrasings.train for task in TASKS.values()),
    *(said.train for family in FAMILIES.values() for said in family.phrasings.values()),
)


@cache
def shipped() -> Phrases:
    found = read_defaults(resolve_checkpoint()).phrases
    assert found is not None
    return found


def right(text: str, task: str, goal: str) -> bool:
    """A ball that is to be reached may be one of the scene with a single ball."""
    told = shipped().told(text).phrase
    same = FAMILIES[task].phrasings[goal].train
    return told in same or (goal == "green" and told in TASKS["reach"].phrasings.train)


def tuning_phrases() -> list[tuple[str, str, str]]:
    """Text, task and goal of the phrases that the settings were chosen on."""
    path = Path(streamvla.studies.__file__).with_name("tuning_phrases.json")
    written = json.loads(path.read_text(encoding="utf-8"))["language"]
    levels = {"upper": "top", "lower": "bottom"}
    return [
        (text.format(colour=first, way=side, side=side, level=levels.get(goal)), task, goal)
        for task, texts in written.items()
        for goal in FAMILIES[task].phrasings
        for first, _, side in [goal.partition("-")]
        for text in texts
    ]


def test_the_shipped_phrases_are_those_of_the_training():
    """Of all 47 tasks by goal, no fewer and no more."""
    assert shipped().goals == GOALS


def test_a_training_phrasing_is_told_as_it_stands():
    """With similarity 1, whatever its case and punctuation."""
    for phrase in (text for goal in GOALS for text in goal):
        assert shipped().told(phrase) == (phrase, 1.0)
    assert shipped().told("Open the drawer!") == ("Open the drawer!", 1.0)


def test_other_words_are_told_as_a_phrasing_of_the_same_goal():
    """19 times in 20, of the phrases that it was made on."""
    found = [right(*each) for each in tuning_phrases()]
    assert np.mean(found) >= 0.95


def test_independent_paraphrases_are_told_as_a_phrasing_of_the_same_goal():
    """19 times in 20, of the language scenes; nothing was chosen on them."""
    found = [
        right(text, task, goal)
        for task, family in FAMILIES.items()
        for goal, said in family.phrasings.items()
        for text in said.independent
    ]
    assert np.mean(found) >= 0.95


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_colour_or_side_is_never_told_as_another(side):
    """Of the tuning phrases that name one."""
    for text, _, goal in tuning_phrases():
        first, _, way = goal.partition("-")
        told = set(shipped().told(text).phrase.split())
        others = {"red", "green", "blue", "yellow"} - {first}
        if way:
            assert not others & told, text
            assert {"left": "right", "right": "left"}[way] not in told, text


def test_an_ambiguous_typing_error_is_read_by_its_sentence():
    """ "lft" may be "left" or "lift"."""
    told = shipped().told("push the red knob lft").phrase
    assert told == "push the red knob left"


def test_nonsense_is_told_as_it_stands():
    """No words too, and words that are near nothing."""
    for text in ("", "!!", "what is the weather", "flurb the wibble"):
        assert shipped().told(text).phrase == text


def test_prepared_phrases_read_nothing_with_the_first_instruction():
    """The vectors and weights are there before; `told` makes none."""
    phrases = Phrases(shipped().goals, 0.3)
    phrases.prepare()
    before = set(vars(phrases))
    phrases.told("could you please tap the red one of the buttons")
    assert set(vars(phrases)) <= before | {"_known"}


def test_phrases_travel_as_json():
    """What was written is read; what is no table of texts, or has one goal, is refused."""
    assert Phrases.from_json(json.loads(json.dumps(shipped().to_json()))) == shipped()
    with pytest.raises(ConfigError, match="texts"):
        Phrases.from_json({"threshold": 0.3, "goals": [[1], [2]]})
    with pytest.raises(ConfigError, match="1 goals"):
        Phrases((("press",),), 0.3)


def test_a_policy_without_the_setting_reads_instructions_as_before():
    """The words are the same numbers; with it they are those of the phrasing."""
    path = resolve_checkpoint()
    plain, nearest = load_policy(path), load_policy(path, settings={"nearest_phrase": None})
    text = "could you please tap the red one of the buttons"
    assert plain.told(text) == (text, 1.0)
    assert (plain.spec.rephrases, nearest.spec.rephrases) == (False, True)
    assert rephrased_by(nearest, text) == nearest.told(text)
    assert "nearest_phrase" not in plain.spec.settings
    assert nearest.spec.settings["nearest_phrase"] == shipped().threshold
    assert nearest.told(text).phrase in FAMILIES["press-named-button"].phrasings["red"].train
