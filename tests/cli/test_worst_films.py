"""Films of the worst episodes: driven again, they end as they did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from streamvla.cli.main import execute
from streamvla.evaluation.comparison import comparison
from streamvla.evaluation.report.sweep import Outcome, Sweep
from streamvla.evaluation.report.sweep_file import sweep_of
from streamvla.studies.compare import Compare, Trial, drive_batch, entries_of, plan_of, trials_of
from streamvla.studies.episodes import close_robots
from streamvla.studies.worst_films import film_worst

RUN = {"commit": "abc", "driven_at": ["abc"], "machine": {}}


def driven(command: Compare) -> tuple[Sweep, list[Trial]]:
    """All episodes of a sweep, in this process."""
    entries = entries_of(command)
    plan = plan_of(command, command.tasks, entries)
    trials = trials_of(command, plan, entries)
    records = [record for _, record, _ in drive_batch(tuple(trials))]
    return sweep_of(comparison(plan, records, RUN)), trials


def test_a_failure_is_filmed_and_a_changed_one_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The video is of the failed episode; what was solved has none; an episode that ends otherwise
    than before is left out, and said."""
    task = "follow-moving-target@2"
    command = Compare(tasks=(task,), executors=("synchronous",), episodes=1, seconds=1.0)
    sweep, trials = driven(command)
    try:
        (film,) = film_worst(sweep, trials, tmp_path)
    finally:
        close_robots()
    assert (
        film.video.name == "follow-moving-target@2-expert-synchronous-paper-20hz-none-1000000.mp4"
    )
    assert film.video.read_bytes()[4:8] == b"ftyp"
    assert not film.cell.outcomes[film.seed].solved

    point = Compare(tasks=("point",), executors=("synchronous",), episodes=1)
    sweep, trials = driven(point)
    assert film_worst(sweep, trials, tmp_path) == []  # it was solved
    cell = sweep.cells[0]
    failed = replace(cell, outcomes={1_000_000: Outcome(False, None)})
    changed = replace(sweep, cells=[failed])
    assert film_worst(changed, trials, tmp_path) == []
    assert "driven again it ends otherwise" in capsys.readouterr().err


def test_compare_writes_a_page_with_the_worst_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """report.html holds the sweep's figures and a film; --no-report writes none; a foreign file in
    its place is not overwritten."""
    command = ["compare", "--tasks", "follow-moving-target@2", "--executors", "synchronous"]
    command += ["--episodes", "1", "--seconds", "1", "--workers", "1", "--out", str(tmp_path)]
    assert execute([*command, "--no-report"]) == 0
    assert not (tmp_path / "report.html").exists()
    assert execute([*command, "--no-report", "--videos", "2"]) == 2
    assert "--videos 2 changes nothing here" in capsys.readouterr().err
    assert execute(command) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "data:video/mp4;base64," in page
    assert "follow-moving-target@2" in page
    (tmp_path / "report.html").write_text("mine", encoding="utf-8")
    assert execute(command) == 2
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "mine"
