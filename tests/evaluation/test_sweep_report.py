"""The page about a sweep: its numbers are those of the file, and it needs nothing from outside."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from streamvla.core.errors import ConfigError
from streamvla.evaluation.comparison import read_comparison
from streamvla.evaluation.report.sweep import (
    SCORE,
    SUCCESS,
    Cell,
    Estimate,
    Outcome,
    Sweep,
    overall,
)
from streamvla.evaluation.report.sweep_charts import stress_svg, task_panels
from streamvla.evaluation.report.sweep_file import sweep_of
from streamvla.evaluation.report.sweep_report import (
    Filmed,
    sweep_html,
    two_files_html,
    worst_episodes,
    write_sweep_report,
)
from streamvla.evaluation.report.video import write_video
from tests.evaluation.test_report import opened

SAMPLE = Path(__file__).parent / "compare_sample.json"
SOLVED = 9.0


def cell(
    executor: str,
    scores: Sequence[float | None],
    *,
    task: str = "follow",
    scale: float = 1.0,
    stress: str = "",
    figures: Mapping[str, float] | None = None,
) -> Cell:
    """One whose episodes, at seeds 0, 1, …, had these scores."""
    known = [score for score in scores if score is not None]
    found = {key: Estimate(value) for key, value in (figures or {}).items()}
    if known:
        found |= {
            "score": Estimate(sum(known) / len(known), min(known), max(known)),
            "success": Estimate(sum(score >= SOLVED for score in known) / len(known)),
        }
    outcomes = {
        seed: Outcome(None if score is None else score >= SOLVED, score)
        for seed, score in enumerate(scores)
    }
    return Cell(
        task, "expert", executor, "paper-20hz", scale, 1, stress, len(scores), found, outcomes
    )


def sweep(*cells: Cell) -> Sweep:
    return Sweep("Executors compared", cells, "streamvla compare", "abc1234", seeds=[0, 1])


WAIT = cell("synchronous", [2.0, 4.0], figures={"halt_ms_per_observation": 450.0})
FLOW = cell("action-flow:3", [9.0, 10.0], figures={"halt_ms_per_observation": 0.0})
HURRIED = [cell("synchronous", [1.0, 1.5], scale=2.0), cell("action-flow:3", [8.0, 9.5], scale=2.0)]
BOTH = sweep(WAIT, FLOW, *HURRIED)


def section(html: str, heading: str) -> str:
    """From a heading to the end of its section."""
    return html[html.index(heading) :].partition("</section>")[0]


def test_the_numbers_on_the_page_are_those_of_the_cells() -> None:
    """Means, the paired difference, halting and success stand where they belong."""
    html = sweep_html(BOTH)
    assert "At latency ×1, action-flow:3 reaches 9.5 of 10, synchronous 3.0 of 10" in html
    assert "Difference on the same 2 episodes: +6.5 (+6.0 to +7.0)." in html
    head = section(html, "Score over all tasks")
    row = head[head.index(">action-flow:3<") :].partition("</tr>")[0]
    assert re.findall(r"([\d.]+) of 10<small>", row) == ["9.5", "8.8"]
    assert re.findall(r"(\d+) % solved", row) == ["100", "50"]
    beside = section(html, "Two beside each other")
    assert "+6.5" in beside
    assert "2 pairs" in beside
    assert re.search(r">450 ms<.*>0 ms<", beside, re.DOTALL)


def test_every_cell_of_a_result_file_is_on_the_page() -> None:
    """Success, halting and completion time of the sample file are read from its own cells."""
    result = read_comparison(SAMPLE)
    html = sweep_html(sweep_of(result))
    cells = section(html, "Every cell (")
    rows = re.findall(r'<tr role="row"><th scope="row".*?</tr>', cells, re.DOTALL)
    assert len(rows) == len(result["cells"])
    for found, row in zip(result["cells"], rows, strict=True):
        assert f">{found['task']}, {found['policy']}/{found['executor']}, " in row
        assert f'data-label="success, %">{100 * found["success"]:.0f}<small>' in row
        halt = found["halt_ms_per_observation"]
        shown = "–" if halt is None else f"{halt:.0f}"
        assert f'data-label="halting, ms">{shown}<' in row
        misses = found["deadline_misses"] / found["episodes"]
        assert f'data-label="deadline misses">{misses:.1f}<' in row


def test_the_command_on_the_page_drives_the_episodes_of_the_file() -> None:
    """It names the tasks, rows, profiles and seeds of the plan."""
    result = read_comparison(SAMPLE)
    command = sweep_of(result).command
    for words in (
        "--tasks point point-moved ",
        "expert/synchronous expert/action-flow:auto expert-chunks/async-chunks",
        "--profiles paper-20hz paper-20hz@0.5",
        "--accelerators 1 2",
        "--episodes 2 --seed 1000000",
    ):
        assert words in command


def test_another_file_is_refused() -> None:
    """What is no result of the command is an error, not a page with gaps."""
    with pytest.raises(ConfigError, match="no result of `streamvla compare`"):
        sweep_of({"plan": {}, "run": {}})
    with pytest.raises(ConfigError, match="no cell"):
        sweep_html(sweep())


def test_the_page_needs_nothing_from_outside() -> None:
    """The only address in it is the name of the SVG language."""
    stressed = [cell("synchronous", [1.0, 2.0], stress=name) for name in ("light", "mass", "lag")]
    html = sweep_html(sweep(*BOTH.cells, *stressed))
    assert set(re.findall(r"https?://[^\"' )]+", html)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(link|script|img|iframe)[^>]*(src|href)=\"(?!data:)", html)
    assert "@import" not in html


def test_names_are_escaped() -> None:
    """Tasks, executors, policies, stresses and titles cannot put markup into the page."""
    evil = '<b>&"x'
    one = replace(WAIT, task=evil, executor=evil, policy=evil, profile=evil)
    other = replace(one, policy="other", stress=evil)
    cells = [one, other, replace(other, stress=""), replace(one, executor="plain")]
    made = Sweep(evil, cells, evil, evil, evil, {"cpu": evil}, [0], {evil: evil})
    html = sweep_html(made)
    assert "<b>" not in html
    assert "&lt;b&gt;&amp;" in html


@pytest.mark.parametrize(
    ("cells", "heading"),
    [
        ([WAIT], "Score of synchronous, follow"),
        ([WAIT, FLOW], "Score by executor, follow"),
        (BOTH.cells, "Score by executor and latency (×1 to ×2), follow"),
        (
            [WAIT, replace(WAIT, stress="light", task="press", policy="other")],
            "Score by policy and stress, 2 tasks",
        ),
        (
            [replace(WAIT, profile=f"delay-{ms}ms") for ms in (0, 150)],
            "Score by latency (delay-0ms ×1 to delay-150ms ×1), follow",
        ),
    ],
)
def test_the_heading_names_what_was_varied(cells: list[Cell], heading: str) -> None:
    """Policies, executors, latencies and stresses of which there is one are left out."""
    assert f"<h1>{heading}</h1>" in sweep_html(sweep(*cells))


def test_executors_are_compared_at_a_latency_that_is_not_zero() -> None:
    """Without latency all do equally well: another profile or scale is the reference."""
    delays = [replace(WAIT, profile=f"delay-{ms}ms") for ms in (0, 150, 450)]
    assert sweep(*delays).reference == "delay-150ms ×1"
    assert sweep(*(replace(WAIT, scale=scale) for scale in (0.0, 0.5))).reference == "×0.5"
    assert sweep(*(replace(WAIT, scale=scale) for scale in (0.0, 0.5, 1.0))).reference == "×1"


LIGHT = [replace(WAIT, stress="light:2"), replace(FLOW, stress="light:2")]
HEAVY = [replace(cell("synchronous", [0.0, 1.0]), stress="heavy:1")]


def test_a_sweep_under_stress_alone_says_so() -> None:
    """Ways of driving are compared under its first stress, no loss is claimed, and every stress has
    a column of what was reached."""
    html = sweep_html(sweep(*LIGHT, *HEAVY))
    assert "there is no nominal condition to compare with" in html
    assert "At latency ×1 under light:2, action-flow:3 reaches 9.5 of 10" in html
    assert "Difference on the same 2 episodes: +6.5" in html
    assert "At latency ×1, under stress light:2, over the episodes" in html
    assert "What stress costs" not in html
    assert "without stress minus" not in html
    under = section(html, "Score under each stress")
    assert re.findall(r'data-label="([^"]+)">([^<]+)<', under) == [
        ("light:2", "3.0 of 10"),
        ("heavy:1", "0.5 of 10"),
        ("light:2", "9.5 of 10"),
        ("heavy:1", "–"),
    ]
    chosen = [(cell.stress, seed) for cell, seed in worst_episodes(sweep(*LIGHT, *HEAVY))]
    assert chosen == [("light:2", 0), ("light:2", 1)]
    panels = task_panels(sweep(*LIGHT), SCORE)
    assert "3.0 of 10 at ×1" in panels[0]


def test_two_files_are_compared_under_a_stress_that_both_have() -> None:
    """None where both have it, else a common one; without a common one they are refused."""
    both = two_files_html(sweep(WAIT, *LIGHT), sweep(WAIT, *HEAVY), ("a", "b"))
    assert "without stress" in section(both, "What drives in both")
    light = two_files_html(sweep(WAIT, *LIGHT), sweep(*HEAVY, *LIGHT), ("a", "b"))
    assert "under stress light:2" in section(light, "What drives in both")
    with pytest.raises(ConfigError, match=r"no stress in common \(none; heavy:1\)"):
        two_files_html(sweep(WAIT), sweep(*HEAVY), ("a", "b"))


def test_what_was_not_measured_is_a_dash() -> None:
    """A cell without figures, one that was not driven, and episodes that nobody judged."""
    unjudged = cell("action-flow:3", [None, None], task="press")
    html = sweep_html(sweep(WAIT, FLOW, unjudged))
    row = section(html, "Every cell (")
    row = row[row.index("press, action-flow:3") :].partition("</tr>")[0]
    assert re.findall(r'data-label="([^"]+)">([^<]+)<', row) == [
        ("episodes", "2"),
        ("score, of 10", "–"),
        ("success, %", "–"),
        ("halting, ms", "–"),
    ]
    assert "1 of 2 tasks" in section(html, "Score over all tasks")
    assert "None" not in html
    assert "nan" not in html


def test_one_executor_alone_has_a_page() -> None:
    """Without another one there is nothing beside it, and one latency is no axis."""
    html = sweep_html(sweep(WAIT))
    assert "synchronous: score 3.0 of 10 at latency ×1" in html
    assert "Two beside each other" not in html
    assert "What stress costs" not in html
    assert "task by task" in html
    assert "against latency" not in html


def test_success_is_the_goal_where_nothing_has_a_score() -> None:
    """A suite without scores is compared by success, with Newcombe's interval of pairs."""
    plain = [
        replace(
            each,
            figures={"success": each.figures["success"]},
            outcomes={s: Outcome(o.solved) for s, o in each.outcomes.items()},
        )
        for each in (WAIT, FLOW)
    ]
    html = sweep_html(sweep(*plain))
    assert "action-flow:3 reaches 100 %, synchronous 0 %" in html
    assert "Score" not in html.partition("What the figures mean")[0]


def test_the_first_is_said_to_be_unbeaten_where_it_is() -> None:
    """The sentence praises nobody who does worse than the first."""
    assert "nothing exceeds action-flow:3: 9.5 of 10" in sweep_html(sweep(FLOW, WAIT))


@pytest.mark.parametrize("factors", [["light"], ["light", "mass"], ["light", "mass", "delay"]])
def test_stress_is_drawn_for_any_number_of_factors(factors: list[str]) -> None:
    """From three on as a radar, else as bars; either tells every loss, and a gain is no loss."""
    losses = {
        "synchronous": [Estimate(2.0 + i) for i, _ in enumerate(factors)],
        "action-flow:3": [Estimate(-0.5), *[None] * (len(factors) - 1)],
    }
    svg = stress_svg(factors, losses, SCORE)
    drawn = ElementTree.fromstring(svg)
    told = [title.text or "" for title in drawn.iter() if title.tag.endswith("title")]
    assert [words for words in told if words.startswith("synchronous")] == [
        f"synchronous, {name}: {2.0 + i:.1f} of 10" for i, name in enumerate(factors)
    ]
    assert "action-flow:3, light: -0.5 of 10" in told
    assert ("<path" in svg) == (len(factors) > 2)
    numbers = re.findall(r'(?:width|height)="(-?[\d.]+)"', svg)
    assert all(float(number) >= 0 for number in numbers)


def test_the_loss_by_stress_is_over_the_same_episodes() -> None:
    """An episode that only one of the two conditions has does not count."""
    stressed = replace(WAIT, stress="light", outcomes={1: Outcome(False, 1.0)})
    html = section(sweep_html(sweep(WAIT, stressed)), "What stress costs")
    assert 'data-label="light">3.0<' in html


def test_panels_share_their_axis_and_clip_nothing() -> None:
    """Every task has a panel, the largest value lies within it, and a gap is left out."""
    cells = [
        cell("synchronous", [1.0], task=task, scale=s, figures={"deadline_misses": s * n})
        for n, task in enumerate(("a", "b"), start=1)
        for s in (1.0, 4.0)
        if (task, s) != ("a", 4.0)
    ]
    made = sweep(*cells)
    figure = next(figure for figure in made.figures if figure.key == "deadline_misses")
    panels = task_panels(made, figure)
    assert len(panels) == 2
    circles = [
        [
            float(each.attrib["cy"])
            for each in ElementTree.fromstring(svg).iter()
            if "cy" in each.attrib
        ]
        for svg in panels
    ]
    assert [len(each) for each in circles] == [1, 2]
    assert min(min(each) for each in circles) > 44
    labels = [re.findall(r'text-anchor="end">([\d.]+)<', svg) for svg in panels]
    assert labels[0] == labels[1]


def test_two_files_are_compared_on_their_common_episodes() -> None:
    """What drives in both is paired; files without anything in common are refused."""
    faster = replace(WAIT, outcomes={1: Outcome(False, 6.0), 9: Outcome(True, 10.0)})
    html = two_files_html(sweep(WAIT, FLOW), sweep(faster), ("a.json", "<b>.json"))
    assert "expert/synchronous (&lt;b&gt;.json) against expert/synchronous (a.json)" in html
    row = section(html, "What drives in both").partition("<tbody")[2]
    assert re.findall(r">([^<>]+)</?(?:td|small)", row)[:5] == [
        "4.0 of 10",
        "6.0 of 10",
        "+2.0",
        "1 pair",
        "0 %",
    ]
    with pytest.raises(ConfigError, match="expected one policy and executor that both have"):
        two_files_html(sweep(WAIT), sweep(FLOW), ("a", "b"))
    with pytest.raises(ConfigError, match="no latency in common"):
        two_files_html(sweep(WAIT), sweep(HURRIED[0]), ("a", "b"))
    with pytest.raises(ConfigError, match="paper-20hz ×1; edge-20hz ×1"):
        two_files_html(sweep(WAIT), sweep(replace(WAIT, profile="edge-20hz")), ("a", "b"))


def test_the_worst_failures_are_chosen_of_different_executors() -> None:
    """Two a task: the lowest score of one, then of another; what was solved is not among them."""
    cells = [
        cell("synchronous", [2.0, 1.0, 3.0]),
        cell("action-flow:3", [9.5, 8.0, 4.0]),
        cell("synchronous", [9.5, 10.0, 0.5], task="press"),
        cell("synchronous", [9.5, 10.0], task="solved"),
    ]
    chosen = [(c.task, c.executor, seed) for c, seed in worst_episodes(sweep(*cells))]
    assert chosen == [
        ("follow", "synchronous", 1),
        ("follow", "action-flow:3", 2),
        ("press", "synchronous", 2),
    ]
    only = worst_episodes(sweep(cells[0]))
    assert [seed for _, seed in only] == [1, 0]


def test_the_page_opens_in_a_browser_with_its_videos(tmp_path: Path) -> None:
    """Chromium has nothing to complain about; a video that is gone is an error with its name."""
    clip = tmp_path / "clip.mp4"
    write_video(clip, [np.full((48, 64, 3), 9 * i, np.uint8) for i in range(10)], fps=20)
    page = tmp_path / "report.html"
    write_sweep_report(page, BOTH, [Filmed(WAIT, 0, clip)])
    dom = opened(page, tmp_path)
    assert 'src="data:video/mp4;base64,' in dom
    assert "synchronous, ×1, seed 0, 2.0 of 10" in dom
    clip.unlink()
    with pytest.raises(ConfigError, match=r"cannot read video .*clip\.mp4"):
        sweep_html(BOTH, [Filmed(WAIT, 0, clip)])


def test_intervals_of_success_are_shown() -> None:
    """Over all tasks by Wilson, from every episode: 2 of 4 is 15 to 85 %."""
    estimate = BOTH.condition("action-flow:3", "×2")[0]
    found = overall([WAIT, FLOW], SUCCESS)
    assert found is not None
    assert SUCCESS.interval(found) == "15–85"
    assert overall([replace(estimate, outcomes={})], SUCCESS) == Estimate(0.5)
