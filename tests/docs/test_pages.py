"""The Python of the documents runs as it stands there.

Of a page, all ```python blocks are one program, run from top to bottom in an empty folder. One with
`title="NAME.py"` is a file of that folder instead; files `test_*.py` are run by pytest. The entry
points of a ```toml block with `title="pyproject.toml"` are those of an installed package. What
cannot run says so: ```python notest.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

import streamvla

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
TITLE = re.compile(r'title="([^"]+)"')

GIVEN = {
    "README.md": """
import numpy as np, streamvla
MyRobot = lambda: streamvla.make_robot("point")
my_model = lambda observation: np.zeros((32, 3))
""",
    "docs/how-to/own-robot.md": """
import numpy as np, streamvla
robot = streamvla.make_robot("point")
policy = streamvla.chunk_policy(lambda observation: np.zeros((32, 3)), robot, horizon=32)
import cv2
film = cv2.VideoWriter("front.avi", cv2.VideoWriter.fourcc(*"MJPG"), 30, (64, 48))
for _ in range(30): film.write(np.full((48, 64, 3), 90, np.uint8))
film.release()
""",
}
"""What a page takes as given: its reader has a robot, a policy, and a film."""

UNTESTED: dict[str, int] = {}
"""How many blocks of a page are marked `notest`, with the reason; those of other pages all run."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language and options, its text, and the line that it starts on."""

    info: str
    code: str
    line: int

    @property
    def language(self) -> str:
        return self.info.split()[0] if self.info.strip() else ""

    @property
    def title(self) -> str | None:
        found = TITLE.search(self.info)
        return found[1] if found else None

    @property
    def runs(self) -> bool:
        return self.language == "python" and "notest" not in self.info.split()


def blocks(text: str) -> list[Block]:
    """All fenced blocks of a page."""
    return [
        Block(found["info"], found["code"], text[: found.start("code")].count("\n"))
        for found in FENCE.finditer(text)
    ]


def script(page: list[Block]) -> str:
    """The blocks without a title as one program, on the lines where they stand in the page."""
    lines: list[str] = []
    for block in page:
        if block.runs and block.title is None:
            lines += [""] * (block.line - len(lines)) + block.code.splitlines()
    return "\n".join(lines) + "\n"


def lay_out(page: list[Block], folder: Path) -> None:
    """Write the files that the blocks are, and the package whose entry points they state."""
    for block in page:
        if block.runs and block.title is not None:
            with (folder / block.title).open("a", encoding="utf-8") as file:
                file.write(block.code)
        elif block.language == "toml" and block.title == "pyproject.toml":
            groups = tomllib.loads(block.code)["project"]["entry-points"]
            points = [
                f"[{group}]\n" + "".join(f"{name} = {at}\n" for name, at in entries.items())
                for group, entries in groups.items()
            ]
            package = folder / "of_the_page-1.0.dist-info"
            package.mkdir(exist_ok=True)
            (package / "METADATA").write_text("Name: of-the-page\nVersion: 1.0\n")
            with (package / "entry_points.txt").open("a", encoding="utf-8") as file:
                file.writelines(points)


def run_in(folder: Path, *arguments: str) -> None:
    """Run Python there; what it prints is shown if it fails."""
    path = os.pathsep.join([str(folder), str(Path(streamvla.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


PAGES = [
    page
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
    if any(block.runs for block in blocks(page.read_text(encoding="utf-8")))
]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    """Every block runs behind those above it, asserts hold, and contracts are kept."""
    text = page.read_text(encoding="utf-8").replace("seconds=30", "seconds=1")
    found = blocks(text)
    lay_out(found, tmp_path)
    given = GIVEN.get(name_of(page), "")
    program = tmp_path / f"{page.stem}_page.py"
    program.write_text(script(found), encoding="utf-8")
    # The page's own lines keep their numbers in a traceback.
    start = f"import runpy, types\n{given}\nrunpy.run_path({str(program)!r}, dict(globals()))"
    run_in(tmp_path, "-c", start)
    for test in sorted(tmp_path.glob("test_*.py")):
        run_in(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", test.name)


@pytest.mark.parametrize("page", sorted(DOCS.glob("write-your-own/*.md")), ids=name_of)
def test_a_page_about_a_part_of_ones_own_checks_itself(page: Path) -> None:
    """It asserts something, inherits a contract, and registers the part."""
    found = blocks(page.read_text(encoding="utf-8"))
    assert "assert " in script(found)
    titles = [block.title or "" for block in found]
    assert any(title.startswith("test_") for title in titles)
    assert "pyproject.toml" in titles


def test_few_blocks_are_left_out() -> None:
    """Those marked `notest` are the ones listed here, with the reason."""
    left_out = {}
    for page in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        found = blocks(page.read_text(encoding="utf-8"))
        count = sum(block.language == "python" and not block.runs for block in found)
        if count:
            left_out[name_of(page)] = count
    assert left_out == UNTESTED


def test_every_decision_is_listed() -> None:
    """The list of decisions links to each page of the folder."""
    listed = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8")
    for page in DOCS.glob("decisions/0*.md"):
        assert f"({page.name})" in listed


def test_a_failing_page_is_found(tmp_path: Path) -> None:
    """An assert that does not hold fails with the page's line; titled blocks become files."""
    found = blocks('```python title="part.py"\nX = 1\n```\n\n```python\nimport part\n'
                   "assert part.X == 2\n```\n")  # fmt: skip
    lay_out(found, tmp_path)
    program = tmp_path / "page.py"
    program.write_text(script(found), encoding="utf-8")
    with pytest.raises(AssertionError, match=r'page\.py", line 7'):
        run_in(tmp_path, str(program))
