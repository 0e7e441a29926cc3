"""Style of the figures, and their output as PNG files and inline SVG.

A figure is a list of panels. The page shows every panel as an SVG of its own,
so that a phone can stack what a desk shows side by side; the PNG holds all of
them in a grid. In the SVGs the theme's colours become CSS variables, so that
they follow the page into its dark theme.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mdl_physpretrain.probes.page import INK, MUTED, ArmStyle, Figure, Legend, Panel, arm_legend
from mdl_physpretrain.statistics.reference import REFERENCE_POTENTIAL

__all__ = [
    "INK",
    "MUTED",
    "ArmStyle",
    "Drawn",
    "Figure",
    "Legend",
    "Panel",
    "arm_legend",
    "arm_styles",
    "css_colour",
    "draw",
]

GRID = "#dfe4e8"
# Okabe and Ito's colours, which colour-blind readers can tell apart
PALETTE = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7a68a6")
LINES = ("-", "-", "-", "--", "--", "--", ":", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
THEME = {INK: "ink", MUTED: "muted", GRID: "grid", **{c: f"c{k}" for k, c in enumerate(PALETTE)}}
VARIABLES = {**{c: f"var(--{name},{c})" for c, name in THEME.items()}}

RC: Any = {  # matplotlib's type for the keys is a list of all of them
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "text.parse_math": False,  # a "$" in a name is a "$"
    "lines.linewidth": 1.7,
    "axes.formatter.useoffset": False,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "physpretrain",
}


BESIDE = ArmStyle(MUTED, "--", "X", "var(--muted)")  # of the reference potential
PINNED = {"baseline": 0, "pretrained": 1}  # vermilion and blue in every report


def arm_styles(arms: Sequence[str]) -> dict[str, ArmStyle]:
    """A style for each arm, the same in every figure of a report."""
    n = len(PALETTE)
    free = iter(k for k in range(len(arms) + len(PINNED)) if k not in {PINNED[a] for a in arms if a in PINNED})
    number = {arm: PINNED[arm] if arm in PINNED else next(free) for arm in arms if arm != REFERENCE_POTENTIAL}
    styles = {
        arm: ArmStyle(PALETTE[k % n], LINES[k % n], MARKERS[k % n], f"var(--c{k % n})") for arm, k in number.items()
    }
    return styles | ({REFERENCE_POTENTIAL: BESIDE} if REFERENCE_POTENTIAL in arms else {})


def css_colour(colour: str) -> str:
    """A colour of the theme as a variable of the page; others as they are."""
    return VARIABLES.get(colour, colour)


def _handle(entry: Legend) -> Any:
    """An entry of a legend for matplotlib."""
    if entry.kind == "fill":
        return Patch(facecolor=entry.colour, alpha=0.6, label=entry.label)
    if entry.kind == "marker":
        return Line2D([], [], color=entry.colour, marker=entry.marker, linestyle="none", label=entry.label)
    dash: Any = {"dashed": "--", "dotted": ":"}.get(entry.kind, "-")
    return Line2D([], [], color=entry.colour, linestyle=dash, label=entry.label)


@dataclass(frozen=True)
class Drawn:
    """A figure as the page needs it."""

    svgs: list[tuple[Panel, Markup]]
    legend: list[Legend]
    columns: int


def draw(makers: Mapping[str, Callable[[], Figure | None]], folder: Path, notes: dict[str, str]) -> dict[str, Drawn]:
    """Write ``folder/<name>.png`` of each figure; return its panels as SVG; note what cannot be drawn."""
    drawn = {}
    with mpl.rc_context():
        mpl.rcdefaults()  # the user's own style has no business here
        mpl.rcParams.update(RC)
        for name, maker in makers.items():
            try:
                figure = maker()
                if figure is None or not figure.panels:
                    continue
                _png(figure, folder / f"{name}.png")
                svgs = [(panel, _svg(figure, panel)) for panel in figure.panels]
            except OSError:
                raise
            # after hours of work a column of odd values must not cost the whole report
            except Exception as error:
                notes[f"figure {name}"] = f"The figure {name} could not be drawn: {error or type(error).__name__}"
                continue
            drawn[name] = Drawn(svgs, figure.legend, min(figure.columns, len(svgs)))
    return drawn


def _png(figure: Figure, path: Path) -> None:
    columns = min(figure.columns, len(figure.panels))
    rows = math.ceil(len(figure.panels) / columns)
    width, height = figure.size
    canvas = Canvas(figsize=(width * columns, height * rows + 0.5), layout="constrained", facecolor="white")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots(rows, columns, squeeze=False).ravel()
    for panel, ax in zip(figure.panels, axes, strict=False):
        panel.paint(ax)
        ax.set_title(panel.title, loc="left")
    for ax in axes[len(figure.panels) :]:
        ax.set_axis_off()
    if figure.legend:
        canvas.legend(
            handles=[_handle(entry) for entry in figure.legend],
            loc="outside lower center",
            ncols=min(6, len(figure.legend)),
        )
    _save(canvas, path, dpi=130)


def _svg(figure: Figure, panel: Panel) -> Markup:
    canvas = Canvas(figsize=figure.size, layout="constrained")
    FigureCanvasSVG(canvas)
    ax = canvas.subplots()
    panel.paint(ax)
    buffer = io.StringIO()
    _save(canvas, buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), f"{figure.alt}: {panel.title}")


def _save(canvas: Canvas, target: Path | io.StringIO, **options: Any) -> None:
    """Lay a figure out once, and save it; left alone, matplotlib does it twice."""
    engine = canvas.get_layout_engine()
    if engine is not None:
        engine.execute(canvas)
    canvas.set_layout_engine("none")
    canvas.savefig(target, **options)


def _inline(svg: str, alt: str) -> Markup:
    """The ``<svg>`` element alone: no prolog, metadata or comments, as wide as its place, colours as variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]*)"', svg)
    head = f'<svg viewBox="{box[1] if box else "0 0 316 208"}" role="img" aria-label="{escape(alt)}">'
    svg = re.sub(r"^<svg[^>]*>", lambda _: head, svg, count=1)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub("|".join(THEME), lambda m: VARIABLES[m[0]], svg)
    # a hundredth of a point is enough; the scales of glyphs need all their digits
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)
    return Markup(re.sub(r"\n\s*", "\n", svg))  # made here, with the alternative text escaped
