"""Probe of bond smoothness: energy and force along a bond that is squeezed and stretched inside the crystal."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from ase import Atoms
from pydantic import Field

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.bonds import nearest_distances
from mdl_physpretrain.graphs.neighbour_lists import neighbour_list
from mdl_physpretrain.option_types import Section
from mdl_physpretrain.probes.base import Answer, Probe, Subject, Tables
from mdl_physpretrain.probes.curve_flags import flag_answer, flag_counts
from mdl_physpretrain.probes.page import (
    MAX_PANELS,
    MUTED,
    Figure,
    PagePart,
    Panel,
    Styles,
    arm_legend,
    number_table,
    seed_lines,
)
from mdl_physpretrain.probes.single_points import Potential, energies_and_forces
from mdl_physpretrain.stability.energy_curves import deepest_fall, lasting_jump, standing_out, unexplained_jump
from mdl_physpretrain.structures.labels import structure_id

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BondSmoothness", "bond_curve", "bond_flags"]

LENGTHS = np.round(np.linspace(0.6, 1.3, 71), 4)  # of the bond's own
REACH = 6.0  # Å, within which bonds are looked for
HOLE_DEPTH, ENERGY_JUMP, FORCE_JUMP = 0.05, 0.01, 0.5  # eV, eV, eV/Å: as of two atoms alone
WELL_FROM = 0.85  # of the bond: a potential's own bond is not shorter; what lies lower further in is a hole
MIN_POINTS = 20


def shortest_bonds(atoms: Atoms) -> dict[str, tuple[int, int, np.ndarray]]:
    """The shortest bond of every bonded pair of elements: two atoms, and the vector (Å) from the first to the second.

    An atom and its own image are no bond that can be stretched.
    """
    bonded = {f"{a}-{b}" for (a, b), found in nearest_distances([atoms], REACH).items() if found.bonded}
    (i, j), shifts = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, REACH)
    vectors = atoms.positions[j] - atoms.positions[i] + shifts @ atoms.cell.array
    r, symbols = np.linalg.norm(vectors, axis=1), np.array(atoms.get_chemical_symbols())
    bonds: dict[str, tuple[int, int, np.ndarray]] = {}
    for k in np.argsort(r, kind="stable"):
        name = f"{symbols[i[k]]}-{symbols[j[k]]}"
        if i[k] != j[k] and name in bonded and name not in bonds:
            bonds[name] = int(i[k]), int(j[k]), vectors[k]
    return bonds


def bond_curve(
    potential: Potential, atoms: Atoms, bond: tuple[int, int, np.ndarray], lengths: np.ndarray = LENGTHS
) -> pd.DataFrame:
    """Energy and force along one bond, all other atoms where they are.

    Parameters
    ----------
    potential
        An :class:`EnergyModel`, an ASE calculator, or a function that makes one.
    atoms
        The crystal.
    bond
        Two atoms, and the vector (Å) from the first to the second.
    lengths
        In lengths of the bond, shape (n,).

    Returns
    -------
    DataFrame
        ``length``, ``r`` (Å), ``energy`` (eV, zero at the length nearest to 1) and ``force`` (eV/Å,
        minus the energy's slope along ``r``, positive means repulsion); NaN where the potential fails.

    Raises
    ------
    StructureError
        If the potential fails at every length.
    """
    first, second, vector = bond
    size = float(np.linalg.norm(vector))
    stretched = []
    for length in lengths:
        copy = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        copy.positions[first] -= 0.5 * (length - 1) * vector
        copy.positions[second] += 0.5 * (length - 1) * vector
        copy.info["structure_id"] = f"{structure_id(atoms)}, bond at {length:g}"
        stretched.append(copy)
    energy, forces = energies_and_forces(potential, stretched)
    along = np.array([0.5 * (f[second] - f[first]) @ vector / size for f in forces])
    zero = energy[int(np.argmin(np.abs(lengths - 1)))]
    return pd.DataFrame({"length": lengths, "r": lengths * size, "energy": energy - zero, "force": along})


def _forces(potential: Potential, atoms: Atoms, bond: tuple[int, int, np.ndarray], r: np.ndarray) -> np.ndarray:
    return bond_curve(potential, atoms, bond, r / np.linalg.norm(bond[2]))["force"].to_numpy(float)


def bond_flags(curve: pd.DataFrame, forces_at: Callable[[np.ndarray], np.ndarray] | None = None) -> dict[str, Any]:
    """Judge a curve of :func:`bond_curve`.

    Parameters
    ----------
    curve
        Of a bond.
    forces_at
        Forces (eV/Å) at other distances (Å), with which a step of the force is told from a jump
        (:func:`mdl_physpretrain.stability.energy_curves.lasting_jump`).

    Returns
    -------
    dict
        ``hole`` (bool): inside its minimum the energy falls by more than 0.05 eV on the way in. ``discontinuity``
        (bool): between two lengths the energy changes by 0.01 eV more than the forces explain, or the force by more
        than 0.5 eV/Å, and by more than twice what it changes before and after. ``not_conservative`` (bool): the force
        differs from the energy's slope by more than 0.05 eV/Å and 2 % of the mean force. ``ok``: none of these, and
        finite everywhere. ``hole_depth, energy_jump`` (eV), ``force_jump, conservation_deviation`` (eV/Å),
        ``failed_points``.

    Raises
    ------
    ConfigError
        If fewer than 20 points are finite.

    References
    ----------
    After the bond smoothness test of R. Liu et al., arXiv:2602.04861 (2026); the limits are those of diatomic curves.
    """
    finite = curve[np.isfinite(curve["energy"]) & np.isfinite(curve["force"])].sort_values("r")
    if len(finite) < MIN_POINTS:
        raise ConfigError(f"a bond's curve needs {MIN_POINTS} points to be judged; {len(finite)} are finite")
    r, energy, force = (finite[key].to_numpy(float) for key in ("r", "energy", "force"))
    near = np.flatnonzero(finite["length"].to_numpy(float) >= WELL_FROM)
    if not len(near):
        raise ConfigError(f"a bond's curve needs points at {WELL_FROM:g} of its length and more")
    well = int(near[np.argmin(energy[near])])
    depth, _ = deepest_fall(energy[well::-1], -1.0)
    energy_jump = unexplained_jump(r, energy, force)
    force_jump = standing_out(np.diff(force))
    if forces_at is not None:
        force_jump = lasting_jump(force, r, FORCE_JUMP, forces_at)
    deviation = float(np.abs(force + np.gradient(energy, r))[1:-1].mean())
    flags = {
        "hole": depth > HOLE_DEPTH,
        "discontinuity": energy_jump > ENERGY_JUMP or force_jump > FORCE_JUMP,
        "not_conservative": deviation > 0.05 + 0.02 * float(np.abs(force).mean()),
    }
    failed = len(curve) - len(finite)
    return {
        **flags,
        "ok": not any(flags.values()) and failed == 0,
        "hole_depth": depth,
        "energy_jump": energy_jump,
        "force_jump": force_jump,
        "conservation_deviation": deviation,
        "failed_points": failed,
    }


class BondSmoothness(Probe):
    """The shortest bond of every pair of elements of some structures; none may have a flag."""

    name = "bond_smoothness"
    question = "bonds are smooth in the crystal"
    applies_to = "potential"
    files = {"bond_curves": ("structure_id", "pair", "length", "energy"), "bond_flags": ("bond", "ok")}  # noqa: RUF012
    numbers = ("length", "r", "energy", "force")
    flags = ("hole", "discontinuity", "not_conservative", "ok")
    texts = ("bond",)
    title = "Bonds in the crystal"
    answer_place, page_place = 34, 24

    class Options(Section):
        """How many structures."""

        bond_structures: int = Field(
            default=0, ge=0, description="Structures whose bonds are squeezed and stretched one at a time."
        )

    def is_applicable(self, available: frozenset[str]) -> bool:
        return self.options.bond_structures > 0

    def tables(self, subject: Subject) -> dict[str, pd.DataFrame]:
        curves, flags = [], []
        for atoms in subject.choose(subject.first_split("test", "train"), self.options.bond_structures):
            name = structure_id(atoms)
            for pair, bond in shortest_bonds(atoms).items():
                row: dict[str, Any] = {"bond": f"{pair} in {name}"}
                curve = pd.DataFrame({"length": LENGTHS, "r": np.nan, "energy": np.nan, "force": np.nan})
                try:
                    curve = bond_curve(subject.potential, atoms, bond)
                    row |= bond_flags(curve, partial(_forces, subject.potential, atoms, bond))
                except (ConfigError, StructureError) as error:
                    if not subject.flag_failures:
                        raise
                    warnings.warn(f"{subject.name}: bond {row['bond']}: {error}", stacklevel=2)
                    row |= {"ok": False, "failed_points": len(curve)}
                flags.append(row)
                curve.insert(0, "structure_id", name)
                curve.insert(1, "pair", pair)
                curves.append(curve if subject.decimals is None else curve.round(subject.decimals))
        if not curves:
            return {}
        return {"bond_curves": pd.concat(curves, ignore_index=True), "bond_flags": pd.DataFrame(flags)}

    def answer(self, tables: Tables) -> Answer | None:
        return flag_answer(tables.get("bond_flags"), "bond", "bonds")

    def page(self, tables: Tables, arms: Sequence[str], heading: str) -> PagePart | None:
        curves, flags = tables.get("bond_curves"), tables.get("bond_flags")
        if flags is None or not len(flags):
            return None
        counts = flag_counts(flags, arms, ("hole", "discontinuity", "not_conservative", "failed_points"))
        columns = {
            "curves": ("Bonds", ""),
            "hole": ("Hole", ""),
            "discontinuity": ("Discontinuity", ""),
            "not_conservative": ("Force is not the slope", ""),
            "failed_points": ("Not finite", ""),
            "ok": ("Without a flag", ""),
        }
        part = PagePart(
            table=number_table(counts, heading, columns, "bond_smoothness"),
            summary=counts,
            table_title="Flags of bonds in the crystal",
            details="bond_flags_each",
            details_caption="Every bond:",
            saved={"bond_flags_each": flags},
        )
        if curves is not None:
            caption = (
                "Energy while one bond is squeezed and stretched and all other atoms stay (after arXiv:2602.04861). "
                "It must be smooth, and rise all the way in."
            )
            part.draw(partial(_figure, curves, arms), caption, "bond_curves", curves)
        return part


def _figure(table: pd.DataFrame, arms: Sequence[str], styles: Styles) -> Figure:
    present = [arm for arm in arms if (table["arm"] == arm).any()]
    panels = [
        Panel(f"{pair}, {name}", partial(_paint, table=part, arms=present, styles=styles))
        for (name, pair), part in list(table.groupby(["structure_id", "pair"], sort=False))[:MAX_PANELS]
    ]
    return Figure("Energy of a bond in the crystal", panels, arm_legend(present, styles))


def _paint(ax: Axes, table: pd.DataFrame, arms: Sequence[str], styles: Styles) -> None:
    ax.axhline(0, color=MUTED, linewidth=0.7)
    ax.axvline(1, color=MUTED, linewidth=0.7, linestyle=":")
    seed_lines(ax, table, arms, styles, "length", "energy")
    lowest, highest = table["energy"].min(), table["energy"].max()
    if np.isfinite([lowest, highest]).all():
        ax.set_ylim(max(-10.0, 1.1 * min(lowest, -0.1)), min(20.0, 1.05 * max(highest, 0.5)))
    ax.set(xlabel="length of the bond (1: as given)", ylabel="energy (eV)")
