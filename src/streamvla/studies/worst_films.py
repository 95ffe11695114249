"""Films of the worst episodes of a sweep, which keeps no pictures: they are driven again.

A trial says all that an episode depends on, and virtual time repeats it exactly: what is filmed
ends as the result file says, or it is an error.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from streamvla.core.clock import NS_PER_S
from streamvla.core.errors import ConfigError, StreamVLAError
from streamvla.core.interfaces import Robot, picture_of
from streamvla.core.numbers import exact
from streamvla.core.stress import NOMINAL
from streamvla.evaluation.comparison import EpisodeKey
from streamvla.evaluation.report.sweep import Cell, Sweep
from streamvla.evaluation.report.sweep_report import MOST_WORST, Filmed, worst_episodes
from streamvla.evaluation.report.video import annotate, frame_statuses, write_video
from streamvla.runtime.drivers.film import Captures, evenly
from streamvla.studies.compare import Trial
from streamvla.studies.episodes import close_robots, drive, file_name, policy_of
from streamvla.trace import Ended, MemoryTrace

SIZE = (240, 240)


def film_worst(
    sweep: Sweep, trials: Sequence[Trial], folder: Path, per_task: int = MOST_WORST
) -> list[Filmed]:
    """Drive the worst failures of every task again, and write a video of each into `folder`.

    A robot that draws no pictures for people is not filmed. What cannot be filmed is left out, and
    said on stderr: an episode that ends otherwise than before, because policy or code have changed
    since; a package for videos that is missing; a video that cannot be written.
    """
    of = {trial.episode: trial for trial in trials}
    films: list[Filmed] = []
    try:
        for cell, seed in worst_episodes(sweep, per_task):
            episode = _episode_key(cell, seed)
            path = folder / f"{_name(episode)}.mp4"
            try:
                if episode in of and _film(of[episode], cell, path):
                    films.append(Filmed(cell, seed, path))
            except StreamVLAError as error:
                print(f"No video: {error}", file=sys.stderr)
    finally:
        close_robots()
    return films


def _film(trial: Trial, cell: Cell, path: Path) -> bool:
    """Whether there is a film now: the robot draws."""
    trace, captures = MemoryTrace(), Captures()
    robot = drive(trial.job, trace, captures)
    ends = [event.success for event in trace.events if isinstance(event, Ended)]
    before = cell.outcomes[trial.episode.seed].solved
    if bool(ends and ends[-1]) != bool(before):
        raise ConfigError(
            f"{trial.episode.task}, seed {trial.episode.seed}: driven again it ends otherwise than "
            "the result says, so code or policy have changed since; run the sweep anew in another "
            "--out"
        )
    if not robot.spec.draws_captures or not captures:
        return False
    _write(trial, robot, trace, captures, path)
    return True


def _write(trial: Trial, robot: Robot, trace: MemoryTrace, captures: Captures, path: Path) -> None:
    settings = trial.job.settings
    policy = policy_of(trial.job.source, settings.method, settings.policy_settings())
    period_ns = settings.profile_for(policy.spec).execute_ns
    shown = evenly(captures, period_ns)
    statuses = frame_statuses(
        trace.events, [now_ns for now_ns, _ in shown], period_ns, settings.pacing
    )
    frames = [
        annotate(picture_of(robot, capture, SIZE), status)
        for (_, capture), status in zip(shown, statuses, strict=True)
    ]
    write_video(path, frames, NS_PER_S / period_ns)


def _episode_key(cell: Cell, seed: int) -> EpisodeKey:
    profile = cell.profile if cell.scale == 1 else f"{cell.profile}@{exact(cell.scale)}"
    stress = cell.stress or NOMINAL
    return EpisodeKey(
        cell.task, cell.policy, cell.executor, profile, cell.accelerators, stress, seed
    )


def _name(key: EpisodeKey) -> str:
    words = (key.task, key.policy, key.executor, key.profile, key.stress, key.seed)
    return re.sub(r"[^\w.@-]+", "-", file_name("-".join(map(str, words))))
