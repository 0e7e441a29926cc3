"""Parts of the report's page as plain data: tables, figures, formatted numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ALL", "DASH", "INK", "MAX_PANELS", "MUTED", "REFERENCE", "ArmStyle", "Cell", "Column", "Figure",
           "HtmlTable", "Legend", "PagePart", "Panel", "Styles", "arm_legend", "by_arm", "number", "number_table",
           "panels_by", "plural", "seed_lines", "significant", "spread"]  # fmt: skip

DASH = "–"
INK, MUTED = "#1b2730", "#66727d"
MAX_PANELS = 15  # per figure; the tables hold all
ALL = "all"  # structure_id of means over structures, pair of means over pairs
REFERENCE = "reference"  # arm of reference trajectories


@dataclass(frozen=True)
class Column:
    """A heading, its unit, and whether it holds numbers."""

    title: str
    unit: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Cell:
    """Text, a smaller second line, a key to sort by, CSS classes; ``arm`` puts the arm's mark in front."""

    text: str
    note: str = ""
    key: Any = None
    css: str = ""
    arm: str | None = None


@dataclass
class HtmlTable:
    """A table of the page; ``file`` is the stem of the CSV and JSON files beside it."""

    columns: list[Column]
    rows: list[list[Cell]]
    file: str = ""
    sortable: bool = False
    row_css: list[str] = field(default_factory=list)
    css: str = ""


@dataclass(frozen=True)
class ArmStyle:
    """Colour, line and marker of an arm, the same in every figure and table."""

    colour: str
    line: str
    marker: str
    variable: str


Styles = Mapping[str, ArmStyle]


@dataclass(frozen=True)
class Legend:
    """An entry of a legend; ``kind`` is ``line``, ``dashed``, ``dotted``, ``fill`` or ``marker``."""

    label: str
    colour: str
    kind: str = "line"
    marker: str = "o"


def arm_legend(arms: Sequence[str], styles: Styles) -> list[Legend]:
    """An entry for each arm."""
    return [Legend(arm, styles[arm].colour, "dashed" if styles[arm].line != "-" else "line") for arm in arms]


@dataclass(frozen=True)
class Panel:
    """One set of axes; ``badge`` is a word beside the title, and whether it is good news."""

    title: str
    paint: Callable[[Axes], None]
    badge: tuple[str, bool] | None = None


@dataclass(frozen=True)
class Figure:
    """Panels that belong together; ``size`` is that of one panel in inches."""

    alt: str
    panels: list[Panel]
    legend: list[Legend] = field(default_factory=list)
    size: tuple[float, float] = (3.8, 2.6)
    columns: int = 3


@dataclass
class PagePart:
    """The section of a probe.

    Attributes
    ----------
    figure
        Makes the figure from the styles of the arms; ``None``: there is none.
    caption
        Of the figure.
    curves
        Name of the download below the figure.
    table, summary
        The table and the numbers behind it, which are saved under the table's
        ``file``; ``None``: nothing to tabulate.
    table_title, text, remark
        Caption of the table, paragraphs before and after it.
    details, details_caption
        A download below it, and what it is.
    heading
        Heading of the table, where the section has another subject, too.
    saved
        Further tables to download, by name.
    """

    figure: Callable[[Styles], Figure | None] | None = None
    caption: str = ""
    curves: str = ""
    table: HtmlTable | None = None
    summary: pd.DataFrame | None = None
    table_title: str = ""
    heading: str = ""
    text: str = ""
    remark: str = ""
    details: str = ""
    details_caption: str = ""
    saved: dict[str, pd.DataFrame] = field(default_factory=dict)

    def draw(self, figure: Callable[[Styles], Figure | None], caption: str, name: str, curves: pd.DataFrame) -> None:
        """Give the section a figure, with the curves behind it as the download ``name``."""
        self.figure, self.caption, self.curves = figure, caption, name
        self.saved[name] = curves


def number(value: Any, digits: int = 3) -> str:
    """A number with fixed decimals, a dash for what is missing; huge ones in powers of ten."""
    try:
        value = float(value)
    except (TypeError, ValueError):
        return DASH
    if not math.isfinite(value):
        return DASH if math.isnan(value) else ("∞" if value > 0 else "−∞")
    text = f"{value:.2e}" if abs(value) >= 1e6 else f"{value:.{digits}f}"
    return text.replace("-", "−")


def significant(value: float) -> str:
    """Three significant digits."""
    if not np.isfinite(value):
        return DASH
    return f"{value:.2e}".replace("e-0", "e−").replace("e+0", "e") if abs(value) >= 1e5 else f"{value:.3g}"


def spread(mean: float, std: float, digits: int = 3) -> str:
    """Mean ± standard deviation; the mean alone where there is only one value."""
    return f"{number(mean, digits)} ± {number(std, digits)}" if math.isfinite(std) else number(mean, digits)


def plural(n: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{n} {noun}" + ("" if n == 1 else "s")


def by_arm(table: pd.DataFrame, arms: Iterable[str]) -> list[tuple[str, pd.DataFrame]]:
    """Rows of each arm in the order of the page; those of unknown arms (the teacher) last."""
    present = list(dict.fromkeys(table["arm"]))
    order = [arm for arm in arms if arm in present]
    order += [arm for arm in present if arm not in order]
    return [(arm, table[table["arm"] == arm]) for arm in order]


def panels_by(
    column: str, table: pd.DataFrame, arms: Sequence[str], styles: Styles, draw_panel: Callable[..., None]
) -> tuple[list[Panel], list[Legend]]:
    """A panel for each value of a column (at most :data:`MAX_PANELS`), and the legend of the arms in the table."""
    present = [arm for arm in arms if (table["arm"] == arm).any()]
    panels = [
        Panel(str(value), partial(draw_panel, table=table[table[column] == value], arms=present, styles=styles))
        for value in list(dict.fromkeys(table[column]))[:MAX_PANELS]
    ]
    return panels, arm_legend(present, styles)


def seed_lines(
    ax: Axes, table: pd.DataFrame, arms: Sequence[str], styles: Styles, x: str, y: str, *, width: float = 0.7
) -> dict[str, pd.DataFrame]:
    """Draw ``y`` over ``x`` for each arm (thin lines: seeds, thick: their mean); return what was drawn."""
    drawn = {}
    for arm in arms:
        wide = table[table["arm"] == arm].pivot_table(index=x, columns="seed", values=y)
        if wide.empty:
            continue
        for seed in wide if wide.shape[1] > 1 else []:
            ax.plot(wide.index, wide[seed], color=styles[arm].colour, linewidth=width, alpha=0.4)
        ax.plot(wide.index, wide.mean(axis=1), color=styles[arm].colour, linestyle=styles[arm].line)
        drawn[arm] = wide
    return drawn


def number_table(
    summary: pd.DataFrame, heading: str, columns: Mapping[str, tuple[str, str]], file: str, text: Sequence[str] = ()
) -> HtmlTable:
    """A row per potential of three significant digits.

    ``columns`` are headings and units by column of the summary; those of ``text`` hold words.
    """
    rows = []
    for row in summary.to_dict("records"):
        cells = [Cell(str(row["arm"]), arm=str(row["arm"]))]
        for key in columns:
            if key in text:
                cells.append(Cell(str(row[key])))
                continue
            value = float(row[key])
            shown = f"{value:.0f}" if 1000 <= abs(value) < 1e5 else significant(value)
            cells.append(Cell(shown.replace("-", "−"), key=value if math.isfinite(value) else ""))
        rows.append(cells)
    titles = [Column(title, unit, key not in text) for key, (title, unit) in columns.items()]
    return HtmlTable([Column(heading, numeric=False), *titles], rows, file, sortable=len(rows) > 2)
