"""What the site needs that the documents, as files of the repository, do not.

Links that leave docs/, such as `../src/…`, lead to the repository on the web; the comments that
mark generated figures are left out, because Python-Markdown ends a paragraph or a list at a comment
that begins a line; and the navigation lists every decision. These are hooks of MkDocs (mkdocs.yml).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"(?<=\]\()(?P<path>(?:\.\./)+[^()\s#]*)(?P<anchor>#[^()\s]*)?(?=\))")
_MARK = re.compile(r"<!-- (?:results:[^\n]+?|/results) -->")


def on_page_markdown(markdown: str, /, *, page: Any, config: Any, files: Any) -> str:
    """The page without marks, and with every link to a file outside docs/ rewritten."""
    docs = Path(config.docs_dir)
    folder = (docs / page.file.src_uri).parent

    def rewritten(link: re.Match[str]) -> str:
        target = (folder / link["path"]).resolve()
        if target.is_relative_to(docs) or not target.exists():
            return link[0]  # within docs/; or broken, of which MkDocs then warns
        kind = "tree" if target.is_dir() else "blob"
        at = target.relative_to(docs.parent).as_posix()
        return f"{config.repo_url}/{kind}/main/{at}{link['anchor'] or ''}"

    return _LINK.sub(rewritten, _MARK.sub("", markdown))


def on_config(config: Any) -> None:
    """Every file of docs/decisions/ is in the navigation, so that a new one needs no line there."""
    docs = Path(config.docs_dir)
    decisions = [page.relative_to(docs).as_posix() for page in docs.glob("decisions/0*.md")]
    (section,) = [each["Decisions"] for each in config.nav if "Decisions" in each]
    section.extend(sorted(decisions))
