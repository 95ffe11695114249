"""The report: honest, self-contained, and at home in a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from streamvla.core.clock import NS_PER_MS
from streamvla.core.errors import ConfigError
from streamvla.evaluation.metrics import aggregate, metrics_of
from streamvla.evaluation.report.charts import buffer_depth_svg, halt_histogram_svg
from streamvla.evaluation.report.report import (
    ReportContext,
    ReportRun,
    headline,
    report_html,
    write_report,
)
from streamvla.evaluation.report.timeline import TimelineRun, overview_svg, timeline_svg
from streamvla.evaluation.report.video import write_video
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.executors.base import Executor
from streamvla.runtime.executors.synchronous import Synchronous
from streamvla.runtime.timing.latency import named_profile
from streamvla.trace import Ended, Failed, ObserveRequested, Trace, TraceEvent
from tests.evaluation.simulation import ARM, simulate_arm

PROFILE = named_profile("paper-20hz")
CONTEXT = ReportContext(
    title="Circling, 2 episodes",
    profile=PROFILE.label,
    emulated=True,
    command="streamvla run --task <circle>",
    commit="abc1234",
    seeds=[0, 1, 2, 7],
    machine={"cpu": "Some CPU", "cores": 2},
)
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--v=0",
    "--virtual-time-budget=2000",
]


def report_run(label: str, episodes: list[list[TraceEvent]], *videos: Path) -> ReportRun:
    period_ns = PROFILE.execute_ns
    figures = aggregate([metrics_of(events, period_ns, "grid", ARM) for events in episodes])
    traces = [Trace({}, events, complete=True) for events in episodes]
    return ReportRun(label, traces, figures, "grid", period_ns, videos)


def driven(label: str, executor: Executor, *videos: Path) -> ReportRun:
    episodes = [
        simulate_arm(PROFILE, executor, observations=5, seed=seed, success=True) for seed in (0, 1)
    ]
    return report_run(label, episodes, *videos)


@pytest.fixture(scope="module")
def runs() -> list[ReportRun]:
    return [driven("synchronous", Synchronous()), driven("lead 3", ActionFlow(3))]


def timelines(runs: list[ReportRun]) -> list[TimelineRun]:
    return [run.timelines()[0] for run in runs]


def shapes(svg: str, kind: str) -> int:
    """How many rectangles of a class a picture has, legend excluded."""
    paint = "url(#sv-hatch-" if kind == "hatch" else f'class="sv-{kind}"'
    return svg.count(paint) - 1


def test_the_timeline_draws_every_stage_and_every_halt(runs: list[ReportRun]) -> None:
    """Three synchronous cycles: 3 observations, 30 flow steps, 2 halts. Lead 3: no halt."""
    synchronous = timeline_svg(timelines(runs)[:1])
    assert shapes(synchronous, "observe") == 3
    assert shapes(synchronous, "generate") == 30
    assert shapes(synchronous, "hatch") == 2
    assert synchronous.count(">450 ms</text>") == 2
    assert shapes(timeline_svg(timelines(runs)[1:]), "hatch") == 0


def test_pictures_are_self_contained_documents_that_describe_themselves(
    runs: list[ReportRun],
) -> None:
    """Well-formed XML, a label for those who cannot see it, no script, nothing outside."""
    lines = timelines(runs)
    for svg in (
        timeline_svg(lines),
        overview_svg(lines),
        halt_histogram_svg([("a", [1.0, 2.0]), ("b", [])]),
        buffer_depth_svg(lines, 1000 * NS_PER_MS),
    ):
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        assert len(root.get("aria-label") or "") > 20
        assert "<script" not in svg
        assert set(re.findall(r"https?://[^\"]+", svg)) == {"http://www.w3.org/2000/svg"}
        assert not re.search(r'"-?(nan|inf)', svg)


def test_labels_cannot_break_out_of_the_page() -> None:
    """Text from outside is text, in pictures and page alike."""
    hostile = '<script>alert("x")</script>'
    run = report_run(hostile, [simulate_arm(PROFILE, ActionFlow(0), observations=3)])
    html = report_html([run], CONTEXT)
    assert hostile not in html
    assert "&lt;circle&gt;" in html


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ((20.0, 25.0), "lead 2 halts 12× less and acts 2.0× faster than synchronous."),
        ((0.0, 50.0), "lead 2 never halts and acts 1.0× faster than synchronous."),
        ((1.0, 50.0), "lead 2 halts 240× less and acts 1.0× faster than synchronous."),
        ((480.0, 100.0), "lead 2 halts 2.0× more and acts 2.0× slower than synchronous."),
        (
            (None, None),
            "lead 2 and synchronous cannot be compared: too few whole observation cycles.",
        ),
    ],
)
def test_the_headline_says_what_is_so(
    figures: tuple[float | None, float | None], expected: str
) -> None:
    """Better is called better, worse is called worse, and nothing is claimed of nothing."""
    new = dict(zip(("halt_ms_per_observation", "t_action_ms"), figures, strict=True))
    old = {"halt_ms_per_observation": 240.0, "t_action_ms": 50.0}
    assert headline(new, old, "lead 2", "synchronous") == expected


def test_the_page_shows_the_figures_and_asks_nothing_of_the_network(
    runs: list[ReportRun], tmp_path: Path
) -> None:
    """Headline, table and settings are there; no address but the SVG namespace is."""
    path = tmp_path / "deep" / "report.html"
    write_report(path, runs, CONTEXT)
    html = path.read_text(encoding="utf-8")
    for words in (
        "Lead 3 never halts",
        "2/2, 34–100 %",
        "emulated latency",
        "0–2, 7",
        "Some CPU, 2 cores",
    ):
        assert words in html
    assert set(re.findall(r"https?://[^\"' )]+", html)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"(src|href)=\"(?!data:)", html)
    identifiers = re.findall(r'\bid="([^"]+)"', html)
    assert len(identifiers) == len(set(identifiers))


@pytest.mark.parametrize(
    ("episodes", "complaint"),
    [
        ([], "no episode was run"),
        ([[]], "the policy never sent an action"),
        (
            [[ObserveRequested(0, 0, 0), Failed(9, "observe", "boom"), Ended(9, False, "failed")]],
            "episode 1: observe failed: boom",
        ),
    ],
    ids=["none", "empty", "failed"],
)
def test_a_run_that_failed_is_shown_as_such(
    runs: list[ReportRun], episodes: list[list[TraceEvent]], complaint: str
) -> None:
    """Dashes and the reason instead of zeros that look like a success."""
    html = report_html([runs[0], report_run("broken", episodes)], CONTEXT)
    assert complaint in html
    assert "cannot be compared" in html
    row = html.split('role="rowheader">broken</th>')[1].split("</tr>")[0]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row)
    assert set(cells) <= {"–", "– / –", "0 % <small>0/1, 0–79 %</small>"}


def test_a_report_needs_distinct_runs_and_a_known_baseline(runs: list[ReportRun]) -> None:
    """What cannot be told apart cannot be compared."""
    with pytest.raises(ConfigError, match="its own label"):
        report_html([runs[0], runs[0]], CONTEXT)
    with pytest.raises(ConfigError, match="its own label"):
        report_html([], CONTEXT)
    with pytest.raises(ConfigError, match="'rtc' is none of the runs"):
        report_html(runs, replace(CONTEXT, baseline="rtc"))
    gone = replace(runs[0], videos=[Path("gone.mp4")])
    with pytest.raises(ConfigError, match=r"cannot read video gone\.mp4"):
        report_html([gone], CONTEXT)


@pytest.mark.skipif(BROWSER is None, reason="needs chromium: apt-get install chromium")
def test_the_report_opens_in_a_browser_without_a_console_message(tmp_path: Path) -> None:
    """Headless Chromium runs the script, loads the videos, and has nothing to complain about."""
    clip = tmp_path / "clip.mp4"
    write_video(clip, [np.full((48, 64, 3), 9 * i, np.uint8) for i in range(20)], fps=20)
    runs = [driven("synchronous", Synchronous(), clip, clip), driven("lead 2", ActionFlow(2), clip)]
    page = tmp_path / "report.html"
    write_report(page, runs, CONTEXT)
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    assert re.search(r'data-clock="">0\.0 / 1\.0 s<', done.stdout)
    assert "▶ Play</button>" in done.stdout
