"""Parity plots: predictions against reference values, and histograms of the errors."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from ase.units import GPa
from matplotlib.colors import to_rgb
from matplotlib.ticker import FuncFormatter, NullFormatter

from mdl_physpretrain.probes.page import MUTED, ArmStyle, Figure, Legend, Panel, arm_legend, by_arm
from mdl_physpretrain.report.formats import plural
from mdl_physpretrain.report.read import RunData
from mdl_physpretrain.report.tables import efs_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["parity_caption", "parity_figure"]

MAX_ARMS = 4  # of which there are panels
MAX_POINTS = 400  # that are drawn one by one; more become an image of their density
WIDEST = 20  # ranges of the reference that predictions may widen the axes by, to either side
BINS = 110  # of that image, in each direction


class Quantity(NamedTuple):
    """What is compared: its title, units (and factors to them) of values and errors, the column of its mean error."""

    title: str
    noun: str
    unit: str
    factor: float
    error_unit: str
    error_factor: float
    mean: str


QUANTITIES = {
    "energy_per_atom": Quantity("Energy", "energies", "eV/atom", 1.0, "meV/atom", 1000.0, "energy_per_atom_mae"),
    "forces": Quantity("Forces", "force components", "eV/Å", 1.0, "eV/Å", 1.0, "forces_mae"),
    "stress": Quantity("Stress", "stress components", "GPa", 1 / GPa, "GPa", 1 / GPa, "stress_mae"),
}


def parity_figure(run: RunData, styles: dict[str, ArmStyle]) -> Figure | None:
    """For each quantity a panel per arm, and one with the errors of all arms."""
    table = _finite(run)
    if table is None:
        return None
    arms = [str(arm) for arm, _ in by_arm(table, run.arms)][:MAX_ARMS]
    errors = efs_table(run)
    panels = []
    for name, quantity in QUANTITIES.items():
        rows = table[(table["quantity"] == name) & table["arm"].isin(arms)]
        if not len(rows):
            continue
        limits = _limits(rows["reference"] * quantity.factor, rows["predicted"] * quantity.factor)
        for arm, part in by_arm(rows, arms):
            values = part[["reference", "predicted"]].to_numpy(float) * quantity.factor
            mean = _mean_error(part, quantity, errors)
            paint = partial(_parity, values=values, quantity=quantity, mean=mean, limits=limits, style=styles[arm])
            panels.append(Panel(f"{quantity.title}, {arm}", paint))
        panels.append(Panel(f"{quantity.title}, errors", partial(_errors, rows=rows, quantity=quantity, styles=styles)))
    legend = [*arm_legend(arms, styles), Legend("predicted = reference", MUTED, "dashed")]
    return Figure("Parity", panels, legend, size=(3.3, 3.1), columns=2 if len(arms) in (1, 3) else len(arms) + 1)


def parity_caption(run: RunData) -> str:
    """What the figure shows, and of how much."""
    table = run.tables.get("predictions")
    if table is None:
        return ""
    split = str(table["split"].iloc[0]) if "split" in table else "test"
    words = []
    for name, quantity in QUANTITIES.items():
        rows = table[table["quantity"] == name]
        sizes = rows.groupby(["arm", "seed"]).size()
        if len(rows):
            shown, total = int(sizes.max()), rows["of"].max() if "of" in rows else np.nan
            thinned = np.isfinite(total) and total > shown
            words.append(f"{shown:,} of {int(total):,} {quantity.noun}" if thinned else f"{shown:,} {quantity.noun}")
    each = "potential" if run.is_check else "arm and seed"
    text = f"Predicted against reference values of the {split} structures, and the errors on a logarithmic scale "
    text += "(dotted: their median): "
    text += f"{', '.join(words)} of each {each}"
    text += " (a random choice, the same for all)." if any(" of " in w for w in words) else "."
    text += " A shaded panel counts points; MAE is the mean absolute error of the table above."
    finite = _finite(run)
    lost = len(table) - (0 if finite is None else len(finite))
    if lost:
        text += f" {plural(lost, 'value')} that {'is' if lost == 1 else 'are'} NaN or infinite cannot be shown."
    if table["arm"].nunique() > MAX_ARMS:
        text += f" The first {MAX_ARMS} are shown; predictions.csv holds all."
    return text


def _finite(run: RunData) -> pd.DataFrame | None:
    table = run.tables.get("predictions")
    if table is None:
        return None
    finite = table.loc[np.isfinite(table[["reference", "predicted"]].to_numpy(float)).all(axis=1)]
    return finite if len(finite) else None


def _mean_error(rows: pd.DataFrame, quantity: Quantity, errors: pd.DataFrame) -> float:
    """Mean absolute error of an arm over its seeds, of all values; of the stored ones where there is no table of it."""
    if len(errors):
        split = rows["split"].iloc[0] if "split" in rows else "test"
        found = errors[(errors["arm"] == rows["arm"].iloc[0]) & (errors["split"] == split)]
        if len(found) and np.isfinite(found[quantity.mean].iloc[0]):
            return float(found[quantity.mean].iloc[0]) * quantity.error_factor
    return float((rows["predicted"] - rows["reference"]).abs().mean()) * quantity.error_factor


def _limits(reference: pd.Series, predicted: pd.Series) -> tuple[float, float]:
    """Bounds of both axes: predictions count that are not far from most of them."""
    low, high = reference.min(), reference.max()
    span = max(high - low, 1e-3)
    most = np.quantile(predicted, 0.02, method="higher"), np.quantile(predicted, 0.98, method="lower")
    reach = max(most[1] - most[0], span)
    lowest, highest = max(predicted.min(), most[0] - reach), min(predicted.max(), most[1] + reach)
    low, high = max(min(low, lowest), low - WIDEST * span), min(max(high, highest), high + WIDEST * span)
    margin = 0.04 * max(high - low, 1e-3)
    return float(low - margin), float(high + margin)


def _parity(
    ax: Axes, values: np.ndarray, quantity: Quantity, mean: float, limits: tuple[float, float], style: ArmStyle
) -> None:
    low, high = limits
    reference, predicted = values[:, 0], np.clip(values[:, 1], low, high)
    outside = int(((values[:, 1] < low) | (values[:, 1] > high)).sum())
    ax.plot(limits, limits, color=MUTED, linestyle="--", linewidth=0.9, zorder=3)
    if len(values) <= MAX_POINTS:
        look: dict[str, Any] = {"markersize": 3.2, "alpha": 0.65, "markeredgewidth": 0}
        ax.plot(reference, predicted, style.marker, color=style.colour, zorder=2, **look)
    else:
        counts = np.histogram2d(reference, predicted, BINS, [limits, limits])[0].T
        image = np.zeros((BINS, BINS, 4))
        image[..., :3] = to_rgb(style.colour)
        image[..., 3] = np.where(counts > 0, 0.35 + 0.65 * np.log1p(counts) / np.log1p(counts.max()), 0)
        ax.imshow(image, extent=(low, high, low, high), origin="lower", interpolation="none", aspect="auto", zorder=2)
    text = f"MAE {mean:.3g} {quantity.error_unit}" + (f"\n{outside} outside, at the edge" if outside else "")
    ax.text(0.04, 0.96, text, transform=ax.transAxes, va="top", zorder=4)
    ax.set(xlim=limits, ylim=limits, xlabel=f"reference ({quantity.unit})", ylabel=f"predicted ({quantity.unit})")
    ax.set_box_aspect(1)
    ax.locator_params(nbins=5)


def _errors(ax: Axes, rows: pd.DataFrame, quantity: Quantity, styles: dict[str, ArmStyle]) -> None:
    """Histograms of predicted minus reference; what is far out is counted in the outermost bins."""
    errors = (rows["predicted"] - rows["reference"]) * quantity.error_factor
    widest = max(float(errors.abs().groupby(rows["arm"]).quantile(0.995).max()), 1e-9)
    edges = np.linspace(-1.15 * widest, 1.15 * widest, 52 if len(rows) > 500 else 22)
    centres = (edges[1:] + edges[:-1]) / 2
    for arm, part in errors.groupby(rows["arm"], sort=False):
        style = styles[str(arm)]
        counts = np.histogram(np.clip(part, centres[0], centres[-1]), edges)[0]
        ax.stairs(np.maximum(counts, 0.1), edges, color=style.colour, linestyle=style.line, linewidth=1.4)
        ax.axvline(float(part.median()), color=style.colour, linestyle=":", linewidth=1.0)
    ax.axvline(0, color=MUTED, linestyle="--", linewidth=0.9, zorder=1)
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set(xlim=(edges[0], edges[-1]), xlabel=f"predicted − reference ({quantity.error_unit})", ylabel="values")
    ax.set_ylim(bottom=0.7)
    ax.locator_params(axis="x", nbins=5)
    ax.set_box_aspect(1)
