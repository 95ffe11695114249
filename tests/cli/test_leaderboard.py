"""The leaderboard takes what was driven on its protocol, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streamvla.cli.main import execute
from streamvla.core.errors import ConfigError
from streamvla.core.seals import sealed_json
from streamvla.evaluation.comparison import read_comparison
from streamvla.studies.leaderboard import (
    FOLDER,
    PAGE,
    Protocol,
    add_entry,
    fresh_page,
    protocol,
    read_entries,
)

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "tests/evaluation/compare_sample.json"
EMPTY = "# Page\n\n<!-- leaderboard -->\n<!-- /leaderboard -->\n\nmore\n"
SEEDS = (1_000_000, 1_000_001)
ON = Protocol(7, "point", ("point",), ("paper-20hz",), (1,), ("none",), SEEDS, 15.0, "grid", 0.0)


def result(folder: Path, **changed: Any) -> Path:
    """A result file of that protocol, made from the sample; the plan's fields may be changed."""
    found = read_comparison(SAMPLE)
    row = {"policy": "expert", "executor": "action-flow:auto"}
    fixed = {"task": "point", "profile": "paper-20hz", "accelerators": 1, **row}
    for part in ("cells", "episodes"):
        found[part] = [
            each
            for each in found[part]
            if all(each[name] == value for name, value in fixed.items())
        ]
    plan = {"tasks": ["point"], "profiles": ["paper-20hz"], "accelerators": [1], "rows": [row]}
    found["plan"] |= plan | changed
    path = folder / "result.json"
    path.write_text(sealed_json(found), encoding="utf-8")
    return path


def entered(folder: Path, name: str = "Mine", sees: str = "two cameras") -> Path:
    link = "https://example.org/mine"
    return add_entry(result(folder), folder / "entries", name, link, sees, ON)


def test_an_entry_becomes_a_line_of_the_table(tmp_path: Path) -> None:
    """Name with its link, inputs, executor, success with Wilson's interval, halting, misses."""
    assert entered(tmp_path).name == "mine.json"
    page = fresh_page(EMPTY, read_entries(tmp_path / "entries", ON), ON)
    assert (
        "| [Mine](https://example.org/mine) | two cameras | `action-flow:auto` | – | "
        "100 % (34–100) | 0 | 0.0 |" in page
    )
    assert (
        "Protocol 7: suite `point` (`point`), 2 episodes a task at seeds 1000000 to 1000001" in page
    )
    assert page.startswith("# Page\n")
    assert page.endswith("<!-- /leaderboard -->\n\nmore\n")
    assert fresh_page(page, read_entries(tmp_path / "entries", ON), ON) == page


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tasks", ["point", "point-moved"]),
        ("profiles", ["paper-20hz@0.5"]),
        ("accelerators", [2]),
        ("stress", ["none", "light"]),
        ("seeds", [1_000_000, 1_000_002]),
        ("seeds", [1_000_000]),
        ("seconds", 30.0),
        ("pacing", "event"),
        ("jitter", 0.1),
    ],
)
def test_another_protocol_is_refused_by_field(tmp_path: Path, field: str, value: Any) -> None:
    """The message names the field, what it is, what it should be, and the command to run."""
    with pytest.raises(ConfigError, match=rf"result\.json: {field} .*expected .*streamvla compare"):
        add_entry(
            result(tmp_path, **{field: value}), tmp_path, "Mine", "https://example.org", "it", ON
        )


def test_an_entry_of_an_older_protocol_is_found(tmp_path: Path) -> None:
    """Files that are there are checked as well as new ones."""
    entered(tmp_path)
    with pytest.raises(ConfigError, match=r"mine\.json: seconds 15\.0, expected 20\.0"):
        read_entries(tmp_path / "entries", replace(ON, seconds=20.0))


def test_a_damaged_entry_is_refused(tmp_path: Path) -> None:
    """A digit that was changed by hand is noticed, and so is a foreign file."""
    path = entered(tmp_path)
    path.write_text(path.read_text().replace("true", "false", 1))
    with pytest.raises(ConfigError, match=r"mine\.json is no entry \(its checksum is wrong"):
        read_entries(tmp_path / "entries", ON)
    path.write_text("[]")
    with pytest.raises(ConfigError, match="is no entry"):
        read_entries(tmp_path / "entries", ON)


@pytest.mark.parametrize(
    ("name", "link", "sees"),
    [
        ("", "https://example.org", "it"),
        ("two\nlines", "https://example.org", "it"),
        ("Mine", "javascript:alert(1)", "it"),
        ("Mine", "https://example.org/) [x](y", "it"),
        ("Mine", "https://example.org", "x" * 81),
    ],
)
def test_words_that_a_table_cannot_show_are_refused(
    tmp_path: Path, name: str, link: str, sees: str
) -> None:
    """Empty or long names, line breaks, and what is no web address."""
    with pytest.raises(ConfigError, match="expected"):
        add_entry(result(tmp_path), tmp_path, name, link, sees, ON)


def test_names_cannot_break_the_table(tmp_path: Path) -> None:
    """Marks of Markdown and HTML are shown as they are."""
    entered(tmp_path, "a|b <i> [c]")
    page = fresh_page(EMPTY, read_entries(tmp_path / "entries", ON), ON)
    assert r"[a\|b &lt;i&gt; \[c\]](https" in page


def test_executors_are_shown_as_they_are(tmp_path: Path) -> None:
    """In code only a pipe is escaped: GitHub shows every other backslash and entity there."""
    path = entered(tmp_path)
    fields = json.loads(path.read_text())
    fields.pop("crc32")
    shown = {"a*b_[c]": "`a*b_[c]`", r"a\b<c>&": r"`a\b<c>&`", "a|b": r"`a\|b`", "a`b": "``a`b``"}
    for name, code in shown.items():
        for part in (fields["plan"]["rows"], fields["cells"]):
            part[0]["executor"] = name
        path.write_text(sealed_json(fields))
        page = fresh_page(EMPTY, read_entries(tmp_path / "entries", ON), ON)
        assert f"| two cameras | {code} |" in page


def test_the_best_comes_first_and_experts_apart(tmp_path: Path) -> None:
    """Sorted by score, then success; who sees the truth stands in a table of its own."""
    low = entered(tmp_path, "Low")
    entered(tmp_path, "High")
    entered(tmp_path, "Expert", "truth")
    fields = json.loads(low.read_text())
    fields.pop("crc32")
    fields["cells"][0]["solved"] = [False, True]
    low.write_text(sealed_json(fields))
    rows = read_entries(tmp_path / "entries", ON)
    assert [row.name for row in rows] == ["Expert", "High", "Low"]
    policies, _, experts = fresh_page(EMPTY, rows, ON).partition("**Experts**")
    assert policies.index("High") < policies.index("Low")
    assert "Expert" not in policies
    assert "| truth |" in experts


def test_the_command_makes_the_page_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once it is made, --check agrees; a page that is out of date fails it."""
    (tmp_path / PAGE).parent.mkdir(parents=True)
    (tmp_path / PAGE).write_text(EMPTY, encoding="utf-8")
    root = ["--root", str(tmp_path)]
    assert execute(["leaderboard", "--check", *root]) != 0
    assert "is out of date" in capsys.readouterr().err
    assert execute(["leaderboard", *root]) == 0
    assert execute(["leaderboard", "--check", *root]) == 0
    assert "No policy has been entered yet." in (tmp_path / PAGE).read_text(encoding="utf-8")


def test_an_entry_needs_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    """--add without a name, or a name without --add, says what is missing."""
    assert execute(["leaderboard", "--add", "x.json", "--name", "a"]) != 0
    assert "--link, --sees" in capsys.readouterr().err
    assert execute(["leaderboard", "--name", "a"]) != 0
    assert "--add" in capsys.readouterr().err


def test_the_page_of_the_documents_is_up_to_date() -> None:
    """Table and protocol in docs/leaderboard.md are those of the entries and of the suite."""
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    assert fresh_page(text, read_entries(ROOT / FOLDER, protocol()), protocol()) == text
