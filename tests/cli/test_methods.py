"""Executors by name, with their ways of observing early."""

from __future__ import annotations

from dataclasses import replace

import pytest

from streamvla.core.errors import ConfigError
from streamvla.runtime.executors.action_flow import ActionFlow, Compensation
from streamvla.runtime.executors.early import ActionNorm, Adaptive, Always, AtRandom, Never
from streamvla.runtime.executors.options import EarlyOptions
from streamvla.runtime.executors.registry import parse_executor
from streamvla.runtime.executors.synchronous import Synchronous
from streamvla.runtime.timing.latency import named_profile
from streamvla.studies.checks import require_effect
from streamvla.testing import AnticipatingPolicy, ScriptedPolicy, unit_space

PAPER, EDGE = named_profile("paper-20hz"), named_profile("edge-20hz")
ABLE = AnticipatingPolicy(unit_space(), 10, PAPER.execute_ns)


def flow(text: str = "action-flow", profile=PAPER, policy=ABLE, **options) -> ActionFlow:
    found = parse_executor(text, profile, 10, EarlyOptions(**options), policy, seed=4)
    assert isinstance(found, ActionFlow)
    return found


def test_a_name_alone_is_lead_0_and_a_rule_alone_is_auto():
    """`action-flow` looks with nothing pending; with a rule it aims at the profile's lead."""
    assert (flow().lead, flow().measured_lead, flow().early) == (0, False, Never())
    for profile, lead in ((PAPER, 3), (EDGE, 5)):
        found = flow(profile=profile, early="always")
        assert (found.lead, found.measured_lead, found.early) == (lead, True, Always())


@pytest.mark.parametrize(("passes", "lead"), [(1, 3), (2, 4), (5, 6)])
def test_auto_waits_for_a_whole_chunk(passes, lead):
    """A chunk policy's first action comes after all its passes, so its lead covers them."""
    chunks = ScriptedPolicy(unit_space(), 10, PAPER.execute_ns, chunk_passes=passes)
    assert flow("action-flow:auto", policy=chunks).lead == lead


def test_rules_take_their_settings():
    """Rate and seed, norm, thresholds, and what a refusal leads to reach the executor."""
    assert flow("action-flow:2", early="random", rate=0.3).early == AtRandom(0.3, 4)
    assert flow("action-flow:2", early="action-norm", norm=1.5).early == ActionNorm(1.5)
    adaptive = flow("action-flow:2", early="adaptive", eta=(2.0,))
    assert adaptive.early == Adaptive((2.0,), ("camera",), second_look=True)
    published = flow("action-flow:2", early="adaptive", eta=(2.0,), refused="fresh-look")
    assert published.early == Adaptive((2.0,), ("camera",))
    assert adaptive.compensation == Compensation()
    assert flow("action-flow:2", early="none").early == Never()
    assert flow("action-flow:0", early="always").early == Never()


def test_a_predictor_is_not_asked_beyond_what_it_was_calibrated_for():
    """A larger lead is refused where the policy looks ahead, stated or measured; a rule that does
    not look ahead is free."""
    able = AnticipatingPolicy(unit_space(), 10, PAPER.execute_ns)
    able.spec = replace(able.spec, longest_lead=2)
    with pytest.raises(ConfigError, match="up to 2 pending actions"):
        flow("action-flow:3", policy=able, early="adaptive", eta=(2.0,))
    with pytest.raises(ConfigError, match="takes lead 3 to hide; at most 2 is allowed"):
        flow("action-flow:auto", policy=able, early="adaptive", eta=(2.0,))
    assert flow("action-flow:3", policy=able, early="always").lead == 3


@pytest.mark.parametrize("text", ["none", "state", "state+context", "state+context+clock-shift"])
def test_compensations_are_read_as_they_are_written(text):
    """Words to flags and back."""
    found = flow("action-flow:2", compensation=text).compensation
    assert found.words() == text


def test_options_do_not_concern_the_synchronous_executor():
    """It never looks early, whatever is asked of the others."""
    found = parse_executor("synchronous:5", PAPER, 10, EarlyOptions("always"))
    assert found == Synchronous(5)


def test_every_variety_has_a_name_and_a_folder_of_its_own():
    """Labels and slugs tell apart what differs."""
    varieties = [
        flow(),
        flow("action-flow:3"),
        flow("action-flow:auto"),
        flow("action-flow:3", early="random", rate=0.3),
        flow("action-flow:3", early="action-norm", norm=1.5),
        flow("action-flow:3", early="adaptive", eta=(2.0,)),
        flow("action-flow:3", early="random", compensation="state+context"),
        flow("action-flow:3", early="adaptive", eta=(2.0,), refused="fresh-look"),
        flow("action-flow:3", compensation="none"),
        flow(replan="as-fast-as-possible"),
        flow(replan="as-fast-as-possible", compensation="none"),
    ]
    assert len({each.slug() for each in varieties}) == len(varieties)
    assert len({each.label(10) for each in varieties}) == len(varieties)


def test_looking_ahead_needs_a_policy_that_can():
    """Adaptive, and a corrected context, are refused for a policy without a predictor."""
    plain = ScriptedPolicy(unit_space(), 10, PAPER.execute_ns)
    for options in ({"early": "adaptive"}, {"early": "always", "compensation": "context"}):
        with pytest.raises(ConfigError, match="train-saliency"):
            flow(policy=plain, **options)


def test_an_uncalibrated_predictor_needs_thresholds():
    """Without calibration and without --eta the adaptive rule has nothing to go by."""
    with pytest.raises(ConfigError, match="--eta"):
        flow(early="adaptive")


@pytest.mark.parametrize(
    ("executor", "options", "useless"),
    [
        ("synchronous", {"early": "adaptive"}, "--early adaptive"),
        ("synchronous", {"replan": "as-fast-as-possible"}, "--replan as-fast-as-possible"),
        ("action-flow:0", {"early": "always"}, "--early always"),
        ("action-flow:3", {"rate": 0.2}, "--rate 0.2"),
        ("action-flow:3", {"refused": "fresh-look"}, "--refused fresh-look"),
        ("action-flow:3", {"eta": (1.0, 2.0)}, "--eta 1.0,2.0"),
        ("action-flow:3", {"early": "always"}, None),
        ("async-chunks", {"replan": "as-fast-as-possible"}, None),
        ("action-flow:auto", {"early": "random", "rate": 0.2}, None),
        ("action-flow:3", {"compensation": "none"}, None),
        ("action-flow", {"replan": "as-fast-as-possible"}, None),
    ],
)
def test_an_option_that_changes_nothing_is_refused(executor, options, useless):
    """It is named; one that changes the executor passes."""

    def build(early: EarlyOptions):
        return parse_executor(executor, PAPER, 10, early)

    if useless is None:
        require_effect([build], EarlyOptions(**options))
    else:
        with pytest.raises(ConfigError, match=useless):
            require_effect([build], EarlyOptions(**options))
