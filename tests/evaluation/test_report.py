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

from streamvla.core.action_space import ActionSpace
from streamvla.core.clock import NS_PER_MS
from streamvla.core.errors import ConfigError
from streamvla.evaluation.metrics import aggregate, metrics_of
from streamvla.evaluation.report.charts import buffer_depth_svg, halt_histogram_svg
from streamvla.evaluation.report.episodes import MOST_EPISODES
from streamvla.evaluation.report.health_chart import health_spans, health_svg
from streamvla.evaluation.report.motion_charts import path_svg, speed_svg
from streamvla.evaluation.report.report import (
    ReportContext,
    ReportRun,
    headline,
    report_html,
    write_report,
)
from streamvla.evaluation.report.timeline import TimelineRun, overview_svg, timeline_svg
from streamvla.evaluation.report.timing_charts import (
    age_histogram_svg,
    ages_ms,
    lateness_ms,
    lateness_svg,
)
from streamvla.evaluation.report.video import write_video
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.executors.base import Executor
from streamvla.runtime.executors.synchronous import Synchronous
from streamvla.runtime.timing.latency import named_profile
from streamvla.trace import (
    ActionReady,
    Ended,
    Failed,
    HealthChanged,
    ObserveRequested,
    RecordingLost,
    Sent,
    TicksSkipped,
    Trace,
    TraceEvent,
)
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


def report_run(
    label: str, episodes: list[list[TraceEvent]], *videos: Path, **header: object
) -> ReportRun:
    period_ns = PROFILE.execute_ns
    figures = aggregate([metrics_of(events, period_ns, "grid", ARM) for events in episodes])
    traces = [Trace({**header}, events, complete=True) for events in episodes]
    return ReportRun(label, traces, figures, "grid", period_ns, videos, ARM)


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
        path_svg([(line, ARM) for line in lines]),
        path_svg([(TimelineRun("none", [], 1, "grid"), ARM)]),
        speed_svg([(line, ARM) for line in lines]),
        health_svg(lines),
        age_histogram_svg([("a", [1.0, 2.0]), ("b", [])]),
        lateness_svg([("a", [0.0, 0.2, 30.0]), ("b", []), ("c", [-0.1])]),
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


# --- one episode in detail ---------------------------------------------------------------------


def three_episodes(label: str, executor: Executor) -> ReportRun:
    """The second is the longest."""
    episodes = [simulate_arm(PROFILE, executor, observations=n, success=True) for n in (2, 6, 3)]
    return report_run(label, episodes, task="circle", seed=7)


@pytest.fixture(scope="module")
def several() -> list[ReportRun]:
    return [
        three_episodes("synchronous", Synchronous()),
        three_episodes("lead 3", ActionFlow(3)),
    ]


def test_the_longest_episode_is_in_sight_and_the_others_are_to_choose(several) -> None:
    """The second of three is shown and chosen; every panel names its episode."""
    html = report_html(several, CONTEXT)
    assert re.findall(r'data-panel="(\d)"( hidden)?>', html) == [
        ("0", " hidden"),
        ("1", ""),
        ("2", " hidden"),
    ]
    assert re.findall(r'<option value="\d" selected>([^<]*)<', html) == [
        "Episode 2: circle, seed 7 (longest)"
    ]
    assert html.count("<h3>Episode") == 3
    identifiers = re.findall(r'\bid="([^"]+)"', html)
    assert len(identifiers) == len(set(identifiers))


def test_one_episode_needs_no_selector(runs: list[ReportRun]) -> None:
    """And many are thinned out, the longest always among them."""
    single = [replace(run, episodes=run.episodes[:1]) for run in runs]
    assert "<select data-choice" not in report_html(single, CONTEXT)
    short = simulate_arm(PROFILE, ActionFlow(3), observations=2)
    long = simulate_arm(PROFILE, ActionFlow(3), observations=4)
    html = report_html([report_run("many", [*[short] * 20, long])], CONTEXT)
    assert html.count("<h3>Episode") == MOST_EPISODES
    assert "<h3>Episode 21</h3>" in html
    assert f"{MOST_EPISODES} of 21 episodes" in html


def test_the_path_is_commanded_and_has_a_mark_at_every_seam() -> None:
    """Deltas add up, a hold stands still, and each later generation begins at a dashed line."""
    line = driven("synchronous", Synchronous()).timelines()[0]
    svg = path_svg([(line, ARM)])
    generations = {e.generation for e in line.events if isinstance(e, Sent)} - {-1}
    assert svg.count('class="sv-seam"') == len(generations) - 1 == 4
    assert "4 seams, 4 halts" in svg
    assert svg.count('class="sv-pale"') == 4
    names = [name for name in ARM.names if name in re.findall(r">([^<]*)</text>", svg)]
    assert names == ["dx", "dy", "dz"]  # the gripper is no motion
    commands = [e for e in line.events if isinstance(e, Sent)]
    travelled = sum(e.values[0] for e in commands)
    curve = re.findall(r'<path d="M([^"]*)" class="sv-curve sv-c0"', svg)[1]  # after the legend's
    heights = [float(point.split()[1]) for point in curve.split("L")]
    assert (heights[-1] < heights[0]) == (travelled > 0)


def test_at_most_six_dimensions_are_drawn_those_that_moved_farthest() -> None:
    """Of eight joints the two that moved least are left out."""
    names = tuple(f"j{i}" for i in range(8))
    space = ActionSpace(names, ("absolute",) * 8, (-9.0,) * 8, (9.0,) * 8)
    amounts = (5.0, 1.0, 3.0, 8.0, 0.5, 4.0, 6.0, 7.0)
    commands = [
        Sent(t, t, i, "policy", 0, 0, i, 0, 0, tuple(i * amount for amount in amounts))
        for i, t in enumerate((0, 50, 100))
    ]
    svg = path_svg([(TimelineRun("joints", commands, 50, "grid"), space)])
    assert [name for name in names if f">{name}<" in svg] == ["j0", "j2", "j3", "j5", "j6", "j7"]


def test_health_gaps_and_losses_are_shown_with_their_cause() -> None:
    """In the strip, in the list of gaps; a run without any has neither list nor strip."""
    calm = report_run("calm", [simulate_arm(PROFILE, ActionFlow(3), observations=5)])
    events = list(calm.episodes[0].events)
    middle = len(events) // 2
    t_ns = events[middle].t_ns
    events[middle:middle] = [
        TicksSkipped(t_ns, 9, 12, "the robot took 600 ms"),
        HealthChanged(t_ns, 9, "streaming", "stalled", "12 ticks skipped"),
        RecordingLost(t_ns, 31, "No space left on device"),
    ]
    html = report_html([calm, report_run("bad", [events])], CONTEXT)
    assert "12 control ticks skipped: the robot took 600 ms" in html
    assert "31 events not recorded: No space left on device" in html
    spans = list(health_spans(TimelineRun("bad", events, PROFILE.execute_ns, "grid")))
    assert [(state, cause) for state, _, _, cause in spans] == [
        ("streaming", ""),
        ("stalled", "12 ticks skipped"),
    ]
    quiet = report_html([calm], CONTEXT)
    assert "<h2>Gaps</h2>" not in quiet
    assert "The stream of actions never broke off." in quiet


def test_simulated_commands_are_never_late_and_real_ones_have_a_curve() -> None:
    """Nothing is drawn where nothing was measured."""
    run = report_run("run", [simulate_arm(PROFILE, ActionFlow(3), observations=3)])
    assert "time was simulated" in report_html([run], CONTEXT)
    late = [e._replace(t_ns=e.t_ns + 300_000) if isinstance(e, Sent) else e
            for e in run.episodes[0].events]  # fmt: skip
    html = report_html([report_run("run", [late])], CONTEXT)
    assert "run: p50 0.30 ms, p99 0.30 ms, at most 0.30 ms" in html


def test_ages_end_where_the_episode_does() -> None:
    """What brings the robot to rest is neither an action with an age nor a late command."""
    events = simulate_arm(PROFILE, ActionFlow(3), observations=3)
    sent = [e for e in events if isinstance(e, Sent)]
    assert len(lateness_ms(events)) < len(sent)
    assert len(ages_ms(events)) == sum(e.source == "policy" for e in sent)


def test_a_robot_without_a_task_is_not_said_to_have_failed() -> None:
    """ "no task" instead of 0 of 1 episodes."""
    events = simulate_arm(PROFILE, ActionFlow(3), observations=3)
    html = report_html([report_run("free", [events], has_task=False)], CONTEXT)
    assert "no task." in html
    assert "<small>no task</small>" in html
    assert "solved" not in html


@pytest.mark.parametrize(
    ("passes", "words"),
    [
        ([1, 1], "one flow step = one action"),
        ([4, 4], "one pass = one chunk of actions"),
        ([4, 1], "one pass of the model"),
    ],
)
def test_the_legend_says_what_a_pass_makes(passes: list[int], words: str) -> None:
    """A chunk is no flow step."""
    events = [
        ActionReady(100 * (number + 1), 100 * number, number, number, index)
        for number, actions in enumerate(passes)
        for index in range(actions)
    ]
    svg = timeline_svg([TimelineRun("run", events, 50, "grid")])
    assert f">generate: {words}<" in svg
    assert shapes(svg, "generate") == len(passes)


@pytest.mark.parametrize(
    ("act", "panel", "disabled"),
    [
        ("", 1, []),
        ("find('[data-next]').click()", 2, ["next"]),
        ("find('[data-previous]').click()", 0, ["previous"]),
        (
            "find('[data-choice]').value = '2';"
            "find('[data-choice]').dispatchEvent(new Event('change'))",
            2,
            ["next"],
        ),
    ],
    ids=["as it opens", "next", "previous", "chosen"],
)
def test_an_episode_can_be_chosen_in_a_browser(several, tmp_path, act, panel, disabled) -> None:
    """Exactly one episode is in sight, and the buttons stop at both ends."""
    page = tmp_path / "report.html"
    write_report(page, several, CONTEXT)
    script = f"<script>const find = (what) => document.querySelector(what);{act}</script></body>"
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", script), encoding="utf-8")
    dom = opened(page, tmp_path)
    panels = re.findall(r'data-panel="(\d)"([^>]*)>', dom)
    assert [number for number, rest in panels if "hidden" not in rest] == [str(panel)]
    assert re.findall(r'data-(\w+)=""[^>]*disabled=""', dom) == disabled


def opened(page: Path, folder: Path) -> str:
    """The document as it stands after the scripts ran, without a console message."""
    assert BROWSER is not None, "needs chromium: apt-get install chromium"
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    return done.stdout


def test_the_report_opens_in_a_browser_without_a_console_message(tmp_path: Path) -> None:
    """Headless Chromium runs the script, loads the videos, and has nothing to complain about."""
    clip = tmp_path / "clip.mp4"
    write_video(clip, [np.full((48, 64, 3), 9 * i, np.uint8) for i in range(20)], fps=20)
    runs = [driven("synchronous", Synchronous(), clip, clip), driven("lead 2", ActionFlow(2), clip)]
    page = tmp_path / "report.html"
    write_report(page, runs, CONTEXT)
    dom = opened(page, tmp_path)
    assert re.search(r'data-clock="">0\.0 / 1\.0 s<', dom)
    assert "▶ Play</button>" in dom
