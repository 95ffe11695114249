"""The benchmarks run and give the figures they promise; what those are is not tested here."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from streamvla.cli.main import execute
from streamvla.core.errors import RingError
from streamvla.policy import resolve_checkpoint
from streamvla.studies import control_rate
from streamvla.studies.handoff_cost import _numbered, _verify


def figures_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert execute(("bench", *arguments, "--json")) == 0
    return json.loads(capsys.readouterr().out.rstrip("\n").split("\n")[-1])


def test_realtime_compares_three_loops(capsys):
    """Lateness and misses of the executor process, and the same under `same_process` and
    `sleep_loop`, at a third of a second each; every tick is accounted for."""
    figures = figures_of(capsys, "realtime", "--hz", "50", "--seconds", "0.3", "--priority", "None")
    keys = {"lateness_p50_ms", "lateness_p99_ms", "lateness_max_ms", "miss_rate"}
    for loop in (figures, figures["same_process"], figures["sleep_loop"]):
        assert keys <= set(loop)
    assert 1 <= figures["ticks"] + figures["skipped_ticks"] <= 16
    assert figures["executor"][0].startswith("timer slack")


def test_realtime_takes_cameras_of_a_size(capsys):
    """The same figures, and what a capture costs the control thread; lost ticks by that name."""
    figures = figures_of(
        capsys,
        *("realtime", "--hz", "50", "--seconds", "0.5", "--priority", "None"),
        *("--cameras", "2", "--camera-size", "48x64"),
    )
    assert figures["lost_ticks"] == figures["skipped_ticks"]
    assert figures["captures"] >= 1
    assert 0 < figures["capture_p50_us"] <= figures["capture_p99_us"]
    assert {"same_process", "sleep_loop"} <= set(figures)


def test_realtime_sweeps_over_sizes_and_the_way_of_before(capsys, monkeypatch):
    """A row for every size and way; large frames cost the control thread much more the old way."""
    monkeypatch.setattr(control_rate, "SIZES", {"480p": (480, 640)})
    arguments = ("realtime", "--hz", "20", "--seconds", "1", "--priority", "None", "--cameras", "2")
    rows = figures_of(capsys, *arguments, "--sweep")["rows"]
    assert [(row["size"], row["way"]) for row in rows] == [
        ([480, 640], "shared"),
        ([480, 640], "pickled"),
    ]
    shared, pickled = (row["capture_p50_us"] for row in rows)
    assert 2 * shared < pickled


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--camera-size", "1080"), "expected HEIGHTxWIDTH"),
        (("--cameras", "99"), "expected 0 to 16"),
        (("--sweep",), "needs cameras"),
    ],
)
def test_realtime_refuses_cameras_that_cannot_be(capsys, arguments, message):
    """Before anything is measured, with what was expected."""
    assert execute(("bench", "realtime", *arguments)) == 2
    assert message in capsys.readouterr().err


def test_handoff_verifies_what_it_counts(capsys):
    """Latency both ways of waiting, and throughput of records none of which was torn or lost."""
    figures = figures_of(
        capsys,
        *("handoff", "--records", "5000", "--singles", "200", "--samples", "100"),
        *("--priority", "None"),
    )
    assert figures["torn_or_lost"] == 0
    assert figures["records"] == 5000
    assert {"visible_p99_us", "woken_p99_us", "records_per_s"} <= set(figures)
    assert figures["pops"] >= 5000 / 1024
    assert figures["single_pops"] == 200


@pytest.mark.parametrize(
    "damage",
    [
        lambda records: records[[0, 2, 3]],  # lost
        lambda records: records[[0, 1, 1, 2]],  # repeated
        lambda records: records[[1, 0, 2, 3]],  # out of order
        lambda records: torn(records),
    ],
)
def test_handoff_would_notice(damage):
    """A record that is lost, repeated, out of order or torn ends the benchmark in RingError."""
    _verify(_numbered(7, 4), 7)
    with pytest.raises(RingError, match="torn or lost"):
        _verify(damage(_numbered(7, 4)), 7)


def torn(records: np.ndarray) -> np.ndarray:
    records["values"][2, 3:] = 0
    return records


def test_runtime_gives_plain_figures(capsys):
    """The runtime's own cost, as plain numbers under plain names."""
    figures = figures_of(capsys, "runtime", "--ticks", "200", "--samples", "200")
    assert {"tick_p50_us", "tick_p99_us", "simulated_ticks_per_s"} <= set(figures)


def test_policy_compares_the_methods(capsys):
    """All three methods at one size; an action of action flow takes half of chunk flow's work,
    whose two passes over ten tokens give ten actions."""
    figures = figures_of(capsys, "policy", "--generations", "2")
    assert set(figures["methods"]) == {"action-flow", "chunk-flow", "regression"}
    flow, chunk = (figures["methods"][name] for name in ("action-flow", "chunk-flow"))
    assert {"encode_p50_ms", "first_action_p50_ms", "action_p50_ms"} <= set(flow)
    assert 1.8 * flow["action_mflop"] < chunk["action_mflop"] < 2.2 * flow["action_mflop"]
    assert flow["parameters"] == pytest.approx(chunk["parameters"], rel=0.01)
    assert figures["first_action_ratio"] > 0


def test_observation_measures_every_variant_on_the_same_frames(capsys, tmp_path):
    """A copy of the policy costs the same operations; of a robot that stands, only the first
    observation is encoded with reuse, and every second with one skip at most; of one that moves,
    all."""
    copied = tmp_path / "copy" / "policy.safetensors"
    copied.parent.mkdir()
    shutil.copy(resolve_checkpoint(None), copied)
    figures = figures_of(
        capsys,
        *("observation", "--policies", "shipped", "shipped+reuse=0", "shipped+most_skips=1"),
        *(str(copied), "--tasks", "reach"),
        *("--episodes", "1", "--seconds", "2", "--still", "8", "--rounds", "1"),
    )
    rows = {(row["scene"], row["run"]): row for row in figures["rows"]}
    names = ("shipped", "shipped+reuse=0", "shipped+most_skips=1", "copy/policy.safetensors")
    assert list(rows) == [(scene, name) for scene in ("moving", "still") for name in names]
    for scene in ("moving", "still"):
        whole, _, skipping, copy = (rows[scene, name] for name in names)
        assert (whole["ratio"], whole["encodes_per_observation"]) == (1, 2)
        assert (copy["gflop"], copy["encoder_saved"]) == (whole["gflop"], 0)
        assert skipping["look_ratio"] is None
        assert {each["observations"] for each in (whole, skipping, copy)} == {whole["observations"]}
    assert rows["still", "shipped+most_skips=1"]["encodes_per_observation"] == 1
    assert rows["still", "shipped+reuse=0"]["encoder_saved"] == pytest.approx(7 / 8, abs=0.002)
    assert rows["moving", "shipped+reuse=0"]["encodes_per_observation"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("realtime", "--hz", "0"), "rate 0.0 Hz"),
        (("realtime", "--seconds", "nan"), "nan seconds"),
        (("realtime", "--priority", "100"), "priority 100"),
        (("handoff", "--batch", "0"), "batch 0"),
        (("handoff", "--records", "1"), "at least 100"),
        (("policy", "--generations", "0"), "generations 0"),
        (("observation", "--rounds", "0"), "0 rounds"),
        (("observation", "--policies", "shipped", "shipped"), "named twice"),
        (("observation", "--policies", "expert:reach"), "does not count"),
        (("observation", "--policies", "shipped+reuse=0"), "without settings"),
        (("observation", "--policies", "shipped", "shipped+resue=0"), "expected patch_k"),
        (("observation", "--stress", "camera-noise:9"), "camera-noise"),
    ],
)
def test_settings_out_of_range_are_refused(capsys, arguments, message):
    """A benchmark that would measure nothing ends with exit code 2 and says why."""
    assert execute(("bench", *arguments)) == 2
    assert message in capsys.readouterr().err
