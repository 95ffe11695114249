"""The few SVG words the pictures share: scales, ticks, shapes, one palette for light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 1000.0
LEFT = 92.0
RIGHT = 984.0
PANEL, PLOT = 132, 78
"""Height of a panel of a chart, and of the plot at its foot."""
CURVES = 6
"""Kinds of curve, told apart by colour and dashes: "c0" to "c5"."""

STYLE = """
.sv{--sv-paper:#ffffff;--sv-ink:#1c2430;--sv-soft:#5b6675;--sv-track:#eef1f5;--sv-grid:#dce2e9;--sv-observe:#0072b2;
--sv-generate:#e69f00;--sv-execute:#009e73;--sv-halt:#d55e00;--sv-hatch:#fbe3d3;--sv-violet:#9b4f96;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
@media (prefers-color-scheme:dark){.sv{--sv-paper:#151b23;--sv-ink:#e7ebf0;--sv-soft:#9aa6b4;
--sv-track:#202935;--sv-grid:#313c4a;--sv-observe:#4aa8e0;--sv-generate:#e9ab1f;--sv-execute:#22b58a;
--sv-halt:#ff8340;--sv-hatch:#43281a;--sv-violet:#d59ad0}}
.sv text{font-size:13px;fill:var(--sv-soft);font-variant-numeric:tabular-nums}
.sv .sv-name{font-size:15px;font-weight:600;fill:var(--sv-ink)}
.sv .sv-halt-text{font-size:12px;font-weight:600;fill:var(--sv-halt)}
.sv .sv-mark{font-size:11px;font-weight:700;fill:var(--sv-paper)}
.sv .sv-paper{fill:var(--sv-paper)}.sv .sv-track{fill:var(--sv-track)}
.sv .sv-grid{stroke:var(--sv-grid)}.sv .sv-thread{stroke:var(--sv-soft)}
.sv .sv-observe{fill:var(--sv-observe)}.sv .sv-generate{fill:var(--sv-generate)}
.sv .sv-execute{fill:var(--sv-execute)}.sv .sv-other{fill:var(--sv-execute);opacity:.66}
.sv .sv-halt{fill:var(--sv-halt)}.sv .sv-edge{stroke:var(--sv-halt)}
.sv .sv-startup{fill:none;stroke:var(--sv-soft);stroke-dasharray:3 3}
.sv .sv-line{fill:none;stroke:var(--sv-generate);stroke-width:2}
.sv .sv-area{fill:var(--sv-generate);opacity:.2}.sv .sv-end{stroke:var(--sv-soft);stroke-width:2}
.sv .sv-pale{fill:var(--sv-hatch)}
.sv .sv-mark-ink{fill:var(--sv-ink)}
.sv .sv-bar{fill:var(--sv-observe)}.sv .sv-rest{fill:var(--sv-soft);opacity:.45}
.sv .sv-seam{stroke:var(--sv-soft);stroke-width:1;stroke-dasharray:2 3}
.sv .sv-pointer{stroke:var(--sv-ink);stroke-width:1.5;stroke-dasharray:5 3}
.sv .sv-curve{fill:none;stroke-width:2;stroke-linejoin:round}
.sv .sv-c0{stroke:var(--sv-observe)}.sv .sv-c1{stroke:var(--sv-halt);stroke-dasharray:9 3}
.sv .sv-c2{stroke:var(--sv-execute);stroke-dasharray:4 3}
.sv .sv-c3{stroke:var(--sv-violet);stroke-dasharray:9 3 2 3}
.sv .sv-c4{stroke:var(--sv-generate);stroke-dasharray:2 2}
.sv .sv-c5{stroke:var(--sv-soft);stroke-dasharray:12 4 4 4}
.sv .sv-m0{fill:var(--sv-observe)}.sv .sv-m1{fill:var(--sv-halt)}.sv .sv-m2{fill:var(--sv-execute)}
.sv .sv-m3{fill:var(--sv-violet)}.sv .sv-m4{fill:var(--sv-generate)}.sv .sv-m5{fill:var(--sv-soft)}
.sv .sv-whisker{stroke-width:1.5;stroke-dasharray:none;opacity:.7}.sv .sv-faint{opacity:.1}
""".replace("\n", "")

_HATCH = (
    '<pattern id="sv-hatch" width="6" height="6" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><rect width="6" height="6" style="fill:var(--sv-hatch)"/>'
    '<rect width="2" height="6" class="sv-halt"/></pattern>'
)
"""Halts are hatched as well as vermilion: the difference survives without colour."""


@dataclass(frozen=True)
class Scale:
    """Linear map from [0, `top`] to [`start`, `end`] in picture units."""

    top: float
    start: float = LEFT
    end: float = RIGHT

    def __call__(self, value: float) -> float:
        return self.start + (self.end - self.start) * value / self.top

    def ticks(self, most: int = 10) -> list[float]:
        """Round values from 0 to `top`, at most about `most` of them."""
        raw = self.top / most
        magnitude = 10 ** math.floor(math.log10(raw))
        step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= raw * (1 - 1e-9))
        return [i * step for i in range(math.floor(self.top / step + 1e-9) + 1)]


def document(name: str, height: float, label: str, body: list[str]) -> str:
    """A self-contained picture, `WIDTH` units wide; it follows the reader's light or dark theme.

    Args:
        name: of the picture; keeps its hatching apart from other pictures' on the same page.
        label: what it shows, for those who cannot see it.
    """
    picture = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="sv" role="img" '
        f'viewBox="0 0 {WIDTH:g} {height:g}" aria-label="{escape(label)}">'
        f"<style>{STYLE}</style><defs>{_HATCH}</defs>"
        f"{rect(0, WIDTH, 0, height, 'paper')}{''.join(body)}</svg>"
    )
    return picture.replace('sv-hatch"', f'sv-hatch-{name}"').replace(
        "#sv-hatch", f"#sv-hatch-{name}"
    )


def panel(width: float, height: float, label: str, body: Sequence[str]) -> str:
    """A small picture of a page that holds `STYLE` already; arguments as for `document`."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="sv" role="img" '
        f'viewBox="0 0 {width:g} {height:g}" aria-label="{escape(label)}">{"".join(body)}</svg>'
    )


def rect(
    x0: float, x1: float, y: float, height: float, kind: str, title: str = "", gap: float = 0.0
) -> str:
    """A bar from `x0` to `x1`; `kind` is a class of `STYLE`, or "hatch"; `title` shows on hover."""
    width = max(x1 - x0 - gap, 0.6)
    paint = 'fill="url(#sv-hatch)"' if kind == "hatch" else f'class="sv-{kind}"'
    shape = f'<rect x="{x0:.2f}" y="{y:g}" width="{width:.2f}" height="{height:g}" {paint}'
    return f"{shape}><title>{escape(title)}</title></rect>" if title else f"{shape}/>"


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> str:
    """Text whose baseline is at `y`."""
    paint = f' class="sv-{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:g}" text-anchor="{anchor}"{paint}>{escape(content)}</text>'


_SHAPES = {
    "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    "triangle": ((0, -1.3), (1.25, 1), (-1.25, 1)),
}


CURVE_SHAPES = ("circle", "square", "diamond", "triangle")
"""Of the marks on curves, in turn: six colours and four shapes make twelve that differ."""


def curve_mark(x: float, y: float, number: int, title: str = "", size: float = 5) -> str:
    """A mark on the curve of kind `number`."""
    shape = CURVE_SHAPES[number % len(CURVE_SHAPES)]
    return mark(x, y, size, f"m{number % CURVES}", shape, title)


def mark(x: float, y: float, size: float, kind: str, shape: str, title: str = "") -> str:
    """A mark of a scatter plot; shape and colour differ together, so either tells."""
    told = f"<title>{escape(title)}</title>"
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}" class="sv-{kind}">{told}</circle>'
    corners = " ".join(f"{x + size * u:.1f},{y + size * v:.1f}" for u, v in _SHAPES[shape])
    return f'<polygon points="{corners}" class="sv-{kind}">{told}</polygon>'


def line(x0: float, y0: float, x1: float, y1: float, kind: str) -> str:
    return f'<line x1="{x0:.1f}" y1="{y0:g}" x2="{x1:.1f}" y2="{y1:g}" class="sv-{kind}"/>'


def time_axis(scale: Scale, bands: Sequence[tuple[float, float]], unit: str) -> list[str]:
    """Grid lines through each band (top, bottom), and their values beneath the last."""
    parts = []
    foot = bands[-1][1] if bands else 0.0
    for tick in scale.ticks():
        x = scale(tick)
        parts += [line(x, top, x, bottom, "grid") for top, bottom in bands]
        parts.append(text(x, foot + 17, f"{tick:g}", anchor="middle"))
    parts.append(text(LEFT - 12, foot + 17, unit, anchor="end"))
    return parts


def panel_bands(panels: int) -> list[tuple[float, float]]:
    """(top, bottom) of the plot of every panel, one below the other."""
    return [(PANEL * (i + 1) - PLOT - 8, PANEL * (i + 1)) for i in range(panels)]


def count_axis(most: str, base: float, unit: str) -> list[str]:
    """A base line with 0, and the largest value at the panel's top."""
    return [
        line(LEFT, base, RIGHT, base, "grid"),
        text(LEFT - 12, base - 1, "0", anchor="end"),
        text(LEFT - 12, base - PLOT + 9, most, anchor="end"),
        text(LEFT - 12, base - PLOT / 2 + 4, unit, anchor="end"),
    ]


def curve(points: Sequence[tuple[float, float]], number: int) -> str:
    """A line through points in picture units, of kind `number`."""
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="{path}" class="sv-curve sv-c{number % CURVES}"/>'


def curve_legend(names: Sequence[str], y: float) -> list[str]:
    """A short piece of every curve with its name, from left to right."""
    parts, x = [], LEFT
    for number, name in enumerate(names):
        parts += [curve([(x, y - 4), (x + 30, y - 4)], number), text(x + 36, y, name)]
        x += 58 + 7 * len(name)
    return parts


def step_curve(
    points: Sequence[tuple[float, float]], scale: Scale, base: float, unit: float
) -> list[str]:
    """Steps with the area under them; `unit`: picture units of a value of 1."""
    if not points:
        return [text((LEFT + RIGHT) / 2, base - 30, "no command was sent", anchor="middle")]
    path, previous = f"M{scale(points[0][0]):.2f} {base:g}", 0.0
    for seconds, value in points:
        x = scale(seconds)
        path += f"L{x:.2f} {base - unit * previous:.2f}L{x:.2f} {base - unit * value:.2f}"
        previous = value
    area = f"{path}L{scale(points[-1][0]):.2f} {base:g}Z"
    return [f'<path d="{area}" class="sv-area"/>', f'<path d="{path}" class="sv-line"/>']
