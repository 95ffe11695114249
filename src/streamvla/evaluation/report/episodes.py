"""The part of the report about one episode at a time: the longest first, others by choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import islice
from typing import Any

from streamvla.core.action_space import ActionSpace
from streamvla.core.clock import NS_PER_S
from streamvla.evaluation.report.charts import buffer_depth_svg
from streamvla.evaluation.report.health_chart import happenings, health_svg
from streamvla.evaluation.report.motion_charts import MovingRun, path_svg, speed_svg
from streamvla.evaluation.report.timeline import (
    TimelineRun,
    default_window_ns,
    overview_svg,
    timeline_svg,
)
from streamvla.trace.events import FaultInjected, HealthChanged

MOST_EPISODES = 12
"""So many are on the page at the most; the pictures of each take some 100 kB."""


@dataclass(frozen=True)
class EpisodeRuns:
    """One episode, as every run drove it: the same task and seed each.

    Attributes:
        number: counted from 0.
        header: of the first of its traces.
        lines: one per run; empty ones where a run has no such episode.
        spaces: of each run's robot, where known.
    """

    number: int
    header: Mapping[str, Any]
    lines: Sequence[TimelineRun]
    spaces: Sequence[ActionSpace | None]

    @property
    def name(self) -> str:
        """ "Episode 2: push, seed 7", as far as its header says."""
        task, seed = self.header.get("task"), self.header.get("seed")
        parts = [str(task)] if task else []
        parts += [f"seed {seed}"] if seed is not None else []
        return f"Episode {self.number + 1}" + (f": {', '.join(parts)}" if parts else "")

    @property
    def length_ns(self) -> int:
        """How long it took, all runs together."""
        return sum(line.duration_ns for line in self.lines)


def episodes_html(episodes: Sequence[EpisodeRuns]) -> str:
    """The section: a selector, and for each episode its pictures; the longest is in sight."""
    longest = max(episodes, key=lambda episode: episode.length_ns)
    others = islice((each for each in episodes if each is not longest), MOST_EPISODES - 1)
    shown = sorted([longest, *others], key=lambda episode: episode.number)
    panels = "".join(_panel(each, shown=each is longest) for each in shown)
    return (
        "<section data-episodes><h2>One episode in detail</h2>"
        f"<p>{_which(len(shown), len(episodes))}</p>"
        '<p class="narrow">Pictures scroll sideways.</p>'
        f"{_selector(shown, longest)}{panels}</section>"
    )


def _which(shown: int, episodes: int) -> str:
    if episodes == 1:
        return "Everything that happened in it, on one time axis for all ways of driving."
    left_out = "" if shown == episodes else f" {shown} of {episodes} episodes are on this page."
    return f"The longest episode is shown first; choose another to compare.{left_out}"


def _selector(shown: Sequence[EpisodeRuns], longest: EpisodeRuns) -> str:
    if len(shown) == 1:
        return ""
    options = "".join(
        f'<option value="{each.number}"{" selected" if each is longest else ""}>'
        f"{escape(each.name)}{' (longest)' if each is longest else ''}</option>"
        for each in shown
    )
    return (
        '<div class="controls"><button type="button" data-previous aria-label="Previous episode">'
        f'←</button><select data-choice aria-label="Episode">{options}</select>'
        '<button type="button" data-next aria-label="Next episode">→</button></div>'
    )


def _panel(episode: EpisodeRuns, *, shown: bool) -> str:
    lines, number = episode.lines, episode.number
    took = ", ".join(
        f"{(line.over_ns - line.begin_ns) / NS_PER_S:.1f} s ({line.label})" for line in lines
    )
    faults = any(isinstance(event, FaultInjected) for line in lines for event in line.events)
    moving = _of_one_robot(lines, episode.spaces)
    parts = [
        f"<h3>{escape(episode.name)}</h3><p>It took {escape(took)}.</p>",
        "<h4>Timeline of the beginning</h4><p>Bars: what the accelerator and the robot did; pale "
        "and full green alternate from one generation to the next; hatched: the robot had no "
        "action to carry out. Point at a bar for its times.</p>",
        picture(timeline_svg(lines, name=f"timeline-{number}")),
        "<h4>The whole episode</h4>",
        picture(overview_svg(lines, name=f"overview-{number}")),
    ]
    if moving:
        parts += [
            "<h4>Commanded motion</h4><p>Where the commands put the robot (traces hold commands, "
            "not measurements; steps are summed up). A dashed line with a tick: a seam, where the "
            "actions of a new generation begin. Shaded: a halt.</p>",
            picture(path_svg(moving, name=f"path-{number}")),
            "<h4>Commanded speed</h4><p>Length of each commanded step, action units per control "
            f"period.{' Hatched: a fault was put in on purpose.' if faults else ''}</p>",
            picture(speed_svg(moving, name=f"speed-{number}")),
        ]
    parts += _health(lines, number)
    depth = buffer_depth_svg(lines, default_window_ns(lines), name=f"depth-{number}")
    parts += [
        "<h4>Buffer depth</h4><p>Actions waiting behind the one just sent, at the beginning. A "
        "streaming policy keeps few: what waits grows old.</p>",
        picture(depth),
    ]
    hidden = "" if shown else " hidden"
    return f'<div class="episode" data-panel="{number}"{hidden}>{"".join(parts)}</div>'


def _of_one_robot(
    lines: Sequence[TimelineRun], spaces: Sequence[ActionSpace | None]
) -> list[MovingRun]:
    """Those whose motion is known, with the dimensions of the first of them."""
    known = [(line, space) for line, space in zip(lines, spaces, strict=True) if space is not None]
    return [(line, space) for line, space in known if space.names == known[0][1].names]


def _health(lines: Sequence[TimelineRun], number: int) -> list[str]:
    """Its picture, or one sentence where there is nothing to see; nothing without a grid."""
    if all(line.pacing == "event" for line in lines):
        return []
    changed = any(
        isinstance(event, HealthChanged) and event.t_ns <= line.over_ns
        for line in lines
        for event in line.events
    )
    if not changed and not any(True for line in lines for _ in happenings(line.events)):
        return ["<h4>Health</h4><p>The stream of actions never broke off.</p>"]
    return [
        "<h4>Health</h4><p>State of the stream of actions, from the first one on. Point at a "
        "bar or mark for the cause.</p>",
        picture(health_svg(lines, name=f"health-{number}")),
    ]


def picture(svg: str) -> str:
    """A picture that scrolls sideways where the page is narrow; the keyboard reaches it."""
    return f'<div class="picture" tabindex="0" role="group">{svg}</div>'
