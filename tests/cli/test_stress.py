"""`eval --stress`: kept apart from episodes without, refused in one line, and felt."""

from __future__ import annotations

import json

import pytest

from streamvla.cli.main import execute
from streamvla.studies.episodes import Eval, Job
from streamvla.trace import read_header, read_trace

EVAL = ("eval", "--policy", "expert", "--tasks", "point", "--workers", "1", "--json")


def figures(capsys, tmp_path, *flags, episodes=2):
    """The JSON object of an evaluation."""
    assert execute([*EVAL, "--episodes", str(episodes), "--out", str(tmp_path), *flags]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_stressed_episodes_are_others(capsys, tmp_path):
    """They have a folder and a header of their own, the same in any order of the factors; network
    and late pictures make them slower; without stress no header knows the word."""
    plain = figures(capsys, tmp_path)
    (path, *_) = tmp_path.rglob("*.jsonl")
    assert "stress" not in path.read_text(encoding="utf-8")
    before = set(tmp_path.rglob("*.jsonl"))
    stressed = figures(capsys, tmp_path, "--stress", "network-delay:3+camera-delay:3")
    again = figures(capsys, tmp_path, "--stress", "camera-delay:3+network-delay:3")
    after = set(tmp_path.rglob("*.jsonl")) - before
    assert len(after) == 2
    for trace in after:
        config = read_header(trace)["config"]
        assert config["stress"] == "camera-delay:3+network-delay:3"
        assert config["stress_sizes"] == {"camera-delay": 200.0, "network-delay": 150.0}
        assert "stress-camera-delay-3+network-delay-3" in trace.parent.parent.name
        assert read_trace(trace).events
    assert again["episodes_per_minute"] is None
    assert again["tasks"] == stressed["tasks"]
    assert stressed["observe_ms"]["mean"] == pytest.approx(plain["observe_ms"]["mean"] + 150)
    assert (plain["stress"], stressed["stress"]) == (None, "camera-delay:3+network-delay:3")


def test_the_header_without_stress_is_as_it_was(tmp_path):
    """Word for word, so that results from before there was stress stay valid."""
    job = Job(Eval(), "shipped", {}, "synchronous", "reach", 1_000_000, tmp_path / "x.jsonl")
    assert json.dumps(job.header()) == (
        '{"command": "eval", "executor": "synchronous", "config": {"profile": "paper-20hz", '
        '"pacing": "grid", "jitter": 0.0, "concurrent": false, "seconds": 15.0, '
        '"instructions": "train", "asked": "own"}, "policy": {}, "task": "reach", '
        '"seed": 1000000}'
    )


@pytest.mark.parametrize(
    ("stress", "why"),
    [
        ("camera-dely:1", "did you mean 'camera-delay'"),
        ("camera-delay", "such as camera-delay:2"),
        ("camera-delay:0", "severity of 1, 2 or 3"),
        ("friction:1", "has none (a property `physics`)"),
    ],
)
def test_a_stress_that_cannot_be_is_refused(capsys, tmp_path, monkeypatch, stress, why):
    """In one line, before any worker starts."""

    def started(*_, **__):
        raise AssertionError("started before it was refused")

    monkeypatch.setattr("streamvla.core.engine.LocalEngine.map_unordered", started)
    assert execute([*EVAL, "--out", str(tmp_path), "--stress", stress]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert why in line
