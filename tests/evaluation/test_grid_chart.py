"""The picture of the grid: every cell is in it, and can be told from the others."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np

from streamvla.evaluation.report.charts import GridPoint, gate_svg, success_halt_svg
from streamvla.evaluation.report.grid_report import grid_html

PANELS = ["none", "state", "state + training"]


def test_every_cell_is_drawn_once_in_its_panel():
    """One mark a cell, and the one without early observation in each panel of its policy."""
    points = [
        GridPoint("none", 0, "state", 150.0, 0.9, (0.8, 0.95)),
        GridPoint("always", 3, "none", 0.0, 0.5, (0.4, 0.6)),
        GridPoint("always", 3, "state", 0.0, 0.7, (0.6, 0.8)),
        GridPoint("adaptive", 3, "state + training", 4.0, 0.92, (0.8, 0.97)),
    ]
    svg = success_halt_svg(points, PANELS)
    told = [title.text for title in ElementTree.fromstring(svg).iter() if "title" in title.tag]
    assert told.count("always, lead 3, none: 50 %, 0 ms") == 1
    assert told.count("none, lead 0, state: 90 %, 150 ms") == 2
    assert told.count("adaptive, lead 3, state + training: 92 %, 4 ms") == 1
    for name in PANELS:
        assert f">{name}<" in svg


def test_cells_that_agree_do_not_hide_each_other():
    """Marks of equal halt and success stand apart, each on a thread from where it belongs."""
    rules = ("always", "random", "action-norm", "adaptive", "second-look")
    points = [GridPoint(rule, 3, "state", 0.0, 0.9, (0.8, 0.95)) for rule in rules]
    points.append(GridPoint("none", 0, "state", 150.0, 0.9, (0.8, 0.95)))
    drawn = ElementTree.fromstring(success_halt_svg(points, PANELS))
    numbers = [each for each in drawn.iter() if each.get("class") == "sv-mark"]
    places = sorted(float(each.attrib["x"]) for each in numbers)
    assert len(places) == len(rules)
    assert min(np.diff(places)) >= 17.0  # marks are 16 wide
    threads = [each for each in drawn.iter() if each.get("class") == "sv-thread"]
    ends = {(float(each.attrib["x1"]), float(each.attrib["x2"])) for each in threads}
    assert {end for _, end in ends} >= set(places)
    assert {begin for begin, end in ends if end in places} == {places[0]}


def test_the_page_of_a_grid_has_every_cell_and_the_figure():
    """A cell's figures stand in its row; what was not measured is a dash; names are escaped."""
    cell = {"run": "always, lead 3, <none>", "success": 0.5, "success_ci": [0.4, 0.6]}
    cell |= {"success_difference": -0.25, "halt_ms_per_observation": 0.0, "t_action_ms": 50.0}
    cell |= {"mean_lead": 2.5, "action_error": None}
    html = grid_html([cell], "<svg></svg>", {"Command": "streamvla grid"})
    row = html[html.index("<tbody") : html.index("</tbody>")]
    for shown in (
        "&lt;none&gt;",
        "50 % <small>40–60 %",
        ">-25<",
        ">0.0<",
        ">50.0<",
        ">2.50<",
        ">–<",
    ):
        assert shown in row
    assert "<svg></svg>" in html
    assert "streamvla grid" in html


def test_a_grid_without_halts_or_cells_is_a_picture_too():
    """No point, or all at zero halt, divides by nothing."""
    ElementTree.fromstring(success_halt_svg([], PANELS))
    flat = [GridPoint("always", 3, "state", 0.0, 1.0, (1.0, 1.0))]
    ElementTree.fromstring(success_halt_svg(flat, PANELS))


def test_the_gates_misses_are_drawn_apart():
    """Four pairs: accepted, accepted although large (the one square), and two refused."""
    change, predicted = (
        np.array([[1.0], [9.0], [9.0], [2.0]]),
        np.array([[1.0], [2.0], [8.0], [7.0]]),
    )
    svg = gate_svg(["side"], change, predicted, (5.0,), (5.0,))
    shapes = [each for each in ElementTree.fromstring(svg).iter() if "title" in each.tag]
    assert len(shapes) == 4
    drawn = svg[svg.index("</defs>") :]
    marks = re.findall(r'class="sv-(execute|halt|observe)"', drawn)
    assert [marks.count(kind) for kind in ("execute", "halt", "observe")] == [1, 1, 2]
    assert "50 % accepted, 50 % of the large changes" in svg
    ElementTree.fromstring(gate_svg(["side"], change[:0], predicted[:0], (5.0,), (5.0,)))
