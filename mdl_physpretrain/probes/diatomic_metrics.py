"""Probe of diatomic metrics: force flips, tortuosity and the like, as MLIP Arena and ML-PEG define them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from ase.data import atomic_numbers, covalent_radii, vdw_alvarez
from pydantic import Field
from scipy.signal import find_peaks
from scipy.stats import spearmanr

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.option_types import Section
from mdl_physpretrain.probes.base import Answer, Probe, Subject, Tables
from mdl_physpretrain.probes.diatomics import diatomic_curve
from mdl_physpretrain.probes.page import (
    MUTED,
    Figure,
    PagePart,
    Styles,
    by_arm,
    number_table,
    panels_by,
    seed_lines,
    significant,
)
from mdl_physpretrain.probes.pairs import element_pairs, symbols_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ML_PEG_DISTANCES", "DiatomicMetrics", "arena_distances", "diatomic_metrics"]

ML_PEG, ARENA = "ML-PEG", "MLIP Arena"  # whose distances
ML_PEG_DISTANCES = np.linspace(0.18, 6.0, 100)  # Å
ARENA_STEP, ARENA_FROM, ARENA_TO, ARENA_END = 0.01, 0.9, 3.1, 6.0  # Å; of the covalent and the van der Waals radius; Å
SMALL_FORCE, SMALL_ENERGY = 0.01, 1e-3  # eV/Å, eV: what is smaller has no sign
SMALL_CURVATURE, MINIMUM_PROMINENCE = 0.5, 0.1  # eV/Å², eV: ML-PEG's
COLUMNS = {
    "force_flips": ("Force flips", ""),
    "tortuosity": ("Tortuosity", ""),
    "energy_jump": ("Energy jump", "eV"),
    "conservation_deviation": ("Conservation deviation", "eV/Å"),
    "spearman_repulsion": ("Spearman, repulsion", ""),
    "spearman_attraction": ("Spearman, attraction", ""),
    "energy_minima": ("Energy minima", ""),
    "energy_inflections": ("Inflections", ""),
    "energy_flips": ("Energy flips", ""),
}


def arena_distances(pair: tuple[str, str] | str) -> np.ndarray:
    """Distances of MLIP Arena: every 0.01 Å from 0.9 covalent to 3.1 van der Waals radii (means of the two atoms)."""
    numbers = [atomic_numbers[symbol] for symbol in symbols_of(pair)]
    radii = vdw_alvarez.vdw_radii
    sizes = [radii[z] if z < len(radii) else np.nan for z in numbers]
    nearest = ARENA_FROM * float(np.mean(covalent_radii[numbers]))
    farthest = ARENA_TO * float(np.mean(sizes)) if np.isfinite(sizes).all() else ARENA_END
    return np.linspace(nearest, farthest, int((farthest - nearest) / ARENA_STEP))


def diatomic_metrics(r: Any, energy: Any, force: Any) -> dict[str, float]:
    r"""The figures of a diatomic curve by which the field compares potentials.

    Parameters
    ----------
    r, energy, force
        Distances (Å, any order), energies (eV) and forces (eV/Å, positive
        means repulsion), shape (n,). Points that are not finite are left out.

    Returns
    -------
    dict
        ``force_flips``: changes of the force's sign, forces below 0.01 eV/Å
        left out (1 of a bond, 0 where two atoms only repel). ``tortuosity``:
        total variation of the energy over the way from both ends down to the
        minimum (1 with a single minimum). ``energy_flips``: changes of the
        sign of energy differences of at least 1 meV, ``energy_jump``: sum of
        the two differences at each (eV). ``conservation_deviation``: mean of
        \|F + dE/dr\| (eV/Å) by central differences. ``spearman_repulsion,
        spearman_attraction``: rank correlation of energy and distance inside
        the minimum (-1 is right) and outside (1). ``energy_minima`` with a
        prominence of 0.1 eV, ``energy_inflections`` with a curvature above
        0.5 eV/Å². NaN where there is nothing to measure. All but the rank
        correlations depend on the spacing of the distances.

    Raises
    ------
    ConfigError
        If fewer than three points are finite.

    References
    ----------
    Y. Chiang et al., "MLIP Arena", arXiv:2509.20630 (2025), and its package
    ``mlip-arena`` 0.2 (flips, tortuosity, jump, deviation, correlations);
    package ``ml-peg`` 0.7 (minima, inflections; the others alike).
    """
    points = np.stack([np.asarray(x, dtype=np.float64) for x in (r, energy, force)])
    points = points[:, np.isfinite(points).all(0)]
    if points.shape[1] < 3:
        raise ConfigError(f"a diatomic curve needs 3 finite points, not {points.shape[1]}")
    distance, e, f = points[:, np.argsort(-points[0], kind="stable")]
    lowest = int(np.argmin(e))
    steps = np.diff(e)
    sized = steps[np.abs(steps) >= SMALL_ENERGY]
    turns = np.flatnonzero(np.diff(np.sign(sized)))
    slope = np.gradient(e, distance)
    variation, way = float(np.abs(steps).sum()), float(e[0] + e[-1] - 2 * e[lowest])
    return {
        "force_flips": float(_sign_changes(f, SMALL_FORCE)),
        "tortuosity": variation / way if way > 0 else float("nan"),
        "energy_jump": float(np.abs(sized[turns]).sum() + np.abs(sized[turns + 1]).sum()),
        "conservation_deviation": float(np.abs(f + slope).mean()),
        "spearman_repulsion": _rank_correlation(distance[lowest:], e[lowest:]),
        "spearman_attraction": _rank_correlation(distance[:lowest], e[:lowest]),
        "energy_minima": float(len(find_peaks(-e, prominence=MINIMUM_PROMINENCE, width=1)[0])),
        "energy_inflections": float(_sign_changes(np.gradient(slope, distance), SMALL_CURVATURE)),
        "energy_flips": float(len(turns)),
    }


def _sign_changes(values: np.ndarray, least: float) -> int:
    """Changes of sign among values of at least that size."""
    return int(np.count_nonzero(np.diff(np.sign(values[np.abs(values) >= least]))))


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 2 or np.ptp(y) == 0:
        return float("nan")
    return float(spearmanr(x, y).statistic)


class DiatomicMetrics(Probe):
    """The field's figures of diatomic curves; numbers without a limit."""

    name = "diatomic_metrics"
    question = "diatomic metrics of the field"
    applies_to = "potential"
    files = {  # noqa: RUF012 - class variables of the base
        "wide_diatomics": ("pair", "distances", "r", "energy"),
        "diatomic_metrics": ("pair", "distances", "force_flips"),
    }
    numbers = ("r", "energy", "force", *COLUMNS)
    texts = ("distances",)
    title = "Diatomic metrics of the field"
    answer_place, page_place = 32, 22

    class Options(Section):
        """Which pairs."""

        wide_pairs: Literal["none", "homonuclear", "all"] = Field(
            default="none",
            description="Pairs of elements with curves from 0.18 to 6 Å and the metrics of MLIP Arena and ML-PEG.",
        )

    def is_applicable(self, available: frozenset[str]) -> bool:
        return self.options.wide_pairs != "none"

    def tables(self, subject: Subject) -> dict[str, pd.DataFrame]:
        curves, metrics = [], []
        for pair in element_pairs(subject.elements):
            grids = {ML_PEG: ML_PEG_DISTANCES}
            if pair[0] == pair[1]:
                grids[ARENA] = arena_distances(pair)
            elif self.options.wide_pairs == "homonuclear":
                continue
            for owner, r in grids.items():
                names = {"pair": "-".join(pair), "distances": owner}
                energy = force = np.full(len(r), np.nan)
                row: dict[str, float] = {}
                try:
                    energy, force = diatomic_curve(subject.potential, pair, r)
                    row = diatomic_metrics(r, energy, force)
                except (ConfigError, StructureError) as error:
                    if not subject.flag_failures:
                        raise
                    warnings.warn(f"{subject.name}: curve of {names['pair']}: {error}", stacklevel=2)
                failed = int((~np.isfinite(energy)).sum())
                curves.append(pd.DataFrame({**names, "r": r, "energy": energy, "force": force}))
                metrics.append({**names, **{key: row.get(key, np.nan) for key in COLUMNS}, "failed_points": failed})
        return {"wide_diatomics": pd.concat(curves, ignore_index=True), "diatomic_metrics": pd.DataFrame(metrics)}

    def answer(self, tables: Tables) -> Answer | None:
        table = tables.get("diatomic_metrics")
        if table is None or not len(table):
            return None
        means = table[table["distances"] == ML_PEG].mean(numeric_only=True)
        arena = table[table["distances"] == ARENA].mean(numeric_only=True)
        words = (
            f"{significant(means['force_flips'])} force flips, Spearman {significant(means['spearman_repulsion'])} "
            f"(repulsion), {significant(means['spearman_attraction'])} (attraction)"
        )
        if len(arena):
            words += (
                f"; homonuclear: tortuosity {significant(arena['tortuosity'])}, energy jump "
                f"{significant(arena['energy_jump'])} eV, conservation deviation "
                f"{significant(arena['conservation_deviation'])} eV/Å"
            )
        failed = int(table["failed_points"].sum())
        return "value", words + (f"; fails at {failed} points" if failed else "")

    def page(self, tables: Tables, arms: Sequence[str], heading: str) -> PagePart | None:
        curves, metrics = tables.get("wide_diatomics"), tables.get("diatomic_metrics")
        if metrics is None or not len(metrics):
            return None
        rows = []
        for arm, group in by_arm(metrics, arms):
            for owner, part in group.groupby("distances", sort=False):
                means = part[list(COLUMNS)].apply(pd.to_numeric, errors="coerce").mean()
                rows.append({"arm": arm, "of": owner, "pairs": len(part), **means})
        summary = pd.DataFrame(rows)
        columns = {"of": ("Distances of", ""), "pairs": ("Curves", ""), **COLUMNS}
        page = PagePart(
            table=number_table(summary, heading, columns, "diatomic_metrics", text=("of",)),
            summary=summary,
            table_title="Diatomic metrics, means over pairs",
            heading="Metrics",
            text="As MLIP Arena (arXiv:2509.20630) and ML-PEG define them. Ideal: one force flip and one minimum of a "
            "bond, tortuosity 1, no energy jump, deviation 0, Spearman −1 where atoms repel and 1 where they attract. "
            "ML-PEG: 100 distances from 0.18 to 6 Å; MLIP Arena: every 0.01 Å from 0.9 covalent to 3.1 van der Waals "
            "radii, pairs of one element. All but the rank correlations depend on the spacing.",
            details="diatomic_metrics_each",
            details_caption="Every pair:",
            saved={"diatomic_metrics_each": metrics},
        )
        if curves is not None:
            wide = curves[curves["distances"] == ML_PEG]
            caption = "Energy of two atoms from 0.18 to 6 Å; the axis is linear within 1 eV, logarithmic beyond."
            page.draw(partial(_figure, wide, arms), caption, "wide_diatomic_curves", curves)
        return page


def _figure(table: pd.DataFrame, arms: Sequence[str], styles: Styles) -> Figure:
    panels, legend = panels_by("pair", table, arms, styles, _paint)
    return Figure("Energy of a pair of atoms from 0.18 to 6 Å", panels, legend)


def _paint(ax: Axes, table: pd.DataFrame, arms: Sequence[str], styles: Styles) -> None:
    ax.axhline(0, color=MUTED, linewidth=0.7)
    seed_lines(ax, table, arms, styles, "r", "energy")
    ax.set_yscale("symlog", linthresh=1.0)
    ax.yaxis.set_major_formatter("{x:g}")  # plain: the figures show no mathematical typesetting
    ax.set(xlabel="distance (Å)", ylabel="energy (eV)", xlim=(0, 6))
