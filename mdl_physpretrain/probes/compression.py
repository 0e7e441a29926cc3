"""Probe of compression: energy of a structure under even squeezing, which shows collapse."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from ase import Atoms
from pydantic import Field

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.option_types import Section
from mdl_physpretrain.probes.base import Answer, Probe, Subject, Tables
from mdl_physpretrain.probes.curve_flags import flag_answer, flag_counts
from mdl_physpretrain.probes.page import (
    MAX_PANELS,
    MUTED,
    Cell,
    Column,
    Figure,
    HtmlTable,
    PagePart,
    Panel,
    Styles,
    arm_legend,
    by_arm,
    number,
    seed_lines,
)
from mdl_physpretrain.probes.single_points import Potential, energies_and_forces
from mdl_physpretrain.recipe import CHECK
from mdl_physpretrain.stability.energy_curves import deepest_fall, standing_out
from mdl_physpretrain.stability.overlap import closest_pair
from mdl_physpretrain.structures.labels import structure_id

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SCALES", "Compression", "compression_curve", "compression_flags"]

SCALES = np.round(np.linspace(1.05, 0.70, 36), 4)
MINIMUM_FROM = 0.9  # a potential's own cell is within 10 % of the structure's; what lies lower further in is a collapse
COLLAPSE_DEPTH = 0.01  # eV/atom: far above rounding, and a third of kT at 300 K for every atom at once
ENERGY_JUMP = 0.01  # eV/atom, the same
MIN_POINTS = 8
HIGHEST = 12.0  # eV/atom, of the figure


def compression_curve(
    potential: Potential, atoms: Atoms, scales: Sequence[float] | np.ndarray | None = None
) -> pd.DataFrame:
    """Energy of a structure whose cell and atoms are scaled evenly.

    Parameters
    ----------
    potential
        An :class:`EnergyModel`, an ASE calculator, or a function that makes
        one.
    atoms
        Periodic or not; scaled positions are not relaxed.
    scales
        Lengths relative to those of ``atoms``; default: 36 from 1.05 to 0.70
        (about a third of the volume).

    Returns
    -------
    DataFrame
        ``scale, energy_per_atom`` (eV, relative to scale 1), ``max_force``
        (largest force on an atom, eV/Å), ``min_distance`` (Å; infinite for a
        single atom), in the order of ``scales``. NaN where the potential
        fails.

    Raises
    ------
    ConfigError
        If a scale is not positive, or there is none.
    StructureError
        If the potential fails on the structure as it is.

    References
    ----------
    The equation of state under strong compression is among the tests of
    MLIP Arena (Y. Chiang et al., 2025, arXiv:2509.20630); the paper's Fig. 6b
    and section 3.5 name compressed cells as what training data lack.
    """
    lengths = np.asarray(SCALES if scales is None else scales, dtype=np.float64)
    if lengths.ndim != 1 or not len(lengths) or not np.isfinite(lengths).all() or lengths.min() <= 0:
        raise ConfigError("scales of a compression curve must be positive and finite numbers")
    name = structure_id(atoms)
    if not len(atoms):
        raise StructureError("has no atoms", structure=name)
    energy, forces = energies_and_forces(potential, [_scaled(atoms, s) for s in (1.0, *lengths)])
    if not np.isfinite(energy[0]):
        raise StructureError("the potential fails on the structure as it is", structure=name)
    closest = closest_pair(atoms.positions, atoms.cell.array, atoms.pbc).distance
    return pd.DataFrame(
        {
            "scale": lengths,
            "energy_per_atom": (energy[1:] - energy[0]) / len(atoms),
            "max_force": [float(np.linalg.norm(f, axis=1).max()) for f in forces[1:]],
            "min_distance": closest * lengths,
        }
    )


def compression_flags(curve: pd.DataFrame) -> dict[str, Any]:
    """Judge a compression curve: squeezed below its minimum a structure's energy only rises.

    Parameters
    ----------
    curve
        Of :func:`compression_curve`.

    Returns
    -------
    dict
        ``collapse`` (bool): below the minimum (the lowest energy at a scale of
        0.9 or more) the energy falls by more than 0.01 eV/atom somewhere.
        ``discontinuity`` (bool): between two neighbouring scales it changes by
        more than 0.01 eV/atom and by more than twice what it changes before
        and after. ``ok`` (bool): neither, and finite everywhere. Numbers:
        ``minimum_scale``; ``collapse_depth`` (deepest fall, eV/atom),
        ``collapse_scale`` (where that fall begins; NaN without collapse),
        ``energy_jump`` (eV/atom, 0 without), ``end_energy`` (eV/atom at the
        smallest scale, above the minimum), ``failed_points``.

    Raises
    ------
    ConfigError
        If the curve has fewer than 8 finite points, or none at a scale of 0.9
        or more.
    """
    ordered = curve.sort_values("scale", ascending=False)
    scale, energy = ordered["scale"].to_numpy(float), ordered["energy_per_atom"].to_numpy(float)
    finite = np.isfinite(energy)
    failed = int((~finite).sum())
    scale, energy = scale[finite], energy[finite]
    near = np.flatnonzero(scale >= MINIMUM_FROM)
    if len(scale) < MIN_POINTS or not len(near):
        raise ConfigError(
            f"a compression curve needs {MIN_POINTS} finite points to be judged, some at a scale of {MINIMUM_FROM:g} "
            f"or more; this has {len(scale)}"
        )
    minimum = int(near[np.argmin(energy[near])])
    inwards = energy[minimum:]
    depth, at = deepest_fall(inwards, -1.0)
    begins = int(np.argmax(inwards[: at + 1]))
    jump = standing_out(np.diff(energy))
    collapse, discontinuity = depth > COLLAPSE_DEPTH, jump > ENERGY_JUMP
    return {
        "collapse": collapse,
        "discontinuity": discontinuity,
        "ok": not collapse and not discontinuity and failed == 0,
        "minimum_scale": float(scale[minimum]),
        "collapse_depth": depth,
        "collapse_scale": float(scale[minimum + begins]) if collapse else float("nan"),
        "energy_jump": jump,
        "end_energy": float(energy[-1] - energy[minimum]),
        "failed_points": failed,
    }


def _scaled(atoms: Atoms, scale: float) -> Atoms:
    scaled = Atoms(atoms.numbers, atoms.positions * scale, cell=atoms.cell.array * scale, pbc=atoms.pbc)
    scaled.info["structure_id"] = f"{structure_id(atoms)} at scale {scale:g}"
    return scaled


class Compression(Probe):
    """Curves of some structures; no structure may have a flag."""

    name = "compression"
    question = "compression costs energy"
    applies_to = "potential"
    files = {"compression": ("structure_id", "scale", "energy_per_atom"), "compression_flags": ("structure_id", "ok")}  # noqa: RUF012
    numbers = ("scale", "energy_per_atom")
    flags = ("collapse", "discontinuity", "ok")
    title = "Compression"
    answer_place, page_place = 40, 30

    class Options(Section):
        """How many structures."""

        n_compressed: int = Field(
            default=CHECK.compressed,
            ge=0,
            description="Test structures that are compressed to 0.7 of their length.",
        )

    def is_applicable(self, available: frozenset[str]) -> bool:
        return self.options.n_compressed > 0

    def tables(self, subject: Subject) -> dict[str, pd.DataFrame]:
        curves, flags = [], []
        for atoms in subject.choose(subject.first_split("test", "train"), self.options.n_compressed):
            name = structure_id(atoms)
            curve = pd.DataFrame(
                {"scale": SCALES, "energy_per_atom": np.nan, "max_force": np.nan, "min_distance": np.nan}
            )
            try:
                curve = compression_curve(subject.potential, atoms)
                flags.append({"structure_id": name, **compression_flags(curve)})
            except (ConfigError, StructureError) as error:
                if not subject.flag_failures:
                    raise
                warnings.warn(f"{subject.name}: compression: {error}", stacklevel=2)
                flags.append({"structure_id": name, "ok": False, "failed_points": len(curve)})
            curve.insert(0, "structure_id", name)
            curves.append(curve if subject.decimals is None else curve.round(subject.decimals))
        return {"compression": pd.concat(curves, ignore_index=True), "compression_flags": pd.DataFrame(flags)}

    def answer(self, tables: Tables) -> Answer | None:
        return flag_answer(tables.get("compression_flags"), "structure_id", "structures")

    def page(self, tables: Tables, arms: Sequence[str], heading: str) -> PagePart | None:
        curves, flags = tables.get("compression"), tables.get("compression_flags")
        if curves is None and flags is None:
            return None
        part = PagePart(
            caption="Energy of a structure whose cell is scaled in all directions, zero at its own size; thin lines "
            "are seeds. It should rise steeply: a curve that falls on the way to smaller cells collapses under "
            "pressure.",
            curves="compression_curves",
        )
        if curves is not None:
            part.figure = partial(_figure, curves, flags, arms)
            part.saved["compression_curves"] = curves
        if flags is not None:
            part.summary = _summary(flags, arms)
            part.table, part.table_title = _flag_table(part.summary, heading), "Flags of the compression curves"
            names = list(dict.fromkeys(flags.loc[~flags["ok"], "structure_id"].astype(str)))
            if names:
                remainder = f" and {len(names) - 8} more" if len(names) > 8 else ""
                part.remark = f"Flagged structures: {', '.join(names[:8])}{remainder}."
            part.saved["compression_flags_each"], part.details = flags, "compression_flags_each"
            part.details_caption = "Every curve:"
        return part


def _summary(flags: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """``arm, curves``, how many have ``collapse, discontinuity, not_finite`` or nothing (``ok``), ``deepest_fall``."""
    renamed = flags.rename(columns={"failed_points": "not_finite"})
    counts = flag_counts(renamed, arms, ("collapse", "discontinuity", "not_finite"))
    depth = pd.to_numeric(flags["collapse_depth"], errors="coerce") if "collapse_depth" in flags else None
    deepest = {arm: np.nan if depth is None else float(depth[group.index].max()) for arm, group in by_arm(flags, arms)}
    columns = ["arm", "curves", "collapse", "discontinuity", "ok", "not_finite"]
    return counts[columns].assign(deepest_fall=counts["arm"].map(deepest))


def _flag_table(summary: pd.DataFrame, heading: str) -> HtmlTable:
    kinds = {"collapse": "Collapse", "discontinuity": "Discontinuity", "not_finite": "Not finite"}
    columns = [Column(heading, numeric=False), Column("Curves"), *(Column(title) for title in kinds.values())]
    columns += [Column("Deepest fall", "eV/atom"), Column("Without a flag")]
    rows = []
    for row in summary.to_dict("records"):
        cells = [Cell(row["arm"], arm=row["arm"]), Cell(str(row["curves"]))]
        cells += [Cell(str(row[k]), css="bad" if row[k] else "zero") for k in kinds]
        rows.append([*cells, Cell(number(row["deepest_fall"], 2)), Cell(str(row["ok"]))])
    return HtmlTable(columns, rows, "compression")


def _figure(table: pd.DataFrame, flags: pd.DataFrame | None, arms: Sequence[str], styles: Styles) -> Figure:
    """Energy against the length of the cell, one panel per structure, those with flags first."""
    present = [arm for arm in arms if (table["arm"] == arm).any()]
    bad = pd.DataFrame({"structure_id": [], "arm": []}) if flags is None else flags[~flags["ok"].astype(bool)]
    flagged = bad["structure_id"].value_counts()
    names = sorted(dict.fromkeys(table["structure_id"]), key=lambda name: -int(flagged.get(name, 0)))
    panels = []
    for name in names[:MAX_PANELS]:
        n = int(flagged.get(name, 0))
        badge = (
            None
            if flags is None
            else (_badge(n, bad[bad["structure_id"] == name], arms), False)
            if n
            else ("no flag", True)
        )
        part = table[table["structure_id"] == name]
        panels.append(Panel(str(name), partial(_paint, table=part, arms=present, styles=styles), badge))
    return Figure("Energy of a compressed cell", panels, arm_legend(present, styles))


def _badge(n: int, flagged: pd.DataFrame, arms: Sequence[str]) -> str:
    """How many curves of a panel are flagged, and of several arms whose."""
    counts = [(arm, len(rows)) for arm, rows in by_arm(flagged, arms)]
    words = ", ".join(f"{arm} {count}" if len(counts) > 1 else str(arm) for arm, count in counts)
    return f"{n} flagged" + (f": {words}" if len(arms) > 1 else "")


def _paint(ax: Axes, table: pd.DataFrame, arms: Sequence[str], styles: Styles) -> None:
    ax.axhline(0, color=MUTED, linewidth=0.7)
    ax.axvline(1, color=MUTED, linewidth=0.7, linestyle=":")
    drawn = seed_lines(ax, table, arms, styles, "scale", "energy_per_atom")
    values = np.concatenate([[-0.2, 1.0], *(wide.to_numpy(float).ravel() for wide in drawn.values())])
    values = values[np.isfinite(values)]
    low, high = max(float(values.min()), -HIGHEST), min(1.05 * float(values.max()), HIGHEST)
    ax.set(ylim=(1.15 * low, high), xlabel="length of the cell (1: as given)", ylabel="energy (eV/atom)")
