"""Instructions: enough of them, none in two splits, none with two meanings."""

import itertools

import pytest

from streamvla.core.errors import ConfigError
from streamvla.robots.instructions import Phrasings
from streamvla.robots.metaworld.tasks import TASKS
from streamvla.robots.registry import suite_tasks, training_instructions
from streamvla.robots.tabletop.robot import FAMILIES

GOALS = {name: task.phrasings for name, task in TASKS.items()} | {
    f"{name}/{goal}": said
    for name, family in FAMILIES.items()
    for goal, said in family.phrasings.items()
}


@pytest.mark.parametrize("goal", sorted(GOALS))
def test_every_goal_is_said_in_many_ways(goal):
    """At least four training phrasings and two others held out, none the same, none unfilled."""
    train, heldout = GOALS[goal].train, GOALS[goal].heldout
    assert len(set(train)) == len(train) >= 4
    assert len(set(heldout)) == len(heldout) >= 2
    assert not set(train) & set(heldout)
    assert not any("{" in text for text in (*train, *heldout))


def test_no_instruction_has_two_meanings():
    """Over all tasks and goals, and both splits, every text belongs to one goal."""
    said = list(
        itertools.chain.from_iterable((*each.train, *each.heldout) for each in GOALS.values())
    )
    assert len(said) == len(set(said))


def test_a_heldout_instruction_names_its_goal_in_words_of_the_training():
    """Each word that tells goals of a family apart in held-out texts occurs in training texts."""
    for family in FAMILIES.values():
        known = {
            word for each in family.phrasings.values() for t in each.train for word in t.split()
        }
        for each in family.phrasings.values():
            for text in each.heldout:
                rest = {t for other in family.phrasings.values() for t in other.heldout} - {text}
                telling = set(text.split()) - {word for t in rest for word in t.split()}
                assert telling <= known


def test_the_choice_is_a_function_of_the_seed():
    """Same seed, same text; many seeds, every text of the split and none of the other."""
    phrasings = Phrasings(("a", "b", "c", "d"), ("e", "f"))
    assert phrasings.choose(7) == phrasings.choose(7)
    assert {phrasings.choose(seed) for seed in range(60)} == {"a", "b", "c", "d"}
    assert {phrasings.choose(seed, "heldout") for seed in range(60)} == {"e", "f"}
    with pytest.raises(ConfigError, match="unknown instruction split 'test'"):
        phrasings.of("test")  # type: ignore[arg-type]


def test_language_scenes_have_independent_paraphrases():
    """At least twenty a family, none of them a training or held-out phrasing, all with their goal's
    own words; Meta-World has none, and says so."""
    for family in FAMILIES.values():
        for goal, each in family.phrasings.items():
            assert len(set(each.independent)) == len(each.independent) >= 20
            assert not set(each.independent) & {*each.train, *each.heldout}
            names = {"upper": ("upper", "top"), "lower": ("lower", "bottom")}.get(goal)
            for text in each.independent:
                assert not any(mark in text for mark in "{}")
                words = text.lower().replace("-", " ").replace(",", " ").split()
                assert any(n in words for n in names) if names else {*goal.split("-")} <= {*words}
    with pytest.raises(ConfigError, match="only the language scenes have"):
        TASKS["reach"].phrasings.of("independent")


def test_suites_hold_what_they_say():
    """All is Meta-World and language without overlap, and every task has instructions."""
    assert suite_tasks("all") == suite_tasks("metaworld") + suite_tasks("language")
    assert len(set(suite_tasks("all"))) == len(suite_tasks("all"))
    assert all(len(training_instructions(task)) >= 4 for task in suite_tasks("all"))
    with pytest.raises(ConfigError, match="did you mean 'language'"):
        suite_tasks("langauge")
    with pytest.raises(ConfigError, match="did you mean 'reach'"):
        training_instructions("raech")
