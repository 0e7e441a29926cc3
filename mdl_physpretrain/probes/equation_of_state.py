"""Probe of the equation of state: volume, bulk modulus and smoothness of the energy of an evenly scaled crystal."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from ase import Atoms, units
from ase.eos import EquationOfState
from pydantic import Field
from scipy.stats import spearmanr

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.option_types import Section
from mdl_physpretrain.probes.base import Answer, Probe, Subject, Tables
from mdl_physpretrain.probes.page import (
    MAX_PANELS,
    MUTED,
    Figure,
    PagePart,
    Styles,
    by_arm,
    number_table,
    panels_by,
    seed_lines,
)
from mdl_physpretrain.probes.single_points import Potential, energies_and_forces
from mdl_physpretrain.structures.labels import structure_id

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["EquationOfStateProbe", "bulk_moduli", "eos_curve", "eos_metrics"]

VOLUMES = np.round(np.linspace(0.8, 1.2, 21), 4)  # of the potential's own; MLIP Arena's
SEARCHED = np.round(np.linspace(0.70, 1.30, 25), 4)  # of the structure's, where its own is looked for
FITTED = 0.081  # relative change of the volume that the bulk modulus is fitted within


def eos_curve(potential: Potential, atoms: Atoms) -> pd.DataFrame:
    """Energy over volume around the volume that the potential gives the structure; atoms are scaled, not relaxed.

    Parameters
    ----------
    potential
        An :class:`EnergyModel`, an ASE calculator, or a function that makes one.
    atoms
        Periodic in three directions.

    Returns
    -------
    DataFrame
        ``volume_ratio`` (0.8 to 1.2 times its own volume), ``volume`` (Å³/atom), ``energy`` (eV/atom, zero at its own
        volume). ``attrs["found"]`` is false where there is no minimum within 0.7 to 1.3 of the structure's volume; then
        ratios are of that.

    Raises
    ------
    StructureError
        If the structure is not periodic, or the potential fails on it.
    """
    if not atoms.pbc.all():
        raise StructureError("has no equation of state: it is not periodic in three directions",
                             structure=structure_id(atoms))  # fmt: skip
    searched, _ = energies_and_forces(potential, [_at_volume(atoms, v) for v in SEARCHED])
    ratio, lowest = 1.0, int(np.nanargmin(searched))
    found = 0 < lowest < len(SEARCHED) - 1 and bool(np.isfinite(searched[lowest - 1 : lowest + 2]).all())
    if found:
        a, b, _ = np.polyfit(SEARCHED[lowest - 1 : lowest + 2], searched[lowest - 1 : lowest + 2], 2)
        ratio = float(-b / (2 * a))
    energy, _ = energies_and_forces(potential, [_at_volume(atoms, ratio * v) for v in VOLUMES])
    own = energy[len(VOLUMES) // 2]
    volume = VOLUMES * ratio * atoms.cell.volume / len(atoms)
    curve = pd.DataFrame({"volume_ratio": VOLUMES, "volume": volume, "energy": (energy - own) / len(atoms)})
    curve.attrs["found"] = found
    return curve


def eos_metrics(curve: pd.DataFrame) -> dict[str, Any]:
    """What a curve of :func:`eos_curve` says.

    Returns
    -------
    dict
        ``volume`` (Å³/atom) and ``bulk_modulus`` (GPa) of Birch and Murnaghan's equation fitted within 8 % of the
        volume; MLIP Arena's ``tortuosity`` (total variation over the way from both ends to the middle, 1 is right),
        ``energy_flips`` (changes of the sign of energy differences, 1 is right), ``spearman_compression_energy`` (-1),
        ``spearman_compression_derivative`` (1: the curve gets steeper inwards), ``spearman_tension_energy`` (1).
        ``ok``: there is a minimum, one flip, and every point is finite.

    References
    ----------
    F. Birch, Phys. Rev. 71, 809 (1947); metrics: Y. Chiang et al., "MLIP Arena", arXiv:2509.20630, package
    ``mlip-arena`` 0.2, where cell and atoms are relaxed first.
    """
    ordered = curve.sort_values("volume")
    volume, energy = ordered["volume"].to_numpy(float), ordered["energy"].to_numpy(float)
    nothing = dict.fromkeys(
        ("bulk_modulus", "tortuosity", "energy_flips", "spearman_compression_energy",
         "spearman_compression_derivative", "spearman_tension_energy"), float("nan"),
    )  # fmt: skip
    if not np.isfinite(energy).all():
        return {"ok": False, "volume": float("nan"), **nothing, "failed_points": int((~np.isfinite(energy)).sum())}
    middle, steps = len(energy) // 2, np.diff(energy)
    way = abs(energy[0] - energy[middle]) + abs(energy[-1] - energy[middle])
    between = 0.5 * (volume[1:] + volume[:-1])
    flips = int(np.count_nonzero(np.diff(np.sign(steps[steps != 0]))))
    near = np.abs(volume / volume[middle] - 1) < FITTED
    own, modulus = float("nan"), float("nan")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            own, _, modulus = EquationOfState(volume[near], energy[near], eos="birchmurnaghan").fit()
    except (RuntimeError, ValueError):
        pass  # has no minimum to fit
    return {
        "ok": bool(curve.attrs.get("found", True)) and flips == 1,
        "volume": float(own),
        "bulk_modulus": float(modulus / units.GPa),
        "tortuosity": float(np.abs(steps).sum() / way) if way > 0 else float("nan"),
        "energy_flips": flips,
        "spearman_compression_energy": _ranks(volume[:middle], energy[:middle]),
        "spearman_compression_derivative": _ranks(between[:middle], steps[:middle]),
        "spearman_tension_energy": _ranks(volume[middle:], energy[middle:]),
        "failed_points": 0,
    }


def _ranks(x: np.ndarray, y: np.ndarray) -> float:
    return float(spearmanr(x, y).statistic) if np.ptp(y) > 0 else float("nan")


def _at_volume(atoms: Atoms, ratio: float) -> Atoms:
    scale = float(np.cbrt(ratio))
    scaled = Atoms(atoms.numbers, atoms.positions * scale, cell=atoms.cell.array * scale, pbc=atoms.pbc)
    scaled.info["structure_id"] = f"{structure_id(atoms)} at {ratio:g} of its volume"
    return scaled


COLUMNS = {
    "bulk_modulus": ("Bulk modulus", "GPa, median"),
    "tortuosity": ("Tortuosity", "largest"),
    "energy_flips": ("Energy flips", "largest"),
    "spearman_compression_energy": ("Spearman, compression", "mean"),
    "spearman_compression_derivative": ("Spearman, slope", "mean"),
    "spearman_tension_energy": ("Spearman, tension", "mean"),
}


class EquationOfStateProbe(Probe):
    """Energy over volume of some structures; each must have a single minimum."""

    name = "eos"
    question = "equation of state has one minimum"
    applies_to = "potential"
    files = {"eos_curves": ("structure_id", "volume_ratio", "energy"), "eos": ("structure_id", "ok")}  # noqa: RUF012
    numbers = ("volume_ratio", "volume", "energy", *COLUMNS)
    flags = ("ok",)
    title = "Equation of state"
    answer_place, page_place = 42, 32

    class Options(Section):
        """How many structures."""

        eos_structures: int = Field(default=0, ge=0, description="Structures with an equation of state.")

    def is_applicable(self, available: frozenset[str]) -> bool:
        return self.options.eos_structures > 0

    def tables(self, subject: Subject) -> dict[str, pd.DataFrame]:
        curves, rows = [], []
        structures = [a for a in subject.first_split("test", "train") if a.pbc.all()]
        for atoms in subject.choose(structures, self.options.eos_structures):
            name = structure_id(atoms)
            try:
                curve = eos_curve(subject.potential, atoms)
            except StructureError as error:
                if not subject.flag_failures:
                    raise
                warnings.warn(f"{subject.name}: equation of state: {error}", stacklevel=2)
                rows.append({"structure_id": name, "ok": False, "failed_points": len(VOLUMES)})
                continue
            rows.append({"structure_id": name, **eos_metrics(curve)})
            curve.insert(0, "structure_id", name)
            curves.append(curve if subject.decimals is None else curve.round(subject.decimals))
        tables = {"eos": pd.DataFrame(rows)} if rows else {}
        return tables | ({"eos_curves": pd.concat(curves, ignore_index=True)} if curves else {})

    def answer(self, tables: Tables) -> Answer | None:
        table = tables.get("eos")
        if table is None or not len(table):
            return None
        ok = table["ok"].astype(bool)
        moduli = [
            f"{row['structure_id']} {row['bulk_modulus']:.0f} GPa"
            for row in table.to_dict("records")[:4]
            if np.isfinite(row.get("bulk_modulus", np.nan))
        ]
        words = f"{int(ok.sum())} of {len(table)} with one minimum" + (f"; {', '.join(moduli)}" if moduli else "")
        return "yes" if ok.all() else "no", words

    def page(self, tables: Tables, arms: Sequence[str], heading: str) -> PagePart | None:
        curves, table = tables.get("eos_curves"), tables.get("eos")
        if table is None or not len(table):
            return None
        rows = []
        for arm, group in by_arm(table, arms):
            values = group.reindex(columns=list(COLUMNS)).apply(pd.to_numeric, errors="coerce")
            how = {key: unit.rpartition(" ")[2] for key, (_, unit) in COLUMNS.items()}
            taken = {
                key: values[key].max() if how[key] == "largest" else getattr(values[key], how[key])() for key in how
            }
            rows.append({"arm": arm, "structures": len(group), "single": int(group["ok"].astype(bool).sum()), **taken})
        summary = pd.DataFrame(rows)
        columns = {"structures": ("Structures", ""), "single": ("With one minimum", ""), **COLUMNS}
        part = PagePart(
            table=number_table(summary, heading, columns, "eos"),
            summary=summary,
            table_title="Equation of state",
            text="Bulk modulus of Birch and Murnaghan’s equation; the other columns as MLIP Arena (arXiv:2509.20630) "
            "defines them: ideal are tortuosity 1, one flip, Spearman −1 and 1 in compression and 1 in tension.",
            details="eos_each",
            details_caption="Every structure:",
            saved={"eos_each": table},
        )
        if curves is not None:
            caption = f"Energy over volume, 1 is the potential’s own volume; at most {MAX_PANELS} structures."
            part.draw(partial(_figure, curves, arms), caption, "eos_curves", curves)
        return part


def _figure(table: pd.DataFrame, arms: Sequence[str], styles: Styles) -> Figure:
    panels, legend = panels_by("structure_id", table, arms, styles, _paint)
    return Figure("Equation of state", panels, legend)


def _paint(ax: Axes, table: pd.DataFrame, arms: Sequence[str], styles: Styles) -> None:
    ax.axhline(0, color=MUTED, linewidth=0.7)
    seed_lines(ax, table, arms, styles, "volume_ratio", "energy")
    ax.set(xlabel="volume (1: the potential's own)", ylabel="energy (eV/atom)")


def bulk_moduli(tables: Tables) -> dict[str, float]:
    """Bulk moduli (GPa) by structure, where the equation of state was asked for."""
    table = tables.get("eos")
    if table is None or "bulk_modulus" not in table:
        return {}
    return {str(r["structure_id"]): float(r["bulk_modulus"]) for r in table.to_dict("records")}
