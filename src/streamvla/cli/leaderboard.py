"""`streamvla leaderboard`: enter a policy, and make the table in docs/leaderboard.md anew."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streamvla.core.errors import ConfigError, StreamVLAError
from streamvla.core.files import reason, write_text
from streamvla.studies.leaderboard import (
    FOLDER,
    PAGE,
    add_entry,
    fresh_page,
    protocol,
    read_entries,
)


@dataclass(frozen=True)
class Leaderboard:
    """Make the table of docs/leaderboard.md anew from docs/results/leaderboard, or enter a policy.

    Attributes:
        add: a result.json of `streamvla compare` on the leaderboard's protocol; becomes a file of
            docs/results/leaderboard.
        name: of the policy that is entered.
        link: where it can be found: https://…
        sees: its inputs, a few words; truth for an expert.
        check: change nothing; fail if the table is out of date or an entry of another protocol.
        root: the repository.
    """

    add: Path | None = None
    name: str | None = None
    link: str | None = None
    sees: str | None = None
    check: bool = False
    root: Path = Path()

    def __post_init__(self) -> None:
        words = {"name": self.name, "link": self.link, "sees": self.sees}
        missing = [f"--{each}" for each, text in words.items() if text is None]
        if self.add is not None and (missing or self.check):
            wrong = f"without {', '.join(missing)}" if missing else "with --check"
            raise ConfigError(f"--add {wrong}: an entry needs --name, --link and --sees")
        if self.add is None and len(missing) < len(words):
            raise ConfigError("--name, --link and --sees are of an entry: name its file with --add")


def leaderboard(command: Leaderboard) -> None:
    """Run the command."""
    folder, page, on = command.root / FOLDER, command.root / PAGE, protocol()
    if command.add is not None:
        words = (command.name or "", command.link or "", command.sees or "")
        print(add_entry(command.add, folder, *words, on))
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot read {page}: {reason(error)}; run this in the repository, or name it: --root"
        ) from error
    fresh = fresh_page(text, read_entries(folder, on), on)
    if command.check and fresh != text:
        raise StreamVLAError(f"{page} is out of date; run: streamvla leaderboard")
    if fresh == text:
        print(f"{page} agrees with {folder}")
        return
    write_text(page, fresh)
    print(f"rewrote {page}")
