"""Whether the shipped policies can tell instructions that ask for something from others."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import streamvla as sv
from streamvla.core.errors import ConfigError, SpecMismatchError
from streamvla.core.interfaces import unclear_to
from streamvla.model.checkpoint import load_checkpoint, save_checkpoint
from streamvla.model.clarity import Clarity
from streamvla.model.methods.registry import METHODS
from streamvla.policy import ModelPolicy, load_policy, resolve_checkpoint
from streamvla.robots.registry import suite_tasks, training_instructions
from streamvla.robots.typing_errors import misspelt
from streamvla.runtime.drivers.stages import ContextReady
from streamvla.runtime.processes.handoff import Delivered, decode, encode
from streamvla.studies.clarity import sentences, share_unclear
from streamvla.testing.fakes import ScriptedPolicy, StillRobot, unit_space
from streamvla.trace import InstructionRephrased, InstructionUnclear, Sent, read_trace

SAID = sorted({text for task in suite_tasks("all") for text in training_instructions(task)})


@cache
def shipped(method: str = "action-flow") -> ModelPolicy:
    return load_policy(resolve_checkpoint(None, method))


def clarity() -> Clarity:
    found = load_checkpoint(resolve_checkpoint()).clarity
    assert found is not None
    return found


@pytest.mark.parametrize("method", list(METHODS))
def test_every_training_instruction_is_clear(method):
    """To every policy that ships, with a typing error or two as well."""
    stream = np.random.default_rng(0)
    for text in SAID:
        assert unclear_to(shipped(method), text) is None
        assert unclear_to(shipped(method), misspelt(text, stream)) is None


def test_the_shipped_clarity_is_of_the_training_instructions():
    """Of all 47 tasks, no fewer and no more, calibrated at a miss rate of 2 %."""
    assert clarity().instructions == tuple(SAID)
    assert clarity().miss_rate == 0.02


def test_nine_in_ten_unclear_sentences_are_told():
    """Those of both lists, the one that was written after the measure was chosen included."""
    unclear = sentences().unclear
    for name in ("unclear, first half", "unclear, second half"):
        assert share_unclear(clarity(), [(text,) for text in unclear[name]], None) > 0.9


def test_one_in_fifty_clear_sentences_is_called_unclear():
    """At most, of the held-out and independent phrasings with typing errors."""
    found = sentences()
    assert share_unclear(clarity(), [*found.heldout, *found.independent], 5) <= 0.02


def test_no_words_are_unclear():
    """Nor are words that nobody said, or function words alone; the clarity is then 0."""
    for text in ("", "  ", "flurb the wibble", "of in on at", "12 !!"):
        assert shipped().clarity(text) == 0
        assert unclear_to(shipped(), text) == 0


def test_a_policy_without_clarity_says_so():
    """It declares none, calls nothing unclear, and refuses to tell."""
    found = load_checkpoint(resolve_checkpoint())
    policy = ModelPolicy(found.build_model(), found.spec, found.method, found.normalisation)
    assert policy.spec.unclear_up_to is None
    assert unclear_to(policy, "flurb the wibble") is None
    with pytest.raises(ConfigError, match="clarity"):
        policy.clarity("press")


def test_clarity_travels_with_a_checkpoint(tmp_path):
    """What was saved is loaded; without one the header has no such field."""
    found = load_checkpoint(resolve_checkpoint())
    given = Clarity(("press the red button",), 0.3, 0.05)
    save_checkpoint(tmp_path / "with.safetensors", replace(found, clarity=given))
    assert load_checkpoint(tmp_path / "with.safetensors").clarity == given
    save_checkpoint(tmp_path / "without.safetensors", replace(found, clarity=None))
    assert load_checkpoint(tmp_path / "without.safetensors").clarity is None
    assert b"clarity" not in (tmp_path / "without.safetensors").read_bytes()[:100_000]


def test_a_clarity_without_content_is_refused():
    """No instruction names anything, or the threshold would call all of them unclear."""
    with pytest.raises(ConfigError, match="0 training instructions"):
        Clarity((), 0.2, 0.02)
    with pytest.raises(ConfigError, match="threshold"):
        Clarity(("press",), 1.0, 0.02)


PERIOD_NS = 50_000_000


class _Judging(ScriptedPolicy):
    """Understands "go" and nothing else."""

    def __init__(self, told: float = 0.1) -> None:
        super().__init__(unit_space(), 10, PERIOD_NS)
        self.spec = replace(self.spec, unclear_up_to=0.25)
        self.told = told

    def clarity(self, instruction: str) -> float:
        return 1.0 if instruction == "go" else self.told


def test_a_clarity_outside_0_to_1_is_refused():
    """Whoever measures in per cent is told."""
    with pytest.raises(SpecMismatchError, match="number from 0 to 1"):
        unclear_to(_Judging(40.0), "dance")


@pytest.mark.parametrize(
    "unclear", [None, ("", 0.0), ("flurb the wibble", 0.125), ("лево\0 left", 0.2)]
)
@pytest.mark.parametrize("frozen", [(), ("front",), ("front", "wrist")])
def test_an_unclear_instruction_crosses_to_the_executor_process(unclear, frozen):
    """With frozen views or without; a null byte becomes a space."""
    seen = ContextReady(3, None, frozen, ((0.5, 1.0),), unclear=unclear)
    result = decode(encode(Delivered(1, 2, seen))).result
    assert isinstance(result, ContextReady)
    expected = None if unclear is None else (unclear[0].replace("\0", " "), unclear[1])
    assert (result.frozen, result.unclear) == (frozen, expected)


@pytest.mark.parametrize(
    "rephrased", [None, ("shove it", "push the puck", 0.75), ("a\0b", "", -0.5)]
)
@pytest.mark.parametrize("unclear", [None, ("shove it", 0.125)])
@pytest.mark.parametrize("frozen", [(), ("front", "wrist")])
def test_what_is_read_instead_crosses_to_the_executor_process(rephrased, unclear, frozen):
    """With what else is told or without; a null byte becomes a space."""
    seen = ContextReady(3, None, frozen, unclear=unclear, rephrased=rephrased)
    result = decode(encode(Delivered(1, 2, seen))).result
    assert isinstance(result, ContextReady)
    expected = rephrased and (rephrased[0].replace("\0", " "), *rephrased[1:])
    assert (result.rephrased, result.unclear, result.frozen) == (expected, unclear, frozen)


class _Rephrasing(ScriptedPolicy):
    """Reads everything but "go" as that."""

    def __init__(self) -> None:
        super().__init__(unit_space(), 10, PERIOD_NS)
        self.spec = replace(self.spec, rephrases=True)

    def told(self, instruction: str) -> tuple[str, float]:
        return "go", 1.0 if instruction == "go" else 0.5


@pytest.mark.parametrize(("said", "times"), [("go", 0), ("move on", 1), ("move on " * 90, 1)])
def test_what_is_read_instead_stands_in_the_trace_once(said, times, tmp_path):
    """Nothing for an instruction that is read as it stands; else before the policy's first action,
    however often it is observed."""
    robot = StillRobot(unit_space(), PERIOD_NS)
    sv.simulate(_Rephrasing(), robot, seconds=3, instruction=said, trace=tmp_path / "trace.jsonl")
    events = read_trace(tmp_path / "trace.jsonl").events
    found = [event for event in events if isinstance(event, InstructionRephrased)]
    expected = (said[:200], "go", 0.5)
    assert [(each.instruction, each.phrase, each.similarity) for each in found] == [
        expected
    ] * times
    acted = next(e.t_ns for e in events if isinstance(e, Sent) and e.source == "policy")
    assert all(each.t_ns <= acted for each in found)


@pytest.mark.parametrize(("said", "times"), [("go", 0), ("dance", 1), ("dance " * 90, 1)])
def test_an_unclear_instruction_stands_in_the_trace_once(said, times, tmp_path):
    """Before the first action of the policy, with its clarity, however often it is observed."""
    robot = StillRobot(unit_space(), PERIOD_NS)
    sv.simulate(_Judging(), robot, seconds=3, instruction=said, trace=tmp_path / "trace.jsonl")
    events = read_trace(tmp_path / "trace.jsonl").events
    found = [event for event in events if isinstance(event, InstructionUnclear)]
    assert [(each.instruction, each.clarity) for each in found] == [(said[:200], 0.1)] * times
    acted = next(e.t_ns for e in events if isinstance(e, Sent) and e.source == "policy")
    assert all(each.t_ns <= acted for each in found)
