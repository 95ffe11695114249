"""The result of a sweep: its schema, its pooled figures, and damage to its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from streamvla.core.errors import ConfigError
from streamvla.evaluation.comparison import (
    FIGURES,
    KEY,
    TASK_FIGURES,
    comparison_schema,
    episodes_csv,
    pooled_figures,
    read_comparison,
)
from tests.evaluation.json_schema import violations

SAMPLE = Path(__file__).parent / "compare_sample.json"


def test_the_sample_follows_the_schema():
    """The result that ships with the tests is what the schema says."""
    assert list(violations(json.loads(SAMPLE.read_text()), comparison_schema())) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda result: result.update(schema="streamvla-compare/0"), "$.schema"),
        (lambda result: result.pop("cells"), "$: without cells"),
        (lambda result: result.update(more=1), "$: more"),
        (lambda result: result["cells"][0].update(success="1"), "$.cells[0].success"),
        (lambda result: result["cells"][1]["paired"].pop("ci"), "$.cells[1].paired"),
        (lambda result: result["plan"].update(accelerators=[3]), "$.plan.accelerators[0]"),
        (lambda result: result["plan"].update(tasks=[]), "$.plan.tasks"),
        (lambda result: result["episodes"][2].update(seed=0.5), "$.episodes[2].seed"),
        (lambda result: result["episodes"][2]["figures"].update(actions=-1), "actions"),
        (lambda result: result.update(crc32="xyz"), "$.crc32"),
    ],
)
def test_the_schema_refuses_what_is_none(change, found):
    """A missing, another, or an additional field is a violation that names its place."""
    result = json.loads(SAMPLE.read_text())
    change(result)
    assert found in " ".join(violations(result, comparison_schema()))


def test_a_changed_byte_of_a_result_is_noticed(tmp_path):
    """One digit changed: refused with how to make the file anew."""
    assert read_comparison(SAMPLE)["plan"]["tasks"] == ["point", "point-moved"]
    path = tmp_path / "result.json"
    path.write_text(SAMPLE.read_text().replace('"successes": 2', '"successes": 1', 1))
    with pytest.raises(ConfigError, match=r"is damaged .* run the same `streamvla compare` again"):
        read_comparison(path)


@pytest.mark.parametrize("text", ["{}", '{"schema": "streamvla-compare/0"}', "[]", "no JSON"])
def test_another_file_is_refused(tmp_path, text):
    """What is no result of a sweep is refused by name."""
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"other\.json"):
        read_comparison(path)


def test_cells_follow_from_the_episodes():
    """Successes, counts and paired differences of every cell are those of its episodes."""
    result = read_comparison(SAMPLE)
    first = result["plan"]["rows"][0]
    for cell in (*result["overall"], *result["cells"]):
        own, others = episodes_of(result, cell, {}), episodes_of(result, cell, first)
        assert cell["episodes"] == len(own) > 0
        assert cell["successes"] == sum(each["success"] for each in own)
        assert cell["starved_ticks"] == sum(each["starved_ticks"] for each in own)
        low, high = cell["success_ci"]
        assert low <= cell["success"] <= high
        if cell["paired"] is None:
            assert {name: cell[name] for name in first} == first
            continue
        differences = [a["success"] - b["success"] for a, b in zip(own, others, strict=True)]
        assert cell["paired"]["difference"] == sum(differences) / len(differences)


def episodes_of(result, cell, row):
    """Figures of the episodes of a cell, or of another row in its place."""
    place = {name: cell[name] for name in KEY[:-1] if cell[name] is not None} | row
    return [
        each["figures"]
        for each in result["episodes"]
        if all(each[name] == value for name, value in place.items())
    ]


def test_the_table_has_a_row_an_episode():
    """Key, figures, and an empty cell for what is not known."""
    result = read_comparison(SAMPLE)
    head, *rows = episodes_csv(result).splitlines()
    assert head.split(",") == [*KEY, *FIGURES]
    assert len(rows) == len(result["episodes"])
    assert rows[0].startswith("point,expert,synchronous,paper-20hz,1,none,1000000,True,success,,")


def test_pooled_ratios_are_of_sums():
    """T_action of two episodes is Σ length / Σ actions, not the mean of the two."""
    figures = pooled_figures([episode(10, 500, "success", 9.0), episode(30, 3000, "time", None)])
    assert figures["t_action_ms"] == 3500 / 40
    assert figures["halt_ms_per_observation"] == 0
    assert (figures["judged"], figures["successes"]) == (2, 1)
    assert (figures["score"], figures["score_ci"]) == (9.0, None)
    assert figures["end_reasons"] == {"success": 1, "time": 1}
    assert figures["action_age_ms"] == {"count": 40, "mean": 250.0, "p50": 200.0, "max": 300}
    assert figures["measured"] == {"force_n": {"last": 1.0, "max": 4.0}}
    assert {figures[name] for name in TASK_FIGURES} == {None}


def episode(actions, length_ms, reason, score):
    """Figures of one, as a record has them."""
    age = {"count": actions, "mean": 10 * actions, "p50": 10 * actions, "max": 10 * actions}
    none = {"count": 0, "mean": None, "p50": None, "max": None}
    counts = dict.fromkeys(
        ("observations", "generations", "fallbacks", "deadline_misses", "starved_ticks"), 1
    )
    return {
        **dict.fromkeys(("completion_time_s", "startup_ms", "tail_ms", "mean_lead"), None),
        **dict.fromkeys(("early_accept_rate", "seam_ratio"), None),
        **dict.fromkeys(TASK_FIGURES, None),
        **counts,
        "success": reason == "success",
        "end_reason": reason,
        "score": score,
        "longest_halt_ms": 0.0,
        "actions": actions,
        "unanswered_stimuli": 0,
        "later_observations": 0,
        "window": {"length_ns": length_ms * 10**6, "idle_ns": 0, "actions": actions, "cycles": 2},
        "action_age_ms": age,
        "loop_time_ms": none,
        "reaction_ms": none,
        "smoothness": {"sparc": None},
        "measured": {"force_n": {"last": 1.0, "max": 4.0}} if score else {},
    }
