"""What the site makes of docs/: links that leave it, and the list of decisions.

The documents are read in two places: as files of the repository, where `../src/…` and `../README.md`
work, and as the site, which has docs/ alone: there they lead to the repository on the web. These are
hooks of MkDocs (mkdocs.yml).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"(?<=\]\()(?P<path>(?:\.\./)+[^()\s#]*)(?P<anchor>#[^()\s]*)?(?=\))")


def on_page_markdown(markdown: str, /, *, page: Any, config: Any, files: Any) -> str:
    """The page with every link to a file outside docs/ rewritten."""
    docs = Path(config.docs_dir)
    folder = (docs / page.file.src_uri).parent

    def rewritten(link: re.Match[str]) -> str:
        target = (folder / link["path"]).resolve()
        if target.is_relative_to(docs) or not target.exists():
            return link[0]  # within docs/; or broken, of which MkDocs then warns
        kind = "tree" if target.is_dir() else "blob"
        at = target.relative_to(docs.parent).as_posix()
        return f"{config.repo_url}/{kind}/main/{at}{link['anchor'] or ''}"

    return _LINK.sub(rewritten, markdown)


def on_config(config: Any) -> None:
    """Every file of docs/decisions/ is in the navigation, so that a new one needs no line there."""
    docs = Path(config.docs_dir)
    decisions = [page.relative_to(docs).as_posix() for page in docs.glob("decisions/0*.md")]
    (section,) = [each["Decisions"] for each in config.nav if "Decisions" in each]
    section.extend(sorted(decisions))
