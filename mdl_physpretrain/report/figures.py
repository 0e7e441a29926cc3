"""The figures of the report."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from mdl_physpretrain.probes.page import MAX_PANELS
from mdl_physpretrain.report.alignment import alignment_figure
from mdl_physpretrain.report.drawing import INK, MUTED, PALETTE, ArmStyle, Figure, Legend, Panel, arm_legend, arm_styles
from mdl_physpretrain.report.figures_survival import failure_figure
from mdl_physpretrain.report.parity import parity_figure
from mdl_physpretrain.report.read import RunData
from mdl_physpretrain.report.tables import main_split

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["all_figures"]

PARTS = (("pair_term", "pair term", PALETTE[1]), ("embedding", "embedding", PALETTE[4]), ("core", "core", PALETTE[3]))

LOSSES = (("train_loss", MUTED, "--"), ("val_loss", INK, "-"))
VALIDATION = {
    "val_loss": "validation loss",
    "val_forces_mae": "validation force MAE (eV/Å)",
    "val_energy_mae": "validation energy MAE (eV)",
    "val_stress_mae": "validation stress MAE (eV/Å³)",
}


def all_figures(run: RunData) -> dict[str, Callable[[], Figure | None]]:
    """What makes each figure, by its name; ``None`` comes where the run folder has no data for it."""
    styles = arm_styles(run.arms)
    makers = {
        "failure_steps": failure_figure,
        "seeds": _seeds,
        "parity": parity_figure,
        "teacher_curves": _teacher,
        "teacher_fit": _teacher_fit,
        "min_distances": _distances,
        "coverage": _coverage,
        "learning_curves": _learning,
        "alignment": _alignment,
    }
    return {name: partial(maker, run, styles) for name, maker in makers.items()}


def _seeds(run: RunData, styles: dict[str, ArmStyle]) -> Figure | None:
    """Each seed as a line from arm to arm: what repeats, and what does not."""
    if run.is_check and len(run.seeds) < 2:  # no trainings that could repeat
        return None
    panels: list[Panel] = []
    if run.physicality is not None:
        for condition, part in run.physicality.groupby("condition", sort=False):
            shares = (~part["physical"]).groupby([part["seed"], part["arm"]]).mean() * 100
            suffix = f" ({condition})" if len(part) < len(run.physicality) else ""
            title = f"Unphysical trajectories per seed{suffix}"
            panels.append(_slopes(title, "unphysical (%)", shares, run.arms, styles, percent=True))
    if run.efs is not None:
        efs = run.efs[run.efs["split"] == main_split(run.efs)] if "split" in run.efs else run.efs
        totals = pd.to_numeric(efs["total"], errors="coerce").groupby([efs["seed"], efs["arm"]]).mean()
        panels.append(_slopes("Total error per seed", "total error", totals, run.arms, styles))
    return Figure("Seeds as repeats", panels, arm_legend(run.arms, styles), size=(5.0, 2.9), columns=2)


def _slopes(
    title: str, label: str, values: pd.Series, arms: list[str], styles: dict[str, ArmStyle], *, percent: bool = False
) -> Panel:
    wide = values.unstack("arm")
    wide = wide[[arm for arm in arms if arm in wide]]

    def paint(ax: Axes) -> None:
        n = len(wide)
        for k, (_, row) in enumerate(wide.iterrows()):
            shift = 0.12 * (k / (n - 1) - 0.5) if n > 1 else 0.0
            ax.plot(np.arange(len(row)) + shift, row, color=MUTED, linewidth=0.8, alpha=0.6, zorder=1)
            for j, (arm, value) in enumerate(row.items()):
                style = styles[str(arm)]
                ax.plot(j + shift, value, style.marker, color=style.colour, markersize=6, alpha=0.85, zorder=2)
        for j, arm in enumerate(wide.columns):
            ax.hlines(wide[arm].mean(), j - 0.22, j + 0.22, color=styles[arm].colour, linewidth=2.2)
        crowded = sum(map(len, wide.columns)) > 40  # the names would run into each other
        slant: dict[str, Any] = {"rotation": 25, "ha": "right"} if crowded else {}
        ax.set_xticks(range(wide.shape[1]), list(wide.columns), **slant)
        ax.set(xlim=(-0.6, wide.shape[1] - 0.4), ylabel=label)
        ax.grid(visible=False, axis="x")
        if percent:
            ax.set_ylim(-4, 104)

    return Panel(title, paint)


def _teacher(run: RunData, styles: dict[str, ArmStyle]) -> Figure | None:
    """The teacher's in-situ pair energies and their parts."""
    curves = run.curves
    if curves is None:
        return None
    examined = {str(p.get("pair")): p for p in (run.examination or {}).get("pairs") or [] if isinstance(p, dict)}
    further = [str(c) for c in curves if c not in ("pair", "r", "total", "slope", *(part[0] for part in PARTS))]
    parts = [*PARTS, *((c, c.replace("_", " "), colour) for c, colour in zip(further, PALETTE[5:], strict=False))]
    parts = [part for part in parts if part[0] in curves and curves[part[0]].abs().max() > 0]
    panels = []
    for pair, curve in _first_pairs(curves):
        examination = examined.get(pair)
        badge = None if examination is None else ("passed", True) if examination.get("passed") else ("failed", False)
        typical = (examination or {}).get("data_distance")
        typical = float(typical) if isinstance(typical, (int, float)) and np.isfinite(typical) else None
        panels.append(Panel(pair, partial(_teacher_panel, curve=curve, parts=parts, typical=typical), badge))
    legend = [Legend("total, as felt in the data", INK), *(Legend(label, c, "dashed") for _, label, c in parts)]
    if examined:
        legend.append(Legend("typical distance in the data", MUTED, "dotted"))
    return Figure("Curve of the teacher", panels, legend)


def _teacher_panel(ax: Axes, curve: pd.DataFrame, parts: list[tuple[str, str, str]], typical: float | None) -> None:
    curve = curve.sort_values("r")
    r = curve["r"].to_numpy(float)
    ax.axhline(0, color=MUTED, linewidth=0.7)
    if typical is not None:
        ax.axvline(typical, color=MUTED, linestyle=":", linewidth=1.3)
    for key, _, colour in parts:
        ax.plot(r, curve[key], color=colour, linestyle="--", linewidth=1.2)
    ax.plot(r, curve["total"], color=INK, linewidth=1.9)
    outside = r >= (1.2 if typical is None else 0.6 * typical)
    lowest = [float(curve["total"].min())] + [float(curve.loc[outside, key].min()) for key, *_ in parts]
    low = max(1.15 * float(np.nanmin([*lowest, -0.5])), -30.0)
    ax.set(ylim=(low, float(np.clip(-2 * low, 4, 30))), xlim=(max(0.0, r.min() - 0.1), min(6.0, r.max())))
    ax.set(xlabel="distance (Å)", ylabel="energy (eV)")


def _teacher_fit(run: RunData, styles: dict[str, ArmStyle]) -> Figure | None:
    history = run.teacher_history
    if history is None:
        return None
    step = history["step"] if "step" in history else pd.Series(np.arange(len(history)))
    columns = [c for c in ("loss", "train_loss", "val_loss") if c in history]
    colours = dict(zip(columns, (INK, MUTED, PALETTE[1]), strict=False))

    def paint(ax: Axes) -> None:
        for column, colour in colours.items():
            _line(ax, step, history[column], color=colour)
        ax.set(xlabel="step", ylabel="loss")
        _log_if_positive(ax, history[columns].to_numpy(float))

    legend = [Legend(column.replace("_", " "), colour) for column, colour in colours.items()]
    return Figure("Fit of the teacher", [Panel("Fit of the teacher", paint)], legend, columns=1)


def _first_pairs(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Rows of every pair of elements, as many pairs as a figure has panels."""
    return [(str(pair), part) for pair, part in table.groupby("pair", sort=False)][:MAX_PANELS]


def _line(ax: Axes, x: pd.Series, y: pd.Series, **style: Any) -> None:
    """A line over the finite points (loggers leave holes)."""
    x, y = pd.to_numeric(x, errors="coerce"), pd.to_numeric(y, errors="coerce")
    keep = np.isfinite(x) & np.isfinite(y)
    if keep.sum() == 1:
        style["marker"] = "o"
    ax.plot(x[keep], y[keep], **style)


def _log_if_positive(ax: Axes, values: np.ndarray) -> None:
    """Logarithmic y axis with plain numbers, where the values allow it and span enough."""
    finite = values[np.isfinite(values)]
    if len(finite) and finite.min() > 0 and finite.max() > 3 * finite.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if finite.max() < 300 * finite.min() else (1,)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())


def _distances(run: RunData, styles: dict[str, ArmStyle]) -> Figure | None:
    """Fig. 6b: smallest distance per structure and pair, before and after augmentation."""
    table = run.distances
    if table is None:
        return None
    table = table.assign(distance=pd.to_numeric(table["distance"], errors="coerce")).dropna(subset=["distance"])
    sets = [s for s in ("original", "augmented") if (table["set"] == s).any()]
    colours = dict(zip(sets, (PALETTE[1], PALETTE[4]), strict=False))
    panels = [Panel(pair, partial(_histogram, table=part, colours=colours)) for pair, part in _first_pairs(table)]
    return Figure("Smallest distances", panels, [Legend(s, colours[s], "fill") for s in sets], size=(3.8, 2.3))


def _coverage(run: RunData, styles: dict[str, ArmStyle]) -> Figure | None:
    """How many structures hold each distance of a pair, in the data and with the augmented ones."""
    if run.coverage is None or not len(run.coverage):
        return None
    numbers = {c: pd.to_numeric(run.coverage[c], errors="coerce") for c in ("low", "high", "data", "count", "wanted")}
    table = run.coverage.assign(**numbers).dropna(subset=list(numbers))
    panels = [Panel(pair, partial(_bins, table=part)) for pair, part in _first_pairs(table)]
    legend = [Legend("data", PALETTE[1], "fill"), Legend("with augmented structures", PALETTE[4], "fill")]
    legend.append(Legend("enough", MUTED, "dotted"))
    return Figure("Coverage of distances", panels, legend, size=(3.8, 2.3))


def _bins(ax: Axes, table: pd.DataFrame) -> None:
    low, width = table["low"].to_numpy(float), (table["high"] - table["low"]).to_numpy(float)
    most = float(table["wanted"].iloc[0])
    # what is above a few times enough says nothing more
    data, every = (np.minimum(table[column].to_numpy(float), 3 * most) for column in ("data", "count"))
    look: dict[str, Any] = {"align": "edge", "alpha": 0.6, "edgecolor": "white", "linewidth": 0.4}
    ax.bar(low, data, width, color=PALETTE[1], **look)
    ax.bar(low, np.maximum(every - data, 0), width, bottom=data, color=PALETTE[4], **look)
    ax.axhline(most, color=MUTED, linestyle=":", linewidth=1.3)
    ax.set(xlabel="distance (Å)", ylabel="structures", ylim=(0, 3.15 * most))
    ax.locator_params(axis="x", nbins=6)
    ax.locator_params(axis="y", nbins=6, integer=True)


def _histogram(ax: Axes, table: pd.DataFrame, colours: dict[str, str]) -> None:
    low, high = table["distance"].min(), table["distance"].quantile(0.995)
    look: dict[str, Any] = {"alpha": 0.6, "linewidth": 0.4, "histtype": "stepfilled"}
    look["bins"] = np.linspace(max(0.0, low - 0.1), high + 0.1, 45).tolist()
    for name, colour in colours.items():
        values = table.loc[table["set"] == name, "distance"].to_numpy(float)
        if len(values):
            ax.hist(values, weights=np.full(len(values), 100 / len(values)), color=colour, edgecolor=colour, **look)
    ax.set(xlabel="smallest distance (Å)", ylabel="structures (%)")
    ax.locator_params(axis="x", nbins=6)


def _learning(run: RunData, styles: dict[str, ArmStyle]) -> Figure | None:
    """Losses per epoch: thin lines are seeds, the thick one is their mean."""
    histories: dict[str, list[pd.DataFrame]] = {}
    for (_, training), history in run.histories.items():
        histories.setdefault(training, []).append(history)
    arms = [arm for arm in run.arms if arm in histories]
    pretrainings = [training for training in histories if training not in arms]
    panels = []
    for training in pretrainings:
        lines = [(histories[training], column, colour, dash, 0.45) for column, colour, dash in LOSSES]
        panels.append(Panel(f"{training}: loss", partial(_losses, lines=lines, label="loss")))
    for column, label in VALIDATION.items():
        lines = [(histories[arm], column, styles[arm].colour, styles[arm].line, 0.35) for arm in arms]
        if any(column in history and history[column].notna().any() for arm in arms for history in histories[arm]):
            panels.append(Panel(label[0].upper() + label[1:], partial(_losses, lines=lines, label=label)))
    legend = arm_legend(arms, styles)
    if pretrainings:
        legend += [Legend(f"{', '.join(pretrainings)}: validation", INK), Legend("training", MUTED, "dashed")]
    return Figure("Learning curves", panels, legend, columns=3)


def _losses(ax: Axes, lines: list[tuple[list[pd.DataFrame], str, str, str, float]], label: str) -> None:
    """Lines as (histories of the seeds, column, colour, dash, alpha of a single seed)."""
    values = [np.zeros(0)]
    for histories, column, colour, dash, alpha in lines:
        seeds = [h for h in histories if column in h and h[column].notna().any()]
        for seed in seeds if len(seeds) > 1 else []:
            _line(ax, seed["epoch"], seed[column], color=colour, linestyle=dash, linewidth=0.7, alpha=alpha)
        if seeds:  # the mean at the epochs that all of them reached
            means = [seed.dropna(subset=[column]).groupby("epoch")[column].mean() for seed in seeds]
            mean = pd.concat(means, axis=1, join="inner").mean(axis=1)
            ax.plot(mean.index, mean, color=colour, linestyle=dash, marker="o" if len(mean) == 1 else None)
        values += [seed[column].to_numpy(float) for seed in seeds]
    ax.set(xlabel="epoch", ylabel=label)
    _log_if_positive(ax, np.concatenate(values))


def _alignment(run: RunData, styles: dict[str, ArmStyle]) -> Figure | None:
    return alignment_figure(run.tables["alignment"], styles) if "alignment" in run.tables else None
