"""The ways to spend less on vision: each differs in what it is about, and the table is made."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from streamvla.cli.main import execute
from streamvla.studies.focus_recipes import _variant_rows
from streamvla.studies.focus_variants import ROWS, VARIANTS
from streamvla.studies.trainings import Train
from tests.training.sawyer import write_sawyer_dataset


@pytest.mark.parametrize("name", [name for name in VARIANTS if ROWS[name].control != name])
def test_a_variant_and_its_control_train_the_same_weights(name):
    """What differs are settings of crops, focus or pruning alone."""
    own, control = VARIANTS[name], VARIANTS[ROWS[name].control]
    differ = {
        key
        for key in own.changes.keys() | control.changes.keys()
        if own.changes.get(key) != control.changes.get(key)
    }
    assert differ <= {"crops", "crop_leash_px", "pruned_to", "attention", "patch_k", "gate"}
    assert differ <= {field.name for field in dataclasses.fields(Train)}
    assert (own.start, own.brief) == (control.start, control.brief)


@pytest.mark.parametrize("name", ROWS)
def test_a_control_is_its_own_control(name):
    """Every row is compared with one that is made before it."""
    control = ROWS[name].control
    assert ROWS[control].control == control
    assert list(ROWS).index(control) <= list(ROWS).index(name)


def test_the_table_is_trained_driven_and_resumed(tmp_path: Path, capsys):
    """One step of training a variant and its control, one episode each; again, nothing is made
    anew and the figures are the same."""
    dataset = write_sawyer_dataset(tmp_path / "set", episodes=8)
    command = ["focus-variants", "--names", "quarter, K 0.125", "--dataset", f"{dataset}"]
    command += ["--tasks", "reach", "--brief-steps", "1", "--episodes", "1", "--workers", "1"]
    command += ["--threads", "1", "--out", f"{tmp_path}/out", "--json"]
    assert execute(command) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    kept = tmp_path / "out" / "quarter" / "policy.safetensors"
    written = kept.stat().st_mtime_ns
    assert execute(command) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == first
    assert kept.stat().st_mtime_ns == written
    rows = {row["run"]: row for row in _variant_rows("variants", first)}
    assert list(rows) == [
        "mixed attention",
        "trained as cascaded, best quarter; best 1/8 at run time",
    ]
    attended = [row["visual_tokens_attended"] for row in rows.values()]
    assert attended == [78, 10]
