"""Probe of invariance: rotation, translation, order of the atoms, copies, and atoms that are far away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms
from pydantic import Field
from scipy.spatial.transform import Rotation

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.option_types import Section
from mdl_physpretrain.probes.base import Answer, Probe, Subject, Tables
from mdl_physpretrain.probes.page import Cell, Column, HtmlTable, PagePart, by_arm, significant
from mdl_physpretrain.probes.single_points import Potential, energies_and_forces
from mdl_physpretrain.structures.labels import structure_id

__all__ = ["Invariance", "invariance_errors"]

RATTLE = 0.05  # Å: forces of a perfect crystal vanish, and errors that grow with them
ROTATIONS = 3
DIRECTION = np.array([37.2, -18.9, 24.6]) / np.linalg.norm([37.2, -18.9, 24.6])
SHIFTS = (1.0, 40.0)  # Å
APART = 20.0  # Å: beyond the cutoff of any local potential
ENERGY, FORCE = 1.0, 5.0  # meV/atom, meV/Å: where ML-PEG's scale ends
TESTS = {
    "rotation": "Rotation",
    "translation": "Translation",
    "order": "Order of atoms",
    "supercell": "Supercell",
    "two copies": "Two copies 20 Å apart",
    "far atom": "Atom 20 Å away",
}


def invariance_errors(potential: Potential, atoms: Atoms, *, seed: int = 0) -> pd.DataFrame:
    """By how much energy and forces change where they must not.

    Parameters
    ----------
    potential
        An :class:`EnergyModel`, an ASE calculator, or a function that makes one.
    atoms
        Moved by 0.05 Å at random first, so that there are forces.
    seed
        Of these moves and of the rotations.

    Returns
    -------
    DataFrame
        A row for every ``test``: ``rotation`` of atoms and cell (three at random), ``translation`` (by 1 and 40 Å),
        ``order`` of the atoms reversed, ``supercell`` of two cells, ``two copies`` of the atoms as a cluster 20 Å apart
        (extensivity), ``far atom`` of the same kind 20 Å from the cluster (locality). ``energy`` (meV/atom) and
        ``force`` (meV/Å, largest component) are the largest changes, beyond the sum of the parts; NaN where the
        potential fails.
        ``ok``: at most 1 meV/atom and 5 meV/Å.

    Raises
    ------
    StructureError
        If the potential fails on everything.

    References
    ----------
    Package ``ml-peg`` 0.7, physicality (rotational and translational symmetry, extensivity, locality); the limits are
    the ends of its scales.
    """
    rng = np.random.default_rng(seed)
    start = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    start.positions += rng.normal(scale=RATTLE, size=start.positions.shape)
    n, name = len(start), structure_id(atoms)
    cluster = _in_box(start.numbers, start.positions)
    far = cluster.positions[:, 0].max() + APART
    beside = np.vstack([cluster.positions, [[far, *cluster.positions[0, 1:]]]])
    copies = np.vstack([cluster.positions, cluster.positions + [np.ptp(cluster.positions[:, 0]) + APART, 0, 0]])
    rotations = Rotation.random(ROTATIONS, random_state=seed).as_matrix()
    longest = int(np.argmin(np.where(start.pbc, start.cell.lengths(), np.inf)))
    double = start.repeat([2 if k == longest else 1 for k in range(3)]) if start.pbc.any() else start
    variants = {
        "start": start,
        **{f"rotation {k}": _rotated(start, matrix) for k, matrix in enumerate(rotations)},
        **{f"translation {shift:g}": _moved(start, shift * DIRECTION) for shift in SHIFTS},
        "order": start[::-1],
        "supercell": double,
        "cluster": cluster,
        "two copies": _in_box(np.tile(start.numbers, 2), copies),
        "far atom": _in_box([*start.numbers, start.numbers[0]], beside),
        "atom": _in_box(start.numbers[:1], np.zeros((1, 3))),
    }
    for variant, structure in variants.items():
        structure.info["structure_id"] = f"{name}, {variant}"
    values = energies_and_forces(potential, list(variants.values()))
    energy = dict(zip(variants, values[0], strict=True))
    forces = dict(zip(variants, values[1], strict=True))
    here, parts = forces["start"], np.vstack([forces["cluster"], forces["cluster"]])
    changes: dict[str, list[tuple[float, Any]]] = {
        "rotation": [
            (energy[f"rotation {k}"] - energy["start"], forces[f"rotation {k}"] @ matrix - here)
            for k, matrix in enumerate(rotations)
        ],
        "translation": [
            (energy[f"translation {s:g}"] - energy["start"], forces[f"translation {s:g}"] - here) for s in SHIFTS
        ],
        "order": [(energy["order"] - energy["start"], forces["order"][::-1] - here)],
        "two copies": [((energy["two copies"] - 2 * energy["cluster"]) / 2, forces["two copies"] - parts)],
        "far atom": [
            (energy["far atom"] - energy["cluster"] - energy["atom"], forces["far atom"][:n] - forces["cluster"])
        ],
    }
    if start.pbc.any():
        changes["supercell"] = [
            (energy["supercell"] / 2 - energy["start"], forces["supercell"] - np.vstack([here, here]))
        ]
    rows = []
    for test in TESTS:
        if test not in changes:
            continue
        e = 1000 * float(np.max([abs(change) for change, _ in changes[test]])) / n
        f = 1000 * float(np.max([np.abs(change).max() for _, change in changes[test]]))
        rows.append({"test": test, "energy": e, "force": f, "ok": bool(e <= ENERGY and f <= FORCE)})
    return pd.DataFrame(rows)


def _in_box(numbers: Any, positions: np.ndarray) -> Atoms:
    """Atoms alone in a periodic box with 40 Å to the images: some potentials cannot do without a cell."""
    atoms = Atoms(numbers, positions)
    atoms.center(vacuum=APART)
    atoms.pbc = True
    return atoms


def _rotated(atoms: Atoms, matrix: np.ndarray) -> Atoms:
    return Atoms(atoms.numbers, atoms.positions @ matrix.T, cell=atoms.cell.array @ matrix.T, pbc=atoms.pbc)


def _moved(atoms: Atoms, shift: np.ndarray) -> Atoms:
    return Atoms(atoms.numbers, atoms.positions + shift, cell=atoms.cell, pbc=atoms.pbc)


class Invariance(Probe):
    """Changes of energy and forces under what must not change them; all must be small."""

    name = "invariance"
    question = "symmetric, extensive and local"
    applies_to = "potential"
    files = {"invariance": ("structure_id", "test", "energy", "force")}  # noqa: RUF012
    numbers = ("energy", "force")
    flags = ("ok",)
    texts = ("test",)
    title = "Symmetry, extensivity, locality"
    answer_place, page_place = 36, 26

    class Options(Section):
        """How many structures."""

        invariance_structures: int = Field(
            default=0, ge=0, description="Structures that are rotated, moved, doubled and given a far neighbour."
        )

    def is_applicable(self, available: frozenset[str]) -> bool:
        return self.options.invariance_structures > 0

    def tables(self, subject: Subject) -> dict[str, pd.DataFrame]:
        tables = []
        for atoms in subject.choose(subject.first_split("test", "train"), self.options.invariance_structures):
            try:
                table = invariance_errors(subject.potential, atoms)
            except StructureError:
                if not subject.flag_failures:
                    raise
                table = pd.DataFrame({"test": list(TESTS), "energy": np.nan, "force": np.nan, "ok": False})
            table.insert(0, "structure_id", structure_id(atoms))
            tables.append(table)
        return {"invariance": pd.concat(tables, ignore_index=True)} if tables else {}

    def answer(self, tables: Tables) -> Answer | None:
        table = tables.get("invariance")
        if table is None or not len(table):
            return None
        wrong = table[~table["ok"].astype(bool)]
        if not len(wrong):
            return "yes", f"changes of at most {_size(table)}"
        named = [f"{test}: {_size(group)}" for test, group in wrong.groupby("test", sort=False)]
        return "no", "; ".join(named)

    def page(self, tables: Tables, arms: Sequence[str], heading: str) -> PagePart | None:
        table = tables.get("invariance")
        if table is None or not len(table):
            return None
        rows, summary = [], []
        for arm, group in by_arm(table, arms):
            cells = [Cell(str(arm), arm=str(arm))]
            for test in TESTS:
                part = group[group["test"] == test]
                if not len(part):
                    cells.append(Cell("–", key=""))
                    continue
                energy, force = part["energy"].max(skipna=False), part["force"].max(skipna=False)
                bad = not part["ok"].astype(bool).all()
                words = "fails" if np.isnan(energy) else f"{significant(energy)} meV/atom"
                note = "" if np.isnan(energy) else f"{significant(force)} meV/Å"
                cells.append(Cell(words, note, key=energy, css="bad" if bad else ""))
                summary.append({"arm": arm, "test": test, "energy": energy, "force": force, "ok": not bad})
            rows.append(cells)
        columns = [Column(heading, numeric=False), *(Column(title) for title in TESTS.values())]
        return PagePart(
            table=HtmlTable(columns, rows, "invariance"),
            summary=pd.DataFrame(summary),
            table_title="Largest changes where nothing may change",
            text="Energy per atom and, below it, the largest force component. At most 1 meV/atom and 5 meV/Å, where "
            "the scales of ML-PEG end. Far atoms show whether a potential is local, two copies and the supercell "
            "whether its energy is extensive.",
            details="invariance_each",
            details_caption="Every structure:",
            saved={"invariance_each": table},
        )


def _size(table: pd.DataFrame) -> str:
    if table["energy"].isna().any():
        return "the potential fails"
    return f"{significant(table['energy'].max())} meV/atom and {significant(table['force'].max())} meV/Å"
