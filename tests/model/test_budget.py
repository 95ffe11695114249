"""The table of costs in a policy file."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from streamvla.core.budget import BudgetTable
from streamvla.core.errors import CheckpointError
from streamvla.model.checkpoint import (
    budget_of,
    load_checkpoint,
    load_tensors,
    mean_checkpoint,
    save_checkpoint,
    save_tensors,
    write_budget,
)
from streamvla.model.defaults import DEFAULTS_NAME, sha256_of
from tests.core.test_budget import TABLE
from tests.model.test_checkpoint import checkpoint, path  # noqa: F401 (fixtures)


def test_a_policy_without_a_table_has_the_file_it_had(path):  # noqa: F811
    """No field of its header speaks of a budget, and what is loaded has none."""
    assert "budget" not in load_tensors(path)[0]
    assert load_checkpoint(path).budget is None
    assert budget_of(path) is None


@pytest.mark.parametrize("half", [False, True])
def test_a_table_changes_nothing_else(path, checkpoint, half):  # noqa: F811
    """Weights bit for bit as they are stored, in either precision, and every other field; the
    source is left as it was."""
    save_checkpoint(path, checkpoint, half=half)
    before, target = sha256_of(path), path.with_name("with-table.safetensors")
    write_budget(path, target, TABLE)
    assert sha256_of(path) == before
    (one, weights), (two, written) = load_tensors(path), load_tensors(target)
    assert json.loads(json.dumps(one)) == {k: v for k, v in two.items() if k != "budget"}
    assert weights.keys() == written.keys()
    assert all(torch.equal(weights[n], written[n]) for n in weights)
    assert all(weights[n].dtype == written[n].dtype for n in weights)
    assert budget_of(target) == load_checkpoint(target).budget == TABLE


def test_what_is_not_in_the_file_or_not_known_goes_with_the_copy(path):  # noqa: F811
    """The phrasings that `defaults.json` lists, and a header entry of another version."""
    header, tensors = load_tensors(path)
    save_tensors(path, tensors, {**header, "of_another_version": [1, {"a": None}]})
    phrases = {"threshold": 0.3, "goals": [["push the puck"], ["press the button"]]}
    entry = {path.name: {"sha256": sha256_of(path)}}
    path.with_name(DEFAULTS_NAME).write_text(json.dumps({"policies": entry, "phrases": phrases}))
    for target in (path.with_name("one.safetensors"), path.with_name("two.safetensors")):
        write_budget(path, target, TABLE)
        found, path = load_checkpoint(target).phrases, target
        assert found is not None
        assert found.to_json() == phrases
        assert load_tensors(target)[0]["of_another_version"] == [1, {"a": None}]


def test_a_table_may_take_the_place_of_another(path):  # noqa: F811
    """Into the very file, and again: the last one counts, and weights stay."""
    weights = load_tensors(path)[1]
    for table in (TABLE, BudgetTable(TABLE.rows[:1], {})):
        write_budget(path, path, table)
        assert budget_of(path) == table
    assert all(torch.equal(weights[n], each) for n, each in load_tensors(path)[1].items())


def test_a_mean_of_policies_has_no_table(checkpoint):  # noqa: F811
    """It was measured of one of them."""
    measured = replace(checkpoint, budget=TABLE)
    assert mean_checkpoint({"a": measured, "b": checkpoint}).budget is None


def test_a_garbled_table_is_refused(path):  # noqa: F811
    """One line that says what to do."""
    header, tensors = load_tensors(path)
    save_tensors(path, tensors, {**header, "budget": {"rows": [{}]}})
    with pytest.raises(CheckpointError, match="streamvla bench budget"):
        budget_of(path)
