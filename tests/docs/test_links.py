"""Links between the documents."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = [ROOT / "docs", ROOT / "examples"]
PAGES = sorted([*ROOT.glob("*.md"), *(page for at in FOLDERS for page in at.rglob("*.md"))])
LINK = re.compile(r"\]\(([^()\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def anchors(page: str) -> set[str]:
    """The `#…` of every heading, as GitHub makes them: "Whose turn is it?" → `whose-turn-is-it`."""
    headings = HEADING.findall(FENCE.sub("", page))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """The relative links of a page that lead to no file, or to no heading of it."""
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        if not target.exists() or (
            anchor and anchor not in anchors(target.read_text(encoding="utf-8"))
        ):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page):
    """Each file that a page links to exists, and has the heading that the link names."""
    assert not broken_links(page)


def test_a_broken_link_is_found(tmp_path):
    """A missing file and a missing heading are found; web addresses and code are left alone."""
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# What it *costs*, in ms\n", encoding="utf-8")
    page.write_text(
        "# Here\n[a](#here) [b](other.md#what-it-costs-in-ms) [c](https://example.org/x)\n"
        "[d](gone.md) [e](other.md#gone) [f](#gone)\n\n```\n[g](code.md)\n# no heading\n```\n",
        encoding="utf-8",
    )
    assert broken_links(page) == ["gone.md", "other.md#gone", "#gone"]
