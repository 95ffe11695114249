"""`streamvla collect`: scripted experts → demonstrations; parallel, resumable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streamvla.core.errors import ConfigError
from streamvla.robots.registry import suite_tasks
from streamvla.studies.engines import parse_engine
from streamvla.studies.tables import print_json


@dataclass(frozen=True)
class Collect:
    """Collect demonstrations with scripted experts; run again to resume.

    Attributes:
        out: folder of the dataset; default datasets/SUITE, or datasets/metaworld6.
        suite: all tasks of a suite: metaworld, language, all, memory, point, or one of a package
            that is installed.
        tasks: default: reach, push, button-press-topdown, drawer-open, drawer-close, window-open.
        episodes: per task, rounded up to whole shards of 25.
        engine: local: processes of this machine; ray: a Ray cluster, that of RAY_ADDRESS or one
            found or started here; ray:HOST:PORT.
        workers: processes of the local engine; 0 for one per core.
        seed: with task and index it fixes every episode.
        policy: a checkpoint, or another source (docs/how-to/policies.md), that drives each episode
            until a random step, from where the expert goes on; the labels are the expert's
            throughout (DAgger).
        most_lead: that policy looks with 0 to so many actions pending, drawn for every episode.
        json: print the counts as one JSON object on the last line.
    """

    out: Path | None = None
    suite: str | None = None
    tasks: tuple[str, ...] = ()
    episodes: int = 250
    engine: str = "local"
    workers: int = 0
    seed: int = 0
    policy: str | None = None
    most_lead: int = 0
    json: bool = False

    def __post_init__(self) -> None:
        if self.suite is not None and self.tasks:
            raise ConfigError(
                f"suite {self.suite} and tasks {', '.join(self.tasks)}: expected one of the two"
            )


def collect_command(command: Collect) -> None:
    """Run the command and print its counts."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from streamvla.data.collect import DEFAULT_TASKS, CollectConfig, CollectProgress, collect

    engine = None if command.engine == "local" else parse_engine(command.engine, command.workers)
    named = suite_tasks(command.suite) if command.suite else command.tasks
    config = CollectConfig(
        out=command.out or Path("datasets") / (command.suite or "metaworld6"),
        tasks=named or DEFAULT_TASKS,
        episodes_per_task=command.episodes,
        workers=command.workers,
        seed=command.seed,
        policy=command.policy,
        most_lead=command.most_lead,
    )
    with Progress(
        "[progress.description]{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    ) as bar:
        row = bar.add_task("shards", total=config.shards_per_task * len(config.tasks))

        def show(state: CollectProgress) -> None:
            bar.update(row, completed=state.shards_done)

        state = collect(config, show, engine=engine)
    print(
        f"{config.out}: {state.shards_done} of {state.shards_total} shards; this run made "
        f"{state.episodes} episodes ({state.frames} frames) in {state.attempts} attempts, "
        f"{state.episodes_per_hour:.0f} an hour"
    )
    if command.json:
        print_json(
            {
                "command": "collect",
                "out": str(config.out),
                "shards": state.shards_done,
                "episodes": state.episodes,
                "attempts": state.attempts,
                "frames": state.frames,
                "episodes_per_hour": state.episodes_per_hour,
            }
        )
