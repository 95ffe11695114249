"""Every figure in README and docs is the one in docs/results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from streamvla.core.errors import ConfigError
from streamvla.evaluation.results import (
    Column,
    Results,
    check,
    documents,
    generate,
    read_results,
    render_source,
    render_table,
    render_value,
    update,
    write_results,
)

ROOT = Path(__file__).parents[2]

RESULTS = Results(
    name="demo",
    command="streamvla run --profile paper-20hz",
    commit="abc1234",
    date="2025-01-02",
    seeds=[0, 1],
    machine={"cpu": "Some CPU", "cores": 2, "python": "3.11.7"},
    rows=[
        {
            "run": "synchronous",
            "t_action_ms": 95.04,
            "success": 0.9,
            "success_ci": [0.7, 0.97],
            "starved_ticks": 180,
            "action_age_ms": {"p50": 640.0},
        },
        {"run": "lead 2", "t_action_ms": None, "success": 1.0, "success_ci": None},
    ],
    columns={
        "run": Column("executor"),
        "t_action_ms": Column("T_action (ms)"),
        "success": Column("success", digits=0, percent=True, interval="success_ci"),
        "starved_ticks": Column("starved ticks"),
        "action_age_ms.p50": Column("age p50 (ms)", digits=0),
    },
    tables={"main": ["run", "success", "t_action_ms", "starved_ticks", "action_age_ms.p50"]},
)

PAGE = """# Page

<!-- results:demo:main -->
<!-- /results -->

<!-- results:demo:main@lead 2 -->
<!-- /results -->

An action every <!-- results:demo:synchronous:t_action_ms --><!-- /results --> ms.
<!-- results:demo:source --><!-- /results -->
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    write_results(tmp_path / "results", RESULTS)
    path = tmp_path / "page.md"
    path.write_text(PAGE, encoding="utf-8")
    return path


def test_documents_agree_with_the_results() -> None:
    """No figure in README or docs was edited by hand, and none is out of date."""
    assert check(documents(ROOT), ROOT / "docs" / "results") == []


def test_every_results_file_can_be_read() -> None:
    """Each file under docs/results is whole, and draws all of its tables."""
    for path in sorted((ROOT / "docs" / "results").glob("*.json")):
        results = read_results(path)
        assert results.name == path.stem
        assert all(render_table(results, table) for table in results.tables)


def test_a_table_shows_figures_intervals_and_gaps() -> None:
    """Percentages carry their interval, nested figures are reached, missing ones are a dash."""
    assert render_table(RESULTS, "main").splitlines() == [
        "| executor | success | T_action (ms) | starved ticks | age p50 (ms) |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| synchronous | 90 % (70 %–97 %) | 95.0 | 180 | 640 |",
        "| lead 2 | 100 % | – | – | – |",
    ]
    assert render_value(RESULTS, "synchronous", "success") == "90 %"


def test_rows_are_chosen_by_name_in_the_order_asked_for(page) -> None:
    """Names are separated by semicolons, for they may have commas in them."""
    text = "<!-- results:demo:main@lead 2; synchronous -->\n<!-- /results -->"
    shown = generate(text, page.parent / "results", "here").splitlines()
    assert [row.split("|")[1].strip() for row in shown[3:5]] == ["lead 2", "synchronous"]


def test_the_source_names_the_commits_at_which_episodes_were_driven() -> None:
    """Those of finished episodes that were found, if they are others than the command's own."""
    assert "(episodes driven" not in render_source(replace(RESULTS, driven_at=["abc1234"]))
    mixed = render_source(replace(RESULTS, driven_at=["abc1234", "def5678", "fed4321"]))
    assert "commit abc1234 (episodes driven at def5678, fed4321), 2025" in mixed


def test_what_rounds_to_nothing_has_no_sign() -> None:
    """A loss of 0.2 points is shown as 0 %, one of 0.7 as −1 %."""
    rows = [{"run": "small", "success": -0.002}, {"run": "larger", "success": -0.007}]
    table = render_table(replace(RESULTS, rows=rows, tables={"main": ["run", "success"]}), "main")
    assert "| small | 0 % |" in table
    assert "| larger | -1 % |" in table


def test_a_table_may_show_some_of_its_rows() -> None:
    """Rows named behind an @ come in that order; a row that is not there is refused by name."""
    runs = render_table(RESULTS, "main", ["lead 2", "synchronous"]).splitlines()[2:]
    assert [line.split("|")[1].strip() for line in runs] == ["lead 2", "synchronous"]
    with pytest.raises(ConfigError, match="did you mean 'lead 2'"):
        render_table(RESULTS, "main", ["lead 3"])


def test_updating_fills_the_regions_and_then_all_agrees(page: Path) -> None:
    """A document is rewritten once; the second time there is nothing to do."""
    folder = page.parent / "results"
    assert len(check([page], folder)) == 4
    assert update([page], folder) == [page]
    text = page.read_text(encoding="utf-8")
    assert "| synchronous | 90 % (70 %–97 %) | 95.0 | 180 | 640 |\n" in text
    assert "every <!-- results:demo:synchronous:t_action_ms -->95.0<!-- /results --> ms" in text
    assert "`streamvla run --profile paper-20hz`, commit abc1234, 2025-01-02, seeds 0 to 1" in text
    assert "on Some CPU, 2 cores, Python 3.11.7.<!--" in text
    assert update([page], folder) == []
    assert check([page], folder) == []


@pytest.mark.parametrize(("old", "new", "line"), [("180", "179", 3), ("-->95.0<", "-->94.9<", 16)])
def test_an_edited_number_is_found(page: Path, old: str, new: str, line: int) -> None:
    """Changing one digit of a generated figure is reported, with its line."""
    folder = page.parent / "results"
    update([page], folder)
    page.write_text(page.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    (complaint,) = check([page], folder)
    assert complaint.startswith(f"page.md, line {line}: results:demo:")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("<!-- results:demo:main -->\n", "not closed"),
        ("<!-- results:demo:mian --><!-- /results -->", "did you mean 'main'"),
        ("<!-- results:demo:lead 3:t_action_ms --><!-- /results -->", "did you mean 'lead 2'"),
        ("<!-- results:demo:lead 2:t_action --><!-- /results -->", "did you mean 't_action_ms'"),
        ("<!-- results:gone:main --><!-- /results -->", "cannot read results"),
    ],
)
def test_a_region_that_names_nothing_is_an_error(page: Path, text: str, complaint: str) -> None:
    """Wrong names are complained about with a suggestion, never left standing."""
    page.write_text(text, encoding="utf-8")
    folder = page.parent / "results"
    assert complaint in " ".join(check([page], folder))
    with pytest.raises(ConfigError, match=r"page\.md"):
        update([page], folder)


def test_seeds_that_were_chosen_on_are_refused(page: Path) -> None:
    """A table measured on a seed that was looked at while choosing is not written, and found by the
    check if it stands there; marked as seen it is allowed, and the documents say so."""
    folder, looked_at = page.parent / "results", replace(RESULTS, tuning_seeds=[1, 7])
    with pytest.raises(ConfigError, match="1 of its seeds, such as 1, were looked at"):
        write_results(folder, looked_at)
    path = write_results(folder, replace(looked_at, seen=True))
    update([page], folder)
    assert "Seeds seen while choosing." in page.read_text(encoding="utf-8")
    path.write_text(path.read_text().replace('"seen": true', '"seen": false'))
    assert any("were looked at while choosing" in complaint for complaint in check([], folder))


def test_a_file_must_say_which_seeds_were_looked_at(tmp_path: Path) -> None:
    """Without `tuning_seeds` nobody can tell, so it is no results file."""
    path = write_results(tmp_path, RESULTS)
    path.write_text(path.read_text().replace('"tuning_seeds"', '"other_seeds"'))
    with pytest.raises(ConfigError, match="does not say which seeds were looked at"):
        read_results(path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    """A truncated results file is an error that names it."""
    path = tmp_path / "demo.json"
    path.write_text('{"schema": ', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"demo\.json is no results file"):
        read_results(path)
